package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// checkFlags are those of `policy check`.
type checkFlags struct {
	out                 output
	all                 bool
	namespace, selector string
	slot, since         string
}

func newPolicyCheckCommand(client *clientFlags) *cobra.Command {
	var o checkFlags
	cmd := &cobra.Command{
		Use:   "check {NAMESPACE/KIND/NAME | -A | -n NAMESPACE | -l LABELS}",
		Short: "Say which rules of what is enforced or audited are unused, shadowed or broad, and what is new",
		Long: `Hold the live revision of a workload, or the staged one where none is live, against what was observed.

Each of its rules is kept, or may be removed because nothing used it or others admit the same; and new
rules are proposed for what the revision does not admit, those with a flag for review one by one. For
several workloads it prints the numbers of each.`,
		Example: "  ringfence policy check boutique/Deployment/cart\n  ringfence policy check -A --since 7d -o json",
		Args: func(cmd *cobra.Command, args []string) error {
			if many := o.all || o.namespace != "" || o.selector != ""; many == (len(args) == 1) || len(args) > 1 {
				return fmt.Errorf("name one workload as NAMESPACE/KIND/NAME, or several by -A, -n or -l; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			params, err := o.read()
			if err != nil {
				return err
			}
			c, err := client.connect()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return o.several(cmd, c, params)
			}
			w, err := flow.ParseWorkload(args[0])
			if err != nil {
				return err
			}
			res, err := c.CheckPolicyWithResponse(cmd.Context(), w.Namespace, w.Kind, w.Name, params)
			if err := expect(res, err); err != nil {
				return err
			}
			return o.one(cmd.OutOrStdout(), res.JSON200)
		},
	}
	o.out.register(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all-namespaces", "A", false, "every workload that has a revision in a slot")
	f.StringVarP(&o.namespace, "namespace", "n", "", "only workloads of this namespace")
	f.StringVarP(&o.selector, "selector", "l", "", "only workloads with these labels, such as app=frontend")
	f.StringVar(&o.slot, "slot", "", "live or staged; the live one unless given, or else the staged one")
	f.StringVar(&o.since, "since", "30d", "a time, or how far back to look: 15m, 2h, 7d")
	return cmd
}

func (o *checkFlags) read() (*api.CheckPolicyParams, error) {
	if err := o.out.validate(); err != nil {
		return nil, err
	}
	since, err := query.ParseTime(o.since, time.Now())
	if err != nil {
		return nil, fmt.Errorf("--since: %w", err)
	}
	params := &api.CheckPolicyParams{Since: &since}
	switch slot := api.Slot(o.slot); slot {
	case "":
	case api.Live, api.Staged:
		params.Slot = &slot
	default:
		return nil, fmt.Errorf("--slot %q: want live or staged", o.slot)
	}
	return params, nil
}

// several checks every workload that has something in the slot that is asked about.
func (o *checkFlags) several(cmd *cobra.Command, c *api.ClientWithResponses, params *api.CheckPolicyParams) error {
	list, err := listWorkloads(cmd.Context(), &remote{client: c}, o.namespace, o.selector)
	if err != nil {
		return err
	}
	var wanted []api.WorkloadRef
	for _, w := range list {
		live, staged := w.Requested.Live != nil, w.Requested.Staged != nil
		inSlot := o.slot == "" && (live || staged) || o.slot == string(api.Live) && live || o.slot == string(api.Staged) && staged
		if inSlot {
			wanted = append(wanted, w.Workload)
		}
	}
	checks, err := checkEach(cmd.Context(), c, wanted, params)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(checks))
	rows := make([][]string, 0, len(checks))
	for _, k := range checks {
		names = append(names, fmt.Sprintf("%s@%d", workloadText(k.Workload), k.Revision))
		row := []string{workloadText(k.Workload), string(k.Slot), strconv.FormatInt(k.Revision, 10)}
		for _, n := range []int{len(k.Rules) - k.New, k.Unused, k.Shadowed, k.Broad, k.New, k.ToReview} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, append(row, watchedText(k.Coverage)))
	}
	if len(checks) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no workload asked about has a revision in that slot")
	}
	return o.out.print(cmd.OutOrStdout(), checks, names,
		[]string{"WORKLOAD", "SLOT", "REVISION", "RULES", "UNUSED", "SHADOWED", "BROAD", "NEW", "TO-REVIEW", "WATCHED"}, rows)
}

func checkEach(ctx context.Context, c *api.ClientWithResponses, list []api.WorkloadRef, params *api.CheckPolicyParams) ([]*api.PolicyCheck, error) {
	p := newProgress(os.Stderr, "workloads checked", len(list))
	defer p.end()
	out := make([]*api.PolicyCheck, 0, len(list))
	for i, w := range list {
		res, err := c.CheckPolicyWithResponse(ctx, w.Namespace, w.Kind, w.Name, params)
		if err := expect(res, err); err != nil {
			return nil, fmt.Errorf("%s: %w", workloadText(w), err)
		}
		out = append(out, res.JSON200)
		p.set(i + 1)
	}
	return out, nil
}

// one prints each rule of a check, with what speaks against it.
func (o *checkFlags) one(w io.Writer, c *api.PolicyCheck) error {
	rows := make([][]string, 0, len(c.Rules))
	for i := range c.Rules {
		r := &c.Rules[i]
		reasons := make([]string, 0, len(r.Flags))
		for _, f := range r.Flags {
			reasons = append(reasons, f.Code+": "+f.Reason)
		}
		used := int64(0)
		for k := range r.Evidence {
			used += r.Evidence[k].Connections
		}
		rows = append(rows, []string{string(r.Proposed), string(r.Direction), strconv.FormatInt(used, 10), r.Sentence, strings.Join(reasons, "; ")})
	}
	name := fmt.Sprintf("%s@%d", workloadText(c.Workload), c.Revision)
	if err := o.out.print(w, c, []string{name}, []string{"PROPOSED", "DIRECTION", "CONNECTIONS", "RULE", "WHY"}, rows); err != nil || o.out.format != "table" {
		return err
	}
	fmt.Fprintf(w, "\n%s, %s: %s\n", name, c.Slot, c.Words)
	return nil
}

// watchedText says how much of a window was watched.
func watchedText(c api.Coverage) string {
	hours := func(seconds float64) string { return strconv.FormatFloat(seconds/3600, 'f', 0, 64) + "h" }
	return hours(c.CoveredSeconds) + " of " + hours(c.Seconds)
}
