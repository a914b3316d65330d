package api

import (
	"net/netip"
	"sync"
	"time"
)

// Failed logins: the first few are free, each further one doubles the wait.
const (
	freePerAccount = 5
	freePerAddress = 20
	maxWait        = 5 * time.Minute
	forgetAfter    = 15 * time.Minute
	maxAttempts    = 10000 // entries kept
)

// limiter slows down guessing: by address and user, so that one cannot lock
// another's user out from elsewhere, and by address alone.
type limiter struct {
	now func() time.Time
	mu  sync.Mutex
	m   map[string]*attempts
}

type attempts struct {
	failed int
	last   time.Time
	until  time.Time
}

func newLimiter(now func() time.Time) *limiter { return &limiter{now: now, m: map[string]*attempts{}} }

// loginKeys returns what an attempt counts against. An IPv6 host has a /64 to
// choose addresses from.
func loginKeys(remote, user string) (address, account string) {
	address = remote
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		bits := 32
		if a := ap.Addr().Unmap(); a.Is6() {
			bits = 64
		}
		if p, err := ap.Addr().Unmap().WithZone("").Prefix(bits); err == nil {
			address = p.String()
		}
	}
	return address, address + " " + user
}

// begin returns how long to wait. When that is nothing the attempt counts as
// failed until it succeeded, so that many at once are no way round.
func (l *limiter) begin(address, account string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.prune(now)
	a, b := l.get(address, now), l.get(account, now)
	if wait := max(a.until.Sub(now), b.until.Sub(now)); wait > 0 {
		return wait
	}
	a.fail(now, freePerAddress)
	b.fail(now, freePerAccount)
	return 0
}

// succeeded forgets the account's failures, and takes back this attempt's from
// the address: one good account is no licence to try others.
func (l *limiter) succeeded(address, account string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m, account)
	if a := l.m[address]; a != nil {
		a.failed--
		a.until = time.Time{}
	}
}

func (l *limiter) get(key string, now time.Time) *attempts {
	a := l.m[key]
	if a == nil || now.Sub(a.last) > forgetAfter {
		a = &attempts{}
		l.m[key] = a
	}
	a.last = now
	return a
}

func (a *attempts) fail(now time.Time, free int) {
	a.failed++
	if over := a.failed - free; over >= 0 {
		a.until = now.Add(min(maxWait, time.Second<<min(over, 20)))
	}
}

// prune bounds the memory: what is old goes first, then whatever comes first.
func (l *limiter) prune(now time.Time) {
	if len(l.m) < maxAttempts {
		return
	}
	for k, a := range l.m {
		if now.Sub(a.last) > forgetAfter {
			delete(l.m, k)
		}
	}
	for k := range l.m {
		if len(l.m) < maxAttempts/2 {
			return
		}
		delete(l.m, k)
	}
}
