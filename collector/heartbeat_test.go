package collector

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ringfence/ringfence/internal/flow"
)

func TestHeartbeats(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		began := time.Now()
		a.path.counters = map[string]uint64{counterLost: 100, counterDelayed: 10}
		stop := a.start()
		a.ring.write(numbered(0, 7)...)
		time.Sleep(5*time.Second + time.Millisecond)
		a.path.mu.Lock()
		a.path.counters = map[string]uint64{counterLost: 103, counterDelayed: 11}
		a.path.mu.Unlock()
		time.Sleep(5 * time.Second)
		stopped(t, stop)
		at := began.Add
		want := []flow.Coverage{
			// The maps are older than this state directory: what they lost, nobody told of.
			{Node: "node-1", Start: at(0), End: at(5 * time.Second), Records: 7, Lost: 100, Delayed: 10, Endpoints: 3, Started: true},
			{Node: "node-1", Start: at(5 * time.Second), End: at(10 * time.Second), Lost: 3, Delayed: 1, Endpoints: 3},
			{Node: "node-1", Start: at(10 * time.Second), End: at(10*time.Second + time.Millisecond), Endpoints: 3},
		}
		compare(t, a.sink.coverage, want)

		// No agent runs for an hour, and the kernel goes on losing.
		time.Sleep(time.Hour)
		a.path.counters[counterLost] = 110
		resumed := time.Now()
		stop = a.start()
		time.Sleep(5 * time.Second)
		stopped(t, stop)
		got := a.sink.coverage[3:]
		if len(got) == 0 || !got[0].Started || got[0].Lost != 7 || !got[0].Start.Equal(resumed) {
			t.Errorf("after the gap: %+v", got)
		}

		// Another ring, after an upgrade, changes nothing; other maps count from 0.
		a.ring.id++
		n := len(a.sink.coverage)
		stop = a.start()
		time.Sleep(5 * time.Second)
		stopped(t, stop)
		if got := a.sink.coverage[n]; got.Lost != 0 {
			t.Errorf("with another ring: %+v", got)
		}
		a.path.id++
		a.path.counters = map[string]uint64{counterLost: 200}
		n = len(a.sink.coverage)
		stop = a.start()
		time.Sleep(5 * time.Second)
		stopped(t, stop)
		if got := a.sink.coverage[n]; got.Lost != 200 {
			t.Errorf("with other maps: %+v", got)
		}
	})
}

func compare(t *testing.T, got, want []flow.Coverage) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d heartbeats, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if !got[i].Start.Equal(want[i].Start) || !got[i].End.Equal(want[i].End) {
			t.Errorf("%d: from %s to %s, want from %s to %s", i, got[i].Start, got[i].End, want[i].Start, want[i].End)
		}
		got[i].Start, got[i].End, want[i].Start, want[i].End = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		if got[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

// While the store is away heartbeats wait, without end to end gaps and without
// growing for ever.
func TestOwedHeartbeats(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		began := time.Now()
		a.sink.err, a.sink.lose = errors.New("reset"), true
		stop := a.start()
		const outage = 3 * time.Hour
		time.Sleep(outage)
		a.path.mu.Lock()
		a.path.counters[counterLost] = 5
		a.path.mu.Unlock()
		a.store(nil)
		time.Sleep(10 * time.Second)
		stopped(t, stop)
		got := a.sink.coverage
		if len(got) > maxOwed+5 {
			t.Errorf("%d heartbeats", len(got))
		}
		end, lost := began, uint64(0)
		for i, c := range got {
			if !c.Start.Equal(end) {
				t.Fatalf("heartbeat %d begins at %s, the one before ended at %s", i, c.Start, end)
			}
			end = c.End
			lost += c.Lost
		}
		if end.Sub(began) < outage || lost != 5 || !got[0].Started {
			t.Errorf("%s are covered, %d lost", end.Sub(began), lost)
		}
	})
}

func TestDamagedHeartbeatFile(t *testing.T) {
	alone(t, func(t *testing.T, a *agent) {
		if err := os.WriteFile(filepath.Join(a.dir, stateName), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		a.path.counters = map[string]uint64{counterLost: 9}
		stop := a.start()
		time.Sleep(6 * time.Second)
		stopped(t, stop)
		// What is not known to be told is told again.
		if c := a.sink.coverage; len(c) == 0 || c[0].Lost != 9 || testutil.ToFloat64(a.c.metrics.stateErrors) != 1 {
			t.Errorf("coverage %+v", c)
		}
	})
}
