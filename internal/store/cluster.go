package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"golang.org/x/sync/errgroup"
)

// In a cluster every replica has the very tables that one server has. What
// reads of all shards are sent to are Distributed tables of the same names in a
// second database, whose name ends in this: the SQL is the same everywhere.
const everywhere = "_all"

// Replica is one server of a cluster, as Open found it.
type Replica struct {
	Addr string
	// Shard and Name are the server's macros shard and replica.
	Shard, Name string
	Err         error // why it could not be used; nil when it answers
}

// shard is where some of the rows are stored: one of a cluster's shards, or the
// only server.
type shard struct {
	name string // empty for the only server
	conn driver.Conn
}

// readDatabase is where queries find tables that hold everything.
func (s *Store) readDatabase() string {
	if s.cfg.Cluster == "" {
		return s.cfg.Database
	}
	return s.cfg.Database + everywhere
}

// replicated reports whether tables are copied to the other replicas of their shard.
func (s *Store) replicated() bool { return s.mostReplicas > 1 }

// Replicas returns the servers of the cluster as Open found them; none when
// there is no cluster.
func (s *Store) Replicas() []Replica { return s.replicas }

// peers are the other replicas of one's shard that answered Open.
func (s *Store) peers(of Replica) (addrs []string) {
	for _, r := range s.replicas {
		if r.Err == nil && r.Shard == of.Shard && r.Addr != of.Addr {
			addrs = append(addrs, r.Addr)
		}
	}
	return addrs
}

// survey asks every named server of the cluster who it is, and checks it as the
// only server would be. Servers that do not answer are no error as long as each
// shard has one that does.
func (s *Store) survey(ctx context.Context) error {
	var (
		mu    sync.Mutex
		sizes []clusterSize
		g     errgroup.Group
	)
	s.replicas = make([]Replica, len(s.cfg.Addrs))
	for i, addr := range s.cfg.Addrs {
		g.Go(func() error {
			r, size, err := s.look(ctx, addr)
			mu.Lock()
			defer mu.Unlock()
			s.replicas[i] = r
			if err == nil && r.Err == nil {
				sizes = append(sizes, size)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if len(sizes) == 0 {
		return fmt.Errorf("no server of clickhouse cluster %q answers: %w", s.cfg.Cluster, s.replicas[0].Err)
	}
	for _, size := range sizes[1:] {
		if size != sizes[0] {
			return fmt.Errorf("the servers of clickhouse cluster %q disagree: %d shards of at most %d replicas, or %d of %d: give all the same remote_servers",
				s.cfg.Cluster, sizes[0].shards, sizes[0].replicas, size.shards, size.replicas)
		}
	}
	s.mostReplicas = sizes[0].replicas
	return s.checkShards(sizes[0].shards)
}

// clusterSize is what a server's remote_servers say of the cluster.
type clusterSize struct{ shards, replicas uint64 }

// look asks one server. The error is one that people must mend first; a server
// that does not answer is told in Replica.Err.
func (s *Store) look(ctx context.Context, addr string) (Replica, clusterSize, error) {
	one := s.at(addr)
	db := clickhouse.OpenDB(one.options(""))
	defer func() { _ = db.Close() }()
	r := Replica{Addr: addr}
	var size clusterSize
	err := one.checkServerOn(ctx, db)
	if err == nil {
		err = one.explain("read macros", db.QueryRowContext(ctx, `SELECT
			(SELECT any(substitution) FROM system.macros WHERE macro = 'shard'),
			(SELECT any(substitution) FROM system.macros WHERE macro = 'replica'),
			(SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = {cluster:String}),
			(SELECT max(replica_num) FROM system.clusters WHERE cluster = {cluster:String})`,
			clickhouse.Named("cluster", s.cfg.Cluster)).Scan(&r.Shard, &r.Name, &size.shards, &size.replicas))
	}
	switch {
	case err != nil && unreachable(err):
		r.Err = err
		return r, size, nil
	case err != nil:
		return r, size, fmt.Errorf("%s: %w", addr, err)
	case size.shards == 0:
		return r, size, fmt.Errorf("clickhouse at %s knows no cluster %q: add it to the server's remote_servers, or correct --clickhouse-cluster", addr, s.cfg.Cluster)
	case r.Shard == "":
		return r, size, fmt.Errorf("clickhouse at %s has no macro \"shard\": add <macros><shard>…</shard><replica>…</replica></macros> to its configuration", addr)
	case r.Name == "" && size.replicas > 1:
		return r, size, fmt.Errorf("clickhouse at %s has no macro \"replica\": add <macros><replica>…</replica></macros> to its configuration", addr)
	}
	return r, size, nil
}

// checkShards wants one server that answers of every shard, and none twice.
func (s *Store) checkShards(want uint64) error {
	var (
		names, silent []string
		last          error
		seen          = map[Replica]string{}
	)
	for _, r := range s.replicas {
		if r.Err != nil {
			silent, last = append(silent, r.Addr), r.Err
			continue
		}
		names = append(names, r.Shard)
		key := Replica{Shard: r.Shard, Name: r.Name}
		if other := seen[key]; other != "" {
			return fmt.Errorf("clickhouse at %s and at %s are both replica %q of shard %q: name each server once, and give each its own macros",
				other, r.Addr, r.Name, r.Shard)
		}
		seen[key] = r.Addr
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch got := uint64(len(names)); {
	case got > want:
		return fmt.Errorf("clickhouse cluster %q has %d shards by its remote_servers and %d by the macros of the servers named (%s): make them agree",
			s.cfg.Cluster, want, got, strings.Join(names, ", "))
	case got < want && len(silent) == 0:
		return fmt.Errorf("clickhouse cluster %q has %d shards, and --clickhouse names servers of %d (%s): name all of them",
			s.cfg.Cluster, want, got, strings.Join(names, ", "))
	case got < want:
		return &PartialError{Cluster: s.cfg.Cluster, Err: fmt.Errorf("%d of %d shards answer, %s not: %w", got, want, strings.Join(silent, " and "), last)}
	}
	return nil
}

// connect opens the connections for queries and for inserts.
func (s *Store) connect() (err error) {
	if s.cfg.Cluster == "" {
		s.conn, err = clickhouse.Open(s.options(s.cfg.Database))
		s.shards = []*shard{{conn: s.conn}}
		return err
	}
	addrs := map[string][]string{}
	var all []string
	for _, r := range s.replicas {
		if r.Err == nil {
			addrs[r.Shard] = append(addrs[r.Shard], r.Addr)
			all = append(all, r.Addr)
		}
	}
	if s.conn, err = clickhouse.Open(s.at(all...).options(s.readDatabase())); err != nil {
		return err
	}
	for name, of := range addrs {
		o := s.at(of...).options(s.cfg.Database)
		o.ConnOpenStrategy = clickhouse.ConnOpenRandom // thousands of agents share the replicas
		conn, err := clickhouse.Open(o)
		if err != nil {
			return err
		}
		s.shards = append(s.shards, &shard{name: name, conn: conn})
	}
	slices.SortFunc(s.shards, func(a, b *shard) int { return strings.Compare(a.name, b.name) })
	return nil
}

// at is s, as it would be with other addresses, to connect with and to name in errors.
func (s *Store) at(addrs ...string) *Store {
	out := &Store{cfg: s.cfg, metrics: s.metrics, mostReplicas: s.mostReplicas}
	out.cfg.Addrs = addrs
	return out
}

// PartialError says that a part of a cluster does not answer. Whatever was
// asked has no answer then: numbers of some shards would be too small.
type PartialError struct {
	Cluster string
	Err     error
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("a shard of clickhouse cluster %q does not answer, and an answer without it would be partial: start its servers, or see their logs: %v",
		e.Cluster, e.Err)
}

func (e *PartialError) Unwrap() error { return e.Err }

// Codes of a server that misses another one.
var partialCodes = []int32{
	codeNetworkError, codeSocketTimeout, codeUnexpectedEnd, codeAllConnectionsFailed, codeReplicasStale, codeReplicasLost, codeDNS,
}

// unreachable reports whether err is one of the network, not one that a server told.
func unreachable(err error) bool {
	var exception *clickhouse.Exception
	var configured *configError
	return !errors.As(err, &exception) && !errors.As(err, &configured) && !errors.Is(err, context.Canceled)
}

// configError is a fault of the server's configuration.
type configError struct{ message string }

func (e *configError) Error() string { return e.message }
