package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/archive"
	"github.com/ringfence/ringfence/internal/clickhouse"
	"github.com/ringfence/ringfence/internal/control"
	"github.com/ringfence/ringfence/internal/store"
)

func newStoreRestoreCommand() *cobra.Command {
	var places storePlaces
	var force bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Bring back what a backup holds",
		Long: `Bring back flows, edges, coverage and policies from a file that "store backup"
wrote. "up" must not run. The file is checked whole before anything is touched,
and what is there is replaced only when everything is ready: an interrupted
restore changes nothing, or is finished by the next start.

Policies become those of the backup: at the next start nodes are told to hold
the revisions that were live then.`,
		Args: exactArgs(1, "the file of a backup"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := places.restore(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s holds the backup of %s now\n", places.StateDir, m.Made.Format(time.RFC3339))
			return nil
		},
	}
	places.register(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "replace what the state directory holds; it is gone then")
	return cmd
}

// restore makes a store of the backup at path, and puts it in the place of what
// is there.
func (p *storePlaces) restore(ctx context.Context, path string, force bool) (m manifest, err error) {
	if err := checkOwn(p.StateDir); err != nil {
		return m, fmt.Errorf("--state-dir %s: %w", p.StateDir, err)
	}
	if err := os.MkdirAll(p.StateDir, 0o700); err != nil {
		return m, fmt.Errorf("--state-dir: %w", err)
	}
	unlock, err := lockDir(p.StateDir, "end `ringfence up` first")
	if err != nil {
		return m, err
	}
	defer unlock()
	if err := p.finishRestore(); err != nil {
		return m, err
	}
	for _, there := range []string{p.engineDir(), p.controlDB()} {
		if _, err := os.Lstat(there); err == nil && !force {
			return m, fmt.Errorf("%s is there already: --force replaces it, or name another --state-dir", there)
		}
	}
	if err := os.RemoveAll(p.restoreDir()); err != nil { // of one that was killed
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(p.restoreDir())) }()
	if m, err = p.unpack(ctx, path); err != nil {
		return m, err
	}
	if err := p.makeReady(ctx, m); err != nil {
		return m, err
	}
	if err := os.Rename(p.restoreDir(), p.restoredDir()); err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	return m, p.finishRestore()
}

// unpack writes what the backup holds to the restore directory.
func (p *storePlaces) unpack(ctx context.Context, path string) (m manifest, err error) {
	progress := newProgress(os.Stderr, "files", 1<<30)
	defer progress.end()
	files := 0
	err = archive.Read(ctx, path, func(name string, content io.Reader) error {
		if files++; files == 1 {
			if name != backupManifest {
				return fmt.Errorf("%s is no backup of a store: it begins with %s", path, name)
			}
			if err := json.NewDecoder(content).Decode(&m); err != nil {
				return fmt.Errorf("%s: %s: %w", path, backupManifest, err)
			}
			return m.check()
		}
		progress.set(files)
		return unpackFile(filepath.Join(p.restoreDir(), name), content)
	})
	if err == nil && files == 0 {
		err = fmt.Errorf("%s is no backup of a store: it is empty", path)
	}
	return m, err
}

func unpackFile(path string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// makeReady makes an engine's directory of the tables, and checks the control
// database. Both are migrated.
func (p *storePlaces) makeReady(ctx context.Context, m manifest) (err error) {
	c, err := control.Open(ctx, control.Config{Path: filepath.Join(p.restoreDir(), backupControl)}, control.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	// The engine refuses data of a newer one by this file.
	dir := filepath.Join(p.restoreDir(), filepath.Base(p.engineDir()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := os.Rename(filepath.Join(p.restoreDir(), backupEngine), filepath.Join(dir, backupEngine)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	opened, err := startEngine(ctx, dir, p.engineLibrary)
	if err != nil {
		return err
	}
	dirs := map[string]string{} // of the tables
	err = opened.Restore(ctx, store.Snapshot{Step: m.Step, Tables: m.Tables}, func(table, detached string) error {
		dirs[table] = filepath.Dir(detached)
		parts, err := os.ReadDir(filepath.Join(p.restoreDir(), backupTables, table))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has no rows
		}
		for _, part := range parts {
			err = errors.Join(err, os.Rename(filepath.Join(p.restoreDir(), backupTables, table, part.Name()), filepath.Join(detached, part.Name())))
		}
		return err
	})
	if err = errors.Join(err, opened.close()); err != nil {
		return err
	}
	return p.adoptTokens(dirs)
}

// adoptTokens makes the tables remember the batches that the backup has, so that
// an agent that never heard so may send them again.
func (p *storePlaces) adoptTokens(dirs map[string]string) error {
	for table, dir := range dirs {
		tokens, err := os.ReadFile(filepath.Join(p.restoreDir(), backupTokens, table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the backup is of a version that took none
		}
		if err == nil {
			err = clickhouse.AdoptTokens(dir, tokens)
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", table, err)
		}
	}
	return nil
}

// finishRestore puts a restored store that is ready in its place. It is safe to
// run again after it was interrupted, and does nothing when there is none. The
// lock of the state directory must be held.
func (l layout) finishRestore() error {
	for _, to := range []string{l.engineDir(), l.controlDB()} {
		from := filepath.Join(l.restoredDir(), filepath.Base(to))
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, old := range []string{to, to + "-wal", to + "-shm"} {
			if err := os.RemoveAll(old); err != nil {
				return fmt.Errorf("finish the restore: %w", err)
			}
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("finish the restore: %w", err)
		}
	}
	return os.RemoveAll(l.restoredDir())
}
