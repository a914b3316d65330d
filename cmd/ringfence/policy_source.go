package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

// remote is a server that is asked as soon as something of it is needed.
type remote struct {
	flags  *clientFlags
	client *api.ClientWithResponses
	inv    *inventory.Inventory
}

func (r *remote) connect() (c *api.ClientWithResponses, err error) {
	if r.client == nil {
		r.client, err = r.flags.connect()
	}
	return r.client, err
}

// inventory returns who there is.
func (r *remote) inventory(ctx context.Context) (*inventory.Inventory, error) {
	if r.inv != nil {
		return r.inv, nil
	}
	c, err := r.connect()
	if err != nil {
		return nil, err
	}
	res, err := c.GetInventoryWithResponse(ctx)
	if err := expect(res, err); err != nil {
		return nil, err
	}
	inv := &inventory.Inventory{}
	if err := json.Unmarshal(res.Body, inv); err != nil {
		return nil, fmt.Errorf("read the server's inventory: %w", err)
	}
	r.inv = inv
	return inv, nil
}

// workload finds NAMESPACE/KIND/NAME, or NAMESPACE/NAME where that is one.
func (r *remote) workload(ctx context.Context, name string) (flow.Workload, error) {
	inv, err := r.inventory(ctx)
	if err != nil {
		return flow.Workload{}, err
	}
	var found []flow.Workload
	for i := range inv.Workloads {
		if w := inv.Workloads[i].Ref(); w.String() == name || w.Namespace+"/"+w.Name == name {
			found = append(found, w)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return flow.Workload{}, fmt.Errorf("the server's inventory has no workload %s; `ringfence policy list` has them all", name)
	}
	return flow.Workload{}, fmt.Errorf("%s may be %s or %s: name its kind", name, found[0], found[1])
}

// revisionName is a revision in an argument: that in a slot, or one by number.
var revisionName = regexp.MustCompile(`^([^/@]+/(?:[^/@]+/)?[^/@]+)@(live|staged|[0-9]+)$`)

// revision returns the policy of a workload's revision: a number, live or staged.
func (r *remote) revision(ctx context.Context, w flow.Workload, which string) (policy.Policy, error) {
	c, err := r.connect()
	if err != nil {
		return policy.Policy{}, err
	}
	number, err := strconv.ParseInt(which, 10, 64)
	if err != nil {
		detail, err := c.GetWorkloadWithResponse(ctx, w.Namespace, w.Kind, w.Name)
		if err := expect(detail, err); err != nil {
			return policy.Policy{}, err
		}
		slots := detail.JSON200.Summary.Requested
		held := slots.Live
		if which == string(api.Staged) {
			held = slots.Staged
		}
		if held == nil {
			return policy.Policy{}, fmt.Errorf("%s has no %s revision; `ringfence policy show %s` lists those it has", w, which, w)
		}
		number = *held
	}
	res, err := c.GetRevisionWithResponse(ctx, w.Namespace, w.Kind, w.Name, number)
	if err := expect(res, err); err != nil {
		return policy.Policy{}, err
	}
	return readWire(res.JSON200.Policy)
}

func readWire(p api.Policy) (policy.Policy, error) {
	out, err := api.PolicyFrom(p)
	if err != nil {
		return out, fmt.Errorf("read the server's policy: %w", err)
	}
	return policy.Normalize(out), nil
}

// policies reads an argument that names a file of policies, or a revision.
func (r *remote) policies(ctx context.Context, name string) (*policyFile, error) {
	m := revisionName.FindStringSubmatch(name)
	if _, err := os.Stat(name); m == nil || err == nil {
		return readPolicyFile(name)
	}
	w, err := r.workload(ctx, m[1])
	if err != nil {
		return nil, err
	}
	p, err := r.revision(ctx, w, m[2])
	return &policyFile{name: name, ours: []policy.Policy{p}}, err
}
