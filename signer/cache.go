package signer

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"countersign/storage"
	"countersign/tuf"
)

// fingerprint tells one state of a row from another. What opened keys are kept
// under it, so a row that was sealed anew, or tampered with, is opened anew.
func fingerprint(row storage.Key) tuf.Checksum {
	h := sha256.New()
	var n [8]byte
	for _, part := range [...][]byte{[]byte(row.Algorithm), row.Public, []byte(row.Alias), row.Sealed} {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return tuf.Checksum(h.Sum(nil))
}

// cache holds the keys opened most recently, at most max of them. A key that
// leaves it is wiped when its last user has released it.
type cache struct {
	max int

	// mu guards the fields below and users and gone of every entry. It is
	// never held while a key is opened or signs.
	mu     sync.Mutex
	byID   map[tuf.KeyID]*list.Element
	recent *list.List // of *entry, the most recently used first
}

// An entry is one opened key. Who has one from get or put must release it.
type entry struct {
	cache *cache
	id    tuf.KeyID
	print tuf.Checksum
	key   *private
	users int
	gone  bool // has left the cache
}

func newCache(max int) *cache {
	return &cache{max: max, byID: map[tuf.KeyID]*list.Element{}, recent: list.New()}
}

// get returns the opened key of that ID and fingerprint, or nil.
func (c *cache) get(id tuf.KeyID, print tuf.Checksum) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byID[id]
	if !ok {
		return nil
	}
	e := el.Value.(*entry)
	if e.print != print {
		return nil
	}
	c.recent.MoveToFront(el)
	e.users++
	return e
}

// put keeps key, in place of any other of that ID, and returns it as get does.
func (c *cache) put(id tuf.KeyID, print tuf.Checksum, key *private) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(id)
	e := &entry{cache: c, id: id, print: print, key: key, users: 1}
	c.byID[id] = c.recent.PushFront(e)
	for c.recent.Len() > c.max {
		c.remove(c.recent.Back().Value.(*entry).id)
	}
	return e
}

// drop forgets the key of that ID.
func (c *cache) drop(id tuf.KeyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(id)
}

// remove is drop for those who hold mu.
func (c *cache) remove(id tuf.KeyID) {
	el, ok := c.byID[id]
	if !ok {
		return
	}
	delete(c.byID, id)
	e := c.recent.Remove(el).(*entry)
	e.gone = true
	if e.users == 0 {
		e.key.wipe()
	}
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recent.Len()
}

// release says that the caller does not use the key any more.
func (e *entry) release() {
	e.cache.mu.Lock()
	defer e.cache.mu.Unlock()
	e.users--
	if e.gone && e.users == 0 {
		e.key.wipe()
	}
}
