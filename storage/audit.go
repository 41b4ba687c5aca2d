package storage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"countersign/tuf"
)

// What an Event records.
const (
	ActionPublish = "publish"
	ActionRotate  = "rotate" // a new server-managed key was handed out
	ActionDelete  = "delete" // by a client
	ActionPurge   = "purge"  // by an operator, as all below
	ActionRestore = "restore"
	ActionImport  = "import"
	ActionRewrap  = "rewrap"
	ActionOrphans = "delete-keys"
	ActionPrune   = "prune"
)

// An Event is one entry of the audit log: who did what. Renewals by the server
// itself are no events; the changefeed has them.
type Event struct {
	ID     int64
	At     time.Time
	Action string
	GUN    tuf.GUN // "" for what is about no one repository
	Origin
	// Roles are the files that were written or removed, as RolesOf writes them.
	Roles string
	// Reason is the operator's.
	Reason string
}

// An Origin says on whose behalf something is done. It travels in the context,
// as all that is there for the log alone.
type Origin struct {
	// Actor is [ActorClient] and the subject of a token or a user of the password
	// file, "operator NAME", or "" where clients are not authenticated.
	Actor     string
	RequestID string
}

// ActorClient begins every Actor that came over the network. What follows is of
// others' choosing: without it, somebody named "operator root" would be taken for
// one who sat at the machine.
const ActorClient = "client:"

type originKey struct{}

// WithOrigin returns a context for what is done on behalf of o.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginOf returns what WithOrigin has put into ctx, or the zero Origin.
func OriginOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}

// An AuditLog keeps events. It has no method that changes or removes one, and a
// trigger of the database refuses that, too, to all but the table's owner, who
// can drop the trigger.
type AuditLog interface {
	// Record adds e. ID and, if it is zero, At are set by the store.
	Record(ctx context.Context, e Event) error
	// Events returns a page, oldest first.
	Events(ctx context.Context, q EventQuery) ([]Event, error)
}

// An EventQuery selects a page of the audit log.
type EventQuery struct {
	GUN   tuf.GUN // "" for all
	Limit int     // at most so many, > 0
	// After finds events with a higher ID; Newest the newest Limit ones.
	After  int64
	Newest bool
}

// maxRoles bounds the text of RolesOf.
const maxRoles = 1000

// RolesOf writes "root 2, targets 5": roles and versions, in the order of
// files, cut where it gets long.
func RolesOf(files []Metadata) string {
	var b strings.Builder
	for i, f := range files {
		if b.Len() > maxRoles {
			fmt.Fprintf(&b, " and %d more", len(files)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", f.Role, f.Version)
	}
	return b.String()
}

// A DoomedKey is a key of a repository that was deleted. The signer may still
// have it.
type DoomedKey struct {
	GUN  tuf.GUN
	Role tuf.RoleName
	ID   tuf.KeyID // canonical
}

// A DoomedQuery selects a page of the doomed keys, in the order of GUN, ID and role.
type DoomedQuery struct {
	GUN   tuf.GUN // "" for all
	After DoomedKey
	Limit int // at most so many, > 0
}

// A Mark is a moment in the life of a GUN. The zero Mark is before its beginning.
type Mark int64

// A Graveyard remembers the keys of deleted repositories until the signer has
// deleted them: the two databases cannot be written to together.
//
// A repository can come back with the root that it had, and so with its keys.
// Who begins a repository, or has its root list keys anew, spares these before
// they sign, and hands on the Mark with the Set; who deletes a key does so in
// Bury. So no repository is left with a key that is deleted. Either Spare is
// first: then Bury finds that the key is not doomed. Or Bury is: then Spare has
// waited for it, and the signer refuses to sign with what it has not. If the key
// is doomed again after Spare, the GUN has been deleted since: a Set with a Base
// is then stale, and one without has a Mark that is no longer the last.
type Graveyard interface {
	// Doomed lists keys that were listed by roots of repositories which have
	// been deleted.
	Doomed(ctx context.Context, q DoomedQuery) ([]DoomedKey, error)
	// Bury calls remove, and forgets k if that succeeds. If k is not doomed it
	// does nothing; if the current root of its GUN lists k, it only forgets it.
	// remove may be called again, has a few seconds, and must not use the database.
	Bury(ctx context.Context, k DoomedKey, remove func(context.Context) error) error
	// Spare forgets keys of gun, which somebody is about to use again, after
	// having waited for who is burying them.
	Spare(ctx context.Context, gun tuf.GUN, keys []DoomedKey) (Mark, error)
}
