package migrations

import (
	"bytes"
	"fmt"
	"io/fs"
	"testing/fstest"
	"text/template"
)

// Window is how many inserts a table remembers: one that is repeated after more
// is stored again.
const Window = 50_000

// windowSeconds is for how long a replicated table remembers an insert at all.
// Its default is an hour, and agents may be cut off for longer.
const windowSeconds = 14 * 24 * 3600

// Schema says for what kind of server the steps are.
type Schema struct {
	// Replicated tables keep their books in Keeper, at a path made of the
	// server's macros shard and replica.
	Replicated bool
}

// Steps returns the files of FS with the server's engines and settings filled in.
func (s Schema) Steps() (fs.FS, error) {
	names, err := fs.Glob(FS, "*.sql")
	if err != nil {
		return nil, err
	}
	out := fstest.MapFS{}
	for _, name := range names {
		t, err := template.New(name).ParseFS(FS, name)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		var b bytes.Buffer
		if err := t.Execute(&b, s); err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		out[name] = &fstest.MapFile{Data: b.Bytes(), Mode: 0o444}
	}
	return out, nil
}

// Engine returns the engine of the MergeTree family called name.
func (s Schema) Engine(name string) string {
	if !s.Replicated {
		return name
	}
	return "Replicated" + name + "('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')"
}

// Window returns the settings that make a table remember its inserts.
func (s Schema) Window() string {
	if !s.Replicated {
		return fmt.Sprintf("non_replicated_deduplication_window = %d", Window)
	}
	return fmt.Sprintf("replicated_deduplication_window = %d, replicated_deduplication_window_seconds = %d, "+
		"replicated_deduplication_window_for_async_inserts = %[1]d, replicated_deduplication_window_seconds_for_async_inserts = %[2]d",
		Window, windowSeconds)
}
