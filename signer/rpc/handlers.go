package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"countersign/proto"
	"countersign/storage"
	"countersign/tuf"
)

// errNoKeyID: upstream takes an empty key ID for "any key", and signs with it.
var errNoKeyID = fmt.Errorf("%w: empty key ID", storage.ErrInvalid)

// handlers serves both of upstream's services. Whatever a client leaves out
// reads as empty: the generated getters take nil messages.
type handlers struct {
	proto.UnimplementedKeyManagementServer
	proto.UnimplementedSignerServer
	proto.UnimplementedCountersignServer
	keys KeyService
}

// CreateKey answers in upstream's words where it fails.
func (h *handlers) CreateKey(ctx context.Context, r *proto.CreateKeyRequest) (*proto.PublicKey, error) {
	algorithm := r.GetAlgorithm()
	if algorithm != tuf.KeyECDSA && algorithm != tuf.KeyED25519 {
		text := fmt.Sprintf("algorithm %.64s not supported for create key", algorithm)
		return nil, &fault{errors.New(text), status.New(codes.Unknown, text), nil}
	}
	k, err := h.keys.CreateKey(ctx, tuf.GUN(r.GetGun()), tuf.RoleName(r.GetRole()), algorithm)
	if err != nil {
		return nil, statusOf(err, "key ID not found", "Key creation failed")
	}
	return &proto.PublicKey{KeyInfo: keyInfo(k), PublicKey: k.Public}, nil
}

func (h *handlers) GetKeyInfo(ctx context.Context, r *proto.KeyID) (*proto.GetKeyInfoResponse, error) {
	if r.GetID() == "" {
		return nil, statusOf(errNoKeyID, "", "")
	}
	gun, role := claim(ctx)
	k, err := h.keys.Key(ctx, gun, role, tuf.KeyID(r.GetID()))
	if err != nil {
		return nil, statusOf(err, "key ID not found", "reading the key failed")
	}
	return &proto.GetKeyInfoResponse{KeyInfo: keyInfo(k), PublicKey: k.Public, Role: string(k.Role)}, nil
}

func (h *handlers) Sign(ctx context.Context, r *proto.SignatureRequest) (*proto.Signature, error) {
	id := r.GetKeyID().GetID()
	if id == "" {
		return nil, statusOf(errNoKeyID, "", "")
	}
	gun, role := claim(ctx)
	k, sig, err := h.keys.Sign(ctx, gun, role, tuf.KeyID(id), r.GetContent())
	if err != nil {
		return nil, statusOf(err, fmt.Sprintf("signing key not found: %.255s", id), "signing failed")
	}
	return &proto.Signature{
		KeyInfo:   keyInfo(k),
		Algorithm: &proto.Algorithm{Algorithm: sig.Method},
		Content:   sig.Sig,
	}, nil
}

func (h *handlers) DeleteKey(ctx context.Context, r *proto.KeyID) (*proto.Void, error) {
	if r.GetID() == "" {
		return nil, statusOf(errNoKeyID, "", "")
	}
	if err := h.keys.DeleteKey(ctx, tuf.KeyID(r.GetID())); err != nil {
		return nil, statusOf(err, "key ID not found", "deleting the key failed")
	}
	return &proto.Void{}, nil
}

func (h *handlers) DeleteOwnedKey(ctx context.Context, r *proto.OwnedKey) (*proto.Void, error) {
	if r.GetID() == "" {
		return nil, statusOf(errNoKeyID, "", "")
	}
	if err := h.keys.DeleteOwnedKey(ctx, tuf.GUN(r.GetGun()), tuf.RoleName(r.GetRole()), tuf.KeyID(r.GetID())); err != nil {
		return nil, statusOf(err, "key ID not found", "deleting the key failed")
	}
	return &proto.Void{}, nil
}

// keyInfo fills every member: upstream's server reads them without looking
// whether they are there.
func keyInfo(k storage.Key) *proto.KeyInfo {
	return &proto.KeyInfo{
		KeyID:     &proto.KeyID{ID: string(k.ID)},
		Algorithm: &proto.Algorithm{Algorithm: k.Algorithm},
	}
}

// claim reads what the caller claims, "" for what it does not.
func claim(ctx context.Context) (tuf.GUN, tuf.RoleName) {
	md, _ := metadata.FromIncomingContext(ctx)
	return tuf.GUN(first(md, metaGUN)), tuf.RoleName(first(md, metaRole))
}

func first(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}
