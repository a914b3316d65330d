package prefilter

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/denylist"
	"github.com/ringfence/ringfence/internal/inventory"
)

// file is one list's file, as it was read and as it was last seen.
type file struct {
	path       string
	allowEmpty bool
	taken      bool // prefixes are those of the list
	prefixes   []netip.Prefix
	read       stamp // of the content that was taken or refused
	seen       stamp // at the last look
	refused    error // why the content of read was not taken
}

// stamp tells two contents of a file apart, without reading them.
type stamp struct {
	size     int64
	modified time.Time
	info     os.FileInfo // for os.SameFile
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, fmt.Errorf("deny list: %w", err)
	}
	return stamp{info.Size(), info.ModTime(), info}, nil
}

func (s stamp) same(o stamp) bool {
	return s.info != nil && o.info != nil && s.size == o.size && s.modified.Equal(o.modified) && os.SameFile(s.info, o.info)
}

// readFiles reads those that are new or changed. A file that changed is left
// alone until two looks find it the same: half of a list is a list, too.
func (w *Watcher) readFiles(lists []inventory.DenyList) []error {
	names := map[string]bool{}
	var errs []error
	for _, l := range lists {
		names[l.Name] = true
		f := w.files[l.Name]
		if f == nil || f.path != l.File || f.allowEmpty != l.AllowEmpty {
			next := &file{path: l.File, allowEmpty: l.AllowEmpty}
			if f != nil {
				next.taken, next.prefixes = f.taken, f.prefixes
			}
			f = next
			w.files[l.Name] = f
		}
		if err := w.readFile(l.Name, f); err != nil {
			errs = append(errs, fmt.Errorf("list %s stays as it was: %w", l.Name, err))
		}
	}
	maps.DeleteFunc(w.files, func(name string, _ *file) bool { return !names[name] })
	return errs
}

func (w *Watcher) readFile(name string, f *file) error {
	now, err := stampOf(f.path)
	if err != nil {
		return w.refuse(name, f, stamp{}, err)
	}
	settled := now.same(f.seen) || f.read.info == nil
	f.seen = now
	if now.same(f.read) || !settled {
		return f.refused
	}
	list, err := denylist.Load(f.path, f.allowEmpty)
	after, e := stampOf(f.path)
	if e != nil || !after.same(now) {
		f.seen = after
		return f.refused // being written: at the next look
	}
	if err != nil {
		return w.refuse(name, f, now, err)
	}
	if !f.taken || !slices.Equal(f.prefixes, list) {
		w.stale = true
	}
	f.taken, f.prefixes, f.read, f.refused = true, list, now, nil
	w.metrics.reloads.WithLabelValues(name, "taken").Inc()
	return nil
}

// refuse notes why the file was not taken, and counts it once.
func (w *Watcher) refuse(name string, f *file, at stamp, why error) error {
	if f.refused == nil || f.refused.Error() != why.Error() || !at.same(f.read) && at.info != nil {
		w.metrics.reloads.WithLabelValues(name, "refused").Inc()
	}
	f.refused, f.read = why, at
	return why
}
