// Package host runs the built binary as a person on a Linux host would: up,
// policies by command and by API, panic, down, and everything that can be got
// wrong. The host is a network namespace with others behind it.
package host

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

// binaryEnv names another binary than build/ringfence.
const binaryEnv = "RINGFENCE_BINARY"

var binary string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == clickhousetest.EngineCommand {
		clickhousetest.Main(m)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root and eBPF: run `make test` as root")
		os.Exit(1)
	}
	binary = os.Getenv(binaryEnv)
	if binary == "" {
		binary = "../../build/ringfence"
	}
	path, err := filepath.Abs(binary)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v: run `make build`, or set %s\n", err, binaryEnv)
		os.Exit(1)
	}
	binary = path
	clickhousetest.Main(m)
}
