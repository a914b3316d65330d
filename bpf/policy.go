package bpf

import (
	"fmt"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
)

// SlotGuardrail is the place of a workload's guardrails in a TableKey. The
// entries of a table there deny, before either slot's are asked, wherever the
// slot isolates the direction.
const SlotGuardrail flow.Slot = 2 // RF_GUARDRAILS

const places = 3 // of a word: the slots and the guardrails

// String names the key as messages spell it.
func (k TableKey) String() string {
	if k.Slot == SlotGuardrail {
		return fmt.Sprintf("identity %d guardrails %s", k.Identity, k.Direction)
	}
	return fmt.Sprintf("identity %d %s %s", k.Identity, k.Slot, k.Direction)
}

func (t Table) validate() error {
	k := t.TableKey
	if k.Identity == flow.IdentityUnknown || k.Slot > SlotGuardrail || (k.Direction != flow.Ingress && k.Direction != flow.Egress) {
		return fmt.Errorf("table of %s: no such slot", k)
	}
	if k.Slot == SlotGuardrail && t.Open {
		return fmt.Errorf("table of %s: guardrails cannot be open", k)
	}
	return nil
}

// change is one call of Apply, checked.
type change struct {
	tables  []Table
	images  map[digest]image
	digests []digest // of tables; zero where one is deleted
}

func newChange(tables []Table) (*change, error) {
	c := &change{tables: tables, images: make(map[digest]image), digests: make([]digest, len(tables))}
	seen := make(map[TableKey]bool, len(tables))
	for i, t := range tables {
		if err := t.validate(); err != nil {
			return nil, err
		}
		if seen[t.TableKey] {
			return nil, fmt.Errorf("table of %s: given twice", t.TableKey)
		}
		seen[t.TableKey] = true
		if t.Delete {
			continue
		}
		im, err := t.image()
		if err != nil {
			return nil, err
		}
		c.digests[i] = im.digest()
		c.images[c.digests[i]] = im
	}
	return c, nil
}

// Apply puts all tables in force at once and returns the time from which the
// kernel decides by them. On an error nothing has changed. Tables whose content
// the kernel holds already, for whichever workload and slot, are not written
// again: putting a staged table in force is one store.
func (d *Datapath) Apply(tables []Table) (time.Time, error) {
	c, err := newChange(tables)
	if err != nil {
		return time.Time{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return time.Time{}, errClosed
	}
	if err := d.policies.write(c); err != nil {
		return time.Time{}, explain(err)
	}
	d.policies.point(c)
	bumpEpoch(d.settings.value)
	return time.Now(), nil
}

// Tables reads back what the kernel holds, ordered by key and with normalized
// entries. A table that somebody else changed is found out by this, and not used
// again.
func (d *Datapath) Tables() ([]Table, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	if err := d.policies.read(); err != nil {
		return nil, err
	}
	return d.policies.list(), nil
}
