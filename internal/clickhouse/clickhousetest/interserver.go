package clickhousetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"
)

// The program that the engine's library runs is not ClickHouse's server. It has
// all of replicated tables, but never sets where other replicas fetch parts from,
// nor listens for them, and no setting makes it
// (https://github.com/ClickHouse/ClickHouse/issues/78632). A replicated table stays
// read-only then: "Parameter 'interserver_http(s)_port' required for replication is
// not specified". So an engine that is to be a replica changes four places of the
// library in its own memory before it runs: three answers that the server has from
// its configuration, and what the HTTP listener is for. What replicates is the
// library's own code.

// known is a function that the library exports, and where it is in the build that
// the changes are for: 26.7.3 for amd64.
const (
	known   = "chdb_version"
	knownAt = 0xf214700
)

// change is to code of the library: where it is, how it begins, and what takes its place.
type change struct {
	name    string
	at      int64
	was, is []byte
}

// changes returns those that make an engine tell others to fetch parts at a port of
// loopback. To find the places in another build: the first function is the only one
// that refers to the text "Parameter 'interserver_http", the second comes next in the
// library and the third before. The fourth is the only one that refers to
// "InterserverIOHTTPHandler-factory"; its jump for "HTTPHandler-factory", of 19 bytes,
// is to go where that text leads.
func changes(port uint16, credentials uintptr) []change {
	const (
		afterJump            = 0x18395d38
		forQueries, forParts = 0x18395ffa, 0x18395dbc
	)
	returnFirst := []byte{0x48, 0x89, 0xf8, 0xc3}                         // mov rax, rdi; ret
	address := append(stringAtFirst("127.0.0.1"), 0x66, 0xc7, 0x47, 0x18) // mov word [rdi+24], port
	address = append(binary.LittleEndian.AppendUint16(address, port), returnFirst...)
	access := binary.LittleEndian.AppendUint64([]byte{0x48, 0xb8}, uint64(credentials)) // mov rax, credentials
	access = append(access, 0x31, 0xd2, 0xc3)                                           // xor edx, edx; ret: a pointer that nobody counts
	jump := func(to uint32) []byte { return binary.LittleEndian.AppendUint32(nil, to-afterJump) }
	return []change{
		{"Context::getInterserverIOAddress", 0x1417c9c0, []byte{0x41, 0x56, 0x53, 0x48, 0x83, 0xec, 0x48, 0x4c, 0x8b, 0x36}, address},
		{"Context::getInterserverScheme", 0x1417cac0, []byte{0x48, 0x8b, 0x06, 0x80, 0xb8, 0x87, 0x01}, append(stringAtFirst("http"), returnFirst...)},
		{"Context::getInterserverCredentials", 0x1417c940, []byte{0x41, 0x57, 0x41, 0x56, 0x53, 0x4c, 0x8b, 0x3f}, access},
		{"createHandlerFactory", afterJump - 4, jump(forQueries), jump(forParts)},
	}
}

// stringAtFirst is code that makes a std::string where the first argument points: 24
// bytes, the last of which is the length of a short one.
func stringAtFirst(s string) (code []byte) {
	var b [24]byte
	b[23] = byte(copy(b[:], s)) //nolint:gosec // it fits
	for i := byte(0); i < 24; i += 8 {
		code = append(append(code, 0x48, 0xb8), b[i:i+8]...) // mov rax, 8 bytes
		code = append(code, 0x48, 0x89, 0x47, i)             // mov [rdi+i], rax
	}
	return code
}

// noCredentials returns an InterserverCredentials for good, by which replicas ask each
// other without user and password: both are empty, and the vector of those let in has
// one such pair.
func noCredentials() (uintptr, error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, fmt.Errorf("memory for credentials: %w", err)
	}
	const vector, pair, pairSize = 48, 128, 48
	at := uintptr(unsafe.Pointer(&page[0])) //nolint:gosec // the engine's code reads it
	for i, p := range []uintptr{at + pair, at + pair + pairSize, at + pair + pairSize} {
		binary.LittleEndian.PutUint64(page[vector+8*i:], uint64(p))
	}
	return at, nil
}

// beReplica makes this process's engine one that replicated tables can be on. Addrs
// are Keeper's, and the one at which others are told to fetch parts.
func beReplica(dataDir, library, addrs string) error {
	keeper, parts, _ := strings.Cut(addrs, ",")
	keeperAt, err1 := netip.ParseAddrPort(keeper)
	partsAt, err2 := netip.ParseAddrPort(parts)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	// A new session ends one of the same server, and at the default path all of
	// these are the same: they have no identifier.
	config := fmt.Sprintf(`<zookeeper>
    <node><host>%s</host><port>%d</port></node>
    <sessions_path>/clickhouse/sessions/%d</sessions_path>
  </zookeeper>
  <http_port>0</http_port>
</clickhouse>`, keeperAt.Addr(), keeperAt.Port(), partsAt.Port())
	const grant = "<query>GRANT REMOTE ON *.*</query>"
	return errors.Join(
		edit(dataDir, "config.xml", "</clickhouse>", config),
		edit(dataDir, "users.xml", grant, grant+"<query>GRANT SYSTEM ON *.*</query>"),
		serveParts(library, partsAt.Port()))
}

func serveParts(library string, port uint16) (err error) {
	handle, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return err
	}
	symbol, err := purego.Dlsym(handle, known)
	if err != nil {
		return err
	}
	credentials, err := noCredentials()
	if err != nil {
		return err
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Close()) }()
	base := int64(symbol) - knownAt //nolint:gosec // addresses of user space
	for _, c := range changes(port, credentials) {
		found := make([]byte, len(c.was))
		if _, err := memory.ReadAt(found, base+c.at); err != nil {
			return fmt.Errorf("%s: %w; %s", c.name, err, otherBuild)
		}
		if !bytes.Equal(found, c.was) {
			return fmt.Errorf("%s begins with %x and not with %x: %s", c.name, found, c.was, otherBuild)
		}
		if _, err := memory.WriteAt(c.is, base+c.at); err != nil {
			return fmt.Errorf("change %s: %w", c.name, err)
		}
	}
	return nil
}

const otherBuild = "the engine library is another build than replicas are tested with; find the places in it as internal/clickhouse/clickhousetest/interserver.go says"
