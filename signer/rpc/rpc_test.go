package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"countersign/proto"
	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

const gun tuf.GUN = "registry.example.com:5000/té/app"

// keyA is the key that the service of these tests has.
var keyA = tuf.Key{Type: tuf.KeyED25519, Public: public}.ID()

func TestCalls(t *testing.T) {
	p := newPair(t, nil)
	k, err := p.client.CreateKey(t.Context(), gun, tuf.RoleTimestamp, tuf.KeyECDSA)
	if want := (tuf.Key{Type: tuf.KeyECDSA, Public: public}); err != nil || !cmp.Equal(k, want) {
		t.Errorf("CreateKey: got %v, %v", k, err)
	}
	k, err = p.client.Key(t.Context(), gun, tuf.RoleSnapshot, keyA)
	if want := (tuf.Key{Type: tuf.KeyED25519, Public: public}); err != nil || !cmp.Equal(k, want) {
		t.Errorf("Key: got %v, %v", k, err)
	}
	sig, err := p.client.Sign(t.Context(), gun, tuf.RoleSnapshot, keyA, []byte("content"))
	if err != nil || string(sig) != "signature over 7 bytes" {
		t.Errorf("Sign: got %q, %v", sig, err)
	}
	sig, err = p.client.Sign(t.Context(), "", "", keyA, nil)
	if err != nil || string(sig) != "signature over 0 bytes" {
		t.Errorf("Sign of nothing: got %q, %v", sig, err)
	}
	if _, err := p.client.Key(t.Context(), gun, tuf.RoleSnapshot, "another"); err == nil {
		t.Error("the client took another key for the one it had asked for")
	}
	want := []string{
		fmt.Sprintf(`create %q "timestamp" "ecdsa"`, gun),
		fmt.Sprintf(`key %q "snapshot" %q`, gun, keyA),
		fmt.Sprintf(`sign %q "snapshot" %q`, gun, keyA),
		fmt.Sprintf(`sign "" "" %q`, keyA),
		fmt.Sprintf(`key %q "snapshot" "another"`, gun),
	}
	if diff := cmp.Diff(want, p.keys.asked()); diff != "" {
		t.Errorf("what the service was asked (-want +got):\n%s", diff)
	}
}

// TestKeyOfAnotherRole: a signer that does not look at claims still says for
// which role a key was made.
func TestKeyOfAnotherRole(t *testing.T) {
	for _, tt := range []struct {
		made, claimed tuf.RoleName
		want          error
	}{
		{tuf.RoleSnapshot, tuf.RoleSnapshot, nil},
		{tuf.RoleSnapshot, tuf.RoleTimestamp, storage.ErrKeyForbidden},
		{tuf.RoleTimestamp, tuf.RoleSnapshot, storage.ErrKeyForbidden},
		{tuf.RoleTargets, tuf.RoleSnapshot, storage.ErrKeyForbidden},
		{tuf.RoleSnapshot, "", nil},
		{"", tuf.RoleTimestamp, nil},
	} {
		p := newPair(t, nil)
		p.keys.role = tt.made
		k, err := p.client.Key(t.Context(), gun, tt.claimed, keyA)
		if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) || (k.Type == "") != (tt.want != nil) {
			t.Errorf("made for %q, asked for as of %q: got %v, %v", tt.made, tt.claimed, k, err)
		}
	}
}

// TestUpstreamsServer makes the calls as upstream's server does, without claims
// and deadline, and reads all that it reads without looking.
func TestUpstreamsServer(t *testing.T) {
	p := newPair(t, nil)
	bounded := make(chan bool, 1)
	p.keys.set(nil, func(ctx context.Context) {
		_, ok := ctx.Deadline()
		bounded <- ok
	})
	keyManagement, signer := proto.NewKeyManagementClient(p.conn), proto.NewSignerClient(p.conn)
	made, err := keyManagement.CreateKey(t.Context(), &proto.CreateKeyRequest{Algorithm: "ed25519", Gun: string(gun), Role: "snapshot"})
	if err != nil {
		t.Fatal(err)
	}
	if !<-bounded {
		t.Error("an RPC without a deadline is not bounded")
	}
	p.keys.set(nil, nil)
	if made.KeyInfo.KeyID.ID != "new" || made.KeyInfo.Algorithm.Algorithm != "ed25519" || !slices.Equal(made.PublicKey, public) {
		t.Errorf("CreateKey: got %v", made)
	}
	info, err := keyManagement.GetKeyInfo(t.Context(), &proto.KeyID{ID: "aaaa"})
	if err != nil {
		t.Fatal(err)
	}
	if info.KeyInfo.KeyID.ID != "aaaa" || info.KeyInfo.Algorithm.Algorithm != "ed25519" || info.Role != "snapshot" || !slices.Equal(info.PublicKey, public) {
		t.Errorf("GetKeyInfo: got %v", info)
	}
	sig, err := signer.Sign(t.Context(), &proto.SignatureRequest{KeyID: &proto.KeyID{ID: "aaaa"}, Content: []byte("12345")})
	if err != nil {
		t.Fatal(err)
	}
	if sig.KeyInfo.KeyID.ID != "aaaa" || sig.KeyInfo.Algorithm.Algorithm != "ed25519" || sig.Algorithm.Algorithm != "eddsa" || string(sig.Content) != "signature over 5 bytes" {
		t.Errorf("Sign: got %v", sig)
	}
	if _, err := keyManagement.DeleteKey(t.Context(), &proto.KeyID{ID: "aaaa"}); err != nil {
		t.Errorf("DeleteKey: got %v", err)
	}
	if err := p.client.DeleteKey(t.Context(), "a/b", "snapshot", "aaaa"); err != nil {
		t.Errorf("DeleteOwnedKey: got %v", err)
	}
	if err := p.client.DeleteKey(t.Context(), "a/b", "snapshot", ""); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("DeleteOwnedKey of no key: got %v", err)
	}
	if want := []string{`key "" "" "aaaa"`, `sign "" "" "aaaa"`, `delete "aaaa"`, `delete "a/b" "snapshot" "aaaa"`}; !slices.Equal(p.keys.asked(), want) {
		t.Errorf("the service was asked %q", p.keys.asked())
	}
}

// TestErrorsRoundTrip sends every sentinel over the wire and back.
func TestErrorsRoundTrip(t *testing.T) {
	const detail = "pq: connection to 10.1.2.3 refused"
	tests := []struct {
		err  error
		code codes.Code
		back error // nil: an internal fault
		text string
	}{
		{storage.ErrInvalid, codes.InvalidArgument, storage.ErrInvalid, "invalid request"},
		{storage.ErrTooLarge, codes.InvalidArgument, storage.ErrInvalid, "value too large"},
		{storage.ErrNotFound, codes.NotFound, storage.ErrNotFound, "signing key not found: aaaa"},
		{storage.ErrKeySealed, codes.FailedPrecondition, storage.ErrKeySealed, "key cannot be opened"},
		{storage.ErrKeyForbidden, codes.PermissionDenied, storage.ErrKeyForbidden, "key belongs to another repository or role"},
		{fmt.Errorf("%w: %s", storage.ErrUnavailable, detail), codes.Unavailable, storage.ErrUnavailable, "key store unavailable"},
		{fmt.Errorf("%w: %w", storage.ErrUnavailable, context.DeadlineExceeded), codes.Unavailable, storage.ErrUnavailable, "key store unavailable"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, storage.ErrUnavailable, "deadline exceeded"},
		{context.Canceled, codes.Canceled, storage.ErrUnavailable, "canceled"},
		{errors.New(detail), codes.Internal, nil, "signing failed"},
		{storage.ErrStale, codes.Internal, nil, "signing failed"},
	}
	sentinels := []error{
		storage.ErrInvalid, storage.ErrTooLarge, storage.ErrNotFound, storage.ErrKeySealed, storage.ErrKeyForbidden,
		storage.ErrUnavailable, storage.ErrStale, storage.ErrVersionConflict, storage.ErrDamaged,
	}
	p := newPair(t, nil)
	for _, tt := range tests {
		p.keys.set(fmt.Errorf("signing: %w", tt.err), nil)
		_, err := proto.NewSignerClient(p.conn).Sign(t.Context(), &proto.SignatureRequest{KeyID: &proto.KeyID{ID: "aaaa"}})
		st := status.Convert(err)
		if st.Code() != tt.code || !strings.HasSuffix(st.Message(), tt.text) {
			t.Errorf("%v: sent as %v %q", tt.err, st.Code(), st.Message())
		}
		if strings.Contains(st.Message(), "10.1.2.3") {
			t.Errorf("%v: %q tells the address of the database", tt.err, st.Message())
		}
		_, err = p.client.Sign(t.Context(), gun, tuf.RoleSnapshot, keyA, nil)
		if err == nil {
			t.Errorf("%v: arrived as success", tt.err)
		}
		for _, s := range sentinels {
			if errors.Is(err, s) != (s == tt.back) {
				t.Errorf("%v: arrived as %v", tt.err, err)
			}
		}
	}
	if !strings.Contains(p.log.String(), detail) {
		t.Error("the text of an internal fault is not in the log")
	}
}

// TestUpstreamsTexts: what clients of upstream's signer read.
func TestUpstreamsTexts(t *testing.T) {
	p := newPair(t, nil)
	keyManagement := proto.NewKeyManagementClient(p.conn)
	for _, algorithm := range []string{"rsa", "", "ECDSA", strings.Repeat("x", 1000)} {
		_, err := keyManagement.CreateKey(t.Context(), &proto.CreateKeyRequest{Algorithm: algorithm, Gun: "g", Role: "r"})
		want := fmt.Sprintf("algorithm %.64s not supported for create key", algorithm)
		if st := status.Convert(err); st.Code() != codes.Unknown || st.Message() != want {
			t.Errorf("CreateKey of %q: got %v", algorithm, err)
		}
		if _, err := p.client.CreateKey(t.Context(), gun, "timestamp", algorithm); err == nil || errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("our client's CreateKey of %q: got %v", algorithm, err)
		}
	}
	if asked := p.keys.asked(); len(asked) > 0 {
		t.Errorf("the service was asked %q", asked)
	}
	p.keys.set(storage.ErrNotFound, nil)
	_, err := keyManagement.GetKeyInfo(t.Context(), &proto.KeyID{ID: "aaaa"})
	if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != "key ID not found" {
		t.Errorf("GetKeyInfo of a missing key: got %v", err)
	}
	p.keys.set(errors.New("secret"), nil)
	_, err = keyManagement.CreateKey(t.Context(), &proto.CreateKeyRequest{Algorithm: "ecdsa"})
	if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "Key creation failed" {
		t.Errorf("CreateKey that fails: got %v", err)
	}
}

// TestNoKeyID: upstream's signer takes no key ID for any key, and dies of a
// request without the message that holds it.
func TestNoKeyID(t *testing.T) {
	p := newPair(t, nil)
	keyManagement, signer := proto.NewKeyManagementClient(p.conn), proto.NewSignerClient(p.conn)
	for name, call := range map[string]func(context.Context) error{
		"Sign, no message": func(ctx context.Context) error {
			_, err := signer.Sign(ctx, &proto.SignatureRequest{Content: []byte("x")})
			return err
		},
		"Sign, empty": func(ctx context.Context) error {
			_, err := signer.Sign(ctx, &proto.SignatureRequest{KeyID: &proto.KeyID{}})
			return err
		},
		"GetKeyInfo": func(ctx context.Context) error {
			_, err := keyManagement.GetKeyInfo(ctx, &proto.KeyID{})
			return err
		},
		"DeleteKey": func(ctx context.Context) error {
			_, err := keyManagement.DeleteKey(ctx, &proto.KeyID{})
			return err
		},
	} {
		if err := call(t.Context()); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := p.client.Sign(t.Context(), gun, "timestamp", "", nil); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("our client's Sign: got %v", err)
	}
	if _, err := p.client.Key(t.Context(), gun, "timestamp", ""); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("our client's Key: got %v", err)
	}
	if asked := p.keys.asked(); len(asked) > 0 {
		t.Errorf("the service was asked %q", asked)
	}
}

func TestMessageLimit(t *testing.T) {
	p := newPair(t, nil)
	if _, err := p.client.Sign(t.Context(), gun, "snapshot", keyA, make([]byte, rpc.MaxMessage-1000)); err != nil {
		t.Errorf("just below the limit: got %v", err)
	}
	if _, err := p.client.Sign(t.Context(), gun, "snapshot", keyA, make([]byte, rpc.MaxMessage+1)); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("beyond the client's limit: got %v", err)
	}
	_, err := proto.NewSignerClient(p.conn).Sign(t.Context(), &proto.SignatureRequest{KeyID: &proto.KeyID{ID: "aaaa"}, Content: make([]byte, rpc.MaxMessage+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("beyond the server's limit: got %v", err)
	}
}

func TestHealth(t *testing.T) {
	answer := make(chan error)
	p := newPair(t, func(cfg *rpc.ServerConfig) {
		cfg.Health = func(ctx context.Context) error {
			select {
			case err := <-answer:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	health := healthpb.NewHealthClient(p.conn)
	statuses := func(want healthpb.HealthCheckResponse_ServingStatus) bool {
		for _, service := range []string{"", "grpc.health.v1.Health.KeyManagement", "grpc.health.v1.Health.Signer"} {
			r, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil {
				t.Fatal(err)
			}
			if r.Status != want {
				return false
			}
		}
		return true
	}
	if !statuses(healthpb.HealthCheckResponse_NOT_SERVING) {
		t.Error("serving before the first check")
	}
	err := p.client.Check(t.Context())
	if want := "Got the serving status of KeyManagement: NOT_SERVING, want SERVING"; !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), want) {
		t.Errorf("Check before the first check: got %v", err)
	}
	answer <- errors.New("no passphrase for alias x")
	answer <- nil // the poller asks again, so it has digested the first answer
	eventually(t, "serving after a good check", func() bool { return statuses(healthpb.HealthCheckResponse_SERVING) })
	if err := p.client.Check(t.Context()); err != nil {
		t.Errorf("Check when serving: got %v", err)
	}
	answer <- errors.New("database gone")
	eventually(t, "not serving after a bad check", func() bool { return statuses(healthpb.HealthCheckResponse_NOT_SERVING) })
	for _, name := range []string{"grpc.health.v1.Health.Overall", "proto.Signer", "x"} {
		_, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != "unknown service" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, text := range []string{"no passphrase for alias x", "database gone"} {
		if n := strings.Count(p.log.String(), text); n != 1 {
			t.Errorf("%q is %d times in the log, want once", text, n)
		}
	}
}

// TestPanic: one bad request does not end the process, and what was being
// signed is not in the log.
func TestPanic(t *testing.T) {
	p := newPair(t, nil)
	for _, v := range []any{"content " + string(gun), errors.New("content"), nil} {
		p.keys.set(nil, func(context.Context) {
			if v == nil {
				_ = public[len(gun)+100]
			}
			panic(v)
		})
		_, err := proto.NewSignerClient(p.conn).Sign(t.Context(), &proto.SignatureRequest{KeyID: &proto.KeyID{ID: "aaaa"}, Content: []byte("content")})
		if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "internal error" {
			t.Errorf("panic with %v: got %v", v, err)
		}
	}
	log := p.log.String()
	if !strings.Contains(log, "panic of type string") || !strings.Contains(log, "index out of range") {
		t.Errorf("log does not tell of the panics: %s", log)
	}
	if strings.Contains(log, "content ") || strings.Contains(log, `"content"`) {
		t.Errorf("log holds what was panicked with: %s", log)
	}
	p.keys.set(nil, nil)
	if _, err := p.client.Sign(t.Context(), gun, "snapshot", keyA, nil); err != nil {
		t.Errorf("after the panics: got %v", err)
	}
}

func TestLogAndMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := newPair(t, func(cfg *rpc.ServerConfig) { cfg.Registerer = reg })
	ids := []string{"req-1", "two\nlines", strings.Repeat("x", 65), ""}
	var seen []string
	p.keys.set(storage.ErrNotFound, func(ctx context.Context) { seen = append(seen, rpc.RequestID(ctx)) })
	for _, id := range ids {
		c := dial(t, rpc.ClientConfig{Addr: p.addr, TLS: p.pki.client, RequestID: func(context.Context) string { return id }})
		if _, err := c.Sign(t.Context(), gun, "snapshot", keyA, []byte("the-content")); !errors.Is(err, storage.ErrNotFound) && id != "two\nlines" {
			t.Errorf("request ID %q: got %v", id, err)
		}
	}
	if seen[0] != "req-1" {
		t.Errorf("the service saw request ID %q", seen[0])
	}
	for _, id := range seen[1:] {
		if id == "" || slices.Contains(ids, id) {
			t.Errorf("the service saw request ID %q", id)
		}
	}
	log := p.log.String()
	if !strings.Contains(log, `"request_id":"req-1"`) || strings.Contains(log, "the-content") || strings.Contains(log, "xxxxx") {
		t.Errorf("log: %s", log)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			found[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]float64{
		"countersign_signer_rpcs_total code=NotFound method=Sign": float64(len(seen)),
		"countersign_signer_rpc_duration_seconds method=Sign":     float64(len(seen)),
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if _, err := rpc.NewServer(rpc.ServerConfig{Keys: p.keys, Health: healthy, TLS: p.pki.server, Registerer: reg}); err == nil {
		t.Error("a second server registers the same metrics")
	}
}

func TestConfigRefused(t *testing.T) {
	pki := newPKI(t)
	for name, cfg := range map[string]rpc.ServerConfig{
		"keys":   {Health: healthy, TLS: pki.server},
		"health": {Keys: &keys{}, TLS: pki.server},
		"TLS":    {Keys: &keys{}, Health: healthy},
	} {
		if _, err := rpc.NewServer(cfg); err == nil {
			t.Errorf("server without %s: accepted", name)
		}
	}
	for name, cfg := range map[string]rpc.ClientConfig{
		"no TLS":  {Addr: "127.0.0.1:1"},
		"no port": {Addr: "127.0.0.1", TLS: pki.client},
	} {
		if _, err := rpc.Dial(cfg); err == nil {
			t.Errorf("client with %s: accepted", name)
		}
	}
}

// TestServeEnds: an RPC under way is finished, a new one refused, when the
// context ends.
func TestServeEnds(t *testing.T) {
	pki, k := newPKI(t), &keys{}
	lis := listen(t, "127.0.0.1:0")
	stop := serve(t, rpc.ServerConfig{Keys: k, Health: healthy, TLS: pki.server, Log: (&logBuffer{}).logger()}, lis)
	client := dial(t, rpc.ClientConfig{Addr: lis.Addr().String(), TLS: pki.client})
	begun, finish := make(chan struct{}), make(chan struct{})
	k.set(nil, func(context.Context) {
		close(begun)
		<-finish
	})
	signed := make(chan error, 1)
	go func() {
		_, err := client.Sign(t.Context(), gun, "snapshot", keyA, nil)
		signed <- err
	}()
	<-begun
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	eventually(t, "listener closed", func() bool {
		conn, err := dialTCP(lis.Addr().String())
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(finish)
	if err := <-signed; err != nil {
		t.Errorf("the signature under way: got %v", err)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Error("the server does not end")
	}
}
