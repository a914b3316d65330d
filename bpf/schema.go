package bpf

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// schema is what a generation of maps says of itself: the shape of every
// structure, and which ones each map holds.
type schema struct {
	structs map[string]structure
	maps    map[string]contents
}

// structure is a C struct, or a plain integer with a single member.
type structure struct {
	size    int
	members []member
}

// member is a scalar, or an array of them.
type member struct {
	name    string
	offset  int // bytes
	size    int // bytes
	element int // bytes of one element
	network bool
}

// contents names the types of a map's keys and values; "-" for none.
type contents struct{ key, value string }

// schemaHead begins every schema. Its number goes up when the text itself is
// written otherwise.
const schemaHead = "ringfence schema 1"

// private structures live on the programs' stack, or for one call of a program
// that no other version makes.
var private = map[string]bool{
	"rf_visit": true, "rf_packet": true, "rf_ask": true, "rf_answer": true,
	"rf_sweep": true, "rf_adopt_args": true, "rf_plain": true, "rf_inner": true, "rf_taken": true,
}

// schemaOf reads the shapes that the programs were compiled with.
func schemaOf(spec *ebpf.CollectionSpec) (*schema, error) {
	s := &schema{structs: make(map[string]structure), maps: make(map[string]contents)}
	for t, err := range spec.Types.All() {
		if err != nil {
			return nil, fmt.Errorf("read the programs' types: %w", err)
		}
		if c, ok := t.(*btf.Struct); ok && strings.HasPrefix(c.Name, "rf_") && !private[c.Name] {
			if err := s.addStruct(c); err != nil {
				return nil, err
			}
		}
	}
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue
		}
		s.maps[name] = contents{s.typeName(m.Key), s.typeName(m.Value)}
	}
	return s, nil
}

func (s *schema) addStruct(c *btf.Struct) error {
	out := structure{size: int(c.Size)}
	for _, m := range c.Members {
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			return fmt.Errorf("size of %s.%s: %w", c.Name, m.Name, err)
		}
		element, network := m.Type, false
		for {
			if a, ok := btf.UnderlyingType(element).(*btf.Array); ok {
				element = a.Type
				continue
			}
			t, ok := element.(*btf.Typedef)
			if !ok {
				break
			}
			network = network || strings.HasPrefix(t.Name, "__be")
			element = t.Type
		}
		width, err := btf.Sizeof(element)
		if err != nil {
			return fmt.Errorf("size of %s.%s: %w", c.Name, m.Name, err)
		}
		out.members = append(out.members, member{
			name: m.Name, offset: int(m.Offset.Bytes()), size: size, element: width, network: network,
		})
	}
	s.structs[c.Name] = out
	return nil
}

// typeName names a map's key or value, and makes integers structures too.
func (s *schema) typeName(t btf.Type) string {
	if t == nil {
		return "-"
	}
	t = btf.UnderlyingType(t)
	if c, ok := t.(*btf.Struct); ok {
		return c.Name
	}
	size, err := btf.Sizeof(t)
	if err != nil {
		return "-" // of what a map of maps holds
	}
	name := fmt.Sprintf("int%d", 8*size)
	if e, ok := t.(*btf.Enum); ok {
		// What a number means is part of it.
		name = fmt.Sprintf("%s-%08x", e.Name, crc32.ChecksumIEEE(fmt.Append(nil, e.Values)))
	}
	s.structs[name] = structure{size: size, members: []member{{name: "value", size: size, element: size}}}
	return name
}

// text writes s down, the same for the same shapes.
func (s *schema) text() string {
	var b strings.Builder
	b.WriteString(schemaHead + "\n")
	for _, name := range slices.Sorted(maps.Keys(s.structs)) {
		b.WriteString(s.structs[name].text(name))
	}
	for _, name := range slices.Sorted(maps.Keys(s.maps)) {
		fmt.Fprintf(&b, "map %s %s %s\n", name, s.maps[name].key, s.maps[name].value)
	}
	return b.String()
}

func (c structure) text(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "struct %s %d\n", name, c.size)
	for _, m := range c.members {
		fmt.Fprintf(&b, "member %s %d %d %d %t\n", m.name, m.offset, m.size, m.element, m.network)
	}
	return b.String()
}

// fingerprint is a digest of the text.
func (s *schema) fingerprint() uint64 {
	digest := sha256.Sum256([]byte(s.text()))
	return binary.LittleEndian.Uint64(digest[:])
}

// parseSchema reads what text wrote.
func parseSchema(text string) (*schema, error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	if !lines.Scan() || lines.Text() != schemaHead {
		return nil, fmt.Errorf("schema begins with %.40q: want %q", lines.Text(), schemaHead)
	}
	s := &schema{structs: make(map[string]structure), maps: make(map[string]contents)}
	var name string
	for lines.Scan() {
		line := lines.Text()
		var m member
		var c contents
		var mapName string
		var size int
		switch {
		case scan(line, "struct %s %d", &name, &size) && size > 0:
			s.structs[name] = structure{size: size}
		case scan(line, "member %s %d %d %d %t", &m.name, &m.offset, &m.size, &m.element, &m.network):
			owner := s.structs[name]
			if m.offset < 0 || m.element < 1 || m.size < 0 || m.offset+m.size > owner.size || m.size%m.element != 0 {
				return nil, fmt.Errorf("schema line %.80q: outside of its structure", line)
			}
			owner.members = append(owner.members, m)
			s.structs[name] = owner
		case scan(line, "map %s %s %s", &mapName, &c.key, &c.value):
			s.maps[mapName] = c
		default:
			return nil, fmt.Errorf("schema line %.80q: cannot be read", line)
		}
	}
	return s, errors.Join(lines.Err(), s.check())
}

func scan(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}

// check refuses a schema that names what it does not describe.
func (s *schema) check() error {
	for name, c := range s.maps {
		for _, t := range []string{c.key, c.value} {
			if _, ok := s.structs[t]; !ok && t != "-" {
				return fmt.Errorf("schema does not describe %s of map %s", t, name)
			}
		}
	}
	return nil
}

// sameContents reports whether both hold the map's keys and values alike.
func (s *schema) sameContents(o *schema, name string) bool {
	same := func(a, b string) bool { return a == b && s.structs[a].text(a) == o.structs[b].text(b) }
	a, known := s.maps[name]
	b, wanted := o.maps[name]
	return known && wanted && same(a.key, b.key) && same(a.value, b.value)
}

// field finds a member, to read it wherever a version put it.
func (s *schema) field(structName, name string, size int) (offset int, ok bool) {
	for _, m := range s.structs[structName].members {
		if m.name == name && m.size >= size && m.element <= 8 {
			return m.offset, true
		}
	}
	return 0, false
}

// holds reports whether every member of o's structure is at the same place here.
func (s *schema) holds(name string, o *schema) bool {
	for _, m := range o.structs[name].members {
		if !slices.Contains(s.structs[name].members, m) {
			return false
		}
	}
	return true
}

// ownSchema describes what this version's Go types mirror.
var ownSchema = sync.OnceValues(func() (*schema, error) {
	spec, err := loadKernel()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	return schemaOf(spec)
})
