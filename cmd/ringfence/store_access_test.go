package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/store"
)

func TestStoreFlags(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password, empty, noPEM := file("password", "se cret \n"), file("empty", "\n"), file("pem", "no certificate")
	t.Setenv(passwordEnv, "from the environment")
	at := []string{"127.0.0.1:9000"}
	tests := []struct {
		name     string
		flags    storeFlags
		password string
		want     string // in the error; empty: none
	}{
		{"embedded", storeFlags{}, "from the environment", ""},
		{"password from a file", storeFlags{Addrs: at, PasswordFile: password}, "se cret ", ""},
		{"password from the environment", storeFlags{Addrs: at}, "from the environment", ""},
		{"cluster alone", storeFlags{Cluster: "c"}, "", "--clickhouse-cluster is for --clickhouse"},
		{"tls alone", storeFlags{TLS: storeTLS{CA: noPEM}}, "", "--clickhouse-ca is for --clickhouse"},
		{"no port", storeFlags{Addrs: []string{"localhost"}}, "", `--clickhouse "localhost": want host:port`},
		{"no file", storeFlags{Addrs: at, PasswordFile: filepath.Join(dir, "none")}, "", "--clickhouse-password-file"},
		{"empty file", storeFlags{Addrs: at, PasswordFile: empty}, "", "it is empty"},
		{"ca without certificates", storeFlags{Addrs: at, TLS: storeTLS{CA: noPEM}}, "", "--clickhouse-ca " + noPEM + ": no certificate"},
		{"cert without key", storeFlags{Addrs: at, TLS: storeTLS{Cert: noPEM}}, "", "--clickhouse-cert and --clickhouse-key go together"},
		{"bad cert", storeFlags{Addrs: at, TLS: storeTLS{Cert: noPEM, Key: noPEM}}, "", "want a PEM certificate and its key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.flags.check()
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error %v, want one line with %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := tt.flags.password(); err != nil || got != tt.password {
				t.Errorf("password %q, %v, want %q", got, err, tt.password)
			}
		})
	}
}

func TestWhole(t *testing.T) {
	partial := &store.PartialError{Cluster: "c", Err: os.ErrDeadlineExceeded}
	if err := whole(partial); !strings.Contains(err.Error(), "partial") || control.CodeOf(err) != control.CodeUnavailable {
		t.Errorf("%v has code %s, want unavailable", err, control.CodeOf(err))
	}
	if err := whole(os.ErrClosed); err != os.ErrClosed { //nolint:errorlint // the very same
		t.Errorf("%v is another error now", err)
	}
}
