package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// A wire speaks to a signer in bare protobuf, field by field, so that no
// generated code stands between the test and the frozen form.
type wire struct{ conn *grpc.ClientConn }

type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(raw []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(raw)
	return nil
}

// newWire dials the stack's signer with the client certificate of its servers.
func (s *stack) newWire(t testing.TB) *wire {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(s.ca.file("client.crt"), s.ca.file("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	creds := credentials.NewTLS(&tls.Config{RootCAs: s.ca.pool(), Certificates: []tls.Certificate{cert}, ServerName: "localhost"})
	conn, err := grpc.NewClient(s.signerAddr(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &wire{conn: conn}
}

// call invokes a method and returns its answer and status.
func (w *wire) call(t testing.TB, method string, request []byte) ([]byte, *status.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var answer []byte
	err := w.conn.Invoke(ctx, method, &request, &answer, grpc.ForceCodec(bytesCodec{}), grpc.WaitForReady(true))
	return answer, status.Convert(err)
}

// field appends field number n, of bytes or a message.
func field(b []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
}

// keyIDMessage is a KeyID.
func keyIDMessage(id string) []byte { return field(nil, 1, []byte(id)) }

// sign asks for a signature by the key.
func (w *wire) sign(t testing.TB, id, content string) *status.Status {
	t.Helper()
	_, st := w.call(t, "/proto.Signer/Sign", field(field(nil, 1, keyIDMessage(id)), 2, []byte(content)))
	return st
}

// TestSignerBadInput holds the signer to acting only on a key that exists and is
// named, and to outliving what it cannot read.
func TestSignerBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{})
	const gun = "e2e.example/bad/signer"
	p := s.newPublisher(t, 0, gun, newKeys())
	p.initialize(t, true)
	key := s.walk(t, 0, gun).rootKeys("timestamp")[0]
	w := s.newWire(t)
	if st := w.sign(t, key, "content"); st.Code() != codes.OK {
		t.Fatalf("signing with a key in use: %v", st)
	}
	unknown := strings.Repeat("0", 64)
	create := func(algorithm string) []byte {
		return field(field(field(nil, 1, []byte(algorithm)), 2, []byte("e2e.example/bad/other")), 3, []byte("timestamp"))
	}
	for _, c := range []struct {
		name, method string
		request      []byte
		want         codes.Code
	}{
		{"sign, no key ID at all", "/proto.Signer/Sign", field(nil, 2, []byte("content")), codes.InvalidArgument},
		{"sign, empty key ID", "/proto.Signer/Sign", field(field(nil, 1, keyIDMessage("")), 2, []byte("content")), codes.InvalidArgument},
		{"sign, unknown key", "/proto.Signer/Sign", field(field(nil, 1, keyIDMessage(unknown)), 2, []byte("content")), codes.NotFound},
		{"key info, empty key ID", "/proto.KeyManagement/GetKeyInfo", keyIDMessage(""), codes.InvalidArgument},
		{"key info, unknown key", "/proto.KeyManagement/GetKeyInfo", keyIDMessage(unknown), codes.NotFound},
		{"delete, empty key ID", "/proto.KeyManagement/DeleteKey", keyIDMessage(""), codes.InvalidArgument},
		{"delete, unknown key", "/proto.KeyManagement/DeleteKey", keyIDMessage(unknown), codes.OK},
		{"create, rsa", "/proto.KeyManagement/CreateKey", create("rsa"), codes.Unknown},
		{"create, no algorithm", "/proto.KeyManagement/CreateKey", create(""), codes.Unknown},
		{"too large", "/proto.Signer/Sign", field(field(nil, 1, keyIDMessage(key)), 2, make([]byte, 5<<20)), codes.ResourceExhausted},
		{"unknown method", "/proto.Signer/Forge", nil, codes.Unimplemented},
	} {
		if _, st := w.call(t, c.method, c.request); st.Code() != c.want {
			t.Errorf("%s: %v, want %v", c.name, st, c.want)
		}
	}
	if _, st := w.call(t, "/proto.Signer/Sign", []byte{0xff, 0xff, 0xff}); st.Code() == codes.OK {
		t.Error("sign, no protobuf: OK")
	}
	if st := w.sign(t, key, "content"); st.Code() != codes.OK {
		t.Errorf("the key in use no longer signs: %v", st)
	}
	if !s.signer.running() {
		t.Error("the signer has ended")
	}
	if got := sql(t, s.signerDB, "select count(*) from private_keys where deleted_at is null"); got != "2" {
		t.Errorf("%s keys are left, want the 2 of %s", got, gun)
	}
}

// TestFirstRequestsForAKey shows that ten first requests at once make one key.
func TestFirstRequestsForAKey(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{servers: 2, race: true})
	c := s.client()
	answers := make(chan string, 10)
	for i := range cap(answers) {
		go func() {
			raw, err := fetch(c, s.gunURL(i%2, "e2e.example/first/key")+"timestamp.key")
			answers <- fmt.Sprintf("%s %v", raw, err)
		}()
	}
	first := <-answers
	for range cap(answers) - 1 {
		if next := <-answers; next != first {
			t.Errorf("two answers: %s and %s", first, next)
		}
	}
	if got := sql(t, s.signerDB, "select count(*) from private_keys"); got != "1" {
		t.Errorf("ten first requests made %s keys, want 1; the first answer: %s", got, first)
	}
}
