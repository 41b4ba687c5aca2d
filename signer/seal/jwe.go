package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// Sizes of the parts, in bytes.
const (
	kekSize     = 16
	cekSize     = 32
	wrappedSize = cekSize + 8
	nonceSize   = 12
	tagSize     = 16
	saltSize    = 12 // as upstream's
	minSalt     = 8  // RFC 7518 4.8.1.1
	maxSalt     = 64
	// maxSealed bounds a row: an RSA key of 16,384 bits takes a quarter of it.
	maxSealed = 64 << 10
)

var b64 = base64.RawURLEncoding.Strict()

// header is the protected header. The order of its members is upstream's
// order in the encoded form.
type header struct {
	Alg string    `json:"alg"`
	Enc string    `json:"enc"`
	P2C int       `json:"p2c"`
	P2S base64url `json:"p2s"`

	// What would change the meaning, and is not done.
	Zip  *json.RawMessage `json:"zip,omitempty"`
	Crit *json.RawMessage `json:"crit,omitempty"`
}

// encode returns the header as it stands in the compact form, which is also
// what the content is bound to.
func (h header) encode() ([]byte, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return b64.AppendEncode(nil, raw), nil
}

// check is strict about all that is obeyed: the header comes from the database,
// and is not authenticated before the work that it asks for is done.
func (h header) check() error {
	switch {
	case h.Alg != KeywrapAlg:
		return fmt.Errorf("key wrap algorithm %.40q", h.Alg)
	case h.Enc != EncryptionAlg:
		return fmt.Errorf("encryption algorithm %.40q", h.Enc)
	case h.P2C < minOpenIterations || h.P2C > MaxIterations:
		return fmt.Errorf("%d iterations", h.P2C)
	case len(h.P2S) < minSalt || len(h.P2S) > maxSalt:
		return fmt.Errorf("salt of %d bytes", len(h.P2S))
	case h.Zip != nil || h.Crit != nil:
		return errors.New("compressed, or with critical extensions")
	}
	return nil
}

type base64url []byte

func (b base64url) MarshalText() ([]byte, error) { return b64.AppendEncode(nil, b), nil }

func (b *base64url) UnmarshalText(text []byte) (err error) {
	*b, err = b64.AppendDecode(nil, text)
	return err
}

// parts is a sealed key taken apart.
type parts struct {
	header     header
	encoded    []byte // the header as received
	wrapped    []byte
	nonce      []byte
	ciphertext []byte // tag included
}

func join(encoded, wrapped, nonce, ciphertext []byte) []byte {
	content, tag := ciphertext[:len(ciphertext)-tagSize], ciphertext[len(ciphertext)-tagSize:]
	out := bytes.Clone(encoded)
	for _, part := range [...][]byte{wrapped, nonce, content, tag} {
		out = b64.AppendEncode(append(out, '.'), part)
	}
	return out
}

func parse(sealed []byte) (parts, error) {
	var p parts
	if len(sealed) > maxSealed {
		return p, fmt.Errorf("%d bytes", len(sealed))
	}
	fields := bytes.Split(sealed, []byte("."))
	if len(fields) != 5 {
		return p, errors.New("not a JWE of five parts")
	}
	var decoded [5][]byte
	for i, f := range fields {
		var err error
		if decoded[i], err = b64.AppendDecode(nil, f); err != nil {
			return p, fmt.Errorf("part %d: %w", i+1, err)
		}
	}
	// The decoder's own text may quote what it read; the row is no business of a log.
	if json.Unmarshal(decoded[0], &p.header) != nil {
		return p, errors.New("header cannot be read")
	}
	if err := p.header.check(); err != nil {
		return p, fmt.Errorf("unsupported header: %w", err)
	}
	p.encoded = fields[0]
	p.wrapped, p.nonce = decoded[1], decoded[2]
	if len(p.wrapped) != wrappedSize || len(p.nonce) != nonceSize || len(decoded[4]) != tagSize {
		return p, errors.New("a part has the wrong length")
	}
	p.ciphertext = append(decoded[3], decoded[4]...)
	return p, nil
}
