package bpf

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/ringfence/ringfence/internal/flow"
)

// TestGoTypesEqualBTF checks every generated type, member by member, against
// the object's type information.
func TestGoTypesEqualBTF(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		kernelRfSettings{}, kernelRfEndpoint{}, kernelRfQuota{}, kernelRfAddress{}, kernelRfOwner{}, kernelRfCidr{},
		kernelRfDestination{}, kernelRfWorkload{}, kernelRfTable{}, kernelRfRuleKey{}, kernelRfFlowKey{}, kernelRfFlow4Key{}, kernelRfFlow{},
		kernelRfRecord{}, kernelRfIntent{}, kernelRfSweepArgs{},
	} {
		typ := reflect.TypeOf(v)
		name := snake(strings.TrimPrefix(typ.Name(), "kernel"))
		var s *btf.Struct
		if err := spec.Types.TypeByName(name, &s); err != nil {
			t.Errorf("struct %s: %v", name, err)
			continue
		}
		if uintptr(s.Size) != typ.Size() {
			t.Errorf("struct %s: %d bytes, in Go %d", name, s.Size, typ.Size())
		}
		for _, m := range s.Members {
			f, ok := typ.FieldByNameFunc(func(n string) bool { return snake(n) == m.Name })
			size, err := btf.Sizeof(m.Type)
			if !ok || err != nil || uintptr(m.Offset.Bytes()) != f.Offset || uintptr(size) != f.Type.Size() {
				t.Errorf("struct %s: member %s at %d of %d bytes, in Go at %d of %d", name, m.Name, m.Offset.Bytes(), size, f.Offset, f.Type.Size())
			}
		}
	}
}

var upper = regexp.MustCompile("([a-z0-9])([A-Z])")

func snake(s string) string { return strings.ToLower(upper.ReplaceAllString(s, "${1}_$2")) }

// enum returns the names of an enum of types.h in order, without what they
// share.
func enum(t *testing.T, name, prefix, last string) []string {
	t.Helper()
	source, err := os.ReadFile("types.h")
	if err != nil {
		t.Fatal(err)
	}
	body := regexp.MustCompile(`enum ` + name + ` \{([^}]*)\}`).FindSubmatch(source)
	if body == nil {
		t.Fatalf("no enum %s in types.h", name)
	}
	text := regexp.MustCompile(`/\*[^*]*\*/`).ReplaceAllString(string(body[1]), "")
	var names []string
	for line := range strings.SplitSeq(text, ",") {
		if n := strings.TrimSpace(line); n != "" && n != last {
			names = append(names, strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(n, prefix)), "_", "-"))
		}
	}
	return names
}

// TestEnumsEqualFlow checks that the programs' numbers mean what the rest of
// the agent takes them for.
func TestEnumsEqualFlow(t *testing.T) {
	goNames := func(n int, name func(i uint8) string) []string {
		var list []string
		for i := range n {
			list = append(list, name(uint8(i)))
		}
		return list
	}
	for _, c := range []struct {
		enum, prefix, last string
		name               func(i uint8) string
	}{
		{"rf_event", "RF_EVENT_", "", func(i uint8) string { return flow.Event(i).String() }},
		{"rf_verdict", "RF_VERDICT_", "", func(i uint8) string { return flow.Verdict(i).String() }},
		{"rf_outcome", "RF_OUTCOME_", "", func(i uint8) string { return flow.Outcome(i).String() }},
		{"rf_slot", "RF_SLOT_", "RF_SLOTS", func(i uint8) string { return flow.Slot(i).String() }},
		{"rf_reason", "RF_REASON_", "RF_REASONS", func(i uint8) string { return strings.TrimSuffix(flow.Reason(i).String(), "-deny") }},
		{"rf_direction", "RF_", "", func(i uint8) string {
			return map[bool]string{true: "direction-unknown", false: flow.Direction(i).String()}[i == 0]
		}},
	} {
		names := enum(t, c.enum, c.prefix, c.last)
		if want := goNames(len(names), c.name); !slices.Equal(names, want) {
			t.Errorf("enum %s: %v, flow has %v", c.enum, names, want)
		}
		if more := c.name(uint8(len(names))); !strings.Contains(more, "(") {
			t.Errorf("enum %s lacks flow's %s", c.enum, more)
		}
	}
}

// TestConstantsEqualHeader checks the constants that no type carries.
func TestConstantsEqualHeader(t *testing.T) {
	header, err := os.ReadFile("types.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]uint32{
		"MAGIC": settingsMagic, "LAYOUT": settingsLayout, "ENDPOINT_HOST": endpointHost,
		"PEER_ANY": uint32(PeerAny), "LEVEL_4096": 1 << 0, "LEVEL_64": 1 << 1, "LEVEL_1": 1 << 2, "TABLE_BITS": tableBits,
		"TABLE_OPEN": tableOpen, "TABLE_CIDRS": tableCIDRs, "TABLE_ANY_PEER": tableAnyPeer, "TABLE_ANY_PROTO": tableAnyProto,
		"IDENTITY_UNKNOWN": uint32(flow.IdentityUnknown), "IDENTITY_HOST": uint32(flow.IdentityHost), "IDENTITY_WORLD": uint32(flow.IdentityWorld),
	} {
		define := regexp.MustCompile(`(?m)^#define RF_` + name + `\s+(\w+)`).FindSubmatch(header)
		if define == nil {
			t.Errorf("types.h does not define RF_%s", name)
			continue
		}
		if n, err := strconv.ParseUint(string(define[1]), 0, 32); err != nil || uint32(n) != value {
			t.Errorf("RF_%s is %s, in Go %#x", name, define[1], value)
		}
	}
	states := enum(t, "rf_state", "RF_STATE_", "RF_STATES")
	want := []string{"none", "syn", "established", "closing", "udp", "icmp", "other", "midstream"}
	if !slices.Equal(states, want) || stateSYN != 1 || stateMidstream != 7 || stateUDP != 4 {
		t.Errorf("states %v, want %v", states, want)
	}
	if int(reasons) != len(enum(t, "rf_reason", "RF_REASON_", "RF_REASONS")) {
		t.Errorf("%d counters by reason", reasons)
	}
}

// TestFingerprint checks that a change of shape changes the fingerprint, and
// that a schema is read back as it was written.
func TestFingerprint(t *testing.T) {
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	before, err := schemaOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseSchema(before.text())
	if err != nil || again.text() != before.text() {
		t.Errorf("read back as\n%s\nfrom\n%s\nerror %v", again.text(), before.text(), err)
	}
	for _, name := range []string{"rf_flow", "rf_record", "rf_rule_key", "rf_table", "rf_workload", "rf_settings", "rf_fragment"} {
		var s *btf.Struct
		if err := spec.Types.TypeByName(name, &s); err != nil {
			t.Fatal(err)
		}
		s.Members[0], s.Members[1] = s.Members[1], s.Members[0]
		after, err := schemaOf(spec)
		if err != nil || after.fingerprint() == before.fingerprint() {
			t.Errorf("%s: members swapped, fingerprint as before, error %v", name, err)
		}
		s.Members[0], s.Members[1] = s.Members[1], s.Members[0]
	}
}
