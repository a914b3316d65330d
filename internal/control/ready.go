package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/inventory"
)

// ready refuses to enforce rev when something that must come first is missing.
// Anyway passes over what learning lacks, which it returns. A revision that
// isolates nothing drops nothing and is always ready.
func (s *Store) ready(ctx context.Context, w *inventory.Workload, rev Revision, anyway bool) (unlearned []string, err error) {
	if !isolates(&rev.Policy) {
		return nil, nil
	}
	missing := s.missingOnNodes(w, rev.Number)
	unlearned, err = s.unlearned(ctx, w.Ref())
	switch {
	case err != nil && anyway:
		unlearned = []string{fmt.Sprintf("whether it is ready cannot be told: %v", err)}
	case err != nil:
		return nil, &Error{Code: CodeUnavailable, Err: err, Message: fmt.Sprintf(
			"whether %s is ready to be enforced cannot be told: %v; try again once ClickHouse answers", w.Ref(), err)}
	}
	passable := len(missing) == 0
	if !anyway {
		missing = append(missing, unlearned...)
	}
	if len(missing) == 0 {
		return unlearned, nil
	}
	message := fmt.Sprintf("revision %d of %s cannot be enforced yet: %s", rev.Number, w.Ref(), missing[0])
	if n := len(missing) - 1; n > 0 {
		message += fmt.Sprintf(" (and %d more)", n)
	}
	return nil, &Error{Code: CodeNotReady, Message: message, Missing: missing, Passable: passable}
}

// unlearned returns what stored coverage lacks.
func (s *Store) unlearned(ctx context.Context, w flow.Workload) ([]string, error) {
	if s.deps.Readiness == nil || s.covered.holds(w, s.deps.Now(), s.cfg.ReadinessFor) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ReadinessTimeout)
	defer cancel()
	missing, err := s.deps.Readiness.Missing(ctx, w)
	if err == nil && len(missing) == 0 {
		s.covered.remember(w, s.deps.Now())
	}
	return missing, err
}

// because appends what a node says is wrong, if it says anything.
func because(texts ...string) string {
	text := strings.Join(slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return s == "" }), "; ")
	if text == "" {
		return ""
	}
	return ": " + oneLine(text)
}

// covered remembers of which workloads stored coverage lacked nothing, and when.
type covered struct {
	mu sync.Mutex
	at map[flow.Workload]time.Time
}

func (c *covered) holds(w flow.Workload, now time.Time, during time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.at[w]
	return ok && now.Sub(at) < during
}

func (c *covered) remember(w flow.Workload, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = map[flow.Workload]time.Time{}
	}
	c.at[w] = now
}

// missingOnNodes says what the nodes that hold w still lack for enforcing a
// revision: that they are connected, attached, warm, and audit it.
func (s *Store) missingOnNodes(w *inventory.Workload, revision uint32) []string {
	nodes := s.nodeSlots(w)
	if len(nodes) == 0 {
		return []string{"none of its endpoints has an interface with an agent: nothing would be enforced"}
	}
	var missing []string
	say := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	now := s.deps.Now()
	for _, n := range nodes {
		e := n.Effective
		switch {
		case !n.Connected:
			say("node %s is not connected", n.Node)
			continue
		case n.Panicked:
			say("node %s is under `ringfence panic`: nothing would be dropped there", n.Node)
		}
		if e.Endpoints < n.Expected {
			say("%d of %d endpoints on node %s are attached%s", e.Endpoints, n.Expected, n.Node, because(n.Problems...))
			continue
		}
		if e.StagedRevision != revision {
			say("node %s does not audit revision %d yet%s", n.Node, revision, because(n.Error))
		}
		warm := e.ObservedSince.Add(s.cfg.WarmUp)
		switch {
		case e.ObservedSince.IsZero():
			say("node %s does not say since when it observes the workload", n.Node)
		case now.Before(warm):
			say("node %s has observed it for %s of the %s that are needed: %s to go", n.Node,
				max(0, now.Sub(e.ObservedSince)).Round(time.Second), s.cfg.WarmUp, warm.Sub(now).Round(time.Second))
		}
	}
	return missing
}
