package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/test/bench/report"
)

// The plain way to store flows: a table of 26 columns with the labels as maps
// and everything else at its default, one view that adds up by hour, and a
// writer that appends row by row.
var plainTables = []string{
	`CREATE TABLE plain_flows
(
    time DateTime64(6, 'UTC'), first_seen DateTime64(6, 'UTC'),
    node LowCardinality(String), direction LowCardinality(String), event LowCardinality(String),
    source_address IPv6, destination_address IPv6, source_port UInt16, destination_port UInt16, protocol UInt8,
    source_namespace LowCardinality(String), source_name LowCardinality(String), source_pod LowCardinality(String),
    source_labels Map(LowCardinality(String), String),
    destination_namespace LowCardinality(String), destination_name LowCardinality(String), destination_pod LowCardinality(String),
    destination_labels Map(LowCardinality(String), String),
    connections UInt32, forward_packets UInt64, forward_bytes UInt64, reverse_packets UInt64, reverse_bytes UInt64,
    flags UInt8, verdict LowCardinality(String), reason LowCardinality(String)
)
ENGINE = MergeTree PARTITION BY toDate(time) ORDER BY (source_namespace, source_name, time)`,
	`CREATE TABLE plain_edges
(
    hour DateTime('UTC'),
    source_namespace LowCardinality(String), source_name LowCardinality(String),
    destination_namespace LowCardinality(String), destination_name LowCardinality(String),
    protocol UInt8, destination_port UInt16, verdict LowCardinality(String),
    connections SimpleAggregateFunction(sum, UInt64),
    forward_bytes SimpleAggregateFunction(sum, UInt64), reverse_bytes SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree PARTITION BY toYYYYMM(hour)
ORDER BY (hour, source_namespace, source_name, destination_namespace, destination_name, protocol, destination_port, verdict)`,
	`CREATE MATERIALIZED VIEW plain_edges_from_flows TO plain_edges AS
SELECT toStartOfHour(time) AS hour, source_namespace, source_name, destination_namespace, destination_name,
    protocol, destination_port, verdict,
    sum(connections) AS connections, sum(forward_bytes) AS forward_bytes, sum(reverse_bytes) AS reverse_bytes
FROM plain_flows GROUP BY ALL`,
}

// plain measures the plain way, and removes it again.
func (s *site) plain(ctx context.Context, out *Ingest) (err error) {
	e, err := s.start(ctx, filepath.Join(s.temp, "plain"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop(ctx)) }()
	for _, t := range plainTables {
		if err := e.exec(ctx, t); err != nil {
			return err
		}
	}
	var labels labelMaps
	l, err := s.newLoad(false)
	if err != nil {
		return err
	}
	n, took, err := l.run(ctx, s, "plain", func(ctx context.Context, _ string, rows []flow.Labelled) error {
		return e.plainInsert(ctx, rows, &labels)
	}, s.seconds/3)
	if err != nil {
		return err
	}
	if err := e.merged(ctx); err != nil {
		return err
	}
	tables, err := e.tables(ctx)
	if err != nil {
		return err
	}
	flows := tables["plain_flows"]
	if flows.Rows != n {
		return fmt.Errorf("%d rows are stored the plain way, %d were sent", flows.Rows, n)
	}
	out.Plain = Plain{
		RecordsPerS:  float64(int(float64(n) / took.Seconds())),
		BytesPerFlow: report.Round(float64(flows.Bytes) / float64(flows.Rows)),
	}
	return nil
}

func (d *door) plainInsert(ctx context.Context, rows []flow.Labelled, labels *labelMaps) (err error) {
	batch, err := d.conn.PrepareBatch(ctx, "INSERT INTO plain_flows")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, batch.Close()) }()
	for i := range rows {
		r := &rows[i]
		err := batch.Append(
			r.Time, r.FirstSeen, r.Node, r.Direction.String(), r.Event.String(),
			netip.AddrFrom16(r.Key.Source.As16()), netip.AddrFrom16(r.Destination.As16()), r.SourcePort, r.DestinationPort, uint8(r.Protocol),
			r.Source.Workload.Namespace, r.Source.Workload.Name, r.Source.Endpoint, labels.of(r.Source),
			r.Dest.Workload.Namespace, r.Dest.Workload.Name, r.Dest.Endpoint, labels.of(r.Dest),
			r.Connections, r.Forward.Packets, r.Forward.Bytes, r.Reverse.Packets, r.Reverse.Bytes,
			r.ForwardFlags|r.ReverseFlags, r.Outcome.String(), r.Live.Reason.String())
		if err != nil {
			return err
		}
	}
	return batch.Send()
}

// labelMaps holds each party's labels as a map.
type labelMaps struct{ byParty sync.Map }

func (l *labelMaps) of(p *flow.Party) map[string]string {
	if m, ok := l.byParty.Load(p); ok {
		return m.(map[string]string)
	}
	m := map[string]string{}
	for pair := range strings.SplitSeq(p.Labels, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			m[k] = v
		}
	}
	l.byParty.Store(p, m)
	return m
}
