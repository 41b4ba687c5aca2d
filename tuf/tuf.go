// Package tuf holds the Notary v1 dialect of TUF: names, versions, checksums,
// the five kinds of metadata file, and the rules by which one file vouches for
// another. It does no I/O and knows no clock: bytes and times in, values or
// errors out.
//
// The dialect is early TUF: "_type" is capitalised, hashes and signatures are
// base64, every signature names its method, meta entries carry no ".json", and
// key IDs hash a form with "private":null. Its reference is the client library
// of Notary 0.7, beside which this package is tested.
package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// MaxName is the longest GUN or role name, in characters: the width of the
// database columns that upstream made.
const MaxName = 255

// Sentinels. Callers match them with errors.Is; the text around them says more.
var (
	// ErrBadName is a GUN or role name that no repository can have.
	ErrBadName = errors.New("invalid name")
	// ErrMalformed is a file that is not an envelope: upstream's MALFORMED_JSON.
	ErrMalformed = errors.New("malformed metadata")
	// ErrExpired is a file whose expiry lies before the time of the check.
	ErrExpired = errors.New("expired")
)

// A GUN is the globally unique name of one trust collection, such as
// "registry.example.com:5000/team/app". Only [ParseGUN] makes one from input.
type GUN string

// ParseGUN checks s at the edge: 1 to [MaxName] characters of UTF-8 without NUL or
// '*' (the route pattern excludes it). Everything else, slashes and colons
// included, is allowed, as upstream allows it. The error wraps [ErrBadName].
func ParseGUN(s string) (GUN, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("%w: empty GUN", ErrBadName)
	case !utf8.ValidString(s):
		return "", fmt.Errorf("%w: GUN is not UTF-8", ErrBadName)
	case TooLong(s):
		return "", fmt.Errorf("%w: a GUN has at most %d characters", ErrBadName, MaxName)
	case strings.ContainsAny(s, "\x00*"):
		return "", fmt.Errorf("%w: GUN has a NUL or '*'", ErrBadName)
	}
	return GUN(s), nil
}

// A RoleName is "root", "targets", "snapshot", "timestamp", or a delegation
// "targets/…".
type RoleName string

// The four base roles.
const (
	RoleRoot      RoleName = "root"
	RoleTargets   RoleName = "targets"
	RoleSnapshot  RoleName = "snapshot"
	RoleTimestamp RoleName = "timestamp"
)

// BaseRoles lists the roles that every root file must describe.
var BaseRoles = [...]RoleName{RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp}

// TooLong reports whether s does not fit the columns for names.
func TooLong(s string) bool {
	return len(s) > utf8.UTFMax*MaxName || utf8.RuneCountInString(s) > MaxName
}

var delegationPattern = regexp.MustCompile(`^[-a-z0-9_/]+$`)

// ParseRoleName checks s: a base role, or a valid delegation. The error wraps
// [ErrBadName].
func ParseRoleName(s string) (RoleName, error) {
	r := RoleName(s)
	if r.IsBase() || r.IsDelegation() {
		return r, nil
	}
	return "", fmt.Errorf("%w: role %q", ErrBadName, s)
}

// IsBase reports whether r is one of the four base roles.
func (r RoleName) IsBase() bool {
	return r == RoleRoot || r == RoleTargets || r == RoleSnapshot || r == RoleTimestamp
}

// IsDelegation reports whether r is a valid delegation name: "targets/" and at
// least one more segment, of lower-case letters, digits, '-' and '_', clean as
// a path, at most [MaxName] bytes.
func (r RoleName) IsDelegation() bool {
	s := string(r)
	return strings.HasPrefix(s, "targets/") && len(s) <= MaxName &&
		delegationPattern.MatchString(s) && path.Clean(s) == s
}

// Parent returns the role that delegates to r: "targets/a" for "targets/a/b".
// It is "" for a base role.
func (r RoleName) Parent() RoleName {
	if !strings.HasPrefix(string(r), "targets/") {
		return ""
	}
	return RoleName(path.Dir(string(r)))
}

// Depth is the number of slashes in r: 0 for a base role, 1 for "targets/a".
func (r RoleName) Depth() int { return strings.Count(string(r), "/") }

// A Version is the number inside the signed part of a file. It grows with each
// publish and is stored in 32 bits.
type Version int32

// MaxVersion is the last version that the database can hold.
const MaxVersion Version = 1<<31 - 1

// A Checksum is the SHA-256 of a stored file. In lower-case hex it names
// consistent metadata.
type Checksum [sha256.Size]byte

// Sum returns the checksum of data.
func Sum(data []byte) Checksum { return sha256.Sum256(data) }

// ParseChecksum reads 64 lower-case hex digits: what upstream matches, and no
// other spelling, so that one file has one name.
func ParseChecksum(s string) (Checksum, error) {
	var c Checksum
	if len(s) != hex.EncodedLen(len(c)) || strings.ToLower(s) != s {
		return c, fmt.Errorf("%w: checksum %.80q", ErrBadName, s)
	}
	if _, err := hex.Decode(c[:], []byte(s)); err != nil {
		return c, fmt.Errorf("%w: checksum %q", ErrBadName, s)
	}
	return c, nil
}

func (c Checksum) String() string { return hex.EncodeToString(c[:]) }

// A KeyID is the hex SHA-256 of the canonical public key object.
type KeyID string
