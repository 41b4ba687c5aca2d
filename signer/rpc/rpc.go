// Package rpc is both halves of the signer's wire: it serves a [KeyService],
// and it is a client of one. Messages and names are upstream's, so that either
// half talks to upstream's other half; types and errors are ours on both
// sides, and one table translates between errors and status codes.
//
// What upstream's messages have no room for travels as gRPC metadata beside
// them, which upstream ignores: the claim for which GUN and role a key is
// wanted, and the request ID that joins the logs of the two programs.
package rpc

import (
	"context"

	"countersign/storage"
	"countersign/tuf"
)

// MaxMessage is the largest message that either side takes, in bytes: grpc's
// default, and so upstream's. It bounds the snapshot that can be signed.
const MaxMessage = 4 << 20

// Metadata keys. The values of "-bin" keys may be any bytes.
const (
	metaGUN       = "countersign-gun-bin"
	metaRole      = "countersign-role-bin"
	metaRequestID = "countersign-request-id"
)

// Names under which upstream's server asks for the health of the signer. It
// wants both to be serving.
const (
	healthKeyManagement = "grpc.health.v1.Health.KeyManagement"
	healthSigner        = "grpc.health.v1.Health.Signer"
)

// A KeyService is what the wire serves. Its errors wrap the sentinels of
// package storage; what wraps none of them is an internal fault, whose text
// does not leave the process.
//
// gun and role of Key and Sign are the caller's claim: for which GUN and role
// it wants the key. An empty claim claims nothing (upstream's server makes
// none); a claim that is not the key's own is refused with ErrKeyForbidden.
// An error with a method LogAttrs() []any adds these fields to the line in the log.
// The methods may be called at once.
type KeyService interface {
	// CreateKey returns the unused key for gun, role and algorithm, and makes
	// one if there is none. Callers that race get the same key.
	CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (storage.Key, error)
	// Key returns the key with that ID, if it could sign.
	Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (storage.Key, error)
	// Sign signs content with the key of that ID.
	Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) (storage.Key, tuf.Signature, error)
	// DeleteKey deletes that one key. It is no error if there is none.
	DeleteKey(ctx context.Context, id tuf.KeyID) error
	// DeleteOwnedKey deletes that one key if it was made for gun and role. It is no
	// error if there is none.
	DeleteOwnedKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error
}
