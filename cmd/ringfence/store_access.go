package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/store"
)

// passwordEnv holds the password of ClickHouse where no file does. There is no
// flag for it: arguments are for everybody to read.
const passwordEnv = "RINGFENCE_CLICKHOUSE_PASSWORD"

// storeFlags say which ClickHouse is used instead of the embedded engine.
type storeFlags struct {
	Addrs        []string `json:"addrs"`
	Cluster      string   `json:"cluster"`
	User         string   `json:"user"`
	PasswordFile string   `json:"passwordFile"`
	TLS          storeTLS `json:"tls"`
}

// storeTLS is how ClickHouse is reached over TLS. Paths are absolute: agents
// read the files too.
type storeTLS struct {
	On         bool   `json:"on"`
	CA         string `json:"ca"`   // PEM; empty for those of the system
	Cert       string `json:"cert"` // with Key: who we are
	Key        string `json:"key"`
	ServerName string `json:"serverName"` // in the server's certificate; empty for the address's host
}

// storeAccess is how the agents reach ClickHouse. The server writes it.
type storeAccess struct {
	Addrs    []string `json:"addrs"`
	Cluster  string   `json:"cluster"`
	User     string   `json:"user"`
	Password string   `json:"password"`
	Database string   `json:"database"`
	TLS      storeTLS `json:"tls"`
	// Retention decides what is too old to be stored among the flows, and where
	// reads find older times.
	Retention store.Retention `json:"retention"`
}

func (f *storeFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringSliceVar(&f.Addrs, "clickhouse", nil, "host:port of a ClickHouse server to use instead of the embedded engine; with --clickhouse-cluster those of all replicas, separated by commas")
	fs.StringVar(&f.Cluster, "clickhouse-cluster", "", "name of the cluster in the servers' remote_servers")
	fs.StringVar(&f.User, "clickhouse-user", "default", "user for --clickhouse")
	fs.StringVar(&f.PasswordFile, "clickhouse-password-file", "", "file with the password for --clickhouse; without it $"+passwordEnv)
	fs.BoolVar(&f.TLS.On, "clickhouse-tls", false, "reach --clickhouse over TLS; implied by --clickhouse-ca, -cert, -key and -server-name")
	fs.StringVar(&f.TLS.CA, "clickhouse-ca", "", "file of certificates that --clickhouse's must come from (default: the system's)")
	fs.StringVar(&f.TLS.Cert, "clickhouse-cert", "", "certificate file to show to --clickhouse")
	fs.StringVar(&f.TLS.Key, "clickhouse-key", "", "key file of --clickhouse-cert")
	fs.StringVar(&f.TLS.ServerName, "clickhouse-server-name", "", "name in the certificate of --clickhouse (default: the host of its address)")
}

// check refuses flags that do not go together, and files that cannot be used.
func (f *storeFlags) check() error {
	if len(f.Addrs) == 0 {
		for _, other := range []struct {
			name  string
			given bool
		}{
			{"cluster", f.Cluster != ""}, {"password-file", f.PasswordFile != ""}, {"tls", f.TLS.On}, {"ca", f.TLS.CA != ""},
			{"cert", f.TLS.Cert != ""}, {"key", f.TLS.Key != ""}, {"server-name", f.TLS.ServerName != ""},
		} {
			if other.given {
				return fmt.Errorf("--clickhouse-%s is for --clickhouse", other.name)
			}
		}
		return nil
	}
	for _, a := range f.Addrs {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("--clickhouse %q: want host:port, such as 127.0.0.1:9000", a)
		}
	}
	if _, err := f.password(); err != nil {
		return err
	}
	if err := f.TLS.absolute(); err != nil {
		return err
	}
	_, err := f.TLS.config()
	return err
}

// password reads the file, or else the environment.
func (f *storeFlags) password() (string, error) {
	if f.PasswordFile == "" {
		return os.Getenv(passwordEnv), nil
	}
	b, err := os.ReadFile(f.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("--clickhouse-password-file: %w", err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", fmt.Errorf("--clickhouse-password-file %s: it is empty; put the password on its first line", f.PasswordFile)
	}
	return password, nil
}

func (t *storeTLS) on() bool {
	return t.On || t.CA != "" || t.Cert != "" || t.Key != "" || t.ServerName != ""
}

func (t *storeTLS) absolute() error {
	for _, path := range []*string{&t.CA, &t.Cert, &t.Key} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("path of %s: %w", *path, err)
		}
		*path = abs
	}
	return nil
}

// config is nil without TLS.
func (t *storeTLS) config() (*tls.Config, error) {
	if !t.on() {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, errors.New("--clickhouse-cert and --clickhouse-key go together")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("--clickhouse-ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--clickhouse-ca %s: no certificate in it; want a PEM file", t.CA)
		}
	}
	if t.Cert != "" {
		cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("--clickhouse-cert %s, --clickhouse-key %s: %w; want a PEM certificate and its key", t.Cert, t.Key, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// open opens the store that a tells of.
func (a storeAccess) open(ctx context.Context, reg prometheus.Registerer) (*store.Store, error) {
	cfg, err := a.TLS.config()
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, store.Config{
		Addrs: a.Addrs, Cluster: a.Cluster, User: a.User, Password: a.Password, Database: a.Database, TLS: cfg, Retention: a.Retention,
		PasswordHelp: "set them with --clickhouse-user and --clickhouse-password-file or $" + passwordEnv, Registerer: reg,
	})
}
