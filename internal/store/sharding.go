package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/flow"
)

// Rows are split here, by the sender, and not by a Distributed table: each
// shard then gets its part once, straight, under a token of its own.

// perShard sends every shard its rows, all at once, and returns when all have
// them. The suffix belongs to the token: another number of shards makes another
// split, whose parts must not be taken for the old ones.
func perShard[R any](ctx context.Context, s *Store, rows []R, hash func(*R) uint64, send func(ctx context.Context, to *shard, suffix string, rows []R) error) error {
	n := uint64(len(s.shards))
	if n == 1 {
		return send(ctx, s.shards[0], s.shards[0].suffix(n), rows)
	}
	sizes := make([]int, n)
	of := make([]uint32, len(rows))
	for i := range rows {
		of[i] = uint32(hash(&rows[i]) % n) //nolint:gosec // below the number of shards
		sizes[of[i]]++
	}
	parts := make([][]R, n)
	for i, size := range sizes {
		parts[i] = make([]R, 0, size)
	}
	for i := range rows {
		parts[of[i]] = append(parts[of[i]], rows[i])
	}
	var g errgroup.Group // one shard's error does not stop the others
	for i, part := range parts {
		if len(part) == 0 {
			continue
		}
		g.Go(func() error { return send(ctx, s.shards[i], s.shards[i].suffix(n), part) })
	}
	return g.Wait()
}

func (s *shard) suffix(of uint64) string {
	if s.name == "" {
		return ""
	}
	return fmt.Sprintf("/%s-of-%d", s.name, of)
}

// edgeHash is equal for all records of an edge, also those that its other end
// made. External peers count by the prefix they are added up to: /24 and /48.
type edgeHash map[*flow.Party]uint64

func (h edgeHash) of(r *flow.Labelled) uint64 {
	var b [2*8 + 3]byte
	binary.LittleEndian.PutUint64(b[0:], h.party(r.Source, r.Key.Source))
	binary.LittleEndian.PutUint64(b[8:], h.party(r.Dest, r.Destination))
	binary.LittleEndian.PutUint16(b[16:], r.DestinationPort)
	b[18] = byte(r.Protocol)
	return xxhash.Sum64(b[:])
}

func (h edgeHash) party(p *flow.Party, addr netip.Addr) uint64 {
	if p.Workload.IsZero() {
		return prefixHash(addr)
	}
	sum, ok := h[p]
	if !ok {
		sum = xxhash.Sum64String(p.Workload.Namespace + "\x00" + p.Workload.Kind + "\x00" + p.Workload.Name)
		h[p] = sum
	}
	return sum
}

func prefixHash(addr netip.Addr) uint64 {
	bits := 48
	addr = addr.Unmap()
	if addr.Is4() {
		bits = 24
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	if err != nil { // no address at all
		return 0
	}
	a := prefix.Addr().As16()
	return xxhash.Sum64(a[:])
}
