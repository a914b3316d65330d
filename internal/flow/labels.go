package flow

import (
	"maps"
	"slices"
	"strings"
)

// JoinLabels writes labels as key=value, ordered by key and joined by commas.
func JoinLabels(labels map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(labels[k])
	}
	return b.String()
}
