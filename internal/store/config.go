package store

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config of a Store.
type Config struct {
	// Addrs are host:port of the native protocol, of one server: further ones
	// are tried when the first does not answer. With Cluster they are the
	// replicas of all its shards.
	Addrs []string
	// Cluster is the name that the servers' remote_servers give the cluster;
	// empty when there is none.
	Cluster  string
	User     string // default "default"
	Password string
	Database string      // default "ringfence"
	TLS      *tls.Config // nil: none

	DialTimeout time.Duration // default 5 s
	// QueryTimeout is the most a read may take on the server. Default 30 s.
	QueryTimeout time.Duration
	// InsertTimeout is the most an insert may take. Default 60 s.
	InsertTimeout time.Duration
	// MaxRowsRead is the most rows a read may scan. Default 2,000,000,000.
	MaxRowsRead uint64
	// MaxBytesRead is the most uncompressed bytes a read may scan. Default 200 GB.
	MaxBytesRead uint64
	// MaxMemory is the most memory a read may use on the server, in bytes.
	// Default 1 GiB.
	MaxMemory uint64

	Retention Retention

	// PasswordHelp says in an error where user and password are set.
	PasswordHelp string

	Registerer prometheus.Registerer // nil registers nothing
}

const (
	defaultDatabase      = "ringfence"
	defaultDialTimeout   = 5 * time.Second
	defaultQueryTimeout  = 30 * time.Second
	defaultInsertTimeout = time.Minute
	defaultMaxRowsRead   = 2_000_000_000
	defaultMaxBytesRead  = 200_000_000_000
	defaultMaxMemory     = 1 << 30
	defaultPasswordHelp  = "set them with --clickhouse-user and --clickhouse-password-file" //nolint:gosec // no password
)

var clusterPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

var databasePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

func (c *Config) setDefaults() {
	if c.User == "" {
		c.User = "default"
	}
	if c.Database == "" {
		c.Database = defaultDatabase
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = defaultDialTimeout
	}
	if c.QueryTimeout == 0 {
		c.QueryTimeout = defaultQueryTimeout
	}
	if c.InsertTimeout == 0 {
		c.InsertTimeout = defaultInsertTimeout
	}
	if c.MaxRowsRead == 0 {
		c.MaxRowsRead = defaultMaxRowsRead
	}
	if c.MaxBytesRead == 0 {
		c.MaxBytesRead = defaultMaxBytesRead
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = defaultMaxMemory
	}
	c.Retention.setDefaults()
	if c.PasswordHelp == "" {
		c.PasswordHelp = defaultPasswordHelp
	}
}

// Validate reports every problem of c.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, errors.New("clickhouse address: missing; give HOST:PORT"))
	}
	for _, a := range c.Addrs {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("clickhouse address %q: want HOST:PORT, such as 127.0.0.1:9000", a))
		}
	}
	if c.Database != "" && !databasePattern.MatchString(c.Database) {
		errs = append(errs, fmt.Errorf("clickhouse database %q: want letters, digits and underscores", c.Database))
	}
	if c.Cluster != "" && !clusterPattern.MatchString(c.Cluster) {
		errs = append(errs, fmt.Errorf("clickhouse cluster %q: want letters, digits, dots, hyphens and underscores", c.Cluster))
	}
	if c.DialTimeout < 0 || c.QueryTimeout < 0 || c.InsertTimeout < 0 {
		errs = append(errs, errors.New("clickhouse timeouts: must not be negative"))
	}
	errs = append(errs, c.Retention.problems()...)
	return errors.Join(errs...)
}
