package seal

import (
	"bytes"
	"container/list"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"sync"

	"golang.org/x/sync/singleflight"
)

// maxDerived bounds the derived keys kept for opening. All rows of one run of a
// Sealer share one; a row of upstream's has its own, and is opened rarely.
const maxDerived = 256

// upstreamIterations is the count that upstream writes, with any build.
const upstreamIterations = 8192

// A derivation is a way from the passphrase to the wrapping key.
type derivation int

const (
	standard derivation = iota
	go115               // see quirk
)

type kek [kekSize]byte

// pbes2 is PBES2's salt: bound to the algorithm, RFC 7518 4.8.1.1.
func pbes2(salt []byte) []byte {
	return append([]byte(KeywrapAlg+"\x00"), salt...)
}

func derive(pass string, salt []byte, iterations int, kind derivation) kek {
	if kind == go115 {
		return quirk(pass, pbes2(salt), iterations)
	}
	key, err := pbkdf2.Key(sha256.New, pass, pbes2(salt), iterations, kekSize)
	if err != nil {
		// Only for a key length out of range, or under enforced FIPS 140 rules.
		panic(fmt.Sprintf("seal: %v", err))
	}
	return kek(key)
}

// quirk is PBKDF2-HMAC-SHA256 as a Go 1.15 build of upstream computes it. Its
// JWE library handed one hash to both halves of HMAC, and that release keeps a
// saved state of each half: until the first reset the inner half works on what
// was meant for the outer one. So the first HMAC of a derivation is
// H(opad || H(opad || salt || 1)), and all others are right.
func quirk(pass string, salt []byte, iterations int) kek {
	secret := []byte(pass)
	if len(secret) > sha256.BlockSize {
		sum := sha256.Sum256(secret)
		secret = sum[:]
	}
	opad := bytes.Repeat([]byte{0x5c}, sha256.BlockSize)
	subtle.XORBytes(opad, opad, secret)
	inner := sha256.Sum256(append(append(bytes.Clone(opad), salt...), 0, 0, 0, 1))
	u := sha256.Sum256(append(bytes.Clone(opad), inner[:]...))
	out := u
	prf := hmac.New(sha256.New, secret)
	next := u[:]
	for range iterations - 1 {
		prf.Reset()
		prf.Write(next)
		next = prf.Sum(next[:0])
		subtle.XORBytes(out[:], out[:], next)
	}
	return kek(out[:kekSize])
}

// deriver keeps what was derived, so that each (alias, salt, count) costs one
// derivation however many goroutines and rows want it.
type deriver struct {
	group singleflight.Group

	// mu guards the fields below. It is never held while a key is derived.
	mu     sync.Mutex
	seals  map[string]sealingKey // by alias
	byName map[keyName]*list.Element
	recent *list.List // of *openingKey, the most recently used first
}

type sealingKey struct {
	pass [sha256.Size]byte // fingerprint
	salt []byte
	kek  kek
}

type keyName struct {
	alias      string
	pass       [sha256.Size]byte // fingerprint
	salt       string
	iterations int
	kind       derivation
}

type openingKey struct {
	name keyName
	kek  kek
}

func newDeriver() *deriver {
	return &deriver{seals: map[string]sealingKey{}, byName: map[keyName]*list.Element{}, recent: list.New()}
}

// sealing returns the salt and key that alias is sealed with, made anew only
// if its passphrase has changed.
func (d *deriver) sealing(alias, pass string, iterations int) ([]byte, kek) {
	print := fingerprint(pass)
	if k, ok := d.sealingKey(alias, print); ok {
		return k.salt, k.kek
	}
	v, _, _ := d.group.Do(fmt.Sprintf("seal %q %x", alias, print), func() (any, error) {
		// Another call may have finished since we looked.
		if k, ok := d.sealingKey(alias, print); ok {
			return k, nil
		}
		salt := make([]byte, saltSize)
		rand.Read(salt)
		k := sealingKey{pass: print, salt: salt, kek: derive(pass, salt, iterations, standard)}
		d.mu.Lock()
		d.seals[alias] = k
		d.mu.Unlock()
		d.keep(keyName{alias, print, string(salt), iterations, standard}, k.kek)
		return k, nil
	})
	k := v.(sealingKey)
	return k.salt, k.kek
}

func (d *deriver) sealingKey(alias string, print [sha256.Size]byte) (sealingKey, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.seals[alias]
	return k, ok && k.pass == print
}

// opening returns the key for a row's salt and count.
func (d *deriver) opening(alias, pass string, salt []byte, iterations int, kind derivation) kek {
	name := keyName{alias, fingerprint(pass), string(salt), iterations, kind}
	if k, ok := d.kept(name); ok {
		return k
	}
	v, _, _ := d.group.Do(fmt.Sprintf("open %q %x %x %d %d", alias, name.pass, salt, iterations, kind), func() (any, error) {
		if k, ok := d.kept(name); ok {
			return k, nil
		}
		k := derive(pass, salt, iterations, kind)
		d.keep(name, k)
		return k, nil
	})
	return v.(kek)
}

func (d *deriver) kept(name keyName) (kek, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.byName[name]
	if !ok {
		return kek{}, false
	}
	d.recent.MoveToFront(e)
	return e.Value.(*openingKey).kek, true
}

func (d *deriver) keep(name keyName, k kek) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.byName[name]; ok {
		return
	}
	d.byName[name] = d.recent.PushFront(&openingKey{name, k})
	for d.recent.Len() > maxDerived {
		oldest := d.recent.Back()
		o := d.recent.Remove(oldest).(*openingKey)
		delete(d.byName, o.name)
		clear(o.kek[:])
	}
}
