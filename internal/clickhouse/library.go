package clickhouse

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is the engine, loaded into this process for good: it has no unload.
type library struct {
	version     string
	queryCmd    func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	resultError func(result unsafe.Pointer) string
}

func openLibrary(path string) (*library, error) {
	if err := isFile(path); err != nil {
		return nil, fmt.Errorf("engine library %s: %w; run `make build`, or give the right path with --engine-library PATH", path, err)
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("engine library %s: %s; run `make build` to fetch it again", path, firstLine(err.Error()))
	}
	lib := &library{}
	var version func() string
	var setHandlers func(enabled int32)
	for name, fn := range map[string]any{
		"chdb_query_cmdline":               &lib.queryCmd,
		"chdb_result_error":                &lib.resultError,
		"chdb_version":                     &version,
		"chdb_set_signal_handlers_enabled": &setHandlers,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("engine library %s: not an engine this ringfence knows (no %s); run `make build` to fetch the right one", path, name)
		}
		purego.RegisterFunc(fn, symbol)
	}
	// Its handlers do not use the alternate stack that Go's threads need.
	setHandlers(0)
	lib.version = version()
	return lib, nil
}

// run is the library's main function; it returns when that does.
func (l *library) run(args []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		b := append([]byte(a), 0)
		argv[i] = &b[0]
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, p := range argv {
		if p != nil {
			pin.Pin(p)
		}
	}
	pin.Pin(&argv[0])
	result := l.queryCmd(int32(len(args)), unsafe.Pointer(&argv[0])) //nolint:gosec // a dozen arguments; the library's main wants a char**
	if result == nil {
		return errors.New("the engine gave no result")
	}
	if message := l.resultError(result); message != "" {
		return errors.New(firstLine(message))
	}
	return nil
}
