// Package atomicfile writes files that are either whole or not there.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A File is written beside its place, and put there by Replace or Link. The
// caller must call Abort in any case; after one of these it does nothing.
type File struct {
	*os.File
	path string
	done bool
}

// Create begins a file of that mode, whatever the umask. After a crash before
// it is put into its place, at worst a file with a name beginning with "." is
// left beside it.
func Create(path string, mode fs.FileMode) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	file := &File{File: f, path: path}
	if err := f.Chmod(mode); err != nil {
		file.Abort()
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return file, nil
}

// Replace puts the file into its place, over what is there. Once it has
// returned nil, the content survives a power cut.
func (f *File) Replace() error { return f.put(os.Rename) }

// Link puts the file into its place unless there is one: then the error is
// fs.ErrExist, and that one stays as it is.
func (f *File) Link() error { return f.put(os.Link) }

func (f *File) put(put func(from, to string) error) error {
	err := f.Sync()
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = put(f.Name(), f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	f.Abort() // the name that Link leaves
	return nil
}

// Abort removes what has been written, unless it is in its place already.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// Write makes or replaces the file path with data, under mode whatever the
// umask. After a crash at any moment the file holds what it held before or all
// of data. Once Write has returned, data survives a power cut.
func Write(path string, data []byte, mode fs.FileMode) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.File.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Replace()
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
