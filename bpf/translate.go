package bpf

import (
	"bytes"
	"fmt"
	"strings"
)

// translation turns values of one shape into another, by the names of their
// members: what only the old shape has is dropped, what only the new one has is
// zero. nil changes nothing.
type translation struct {
	size  int // of the result
	moves []move
}

// move copies count elements; they are zero-extended, or cut when nothing is lost.
type move struct {
	name             string
	from, to         int
	fromWide, toWide int
	count            int
	rest             int // bytes of further elements, which must be 0
}

// translate returns the way from the old shape of a structure to the new one.
func translate(name string, from, to structure) (*translation, error) {
	if from.text(name) == to.text(name) {
		return nil, nil //nolint:nilnil // nothing to translate
	}
	t := &translation{size: to.size}
	for _, m := range to.members {
		if strings.HasPrefix(m.name, "pad") {
			continue
		}
		for _, old := range from.members {
			if old.name != m.name {
				continue
			}
			if old.element != m.element && (old.network || m.network || old.element > 8 || m.element > 8) {
				return nil, fmt.Errorf("%s.%s has %d bytes in one version and %d in the other", name, m.name, old.size, m.size)
			}
			count := min(old.size/old.element, m.size/m.element)
			way := move{
				name: name + "." + m.name, from: old.offset, to: m.offset, fromWide: old.element, toWide: m.element,
				count: count, rest: old.size - count*old.element,
			}
			if old.element == m.element {
				way.fromWide, way.toWide, way.count = count*m.element, count*m.element, 1
			}
			t.moves = append(t.moves, way)
		}
	}
	return t, nil
}

// apply returns value in the new shape.
func (t *translation) apply(value []byte) ([]byte, error) {
	if t == nil {
		return value, nil
	}
	out := make([]byte, t.size)
	for _, m := range t.moves {
		for i := range m.count {
			from, to := value[m.from+i*m.fromWide:][:m.fromWide], out[m.to+i*m.toWide:][:m.toWide]
			if n := copy(to, from); !zero(from[n:]) {
				return nil, fmt.Errorf("%s does not fit into %d bytes", m.name, m.toWide)
			}
		}
		if !zero(value[m.from+m.count*m.fromWide:][:m.rest]) {
			return nil, fmt.Errorf("%s does not fit: it has fewer elements now", m.name)
		}
	}
	return out, nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
