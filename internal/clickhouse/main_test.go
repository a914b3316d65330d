package clickhouse_test

import (
	"os"
	"testing"

	"github.com/ringfence/ringfence/internal/clickhouse/clickhousetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == holderCommand {
		hold()
	}
	clickhousetest.Main(m)
}
