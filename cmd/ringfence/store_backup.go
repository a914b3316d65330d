package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/archive"
	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/store"
)

// What a backup holds, in this order.
const (
	backupManifest = "manifest.json"
	backupControl  = "control.db"
	backupEngine   = "engine-version"
	backupTokens   = "tokens" // TABLE
	backupTables   = "tables" // TABLE/PART/FILE
)

// manifest says what a backup is of.
type manifest struct {
	Ringfence string                `json:"ringfence"` // version that made it
	Made      time.Time             `json:"made"`
	Step      int64                 `json:"schemaStep"`
	Tables    []store.SnapshotTable `json:"tables"`
}

func newStoreBackupCommand() *cobra.Command {
	var places storePlaces
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write flows, edges, coverage and policies to one file",
		Long: `Write what the embedded store and the control store hold to one file, with a
digest. "up" may run: the tables are caught at one moment, for which batches of
flows wait at their agents. Reading them then takes as long as it takes.`,
		Example: `  ringfence store backup /backup/ringfence-$(date +%F)`,
		Args:    exactArgs(1, "the file to write"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := places.backup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, schema step %d", args[0], humanize.IBytes(uint64(info.Size())), m.Step) //nolint:gosec // a size
			for _, t := range m.Tables {
				fmt.Fprintf(cmd.OutOrStdout(), ", %s %s rows", t.Name, humanize.Comma(int64(t.Rows))) //nolint:gosec // rows
			}
			fmt.Fprintln(cmd.OutOrStdout())
			return nil
		},
	}
	places.register(cmd)
	return cmd
}

// backup writes the store and the control database to a new file at path.
func (p *storePlaces) backup(ctx context.Context, path string) (m manifest, err error) {
	opened, err := p.open(ctx)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, opened.close()) }()
	if !opened.embedded {
		return m, errors.New("the store is a ClickHouse of its own: back it up with its BACKUP DATABASE, and stop `up` to copy control.db from the --state-dir")
	}
	// One at a time, so that what one that was killed left can be removed.
	if err := os.MkdirAll(p.backupDir(), 0o700); err != nil {
		return m, fmt.Errorf("back up: %w", err)
	}
	unlock, err := lockDir(p.backupDir(), "wait until its backup is made")
	if err != nil {
		return m, err
	}
	defer unlock()
	defer func() { err = errors.Join(err, os.RemoveAll(p.backupDir())) }()
	old, err := filepath.Glob(filepath.Join(p.engineDir(), "data", "shadow", "ringfence_*"))
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return m, err
	}
	w, err := archive.Create(path)
	if err != nil {
		return m, err
	}
	if m, err = p.fill(ctx, w, opened.Store); err != nil {
		return m, errors.Join(err, w.Abort())
	}
	return m, w.Close()
}

func (p *storePlaces) fill(ctx context.Context, w *archive.Writer, s *store.Store) (m manifest, err error) {
	tokens := map[string][]byte{}
	snap, err := s.Snapshot(ctx, func(table, dir string) (err error) {
		tokens[table], err = clickhouse.Tokens(dir)
		return err
	})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(snap.Root)) }()
	m = manifest{Ringfence: version, Made: time.Now().UTC(), Step: snap.Step, Tables: snap.Tables}
	doc, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	copied := filepath.Join(p.backupDir(), backupControl)
	if err := os.Remove(copied); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return m, err
	}
	if err := control.Backup(ctx, p.controlDB(), copied); err != nil {
		return m, err
	}
	var size int64
	for _, t := range m.Tables {
		size += dirSize(t.Dir)
	}
	progress := newProgress(os.Stderr, "MiB", int(size>>20)+1)
	defer progress.end()
	w.Progress = func(bytes int64) { progress.set(int(bytes >> 20)) }
	err = errors.Join(w.Add(backupManifest, doc), w.AddFile(backupControl, copied),
		w.AddFile(backupEngine, filepath.Join(p.engineDir(), backupEngine)))
	for _, t := range m.Tables {
		err = errors.Join(err, w.Add(backupTokens+"/"+t.Name, tokens[t.Name]))
	}
	for _, t := range m.Tables {
		if err != nil {
			return m, err
		}
		if _, statErr := os.Stat(t.Dir); errors.Is(statErr, fs.ErrNotExist) && t.Rows == 0 {
			continue
		}
		err = w.AddDir(ctx, backupTables+"/"+t.Name, t.Dir)
	}
	return m, err
}

// dirSize is for the progress line only.
func dirSize(dir string) (size int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be counted is not
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size
}

// check refuses a backup that this ringfence cannot restore.
func (m *manifest) check() error {
	newest, err := store.NewestStep()
	if err != nil {
		return err
	}
	if m.Step < 1 || m.Step > newest {
		return fmt.Errorf("the backup's schema is at step %d, made by ringfence %s, and this one knows %d: upgrade ringfence", m.Step, m.Ringfence, newest)
	}
	if !slices.ContainsFunc(m.Tables, func(t store.SnapshotTable) bool { return t.Name == "flows" }) {
		return errors.New("the file is no backup of a store: its manifest has no table flows")
	}
	return nil
}
