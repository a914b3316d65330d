package store

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Clock returns the server's time.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var us int64
	err := s.each(ctx, "clock", "SELECT toUnixTimestamp64Micro(now64(6))", nil, func(rows driver.Rows) error { return rows.Scan(&us) })
	return time.UnixMicro(us).UTC(), err
}
