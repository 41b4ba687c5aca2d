package signer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"countersign/proto"
	"countersign/signer"
	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/tuf"
)

// clients runs f b.N times from n goroutines, as closed-loop clients do.
func clients(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
}

// content is about as long as a small snapshot.
var content = make([]byte, 800)

// BenchmarkWire measures the signer over mutual TLS on PostgreSQL, beside bare
// gRPC servers that echo, without and with a signature.
func BenchmarkWire(b *testing.B) {
	s := onPostgres(b)
	s.restart(b, func(c *signer.Config) { c.Log = slog.New(slog.DiscardHandler) })
	c := serve(b, s, s.Health)
	healthy(b, c, nil)
	var run atomic.Int64
	fresh := func(b *testing.B, n int) []storage.Key {
		b.Helper()
		keys := make([]storage.Key, n)
		prefix := run.Add(1)
		for i := range keys {
			k, err := s.CreateKey(b.Context(), tuf.GUN(fmt.Sprint("bench/", prefix, "/", i)), role, tuf.KeyECDSA)
			if err != nil {
				b.Fatal(err)
			}
			keys[i] = k
		}
		return keys
	}
	for _, n := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("create/c=%d", n), func(b *testing.B) {
			prefix := run.Add(1)
			clients(b, n, func(i int) error {
				_, err := c.CreateKey(b.Context(), tuf.GUN(fmt.Sprint("bench/", prefix, "/", i)), role, tuf.KeyECDSA)
				return err
			})
		})
		b.Run(fmt.Sprintf("first-signature/c=%d", n), func(b *testing.B) {
			keys := fresh(b, b.N)
			cold := &stand{config: s.config, passphrases: s.passphrases}
			cold.restart(b, nil) // what a new process would have to open
			if _, _, err := cold.Sign(b.Context(), "", "", fresh(b, 1)[0].ID, nil); err != nil {
				b.Fatal(err)
			}
			c := serve(b, cold, cold.Health)
			healthy(b, c, nil)
			clients(b, n, func(i int) error {
				_, err := c.Sign(b.Context(), keys[i].GUN, role, keys[i].ID, content)
				return err
			})
		})
		b.Run(fmt.Sprintf("signature/c=%d", n), func(b *testing.B) {
			keys := fresh(b, 100)
			for _, k := range keys {
				s.mustSign(b, k)
			}
			clients(b, n, func(i int) error {
				k := keys[i%len(keys)]
				_, err := c.Sign(b.Context(), k.GUN, role, k.ID, content)
				return err
			})
		})
		b.Run(fmt.Sprintf("control-echo/c=%d", n), func(b *testing.B) { control(b, n, &echo{}) })
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("control-echo-ecdsa/c=%d", n), func(b *testing.B) { control(b, n, &echo{key: key}) })
	}
}

// echo is a signer that does nothing but answer, or sign.
type echo struct {
	proto.UnimplementedSignerServer
	key *ecdsa.PrivateKey
}

func (e *echo) Sign(_ context.Context, r *proto.SignatureRequest) (*proto.Signature, error) {
	out := &proto.Signature{KeyInfo: &proto.KeyInfo{KeyID: r.GetKeyID()}, Content: r.GetContent()}
	if e.key != nil {
		digest := sha256.Sum256(r.GetContent())
		var err error
		if out.Content, err = ecdsa.SignASN1(rand.Reader, e.key, digest[:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func control(b *testing.B, n int, e *echo) {
	b.Helper()
	pki := newPKI(b)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(loadPKI(b, pki, "signer").Signer())))
	proto.RegisterSignerServer(s, e)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(lis)
	defer s.Stop()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(loadPKI(b, pki, "client").Client("127.0.0.1"))))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client := proto.NewSignerClient(conn)
	clients(b, n, func(int) error {
		_, err := client.Sign(b.Context(), &proto.SignatureRequest{KeyID: &proto.KeyID{ID: "x"}, Content: content})
		return err
	})
}

var _ rpc.KeyService = (*stand)(nil)
