package tuf

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
)

// supportedHashes are those that count, in the order in which they are checked.
var supportedHashes = [...]struct {
	name string
	size int
	sum  func([]byte) []byte
}{
	{sha256Name, sha256.Size, func(b []byte) []byte { h := sha256.Sum256(b); return h[:] }},
	{sha512Name, sha512.Size, func(b []byte) []byte { h := sha512.Sum512(b); return h[:] }},
}

// MetaOf describes data, the complete bytes of a file as stored and served:
// its length, SHA-256 and SHA-512.
func MetaOf(data []byte) FileMeta {
	m := FileMeta{Length: int64(len(data)), Hashes: make(Hashes, len(supportedHashes))}
	for _, h := range supportedHashes {
		m.Hashes[h.name] = h.sum(data)
	}
	return m
}

// Check compares data, the bytes of the file of role name, with what m says of
// them: every SHA-256 and SHA-512, of which there must be one, and the length.
func (m FileMeta) Check(name RoleName, data []byte) error {
	checked := 0
	for _, h := range supportedHashes {
		want, ok := m.Hashes[h.name]
		if !ok {
			continue
		}
		if subtle.ConstantTimeCompare(h.sum(data), want) == 0 {
			return fmt.Errorf("%s checksum for %s did not match: expected %.64x", h.name, name, want)
		}
		checked++
	}
	if checked == 0 {
		return fmt.Errorf("no checksums for supported algorithms were provided for %s", name)
	}
	// Clients stop reading at the length, and then complain of the hash.
	if m.Length != int64(len(data)) {
		return fmt.Errorf("length of %s did not match: expected %d, not %d", name, m.Length, len(data))
	}
	return nil
}
