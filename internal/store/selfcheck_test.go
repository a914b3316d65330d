package store

import (
	"context"
	"testing"

	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

// A profile may hold a setting that no connection sends, or pin one that it does.
func TestOpenRefusesAServerThatWouldCountTwice(t *testing.T) {
	pinned := func(name, value string) string {
		return "<" + name + ">" + value + "</" + name + "><constraints><" + name + "><const/></" + name + "></constraints>"
	}
	for name, c := range map[string]struct {
		profile string
		want    []string
	}{
		"none":               {"", nil},
		"deduplicate_insert": {"<deduplicate_insert>disable</deduplicate_insert>", []string{"deduplicate_insert", "disable", "counted twice", "profile"}},
		"async_insert":       {pinned("async_insert", "1"), []string{"async_insert", "profile"}},
		"insert_deduplicate": {pinned("insert_deduplicate", "0"), []string{"insert_deduplicate", "profile"}},
		"deduplicate_blocks_in_dependent_materialized_views": {
			pinned("deduplicate_blocks_in_dependent_materialized_views", "0"), []string{"deduplicate_blocks_in_dependent_materialized_views", "profile"},
		},
		"the right values pinned": {pinned("insert_deduplicate", "1"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clickhousetest.Config(t, t.TempDir())
			clickhousetest.Profile(&cfg, c.profile)
			engine, err := clickhouse.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := engine.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer engine.Stop(context.Background()) //nolint:errcheck // the test is over
			access := engine.Credentials()
			s, err := Open(t.Context(), Config{Addrs: []string{access.Addr}, User: access.User, Password: access.Password})
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, c.want...)
			t.Log(err)
		})
	}
}

// Free memory of less than a GiB a thread takes none of a query's threads from the embedded engine.
func TestQueriesHaveTwoThreads(t *testing.T) {
	const query = "SELECT countIf(explain LIKE '%AggregatingTransform × 2%') FROM (EXPLAIN PIPELINE SELECT sum(number) FROM numbers_mt(100000000))"
	if ask(t, migrated(t), query) != 1 {
		t.Error("a query that could be divided has one thread")
	}
}
