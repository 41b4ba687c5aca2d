package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"

	"countersign/storage"
	"countersign/tuf"
)

// An Archive is a file that has proved to be whole. It is not safe for use by
// several goroutines.
type Archive struct {
	Header Header
	// Digest is the SHA-256 of the archive's list of sums, in hex: it names the
	// content, whichever copy of it is read.
	Digest string

	file *os.File
	in   map[tuf.GUN]place
}

// A place is where the entries of a repository begin, and what they must be when
// they are read again: the file may be written to meanwhile.
type place struct {
	at    int64
	index [sha256.Size]byte // sum of the index
	all   [sha256.Size]byte // sum of the sums of all entries
}

// Open reads all of the archive at path once, and checks every sum and that
// nothing is missing, doubled or left over. The error wraps ErrCorrupt if
// something is. What is read of it later is compared with what was read then.
func Open(path string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a := &Archive{file: f}
	if err := a.verify(); err != nil {
		f.Close()
		return nil, fmt.Errorf("reading archive %s: %w", path, err)
	}
	return a, nil
}

// Close closes the file.
func (a *Archive) Close() error { return a.file.Close() }

// A Files calls f for each file of a repository, in the order of its index. The
// error wraps ErrCorrupt if they are not those that Open has read; that is known
// after the last one, so that all that f has done must be undone.
type Files func(f func(storage.FileRow) error) error

// Each calls visit for each repository, in the order in which they were
// written. visit may call files once, or not at all. It ends with the first
// error of visit.
func (a *Archive) Each(visit func(r *Repository, files Files) error) error {
	p, err := a.begin()
	if err != nil {
		return err
	}
	if _, err := p.header(); err != nil {
		return err
	}
	for n := 0; ; n++ {
		r, err := p.repository()
		if err == nil && r == nil && n != len(a.in) {
			err = corrupt("it had %d repositories, and has %d now", len(a.in), n)
		}
		if r == nil || err != nil {
			return err
		}
		if err := a.unchanged(p, r); err != nil {
			return err
		}
		used := false
		files := func(f func(storage.FileRow) error) error {
			if used {
				return errors.New("the files of an archive are read once")
			}
			used = true
			return a.filesAgain(p, r, f)
		}
		if err := visit(r, files); err != nil {
			return err
		}
		if !used {
			if err := a.filesAgain(p, r, func(storage.FileRow) error { return nil }); err != nil {
				return err
			}
		}
	}
}

// unchanged compares the index that has just been read with what Open has read.
func (a *Archive) unchanged(p *pass, r *Repository) error {
	if in, ok := a.in[r.GUN]; !ok || in.index != p.index {
		return corrupt("the index of %.300q has changed since it was checked", r.GUN)
	}
	return nil
}

func (a *Archive) filesAgain(p *pass, r *Repository, f func(storage.FileRow) error) error {
	if err := p.files(r, f); err != nil {
		return err
	}
	if p.all() != a.in[r.GUN].all {
		return corrupt("files of %.300q have changed since they were checked", r.GUN)
	}
	return nil
}

// FilesOf reads the files of one repository, without those before it. It may be
// called any number of times. The error wraps storage.ErrNotFound if the archive
// does not have the repository.
func (a *Archive) FilesOf(gun tuf.GUN) Files {
	return func(f func(storage.FileRow) error) error {
		in, ok := a.in[gun]
		if !ok {
			return fmt.Errorf("%w: the archive has no repository %q", storage.ErrNotFound, gun)
		}
		p := newPass(io.NewSectionReader(a.file, in.at, math.MaxInt64-in.at))
		r, err := p.repository()
		if err == nil && (r == nil || r.GUN != gun) {
			err = corrupt("%.300q is not where it was", gun)
		}
		if err == nil {
			err = a.unchanged(p, r)
		}
		if err != nil {
			return err
		}
		return a.filesAgain(p, r, f)
	}
}

// verify reads everything, and compares the list of sums with what it has read.
func (a *Archive) verify() error {
	p, err := a.begin()
	if err != nil {
		return err
	}
	if a.Header, err = p.header(); err != nil {
		return err
	}
	a.in = map[tuf.GUN]place{}
	for {
		in := place{at: p.at()}
		r, err := p.repository()
		if err != nil {
			return err
		}
		if r == nil {
			break
		}
		if _, twice := a.in[r.GUN]; twice {
			return corrupt("%s is in it twice", r.GUN)
		}
		if err := p.files(r, func(storage.FileRow) error { return nil }); err != nil {
			return err
		}
		in.index, in.all = p.index, p.all()
		a.in[r.GUN] = in
	}
	// The reader is at the list of sums.
	if got := [sha256.Size]byte(p.sums.Sum(nil)); got != sha256.Sum256(p.last) {
		return corrupt("%s says otherwise: %s", sumsName, a.difference(p.last))
	}
	if _, err := p.tar.Next(); err != io.EOF {
		return corrupt("something follows %s", sumsName)
	}
	a.Digest = fmt.Sprintf("%x", sha256.Sum256(p.last))
	return nil
}

// difference reads the archive again, and names the first entry that is not as
// its list of sums says.
func (a *Archive) difference(list []byte) string {
	p, err := a.begin()
	if err != nil {
		return err.Error()
	}
	for {
		name, data, err := p.next(maxData)
		if err != nil || name == sumsName {
			return "it lists more than there is"
		}
		rest, ok := bytes.CutPrefix(list, appendSum(nil, name, data))
		if !ok {
			return fmt.Sprintf("%.300q", name)
		}
		list = rest
	}
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// A pass is one reading of the archive from its beginning.
type pass struct {
	tar  *tar.Reader
	read int64     // by tar
	sums hash.Hash // of the lines of all that has been read
	part hash.Hash // of the lines of the repository that is read
	// index is the sum of the index that was read last.
	index [sha256.Size]byte
	last  []byte // the list of sums, once the end is reached
}

func (a *Archive) begin() (*pass, error) {
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return newPass(a.file), nil
}

func newPass(r io.Reader) *pass {
	p := &pass{sums: sha256.New(), part: sha256.New()}
	p.tar = tar.NewReader(&counting{bufio.NewReaderSize(r, 1<<20), &p.read})
	return p
}

// at is where the next entry begins. The last one has been read to its end, but
// not what fills its last block.
func (p *pass) at() int64 {
	const block = 512
	return (p.read + block - 1) / block * block
}

type counting struct {
	io.Reader
	n *int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.n += int64(n)
	return n, err
}

// next reads the next entry, of at most limit bytes.
func (p *pass) next(limit int64) (name string, data []byte, err error) {
	h, err := p.tar.Next()
	if err == io.EOF {
		return "", nil, corrupt("it ends before %s: it was not written to its end, or cut", sumsName)
	}
	if err != nil {
		return "", nil, corrupt("%v", err)
	}
	if h.Typeflag != tar.TypeReg || h.Size < 0 || h.Size > limit {
		return "", nil, corrupt("entry %.300q is no plain file of at most %d bytes", h.Name, limit)
	}
	// Grown as bytes arrive: a header may claim what is not there.
	var b bytes.Buffer
	if _, err := io.Copy(&b, p.tar); err != nil {
		return "", nil, corrupt("entry %.300q: %v", h.Name, err)
	}
	return h.Name, b.Bytes(), nil
}

func (p *pass) record(name string, data []byte) {
	line := appendSum(nil, name, data)
	p.sums.Write(line)
	p.part.Write(line)
}

// all is the sum over the repository that has been read.
func (p *pass) all() [sha256.Size]byte { return [sha256.Size]byte(p.part.Sum(nil)) }

// appendSum adds the line of an entry to the list of sums.
func appendSum(list []byte, name string, data []byte) []byte {
	return fmt.Appendf(list, "%x  %s\n", sha256.Sum256(data), name)
}

func (p *pass) header() (Header, error) {
	name, data, err := p.next(maxHeader)
	if err != nil {
		return Header{}, err
	}
	var h Header
	if name != headerName {
		return h, corrupt("it does not begin with %s: it is no archive of trust-admin", headerName)
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, corrupt("%s: %v", headerName, err)
	}
	if h.Format != Format {
		return h, fmt.Errorf("the archive has format %d, and this program reads format %d: use the release that wrote it (%q)", h.Format, Format, h.Tool)
	}
	p.record(name, data)
	return h, nil
}

// repository reads the next index, or returns nil at the list of sums.
func (p *pass) repository() (*Repository, error) {
	name, data, err := p.next(max(maxIndex, maxSums))
	if err != nil {
		return nil, err
	}
	if name == sumsName && int64(len(data)) > maxSums {
		return nil, corrupt("%s takes more than %d bytes", sumsName, maxSums)
	}
	if name == sumsName {
		p.last = data
		return nil, nil
	}
	r, err := unmarshalRepository(data)
	if err != nil {
		return nil, corrupt("%.300q: %v", name, err)
	}
	if name != folder(r.GUN)+indexName {
		return nil, corrupt("%.300q is the index of %.300q", name, r.GUN)
	}
	p.part.Reset()
	p.record(name, data)
	p.index = sha256.Sum256(data)
	return r, nil
}

func (p *pass) files(r *Repository, f func(storage.FileRow) error) error {
	for _, info := range r.Files {
		name, data, err := p.next(maxData)
		if err != nil {
			return err
		}
		if want := folder(r.GUN) + fileName(info); name != want || int64(len(data)) != info.Size {
			return corrupt("%.300q of %d bytes stands where %.300q of %d bytes should", name, len(data), want, info.Size)
		}
		p.record(name, data)
		if err := f(storage.FileRow{FileInfo: info, Data: data}); err != nil {
			return err
		}
	}
	return nil
}

// strict refuses members that this format does not have: to leave out what a
// later release has written would be to restore a part.
func strict(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows")
	}
	return nil
}
