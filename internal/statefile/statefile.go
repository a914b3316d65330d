package statefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	magic     = "ringfence-state-1 sha256:"
	headerLen = len(magic) + 2*sha256.Size + 1
	// MaxSize bounds a file, so that a damaged disk cannot exhaust memory.
	MaxSize = 256 << 20

	previousSuffix = ".prev"
	scratchSuffix  = ".tmp"
)

// DamagedError says that a file exists and cannot be trusted.
type DamagedError struct {
	Path string
	Why  string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("state file %s is damaged (%s): nothing of it is used; remove it to start without", e.Path, e.Why)
}

// Size returns how long the file of n bytes of contents is.
func Size(n int) int { return headerLen + n }

// Write replaces the contents of path. When it returns nil they are on disk;
// when it fails, path holds what it held before.
func Write(path string, contents []byte) error {
	if len(contents) > MaxSize {
		return fmt.Errorf("write state file %s: %d bytes, at most %d", path, len(contents), MaxSize)
	}
	scratch := path + scratchSuffix
	if err := writeSynced(scratch, encode(contents)); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	if err := keepPrevious(path); err != nil {
		return fmt.Errorf("keep previous state file: %w", err)
	}
	if err := os.Rename(scratch, path); err != nil {
		return fmt.Errorf("replace state file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Read returns the contents of path: fs.ErrNotExist when there is no such file,
// a *DamagedError when its digest does not match.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read state file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	raw, err := io.ReadAll(io.LimitReader(f, MaxSize+int64(headerLen)+1))
	if err != nil {
		return nil, fmt.Errorf("read state file %s: %w", path, err)
	}
	contents, why := decode(raw)
	if why != "" {
		return nil, &DamagedError{Path: path, Why: why}
	}
	return contents, nil
}

// ReadPrevious returns what path held before its last Write, under the same
// rules as Read. It is for a caller that found path damaged and for whom old
// state is better than none.
func ReadPrevious(path string) ([]byte, error) { return Read(path + previousSuffix) }

// Remove deletes path and its previous version. A missing file is no error.
func Remove(path string) error {
	for _, p := range []string{path, path + previousSuffix, path + scratchSuffix} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove state file: %w", err)
		}
	}
	return syncDir(filepath.Dir(path))
}

func encode(contents []byte) []byte {
	sum := sha256.Sum256(contents)
	out := make([]byte, 0, headerLen+len(contents))
	out = append(out, magic...)
	out = hex.AppendEncode(out, sum[:])
	out = append(out, '\n')
	return append(out, contents...)
}

// decode returns the contents of an encoded file, or why it is none.
func decode(raw []byte) (contents []byte, why string) {
	switch {
	case len(raw) < headerLen:
		return nil, "cut short"
	case len(raw) > MaxSize+headerLen:
		return nil, "too large"
	case !bytes.HasPrefix(raw, []byte(magic)) || raw[headerLen-1] != '\n':
		return nil, "unknown header"
	}
	contents = raw[headerLen:]
	sum := sha256.Sum256(contents)
	if hex.EncodeToString(sum[:]) != string(raw[len(magic):headerLen-1]) {
		return nil, "digest does not match"
	}
	return contents, ""
}

// keepPrevious makes path's current version the previous one. A damaged version
// never takes the place of a good one.
func keepPrevious(path string) error {
	if _, err := Read(path); err != nil {
		if _, damaged := errors.AsType[*DamagedError](err); damaged || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	link := path + previousSuffix + scratchSuffix
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, link); err != nil {
		return err
	}
	return os.Rename(link, path+previousSuffix)
}

func writeSynced(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
