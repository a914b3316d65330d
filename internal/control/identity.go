package control

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// AssignIdentities returns a copy of inv in which every workload has its
// identity and every endpoint its number. Both are assigned once and kept:
// a workload that leaves and comes back has its old ones.
func (s *Store) AssignIdentities(ctx context.Context, inv inventory.Inventory) (inventory.Inventory, error) {
	out := inv.Clone()
	err := s.write(ctx, func(t *tx) error { return t.assign(&out) })
	return out, err
}

// SetInventory makes inv the inventory of State, with identities assigned, and
// returns it. One that says the same as the last, even before a restart, changes
// no generation.
func (s *Store) SetInventory(ctx context.Context, inv inventory.Inventory, actor string) (inventory.Inventory, error) {
	out := inv.Clone()
	err := s.write(ctx, func(t *tx) error {
		if err := t.assign(&out); err != nil {
			return err
		}
		sum := sha256.Sum256(out.Canonical())
		digest := hex.EncodeToString(sum[:])
		var known string
		if err := t.QueryRowContext(t.ctx, "SELECT inventory_digest FROM meta").Scan(&known); err != nil {
			return fmt.Errorf("read inventory digest: %w", err)
		}
		if known == digest && s.index.Load() != nil {
			return nil
		}
		if known == digest {
			// The process is new, what it says is not.
			t.rebuild = true
			return nil
		}
		if _, err := t.ExecContext(t.ctx, "UPDATE meta SET inventory_digest = ?", digest); err != nil {
			return fmt.Errorf("store inventory digest: %w", err)
		}
		if _, err := t.nextGeneration(); err != nil {
			return err
		}
		endpoints := 0
		for i := range out.Workloads {
			endpoints += len(out.Workloads[i].Endpoints)
		}
		return t.record(Event{Actor: actor, Action: ActionInventory, Text: fmt.Sprintf(
			"%s loaded an inventory of %d nodes, %d workloads and %d endpoints", actor, len(out.Nodes), len(out.Workloads), endpoints)})
	}, func() { s.index.Store(inventory.NewIndex(out)) })
	return out, err
}

// Inventory returns the inventory of State, or nil before SetInventory.
func (s *Store) Inventory() *inventory.Index { return s.index.Load() }

func (t *tx) assign(inv *inventory.Inventory) error {
	for i := range inv.Workloads {
		w := &inv.Workloads[i]
		id, err := t.identity(w.Ref())
		if err != nil {
			return err
		}
		w.Identity = id
		for j := range w.Endpoints {
			if w.Endpoints[j].ID, err = t.endpoint(id, w.Endpoints[j].Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// identity returns the workload's number, giving it the next one if it has
// none. Rows are never deleted, so a number is never given again.
func (t *tx) identity(w flow.Workload) (flow.Identity, error) {
	id, err := t.known(w)
	if err == nil || CodeOf(err) != CodeNotFound {
		return id, err
	}
	err = t.QueryRowContext(t.ctx, "SELECT coalesce(max(identity) + 1, ?) FROM workloads", flow.FirstWorkloadIdentity).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("number workload %s: %w", w, err)
	}
	if id >= flow.FirstCIDRIdentity {
		return 0, refuse(CodeInternal, "workload %s: all %d identities are taken", w, flow.FirstCIDRIdentity-flow.FirstWorkloadIdentity)
	}
	_, err = t.ExecContext(t.ctx, "INSERT INTO workloads VALUES (?, ?, ?, ?, ?)", id, w.Namespace, w.Kind, w.Name, stamp(t.now))
	if err != nil {
		return 0, fmt.Errorf("number workload %s: %w", w, err)
	}
	return id, nil
}

func (t *tx) endpoint(workload flow.Identity, name string) (uint32, error) {
	var id uint32
	err := t.QueryRowContext(t.ctx, "SELECT id FROM endpoints WHERE workload = ? AND name = ?", workload, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = t.QueryRowContext(t.ctx,
			"INSERT INTO endpoints SELECT coalesce(max(id), 0) + 1, ?, ? FROM endpoints RETURNING id", workload, name).Scan(&id)
	}
	if err != nil {
		return 0, fmt.Errorf("number endpoint %q: %w", name, err)
	}
	if id >= inventory.FirstPendingEndpoint {
		return 0, refuse(CodeInternal, "endpoint %q: all %d numbers are taken", name, inventory.FirstPendingEndpoint-1)
	}
	return id, nil
}

// known returns the number of a workload that was once in an inventory.
func (t *tx) known(w flow.Workload) (flow.Identity, error) { return knownWorkload(t.ctx, t, w) }

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func knownWorkload(ctx context.Context, q querier, w flow.Workload) (flow.Identity, error) {
	var id flow.Identity
	err := q.QueryRowContext(ctx, "SELECT identity FROM workloads WHERE namespace = ? AND kind = ? AND name = ?",
		w.Namespace, w.Kind, w.Name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, refuse(CodeNotFound, "workload %s is not in the inventory: check its namespace, kind and name", w)
	}
	if err != nil {
		return 0, fmt.Errorf("look up workload %s: %w", w, err)
	}
	return id, nil
}

// present refuses a workload that the current inventory does not have.
func (s *Store) present(w flow.Workload) (*inventory.Workload, error) {
	x := s.index.Load()
	if x == nil {
		return nil, refuse(CodeUnavailable, "the inventory is not loaded yet: try again in a moment")
	}
	if found := x.Workload(w); found != nil {
		return found, nil
	}
	return nil, refuse(CodeNotFound, "workload %s is not in the inventory: check its namespace, kind and name", w)
}
