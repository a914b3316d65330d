package control

import (
	"context"
	"database/sql"
	"fmt"
)

// applicationID marks the file as ours ("rfnc").
const applicationID = 0x72666e63

// schema holds one step for each version: step i leads to user_version i+1.
// Steps are only ever appended.
var schema = []string{`
CREATE TABLE meta (
	id               INTEGER PRIMARY KEY CHECK (id = 1),
	generation       INTEGER NOT NULL,
	inventory_digest TEXT NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 0, '');

CREATE TABLE workloads (
	identity   INTEGER PRIMARY KEY CHECK (identity BETWEEN 256 AND 16777215),
	namespace  TEXT NOT NULL,
	kind       TEXT NOT NULL,
	name       TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	UNIQUE (namespace, kind, name)
) STRICT;

CREATE TABLE endpoints (
	id       INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
	workload INTEGER NOT NULL REFERENCES workloads (identity),
	name     TEXT NOT NULL,
	UNIQUE (workload, name)
) STRICT;

CREATE TABLE revisions (
	workload   INTEGER NOT NULL REFERENCES workloads (identity),
	number     INTEGER NOT NULL CHECK (number BETWEEN 1 AND 4294967295),
	parent     INTEGER NOT NULL,
	digest     TEXT NOT NULL,
	document   BLOB NOT NULL,
	origin     TEXT NOT NULL CHECK (origin IN ('recommendation', 'edit', 'rollback')),
	author     TEXT NOT NULL,
	comment    TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	PRIMARY KEY (workload, number)
) STRICT;
CREATE TRIGGER revisions_keep BEFORE UPDATE ON revisions BEGIN SELECT RAISE(ABORT, 'revisions are immutable'); END;
CREATE TRIGGER revisions_stay BEFORE DELETE ON revisions BEGIN SELECT RAISE(ABORT, 'revisions are immutable'); END;

CREATE TABLE slots (
	workload        INTEGER PRIMARY KEY REFERENCES workloads (identity),
	live            INTEGER,
	staged          INTEGER,
	version         INTEGER NOT NULL,
	live_generation INTEGER NOT NULL,
	live_at         INTEGER NOT NULL,
	staged_at       INTEGER NOT NULL,
	FOREIGN KEY (workload, live) REFERENCES revisions (workload, number),
	FOREIGN KEY (workload, staged) REFERENCES revisions (workload, number)
) STRICT;

-- Each time a revision became live: what it replaced, and since when it had
-- been audited. A rollback follows these back.
CREATE TABLE live_changes (
	id         INTEGER PRIMARY KEY,
	workload   INTEGER NOT NULL REFERENCES workloads (identity),
	revision   INTEGER NOT NULL,
	previous   INTEGER NOT NULL,
	action     TEXT NOT NULL,
	audited_at INTEGER NOT NULL,
	at         INTEGER NOT NULL
) STRICT;
CREATE INDEX live_changes_revision ON live_changes (workload, revision, id);

CREATE TABLE events (
	id        INTEGER PRIMARY KEY,
	at        INTEGER NOT NULL,
	actor     TEXT NOT NULL,
	action    TEXT NOT NULL,
	namespace TEXT NOT NULL,
	kind      TEXT NOT NULL,
	name      TEXT NOT NULL,
	revision  INTEGER NOT NULL,
	message   TEXT NOT NULL,
	previous  BLOB NOT NULL,
	hash      BLOB NOT NULL
) STRICT;
CREATE INDEX events_workload ON events (namespace, kind, name, id);
CREATE TRIGGER events_keep BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the activity log is append-only'); END;
CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the activity log is append-only'); END;

CREATE TABLE users (
	name       TEXT PRIMARY KEY,
	password   TEXT NOT NULL,
	changed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
	name       TEXT PRIMARY KEY,
	user       TEXT NOT NULL REFERENCES users (name),
	hash       BLOB NOT NULL UNIQUE,
	created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE sessions (
	token      TEXT PRIMARY KEY,
	data       BLOB NOT NULL,
	expires_at INTEGER NOT NULL,
	seen_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_expiry ON sessions (expires_at);
`}

// migrate brings the file to the newest schema, each step in a transaction of
// its own together with its version.
func migrate(ctx context.Context, db *sql.DB, path string) error {
	var version, appID int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return damaged(path, err)
	}
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&appID); err != nil {
		return damaged(path, err)
	}
	if version > 0 && appID != applicationID {
		return refuse(CodeInternal, "control database %s: the file belongs to another program; give another path", path)
	}
	if version > len(schema) {
		return refuse(CodeInternal,
			"control database %s was written by a newer ringfence (schema %d, this one knows %d): install the newer one again",
			path, version, len(schema))
	}
	for i := version; i < len(schema); i++ {
		if err := migrateStep(ctx, db, i); err != nil {
			return fmt.Errorf("control database %s: bring schema to version %d: %w", path, i+1, err)
		}
	}
	return nil
}

func migrateStep(ctx context.Context, db *sql.DB, i int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	if _, err := tx.ExecContext(ctx, schema[i]); err != nil {
		return err
	}
	// Pragmas take no parameters.
	marks := fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, i+1)
	if _, err := tx.ExecContext(ctx, marks); err != nil {
		return err
	}
	return tx.Commit()
}
