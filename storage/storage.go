// Package storage is the contract between the rules and the databases: the
// records, two store interfaces, and the errors that a store may return. It
// holds no SQL. What every store promises is tested by package storagetest.
package storage

import (
	"context"
	"errors"
	"time"

	"countersign/tuf"
)

// Sentinels. Every error of a store, and of the signer's client, wraps one of
// them or is an internal fault. Match with errors.Is.
var (
	// ErrNotFound: there is no such file, GUN or key. A store that cannot be
	// asked never says this: clients take "no root" as leave to start anew.
	ErrNotFound = errors.New("not found")
	// ErrVersionConflict: a file of that role with the same or a higher
	// version is stored. Nothing was written.
	ErrVersionConflict = errors.New("version conflict")
	// ErrStale: the generation that a set was built on is no longer current,
	// or gone. Nothing was written; built anew on the newer one, the set may pass.
	ErrStale = errors.New("built on a generation that is no longer current")
	// ErrDamaged: a file is missing that the current timestamp commits to, or
	// the timestamp itself is, of a GUN that has a root, targets or snapshot.
	ErrDamaged = errors.New("stored repository is damaged")
	// ErrUnavailable: the database or the signer could not be asked. Whether a
	// write was kept is unknown.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrTooLarge: a value does not fit its column.
	ErrTooLarge = errors.New("value too large")
	// ErrKeySealed: the key is stored but cannot be opened: no passphrase for
	// its alias, a wrong one, or a corrupt row. The text says which.
	ErrKeySealed = errors.New("key cannot be opened")
	// ErrKeyForbidden: the key exists, but was made for another GUN or role.
	ErrKeyForbidden = errors.New("key belongs to another repository or role")
	// ErrInvalid: the request itself makes no sense, such as an empty key ID.
	ErrInvalid = errors.New("invalid request")
)

// Metadata is one stored file. Data is exactly what was received or signed;
// Checksum is the SHA-256 of Data.
type Metadata struct {
	Role      tuf.RoleName
	Version   tuf.Version
	Checksum  tuf.Checksum
	Data      []byte
	CreatedAt time.Time // UTC; set by the store when it is written
}

// NewMetadata fills in the checksum, so that it can not differ from the bytes.
func NewMetadata(role tuf.RoleName, version tuf.Version, data []byte) Metadata {
	return Metadata{Role: role, Version: version, Checksum: tuf.Sum(data), Data: data}
}

// A Generation is the newest timestamp of a GUN and (part of) what it commits
// to: all files are of one publish, whatever was published while it was read.
type Generation struct {
	GUN       tuf.GUN
	Timestamp Metadata
	// Snapshot is the parsed current snapshot. It is nil if only the timestamp
	// was asked for.
	Snapshot *tuf.Snapshot
	// Files holds the roles that were asked for and that the generation has.
	// A role that the snapshot does not name is absent.
	Files map[tuf.RoleName]Metadata
}

// A Set is one publish or renewal: files that become visible together.
type Set struct {
	GUN tuf.GUN
	// Base is the checksum of the timestamp that the set was built on; nil for
	// a GUN that has none.
	Base *tuf.Checksum
	// Files to insert, in the order root, targets, delegations (shallow
	// first), snapshot, timestamp. Exactly one timestamp, whose version is that
	// of the base plus one, or 1 if Base is nil: that is what the unique
	// constraint catches two sets on one base by.
	Files []Metadata
	// Revived are those roles in Files that the base generation does not name.
	// What an earlier life of such a role left stored is removed, so that a
	// delegation that was removed can start again at version 1.
	Revived []tuf.RoleName
	// Mark, with a nil Base, is what Graveyard.Spare has returned. If the GUN has
	// been published or deleted since, the set is stale. nil: that is not asked.
	Mark *Mark
	// Event is written to the audit log together with the set; nil for a
	// renewal. GUN and Roles are filled in by the store.
	Event *Event
}

// Categories of a Change.
const (
	ChangeUpdate   = "update"
	ChangeDeletion = "deletion"
)

// A Change is one entry of the changefeed: a new timestamp, or a deletion.
type Change struct {
	ID        int64
	CreatedAt time.Time
	GUN       tuf.GUN
	Version   tuf.Version // of the timestamp; 0 for a deletion
	SHA256    string      // lower-case hex of the timestamp; "" for a deletion
	Category  string
}

// A ChangeQuery selects a page of the changefeed. The answer is oldest first
// in every case.
type ChangeQuery struct {
	GUN   tuf.GUN // "" for all
	Limit int     // at most so many, > 0
	// Exactly one of these modes:
	After  int64 // with Newest false and Before 0: rows with ID > After
	Before int64 // > 0: the Limit rows with ID < Before nearest to it
	Newest bool  // the newest Limit rows
}

// A MetadataStore keeps the metadata of all GUNs. Its methods may be called at
// once from any number of goroutines and processes.
type MetadataStore interface {
	// Generation returns the current generation of gun with the roles asked
	// for (RoleSnapshot included if it is wanted as a file). With no roles it
	// holds the timestamp alone. In the usual case it costs one query. It must
	// return ErrNotFound only if gun has neither a timestamp nor a root, targets
	// or snapshot, and ErrDamaged if it has no timestamp but one of these, or if
	// a role that was asked for and is named in the snapshot is not stored.
	Generation(ctx context.Context, gun tuf.GUN, roles ...tuf.RoleName) (*Generation, error)
	// ByChecksum returns the metadata of gun and role whose bytes hash to sum.
	// It must return ErrNotFound for bytes that only another GUN or role
	// holds: the caller has been allowed to read gun, and nothing else.
	ByChecksum(ctx context.Context, gun tuf.GUN, role tuf.RoleName, sum tuf.Checksum) (Metadata, error)
	// ByVersion returns the metadata of gun and role with that version.
	ByVersion(ctx context.Context, gun tuf.GUN, role tuf.RoleName, version tuf.Version) (Metadata, error)
	// Publish stores all of set and one changefeed row, or nothing. It returns
	// ErrVersionConflict if for one of the files that role has an equal or higher version
	// stored (of a role not Revived; the set's own snapshot and timestamp excepted, see ErrStale),
	// ErrStale if Base is no longer the newest timestamp, or (Base nil) if the
	// GUN has one by now, or there was something since Mark. All are decided by
	// the transaction that writes, not by a look before it. On a GUN without a timestamp but with a root, targets
	// or snapshot it returns ErrDamaged, whatever Base is: the name is taken until
	// somebody who may do so mends or deletes it. What else a GUN without these
	// four has stored is debris of hand-typed SQL: a set with nil Base removes it.
	Publish(ctx context.Context, set Set) error
	// Delete removes every row of gun, writes a changefeed row of category
	// deletion and an event, whose origin is that of ctx, and dooms the keys that
	// its roots list for snapshot and timestamp, in one transaction; it reports
	// whether there was anything.
	Delete(ctx context.Context, gun tuf.GUN) (bool, error)
	// Changes returns a page of the changefeed. IDs are in commit order: who
	// reads on from the last ID seen misses nothing.
	Changes(ctx context.Context, q ChangeQuery) ([]Change, error)
}

// A Key is one row of private_keys. Sealed is the private key as encrypted
// under the passphrase that Alias names.
type Key struct {
	ID            tuf.KeyID
	GUN           tuf.GUN
	Role          tuf.RoleName
	Algorithm     string // key type: tuf.KeyECDSA, tuf.KeyED25519, tuf.KeyRSA
	Public        []byte // as in tuf.Key
	Sealed        []byte
	Alias         string
	EncryptionAlg string // informational: "A256GCM"
	KeywrapAlg    string // informational: "PBES2-HS256+A128KW"
	CreatedAt     time.Time
	LastUsed      time.Time // zero: never signed with, an unused key
}

// A KeyStore keeps sealed private keys. Soft-deleted rows are invisible. Its
// methods may be called at once from any number of goroutines and processes.
type KeyStore interface {
	// Key returns the live key with that ID, or ErrNotFound.
	Key(ctx context.Context, id tuf.KeyID) (Key, error)
	// Unused returns the live, never used key for gun, role and algorithm
	// (the lowest key ID, if upstream's race has left several), or ErrNotFound.
	Unused(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (Key, error)
	// AddUnused stores k unless there is a live unused key for the same GUN,
	// role and algorithm, and returns the one that is stored: callers that
	// race all get the same key.
	AddUnused(ctx context.Context, k Key) (Key, error)
	// Sealed returns at most limit live keys that are sealed under alias, the
	// newest first.
	Sealed(ctx context.Context, alias string, limit int) ([]Key, error)
	// MarkUsed sets last_used (and updated_at) to at, or returns ErrNotFound.
	MarkUsed(ctx context.Context, id tuf.KeyID, at time.Time) error
	// Delete soft-deletes the key. It is no error if there is none.
	Delete(ctx context.Context, id tuf.KeyID) error
}
