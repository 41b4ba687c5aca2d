package signer_test

import (
	"errors"
	"testing"

	"countersign/storage"
	"countersign/tuf"
)

// A key is deleted for whom it was made for, and for nobody else.
func TestDeleteOwnedKey(t *testing.T) {
	for name, c := range map[string]struct {
		gun  tuf.GUN
		role tuf.RoleName
		id   func(tuf.KeyID) tuf.KeyID
		want error
		gone bool
	}{
		"owner":      {gun, role, nil, nil, true},
		"other GUN":  {gun + "2", role, nil, storage.ErrKeyForbidden, false},
		"other role": {gun, tuf.RoleSnapshot, nil, storage.ErrKeyForbidden, false},
		"nobody":     {"", "", nil, storage.ErrInvalid, false},
		"no role":    {gun, "", nil, storage.ErrInvalid, false},
		"no key":     {gun, role, func(tuf.KeyID) tuf.KeyID { return "" }, storage.ErrInvalid, false},
		"unknown":    {gun, role, func(id tuf.KeyID) tuf.KeyID { return id[1:] + "0" }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := onSQLite(t)
			k, err := s.CreateKey(t.Context(), gun, role, tuf.KeyECDSA)
			if err != nil {
				t.Fatal(err)
			}
			id := k.ID
			if c.id != nil {
				id = c.id(id)
			}
			if err := s.DeleteOwnedKey(t.Context(), c.gun, c.role, id); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, _, err := s.Sign(t.Context(), "", "", k.ID, []byte("x")); errors.Is(err, storage.ErrNotFound) != c.gone {
				t.Errorf("signing afterwards: %v", err)
			}
		})
	}
}

// A key of which nobody knows whose it is is nobody's to delete.
func TestDeleteNamelessKey(t *testing.T) {
	s := onSQLite(t)
	k := s.create(t, tuf.KeyECDSA)
	s.sql(t, `update private_keys set gun = '', role = ''`)
	if err := s.DeleteOwnedKey(t.Context(), gun, role, k.ID); !errors.Is(err, storage.ErrKeyForbidden) {
		t.Errorf("got %v", err)
	}
	s.mustSign(t, k)
}
