package tuf

import (
	"encoding/json"
	"time"

	"countersign/tuf/cjson"
)

// Limits on what is parsed. No real client comes near any of them.
const (
	// MaxDepth bounds the nesting of JSON, so that a few megabytes of "[" can
	// not exhaust the stack of this process or of a client's.
	MaxDepth = cjson.MaxDepth
	// MaxMembers bounds each object and each array of a file, and MaxValues all
	// of them together: what a file takes in memory goes by them. 200,000 tags
	// with two checksums each are within both.
	MaxMembers = cjson.MaxMembers
	MaxValues  = cjson.MaxValues
	// MaxSignatures bounds the work that one file can ask of the verifier: each
	// Ed25519 signature hashes the whole file.
	MaxSignatures = 100
	// MaxRoles bounds the roles that a root or a targets file describes, and
	// MaxKeys the keys that it lists: each is a few bytes in a file and a
	// hundred times that in memory, before anybody has vouched for it. The
	// largest repositories known delegate to a few dozen.
	MaxRoles = 10_000
	MaxKeys  = 10_000
	// MaxKeyIDs bounds the keys of one role, of which at most MaxSignatures can
	// sign anyway; MaxPaths the paths of one delegation.
	MaxKeyIDs = 1_000
	MaxPaths  = 10_000
	// MaxMeta bounds the files that a snapshot names: beyond it one that the
	// server makes does not fit the message to the signer. MaxHashes bounds the
	// hashes of one file; two are in use.
	MaxMeta   = 20_000
	MaxHashes = 16
)

// An Envelope is one file in the form common to all roles. Parsing it says
// nothing of its truth: Root, Targets, Snapshot and Timestamp check structure,
// Verify checks signatures.
type Envelope struct {
	Type       string // "Root", "Targets", "Snapshot", "Timestamp"
	Version    int64  // as written; 0 where it is missing
	Expires    time.Time
	Signatures []Signature

	members   map[string][]byte // of the signed part, those that a role knows; nil if there is none
	canonical []byte            // the signed part in canonical form
	noForm    error             // why it has no canonical form
}

// A Signature is one signature over the canonical form of the signed part.
type Signature struct {
	KeyID  KeyID  `json:"keyid"`
	Method string `json:"method"` // in lower case once it is parsed
	Sig    []byte `json:"sig"`
}

// Key types, as in a key's "keytype".
const (
	KeyECDSA     = "ecdsa"
	KeyECDSAX509 = "ecdsa-x509"
	KeyRSA       = "rsa"
	KeyRSAX509   = "rsa-x509"
	KeyED25519   = "ed25519"
)

// A Key is a public key as metadata lists it. Public is DER SubjectPublicKeyInfo
// (ecdsa, rsa), a PEM chain with the leaf first (…-x509), or 32 raw bytes
// (ed25519).
type Key struct {
	Type   string
	Public []byte
}

// A Role says whose signatures count, and how many are needed.
type Role struct {
	KeyIDs    []KeyID `json:"keyids"`
	Threshold int     `json:"threshold"`
}

// An Authority is a Role with its keys: what a file must be verified against.
type Authority struct {
	Role
	Keys map[KeyID]Key

	certs *certificates // of the file that lists the keys; may be nil
}

// Root is the signed part of root.json.
type Root struct {
	Version Version
	Expires time.Time
	Keys    map[KeyID]Key
	Roles   map[RoleName]Role
}

// Targets is the signed part of targets.json or of a delegation. What the
// files listed in it are is the clients' affair: their form has been checked,
// but they are decoded only by [Targets.Files].
type Targets struct {
	Name        RoleName
	Version     Version
	Expires     time.Time
	Delegations Delegations

	files []byte        // as received; nil if the member is missing
	certs *certificates // among the keys of the delegations
}

// Delegations are the roles to which a targets file delegates, in order of
// priority.
type Delegations struct {
	Keys  map[KeyID]Key
	Roles []Delegation
}

// A Delegation is one entry of a targets file's "delegations".
type Delegation struct {
	Role
	Name  RoleName
	Paths []string
}

// Snapshot is the signed part of snapshot.json.
type Snapshot struct {
	Version Version
	Expires time.Time
	Meta    map[RoleName]FileMeta
}

// Timestamp is the signed part of timestamp.json.
type Timestamp struct {
	Version  Version
	Expires  time.Time
	Snapshot FileMeta
}

// Hashes maps an algorithm ("sha256", "sha512") to a raw hash of another file.
type Hashes map[string][]byte

// FileMeta is what metadata says about another file.
type FileMeta struct {
	Length int64           `json:"length"`
	Hashes Hashes          `json:"hashes"`
	Custom json.RawMessage `json:"custom,omitempty"`
}
