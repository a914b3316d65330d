package control

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Backup writes what the database at path holds at one moment to a new file,
// also while a Store has it open. It refuses a path where nothing is.
func Backup(ctx context.Context, path, to string) (err error) {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("back up the control database: %w", err)
	}
	s := &Store{cfg: Config{Path: path}.withDefaults()}
	db, err := s.pool("rw", 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "PRAGMA query_only = 0"); err != nil { // it writes another file
		return damaged(path, err)
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return fmt.Errorf("back up control database %s: %w", path, err)
	}
	return os.Chmod(to, 0o600)
}
