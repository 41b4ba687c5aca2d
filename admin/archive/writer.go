package archive

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"countersign/internal/atomicfile"
	"countersign/storage"
	"countersign/tuf"
)

// ErrChanged: a repository has changed while it was being archived. To archive
// it again helps.
var ErrChanged = errors.New("the repository has changed meanwhile")

// A Writer writes an archive. It is not safe for use by several goroutines. The
// caller must call Abort in any case; after Close it does nothing.
type Writer struct {
	file *atomicfile.File
	tar  *tar.Writer
	time time.Time
	sums []byte
	guns map[tuf.GUN]bool
	// What is open: a repository whose files are still to come.
	open *Repository
	next int
	seen map[string]bool // names of its entries
	// What Rollback goes back to: what was written before open.
	before struct{ size, sums int }
	size   int
}

// Create begins an archive at path, mode 0600. Nothing is there until Close has
// returned nil.
func Create(path string, h Header) (*Writer, error) {
	f, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return nil, err
	}
	h.Format = Format
	w := &Writer{file: f, time: h.Created, guns: map[tuf.GUN]bool{}}
	w.tar = tar.NewWriter(counter{w})
	raw, err := json.MarshalIndent(h, "", " ")
	if err == nil && len(raw) > maxHeader {
		err = fmt.Errorf("the header of the archive takes %d bytes, more than %d: give a shorter reason", len(raw), maxHeader)
	}
	if err == nil {
		err = w.entry(headerName, raw)
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// Begin adds a repository. Its files must follow, all of r.Files in that order.
func (w *Writer) Begin(r *Repository) error {
	if err := w.complete(); err != nil {
		return err
	}
	if w.guns[r.GUN] {
		return fmt.Errorf("archiving %q: it is in the archive already", r.GUN)
	}
	for _, f := range r.Files {
		if f.Size < 0 || f.Size > maxData {
			return fmt.Errorf("archiving %q: %s version %d takes %d bytes, more than %d", r.GUN, f.Role, f.Version, f.Size, maxData)
		}
	}
	raw, err := r.marshal()
	if err != nil {
		return err
	}
	if len(raw) > maxIndex {
		return fmt.Errorf("archiving %s: the index takes %d bytes, more than %d", r.GUN, len(raw), maxIndex)
	}
	w.open, w.next, w.seen, w.guns[r.GUN] = r, 0, map[string]bool{}, true
	w.before.size, w.before.sums = w.size, len(w.sums)
	return w.entry(folder(r.GUN)+indexName, raw)
}

// Add adds the next file of the repository that was begun. The error wraps
// ErrChanged if it is another.
func (w *Writer) Add(f storage.FileRow) error {
	if w.open == nil || w.next == len(w.open.Files) || w.open.Files[w.next] != f.FileInfo || int64(len(f.Data)) != f.Size {
		return fmt.Errorf("archiving %s version %d: %w", f.Role, f.Version, ErrChanged)
	}
	w.next++
	return w.entry(folder(w.open.GUN)+fileName(f.FileInfo), f.Data)
}

// Rollback takes out the repository that was begun last, whose files are not all
// there: it has changed meanwhile, and may be begun again.
func (w *Writer) Rollback() error {
	if w.open == nil {
		return nil
	}
	if err := w.file.Truncate(int64(w.before.size)); err != nil {
		return err
	}
	if _, err := w.file.Seek(int64(w.before.size), io.SeekStart); err != nil {
		return err
	}
	w.tar, w.size, w.sums = tar.NewWriter(counter{w}), w.before.size, w.sums[:w.before.sums]
	delete(w.guns, w.open.GUN)
	w.open = nil
	return nil
}

// A counter counts what has been written, entries with their padding: each ends
// before the next begins.
type counter struct{ *Writer }

func (c counter) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	c.size += n
	return n, err
}

func (w *Writer) complete() error {
	if w.open != nil && w.next < len(w.open.Files) {
		return fmt.Errorf("archiving %s: %d files have gone: %w", w.open.GUN, len(w.open.Files)-w.next, ErrChanged)
	}
	return nil
}

// Close ends the archive and puts it into its place, unless there is a file:
// then the error wraps fs.ErrExist. Once it has returned nil, the archive
// survives a power cut.
func (w *Writer) Close() error {
	if err := w.complete(); err != nil {
		return err
	}
	if err := w.write(sumsName, w.sums); err != nil {
		return err
	}
	if err := w.tar.Close(); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return w.file.Link()
}

// Abort removes what has been written, unless Close has put it into its place.
func (w *Writer) Abort() { w.file.Abort() }

func (w *Writer) entry(name string, data []byte) error {
	if w.seen[name] {
		return fmt.Errorf("archiving: there are two of %q", name)
	}
	if w.open != nil {
		w.seen[name] = true
	}
	w.sums = appendSum(w.sums, name, data)
	if int64(len(w.sums)) > maxSums {
		return fmt.Errorf("archiving: the list of sums takes more than %d bytes: put fewer repositories into one archive", maxSums)
	}
	return w.write(name, data)
}

func (w *Writer) write(name string, data []byte) error {
	err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: w.time, Format: tar.FormatPAX})
	if err == nil {
		_, err = w.tar.Write(data)
	}
	if err == nil {
		err = w.tar.Flush()
	}
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}
