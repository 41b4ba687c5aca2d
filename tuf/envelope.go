package tuf

import (
	"errors"
	"fmt"
	"strings"

	"countersign/tuf/cjson"
)

// signedMembers are the members of the signed part that some role knows.
var signedMembers = [...]string{
	"_type", "consistent_snapshot", "delegations", "expires", "keys", "meta", "roles", "targets", "version",
}

// ParseEnvelope decodes the form common to all files. It accepts what Go's
// encoding/json would decode, so also a file without any member, but refuses
// what a client could read in another way: two members of the same name in any
// object of the file, members that a client takes for "signed", "version" and
// the like although they are written in other case, bytes that are not UTF-8,
// and anything but white space behind the end. At most [MaxDepth] levels,
// [MaxMembers] members of an object, [MaxValues] values and [MaxSignatures]
// signatures. The error wraps [ErrMalformed].
//
// The Envelope keeps parts of data, which must not be changed afterwards.
func ParseEnvelope(data []byte) (*Envelope, error) {
	e := new(Envelope)
	r := cjson.NewReader(data)
	err := readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "signed":
			return e.readSigned(r)
		case "signatures":
			e.Signatures, err = readSignatures(r)
			return err
		}
		return readUnknown(r, name, "signed", "signatures")
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return e, nil
}

// Canonical returns the bytes over which the signatures of the file are made:
// the canonical form of its signed part. They must not be changed. It fails if
// there is no signed part, or if a number in it has no canonical form.
func (e *Envelope) Canonical() ([]byte, error) {
	if e.canonical == nil {
		return nil, errors.New("file contained an empty payload")
	}
	if e.noForm != nil {
		return nil, e.noForm
	}
	return e.canonical, nil
}

func (e *Envelope) readSigned(r *cjson.Reader) error {
	if readNull(r) {
		return nil
	}
	if k := r.Kind(); k != cjson.Object {
		return expected(cjson.Object, k)
	}
	e.members = make(map[string][]byte, len(signedMembers))
	var alias, err error
	e.canonical, err = r.Canonical(func(name, value []byte) {
		for _, known := range signedMembers {
			if string(name) == known {
				e.members[known] = value
			} else if strings.EqualFold(string(name), known) {
				alias = ambiguous(name, known)
			}
		}
	})
	if errors.As(err, new(*cjson.NumberError)) {
		e.noForm, err = err, nil // no matter until someone asks for signatures
	}
	if err != nil {
		return err
	}
	if alias != nil {
		return alias
	}
	return e.readCommon()
}

func (e *Envelope) readCommon() (err error) {
	if r := e.member("_type"); r != nil {
		if e.Type, err = readText(r); err != nil {
			return fmt.Errorf("_type: %w", err)
		}
	}
	if r := e.member("version"); r != nil {
		if e.Version, err = readInt(r); err != nil {
			return fmt.Errorf("version: %w", err)
		}
	}
	// As the clients do: on the literal, in which no escape is resolved.
	if raw, ok := e.members["expires"]; ok {
		if err := e.Expires.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("expires: %w", err)
		}
	}
	return nil
}

// member returns a reader of one member of the signed part, or nil if it has
// no such member.
func (e *Envelope) member(name string) *cjson.Reader {
	raw, ok := e.members[name]
	if !ok {
		return nil
	}
	return cjson.NewReader(raw)
}

// header checks what the signed parts of all roles have in common. The text
// for a version that is too low differs in root.
func (e *Envelope) header(role RoleName, typ, low string) (Version, error) {
	switch {
	case e.canonical == nil:
		return 0, invalid(role, "%s file contained an empty payload", role)
	case e.Type != typ:
		return 0, invalid(role, "expected type %s, not %.80s", typ, e.Type)
	case e.Version < 1:
		return 0, invalid(role, "version cannot be less than %s", low)
	case e.Version > int64(MaxVersion):
		return 0, invalid(role, "version cannot be more than %d", MaxVersion)
	}
	return Version(e.Version), nil
}

// invalid makes an error about the content of a file, in upstream's form.
func invalid(role RoleName, format string, args ...any) error {
	return fmt.Errorf("%s type metadata invalid: %w", role, fmt.Errorf(format, args...))
}
