package analyzer

import "sync"

// memo remembers what was worked out for a key. It is safe for concurrent use:
// whoever asks for what another works out waits for it.
type memo[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]func() (V, error)
}

// of returns what work says of key, which it is asked once.
func (m *memo[K, V]) of(key K, work func() (V, error)) (V, error) {
	m.mu.Lock()
	once, ok := m.known[key]
	if !ok {
		if m.known == nil {
			m.known = map[K]func() (V, error){}
		}
		once = sync.OnceValues(work)
		m.known[key] = once
	}
	m.mu.Unlock()
	return once()
}
