package export

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/ringfence/ringfence/internal/flow"
)

// maxLabel is the longest DNS label, in bytes.
const maxLabel = 63

// nameAll names the objects of each subject. Names are DNS labels, unique within
// a namespace, and depend on the workload, and on the others only where two would
// have the same.
func nameAll(list []subject) {
	count := map[string]int{}
	for i := range list {
		w := list[i].policy.Workload
		list[i].name = objectName(w, false)
		count[w.Namespace+"/"+list[i].name]++
	}
	for i := range list {
		w := list[i].policy.Workload
		if count[w.Namespace+"/"+list[i].name] > 1 {
			list[i].name = objectName(w, true)
		}
	}
}

// objectName returns ringfence-KIND-NAME, in lower case. When that cannot be
// written as a DNS label, or unique asks for it, a digest of the workload ends it.
func objectName(w flow.Workload, unique bool) string {
	want := "ringfence-" + strings.ToLower(w.Kind) + "-" + w.Name
	name := strings.Trim(strings.Map(labelRune, want), "-")
	if name == want && len(name) <= maxLabel && !unique {
		return name
	}
	sum := sha256.Sum256([]byte(w.String()))
	suffix := "-" + hex.EncodeToString(sum[:4])
	return strings.TrimRight(name[:min(len(name), maxLabel-len(suffix))], "-") + suffix
}

func labelRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
		return r
	case r >= 'A' && r <= 'Z':
		return r - 'A' + 'a'
	}
	return '-'
}
