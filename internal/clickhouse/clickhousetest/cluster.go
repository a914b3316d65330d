package clickhousetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/internal/clickhouse"
)

// ClusterName is what the engines of a Cluster call it.
const ClusterName = "lab"

// Cluster is several engines that know each other. Every connection to one,
// also that of another, goes through its Link.
type Cluster struct {
	Engines []*clickhouse.Engine
	Links   []*Link
	// Parts are the ways on which replicas fetch parts from each engine; none when
	// no shard has several. Each leads nowhere before the engine was told to listen
	// for HTTP and the test leads it to that port.
	Parts []*Link
	// Keeper is the engines' way to ZooKeeper, nil without one.
	Keeper   *Link
	User     string
	Password string
}

// StartCluster starts an engine for each of layout's replicas: layout lists the
// number of replicas of every shard. With several it starts a ZooKeeper, too. All
// leave when the test ends.
func StartCluster(tb testing.TB, layout ...int) *Cluster {
	tb.Helper()
	c := &Cluster{Password: rand.Text()}
	if slices.Max(layout) > 1 {
		c.Keeper = NewLink(tb, startKeeper(tb), nil)
	}
	member := clickhouse.Membership{Name: ClusterName, Password: c.Password, Secret: rand.Text()}
	for _, replicas := range layout {
		var shard []string
		for range replicas {
			l := newLink(tb, nil)
			c.Links = append(c.Links, l)
			shard = append(shard, l.Addr())
		}
		member.Shards = append(member.Shards, shard)
	}
	for shard, replicas := range layout {
		for replica := range replicas {
			m := member
			m.Shard, m.Replica = fmt.Sprintf("s%d", shard+1), fmt.Sprintf("r%d", replica+1)
			cfg := Config(tb, tb.TempDir())
			cfg.Cluster = &m
			cfg.Command = append(cfg.Command, unsyncedFlag)
			if c.Keeper != nil {
				l := newLink(tb, nil)
				c.Parts = append(c.Parts, l)
				cfg.Command = append(cfg.Command, replicaFlag+"="+c.Keeper.Addr()+","+l.Addr())
			}
			engine, err := clickhouse.New(cfg)
			if err != nil {
				tb.Fatal(err)
			}
			c.Engines = append(c.Engines, engine)
		}
	}
	tb.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel() // nobody wants what they have, and replicas take their time to leave
		c.each(tb, func(i int) error { return c.Engines[i].Stop(now) })
	})
	c.each(tb, func(i int) error {
		if err := c.Engines[i].Start(tb.Context()); err != nil {
			return err
		}
		c.Links[i].Lead(c.Engines[i].Credentials().Addr)
		return nil
	})
	c.User = c.Engines[0].Credentials().User
	return c
}

// Addrs are the addresses of all engines.
func (c *Cluster) Addrs() []string {
	var out []string
	for _, l := range c.Links {
		out = append(out, l.Addr())
	}
	return out
}

func (c *Cluster) each(tb testing.TB, do func(i int) error) {
	tb.Helper()
	var g errgroup.Group
	for i := range c.Engines {
		g.Go(func() error { return do(i) })
	}
	if err := g.Wait(); err != nil {
		tb.Fatal(err)
	}
}
