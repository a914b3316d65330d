package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// magic begins every archive. Another format gets another number.
const magic = "ringfence archive 1\n"

const partSuffix = ".part"

// DamagedError says that a file is no whole archive.
type DamagedError struct{ Path, Why string }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is no whole archive: %s; take another one, nothing of this one was used", e.Path, e.Why)
}

// Writer makes one archive.
type Writer struct {
	// Progress is told how many bytes are in the archive, after each file; nil
	// tells nobody.
	Progress func(bytes int64)

	path string
	size int64
	file *os.File
	sum  hash.Hash
	tar  *tar.Writer
}

// Create begins an archive that will be at path, readable by its owner only. It
// refuses to replace a file.
func Create(path string) (*Writer, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is there already: name another file", path)
	}
	f, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	w := &Writer{path: path, file: f, sum: sha256.New()}
	both := io.MultiWriter(f, w.sum)
	w.tar = tar.NewWriter(both)
	if _, err := io.WriteString(both, magic); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), w.Abort())
	}
	return w, nil
}

// Add puts content into the archive.
func (w *Writer) Add(name string, content []byte) error {
	return w.add(name, int64(len(content)), bytes.NewReader(content))
}

// AddFile puts the file at path into the archive.
func (w *Writer) AddFile(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return w.add(name, info.Size(), f)
}

// AddDir puts every file below dir into the archive.
func (w *Writer) AddDir(ctx context.Context, name, dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return w.AddFile(path.Join(name, filepath.ToSlash(rel)), file)
	})
}

func (w *Writer) add(name string, size int64, content io.Reader) error {
	err := w.tar.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.Copy(w.tar, content)
	}
	if err != nil {
		return fmt.Errorf("archive %s in %s: %w", name, w.path, err)
	}
	w.size += size
	if w.Progress != nil {
		w.Progress(w.size)
	}
	return nil
}

// Close ends the archive and gives it its name.
func (w *Writer) Close() error {
	err := w.tar.Close()
	if err == nil {
		_, err = w.file.Write(w.sum.Sum(nil))
	}
	if err == nil {
		err = w.file.Sync()
	}
	if err = errors.Join(err, w.file.Close()); err == nil {
		err = os.Rename(w.path+partSuffix, w.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", w.path, err), w.remove())
	}
	return syncDir(filepath.Dir(w.path))
}

// Abort leaves nothing of the archive.
func (w *Writer) Abort() error { return errors.Join(w.file.Close(), w.remove()) }

func (w *Writer) remove() error {
	if err := os.Remove(w.path + partSuffix); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Read checks the whole archive at path, and then calls each for its files in
// their order. A damaged archive is refused before the first call.
func Read(ctx context.Context, path string, each func(name string, content io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	body, err := check(ctx, f, path)
	if err != nil {
		return err
	}
	r := tar.NewReader(body)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &DamagedError{path, err.Error()}
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			return &DamagedError{path, fmt.Sprintf("%q is no file of an archive", h.Name)}
		}
		if err := errors.Join(ctx.Err(), each(h.Name, r)); err != nil {
			return err
		}
	}
}

// check compares the digest, and returns what lies between the first line and it.
func check(ctx context.Context, f *os.File, path string) (io.Reader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &DamagedError{path, "it is not a regular file"}
	}
	first := make([]byte, len(magic))
	if _, err := io.ReadFull(f, first); err != nil || string(first) != magic {
		return nil, &DamagedError{path, "it does not begin as one"}
	}
	size := info.Size() - int64(len(magic)) - sha256.Size
	if size < 0 {
		return nil, &DamagedError{path, "it is cut"}
	}
	sum := sha256.New()
	sum.Write(first)
	if _, err := io.Copy(sum, &interruptible{ctx, io.LimitReader(f, size)}); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(f, want); err != nil {
		return nil, &DamagedError{path, "it is cut"}
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return nil, &DamagedError{path, "its digest does not match, so it is cut or was changed"}
	}
	return io.NewSectionReader(f, int64(len(magic)), size), nil
}

// interruptible ends with its context.
type interruptible struct {
	ctx context.Context //nolint:containedctx // io.Reader has no other place for it
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
