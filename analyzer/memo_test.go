package analyzer

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestMemoWorksOnceForAKey(t *testing.T) {
	var m memo[int, int]
	var worked atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for key := range 100 {
				got, err := m.of(key, func() (int, error) { worked.Add(1); return key * key, nil })
				if got != key*key || err != nil {
					t.Errorf("%d: %d, %v", key, got, err)
				}
			}
		})
	}
	wg.Wait()
	if n := worked.Load(); n != 100 {
		t.Errorf("worked %d times for 100 keys", n)
	}
}
