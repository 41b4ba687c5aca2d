package admin

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	"countersign/tuf"
)

// States of a repository, worst last.
const (
	StateOK          = "ok"
	StateExpired     = "expired"         // every signature is good, but clients refuse something for its age
	StateUnverified  = "does not verify" // a client refuses a signature, or has to pass over a role
	StateDamaged     = "damaged"         // a file is missing or is not the one that was signed
	StateNoTimestamp = "no timestamp"    // clients find nothing
)

var stateRank = map[string]int{StateOK: 0, StateExpired: 1, StateUnverified: 2, StateDamaged: 3, StateNoTimestamp: 4}

// Who holds a key.
const (
	HeldByServer  = "server"  // the signer's database has a row for it
	HeldByClient  = "client"  // it has none
	HeldByUnknown = "unknown" // nobody has looked: no configuration of the signer was given
)

// A Trouble is something wrong with a repository, in words.
type Trouble struct {
	What string `json:"what"`
	Do   string `json:"do"` // what mends it, and who can do it

	state string
}

// A Summary is a GUN in one line.
type Summary struct {
	GUN   tuf.GUN `json:"gun"`
	State string  `json:"state"`
	// Tags is how many names verify, in targets and delegations together.
	Tags int `json:"tags"`
	// Signers are the delegations that targets lists as docker does for people,
	// targets/NAME; targets/releases is none.
	Signers []tuf.RoleName `json:"signers"`
	// Versions and Size are those of all files that are stored, old ones too.
	Versions int64 `json:"versions"`
	Size     int64 `json:"size"` // bytes
	// LastPublish is when the newest root, targets or delegation was stored; what
	// the server makes by itself does not count. Zero: not known.
	LastPublish time.Time `json:"last_publish,omitzero"`
	// NextExpiry is the first of the current files to expire; nil if none can
	// be read.
	NextExpiry *Deadline `json:"next_expiry"`
	// SnapshotKey is who holds the snapshot key that root lists.
	SnapshotKey string `json:"snapshot_key"`
}

// A Deadline is when a role's file expires.
type Deadline struct {
	Role    tuf.RoleName `json:"role"`
	Expires time.Time    `json:"expires"`
}

// A Repository is the current generation of a GUN as a client would find it,
// with every role judged.
type Repository struct {
	Summary
	// Roles are root, timestamp, snapshot, targets, then delegations, each behind
	// its parent, in the order of priority.
	Roles []*RoleState `json:"roles"`
	// Troubles are those of no one role.
	Troubles []Trouble `json:"troubles,omitempty"`
}

// A RoleState is one role of the current generation. What could not be read is
// zero.
type RoleState struct {
	Role tuf.RoleName `json:"role"`
	// Parent lists the keys of a delegation; of the other roles root does. ""
	// too for a delegation to which nothing leads, which clients do not read.
	Parent   tuf.RoleName `json:"parent,omitempty"`
	Verifies bool         `json:"verifies"` // so do the roles above it
	Version  tuf.Version  `json:"version"`
	Size     int64        `json:"size"`
	SHA256   string       `json:"sha256,omitempty"`
	Stored   time.Time    `json:"stored,omitzero"`
	Expires  time.Time    `json:"expires,omitzero"`
	// Versions and Bytes are those of all stored files of the role.
	Versions int64 `json:"versions"`
	Bytes    int64 `json:"bytes"`

	Threshold int        `json:"threshold"`
	Keys      []KeyState `json:"keys"`
	Paths     []string   `json:"paths,omitempty"` // of a delegation
	Tags      int        `json:"tags"`            // names that it signs, within its paths
	Troubles  []Trouble  `json:"troubles,omitempty"`
	// Notes tell what is odd but keeps no client from anything today.
	Notes []Trouble `json:"notes,omitempty"`

	signed  bool         // the threshold is met
	content *tuf.Targets // of targets and delegations, whoever has signed it
	allowed *[]string    // prefixes that it may sign; nil: all names
}

// A KeyState is a key that may sign a role.
type KeyState struct {
	ID tuf.KeyID `json:"key_id"` // as the metadata calls it
	// Canonical is the ID under which its holder keeps it, and clients show it:
	// that of the bare key, if it is in a certificate.
	Canonical tuf.KeyID `json:"canonical_id"`
	Type      string    `json:"type"`
	Holder    string    `json:"held_by"`
	// Signed: its signature of the current file is good.
	Signed      bool         `json:"signed"`
	Certificate *Certificate `json:"certificate,omitempty"`
}

// A Certificate is the first one in an x509 key.
type Certificate struct {
	CommonName string    `json:"common_name"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
}

// certificateOf reads the first certificate of a key; nil if there is none.
func certificateOf(k tuf.Key) *Certificate {
	for data := k.Public; ; {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			return &Certificate{CommonName: c.Subject.CommonName, NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC()}
		}
	}
}

// state puts the repository into the worst state that a trouble asks for.
func (r *Repository) settle() {
	r.State = StateOK
	worse := func(list []Trouble) {
		for _, t := range list {
			if stateRank[t.state] > stateRank[r.State] {
				r.State = t.state
			}
		}
	}
	worse(r.Troubles)
	for _, role := range r.Roles {
		worse(role.Troubles)
	}
}

// role finds a role of r; nil if it is not there.
func (r *Repository) role(name tuf.RoleName) *RoleState {
	for _, role := range r.Roles {
		if role.Role == name {
			return role
		}
	}
	return nil
}
