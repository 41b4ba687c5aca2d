package tuf

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"countersign/tuf/cjson"
)

// Canonical returns the canonical form of the signed part that says what s
// says: the message to be signed, and the first argument of [Seal]. It is byte
// for byte what upstream makes. It fails if Expires has no form in RFC 3339, or
// if a custom value in Meta has no canonical form.
func (s *Snapshot) Canonical() ([]byte, error) {
	return canonicalMeta("Snapshot", s.Expires, s.Meta, s.Version)
}

// Canonical is like [Snapshot.Canonical].
func (t *Timestamp) Canonical() ([]byte, error) {
	return canonicalMeta("Timestamp", t.Expires, map[RoleName]FileMeta{RoleSnapshot: t.Snapshot}, t.Version)
}

func canonicalMeta(typ string, expires time.Time, meta map[RoleName]FileMeta, version Version) ([]byte, error) {
	at, err := expires.MarshalJSON()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 128+256*len(meta))
	b = append(b, `{"_type":"`+typ+`","expires":`...)
	b = append(append(b, at...), `,"meta":`...)
	if meta == nil {
		b = append(b, "null"...)
	} else {
		b = append(b, '{')
		for i, role := range slices.Sorted(maps.Keys(meta)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(cjson.AppendString(b, string(role)), ':')
			if b, err = appendFileMeta(b, meta[role]); err != nil {
				return nil, fmt.Errorf("meta of %s: %w", role, err)
			}
		}
		b = append(b, '}')
	}
	b = append(b, `,"version":`...)
	return append(strconv.AppendInt(b, int64(version), 10), '}'), nil
}

func appendFileMeta(b []byte, m FileMeta) ([]byte, error) {
	b = append(b, '{')
	if m.Custom != nil {
		custom, err := cjson.Canonicalize(m.Custom)
		if err != nil {
			return nil, fmt.Errorf("custom: %w", err)
		}
		b = append(append(append(b, `"custom":`...), custom...), ',')
	}
	b = append(b, `"hashes":`...)
	if m.Hashes == nil {
		b = append(b, "null"...)
	} else {
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(m.Hashes)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(cjson.AppendString(b, name), ':')
			b = appendBytes(b, m.Hashes[name])
		}
		b = append(b, '}')
	}
	b = append(b, `,"length":`...)
	return append(strconv.AppendInt(b, m.Length, 10), '}'), nil
}

// appendBytes appends a byte string; nil is null.
func appendBytes(b, data []byte) []byte {
	if data == nil {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, data)
	return append(b, '"')
}

// Seal joins a canonical signed part and its signatures into a file. The file
// differs from the canonical form only inside strings: as upstream's does, it
// escapes '<', '>', '&', U+2028 and U+2029, and control characters, with which
// upstream fails. Canonical bytes that would not be read back as they are, so
// that nobody could verify the file, are an error.
func Seal(canonical []byte, sigs []Signature) ([]byte, error) {
	if sigs == nil {
		sigs = []Signature{}
	}
	list, err := json.Marshal(sigs)
	if err != nil {
		return nil, err
	}
	file := make([]byte, 0, len(canonical)+len(list)+32)
	file = append(file, `{"signed":`...)
	file = appendEscaped(file, canonical)
	if again, err := cjson.Canonicalize(file[len(`{"signed":`):]); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	} else if !bytes.Equal(again, canonical) {
		return nil, errors.New("sealing: the signed part is not in canonical form")
	}
	file = append(append(file, `,"signatures":`...), list...)
	return append(file, '}'), nil
}

func appendEscaped(dst, src []byte) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(src); i++ {
		switch c := src[i]; {
		case c < ' ', c == '<', c == '>', c == '&':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c == 0xE2 && i+2 < len(src) && src[i+1] == 0x80 && src[i+2]&^1 == 0xA8: // U+2028, U+2029
			dst = append(dst, '\\', 'u', '2', '0', '2', hex[src[i+2]&15])
			i += 2
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
