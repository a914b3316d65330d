package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/statefile"
)

// ownershipState is what one process knows, for the next one: records that the
// first has not stored are attributed by the second. Times are unix nanoseconds.
type ownershipState struct {
	At        int64       `json:"at"` // since when the newest inventory counts
	Forgotten int64       `json:"forgotten"`
	Holders   []*Holder   `json:"holders"`
	Held      []heldState `json:"held"`
}

// heldState says who held an address, or a number. Holders are places in the list.
type heldState struct {
	Address   netip.Addr    `json:"address,omitzero"`
	Number    uint32        `json:"number,omitempty"`
	Holder    int           `json:"holder"` // noHolder for nobody
	Since     int64         `json:"since"`
	Forgotten int64         `json:"forgotten"`
	Before    []formerState `json:"before,omitempty"`
}

type formerState struct {
	Holder int   `json:"holder"`
	Since  int64 `json:"since"`
	Until  int64 `json:"until"`
}

const noHolder = -1

// Resume goes on from what an earlier process knew, if there is such a file. A
// bad one is counted and told of, and is as none. It comes before the first Learn.
func (o *Ownership) Resume(now time.Time) {
	if o.cfg.Path == "" {
		return
	}
	raw, err := statefile.Read(o.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = o.restore(raw, now)
	}
	if err != nil {
		o.lost.Add(1)
		o.cfg.Logger.Warn("who held an address before is not known: records of that time are whose it is now", "error", err)
	}
}

// save writes what is known. Only Learn changes that, and calls it.
func (o *Ownership) save() {
	if o.cfg.Path == "" {
		return
	}
	raw, err := json.Marshal(o.state())
	if err == nil {
		err = statefile.Write(o.cfg.Path, raw)
	}
	if err != nil {
		o.lost.Add(1)
		o.cfg.Logger.Warn("who holds which address cannot be noted: after a restart it is not known", "error", err)
	}
}

func (o *Ownership) state() ownershipState {
	st := ownershipState{At: o.last, Forgotten: o.forgotten}
	places := map[*Holder]int{}
	place := func(h *Holder) int {
		if h == nil {
			return noHolder
		}
		at, known := places[h]
		if !known {
			at = len(st.Holders)
			places[h] = at
			st.Holders = append(st.Holders, h)
		}
		return at
	}
	add := func(s heldState, h *holdings) {
		s.Holder, s.Since, s.Forgotten = place(h.holder), h.since, h.forgotten
		for _, b := range h.before {
			s.Before = append(s.Before, formerState{Holder: place(b.holder), Since: b.since, Until: b.until})
		}
		st.Held = append(st.Held, s)
	}
	for key, h := range o.addresses {
		add(heldState{Address: netip.AddrFrom16(key)}, h)
	}
	for number, h := range o.numbers {
		add(heldState{Number: number}, h)
	}
	return st
}

// restore makes a state what is known, all of it or nothing.
func (o *Ownership) restore(raw []byte, now time.Time) error {
	var st ownershipState
	if err := json.Unmarshal(raw, &st); err != nil {
		return err
	}
	if at := time.Unix(0, st.At); at.After(now) {
		return fmt.Errorf("it is of %s, and the clock says %s", at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if slices.Contains(st.Holders, nil) {
		return errors.New("a holder is missing")
	}
	all := make(map[subject]*holdings, len(st.Held))
	var former []ended
	for i := range st.Held {
		s, h, err := st.holdings(&st.Held[i])
		if err != nil {
			return err
		}
		if all[s] != nil {
			return fmt.Errorf("%s stands there twice", s)
		}
		all[s] = h
		for _, b := range h.before {
			former = append(former, ended{subject: s, at: b.until})
		}
	}
	slices.SortFunc(former, func(a, b ended) int { return cmp.Compare(a.at, b.at) })

	o.mu.Lock()
	defer o.mu.Unlock()
	for s, h := range all {
		o.add(s, h)
	}
	for _, e := range former {
		o.former.push(e)
	}
	o.last, o.forgotten = st.At, st.Forgotten
	return nil
}

// holdings checks one entry: its times must follow each other.
func (st *ownershipState) holdings(e *heldState) (subject, *holdings, error) {
	s := subject{number: e.Number}
	if e.Number == 0 {
		s.address = e.Address.As16()
	}
	if e.Address.IsValid() == (e.Number != 0) {
		return s, nil, errors.New("an entry is of no address, or of a number too")
	}
	holder := func(at int) *Holder {
		if at < 0 || at >= len(st.Holders) {
			return nil
		}
		return st.Holders[at]
	}
	h := &holdings{holder: holder(e.Holder), since: e.Since, forgotten: e.Forgotten}
	end := e.Forgotten
	for _, f := range e.Before {
		b := holding{holder: holder(f.Holder), since: f.Since, until: f.Until}
		if b.holder == nil || b.until <= b.since || b.until <= end || b.until > st.At {
			return s, nil, fmt.Errorf("the former holders of %s are out of order", s)
		}
		end = b.until
		h.before = append(h.before, b)
	}
	if h.holder == nil && e.Holder != noHolder || h.empty() || e.Since > st.At || len(h.before) > 0 && e.Since < end {
		return s, nil, fmt.Errorf("the holder of %s is none", s)
	}
	return s, h, nil
}

func (s subject) String() string {
	if s.number != 0 {
		return fmt.Sprintf("endpoint %d", s.number)
	}
	return netip.AddrFrom16(s.address).Unmap().String()
}
