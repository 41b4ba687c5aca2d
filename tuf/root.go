package tuf

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// VerifyRoot checks e, whose signed part is r, as the new root of gun. prev is
// the root that is stored, or nil. The new one must have prev's version or the
// next, be signed by the certificates of prev (which may have expired by now)
// and by its own (which may not), each to its threshold, and not be expired.
func VerifyRoot(e *Envelope, r *Root, prev *Root, gun GUN, now time.Time) error {
	current := Version(1) // upstream takes a first root of version 1 or 2
	if prev != nil {
		current = prev.Version
	}
	if r.Version != current && int64(r.Version) != int64(current)+1 {
		return fmt.Errorf("Root modifications must increment the version. Current %d, new %d", current, r.Version)
	}
	const untrusted = "could not validate the path to a trusted root: "
	own, err := r.LeafAuthority(gun, now, true)
	if err != nil {
		return fmt.Errorf(untrusted+"%w", err)
	}
	if prev != nil {
		trusted, err := prev.LeafAuthority(gun, now, false)
		if err != nil {
			return errors.New(untrusted + "could not retrieve trusted certs from previous root role data")
		}
		if e.Verify(RoleRoot, trusted) != nil {
			return errors.New("could not rotate trust to a new trusted root: failed to validate data with current trusted certificates")
		}
	}
	if e.Verify(RoleRoot, own) != nil {
		return errors.New(untrusted + "failed to validate integrity of roots")
	}
	return CheckExpiry(RoleRoot, r.Expires, now)
}

// LeafAuthority returns who can sign a root of gun: the keys of the root role
// that are certificates fit for it. Such a key is a PEM bundle whose first
// certificate, and no other, is a leaf; the leaf names gun, or a prefix of it
// and '*', as its common name; it is not signed with SHA-1; an RSA key has at
// least 2048 bits. With checkDates it has also not expired at now, and begins
// no later than a day after.
//
// Keys and IDs are those of the bundle written anew, as clients write it: leaf
// first, then the CA certificates (with checkDates, those that are still good).
// The error, if there is no such leaf, is "unable to retrieve valid leaf certificates".
func (r *Root) LeafAuthority(gun GUN, now time.Time, checkDates bool) (Authority, error) {
	role := r.Roles[RoleRoot]
	a := Authority{Role: Role{Threshold: role.Threshold}, Keys: make(map[KeyID]Key)}
	seen := make(map[KeyID]bool, len(role.KeyIDs))
	leaves := 0
	for _, id := range role.KeyIDs {
		if seen[id] {
			continue // a bundle is parsed once, however often it is listed
		}
		seen[id] = true
		leaf, cas := splitBundle(r.Keys[id].Public)
		if leaf == nil || !matchesCN(leaf.Subject.CommonName, gun) || checkCertificate(leaf, now, checkDates) != nil {
			continue
		}
		leaves++
		if k, ok := bundleKey(leaf, cas, now, checkDates); ok {
			id := k.ID()
			if _, ok := a.Keys[id]; !ok {
				a.Keys[id] = k
				a.KeyIDs = append(a.KeyIDs, id)
			}
		}
	}
	if leaves == 0 {
		return Authority{}, errors.New("unable to retrieve valid leaf certificates")
	}
	return a, nil
}

// splitBundle parses a PEM bundle. Without exactly one leaf, at its head, or
// with anything in it that is no certificate, it returns nil.
func splitBundle(data []byte) (leaf *x509.Certificate, cas []*x509.Certificate) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return leaf, cas
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || cert.IsCA == (leaf == nil) {
			return nil, nil
		}
		if leaf == nil {
			leaf = cert
		} else {
			cas = append(cas, cert)
		}
	}
}

// bundleKey is the key that clients make of a bundle. It reports false if there
// is no type for the leaf's key.
func bundleKey(leaf *x509.Certificate, cas []*x509.Certificate, now time.Time, checkDates bool) (k Key, ok bool) {
	switch leaf.PublicKeyAlgorithm {
	case x509.ECDSA:
		k.Type = KeyECDSAX509
	case x509.RSA:
		k.Type = KeyRSAX509
	default:
		return Key{}, false
	}
	var b bytes.Buffer
	write := func(c *x509.Certificate) bool {
		return pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) == nil
	}
	ok = write(leaf)
	for _, c := range cas {
		if !checkDates || checkCertificate(c, now, true) == nil {
			ok = ok && write(c)
		}
	}
	k.Public = b.Bytes()
	return k, ok
}

// matchesCN reports whether a certificate with that common name can vouch for
// gun. "*" alone matches every GUN: so it does for the clients.
func matchesCN(cn string, gun GUN) bool {
	if strings.HasSuffix(cn, "*") {
		return strings.HasPrefix(string(gun), strings.TrimRight(cn, "*"))
	}
	return cn == string(gun)
}

// checkCertificate checks what makes a certificate unfit wherever it stands,
// and with checkDates also that it is good at now.
func checkCertificate(c *x509.Certificate, now time.Time, checkDates bool) error {
	if c.NotBefore.After(c.NotAfter) {
		return errors.New("certificate validity window is invalid")
	}
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return fmt.Errorf("certificate with CN %.80s uses invalid SHA1 signature algorithm", c.Subject.CommonName)
	}
	if c.PublicKeyAlgorithm == x509.RSA {
		key, ok := c.PublicKey.(*rsa.PublicKey)
		if !ok {
			return errors.New("unable to parse RSA public key")
		}
		if key.N.BitLen() < minRSABits {
			return errors.New("RSA bit length is too short")
		}
	}
	// One day of leeway for clocks, at the beginning only.
	if checkDates && (now.AddDate(0, 0, 1).Before(c.NotBefore) || now.After(c.NotAfter)) {
		return fmt.Errorf("certificate with CN %.80s is expired", c.Subject.CommonName)
	}
	return nil
}

// checkDelegationKeys checks the certificates among the keys of a delegation,
// whatever the type of the key, but for their dates: there the file's own
// expiry counts.
func checkDelegationKeys(a Authority) error {
	for id, k := range a.Keys {
		if err := a.certs.check(id, k); err != nil {
			return err
		}
	}
	return nil
}

// certificates remembers which keys of one file were looked at for certificates
// that are unfit: each may be listed by thousands of its delegations.
type certificates struct {
	mu      sync.Mutex // guards checked; held while one certificate is parsed
	checked map[KeyID]error
}

func (c *certificates) check(id KeyID, k Key) error {
	if c == nil {
		return checkFirstCertificate(k)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err, ok := c.checked[id]
	if !ok {
		if c.checked == nil {
			c.checked = make(map[KeyID]error)
		}
		err = checkFirstCertificate(k)
		c.checked[id] = err
	}
	return err
}

// checkFirstCertificate checks the certificate in k, if there is one.
func checkFirstCertificate(k Key) error {
	cert, err := firstCertificate(k.Public)
	if err != nil {
		return nil
	}
	return checkCertificate(cert, time.Time{}, false)
}

// firstCertificate returns the first sound certificate in PEM data. Blocks of
// other types, or with headers, are passed over.
func firstCertificate(data []byte) (*x509.Certificate, error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("no certificates found in PEM data")
		}
		data = rest
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			return cert, nil
		}
	}
}
