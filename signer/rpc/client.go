package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"countersign/proto"
	"countersign/storage"
	"countersign/tuf"
)

// How the client comes back. A signer that restarts is found again within
// maxBackoff and a handshake; one that is down is told of after patience.
const (
	defaultDeadline = 10 * time.Second
	patience        = 2 * time.Second
	firstBackoff    = 50 * time.Millisecond
	maxBackoff      = time.Second
	connectTimeout  = 5 * time.Second
	// unackedTimeout bounds the life of a connection whose peer is gone without
	// a word, which otherwise is a quarter of an hour. gRPC's own pings cannot
	// do it: upstream's signer hangs up on a client that pings.
	unackedTimeout = 8 * time.Second
	maxAttempts    = 4
	firstPause     = 20 * time.Millisecond
)

// ClientConfig is what a Client is made of.
type ClientConfig struct {
	// Addr is the signer's host:port. The name is looked up again for each new
	// connection, and all its addresses are tried: a container that came back
	// under another one is found.
	Addr string
	// TLS verifies the signer and may hold a client certificate. Required. The
	// name that is verified is the host of Addr, unless ServerName is set.
	TLS *tls.Config
	// Deadline bounds each RPC, the waiting for a connection included.
	// 0 means 10 s.
	Deadline time.Duration
	// RequestID, if set, gives the ID of the request that ctx belongs to, for
	// the signer's log; "" for none.
	RequestID func(ctx context.Context) string
}

// A Client is a client of one signer, ours or upstream's. It connects when it
// is first used and reconnects for ever. Every error wraps a sentinel of
// package storage, or is an internal fault of the signer. Its methods may be
// called at once.
type Client struct {
	conn      *grpc.ClientConn
	keys      proto.KeyManagementClient
	signer    proto.SignerClient
	own       proto.CountersignClient
	health    healthpb.HealthClient
	deadline  time.Duration
	requestID func(context.Context) string
}

// Dial makes a Client. It does not wait for the signer, nor for its name to
// resolve: the server must start without it. The error is about cfg.
func Dial(cfg ClientConfig) (*Client, error) {
	if cfg.TLS == nil {
		return nil, errors.New("dialing the signer: no TLS configuration")
	}
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		return nil, fmt.Errorf("dialing the signer: %w", err)
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 3},
		Control:         boundUnacked,
	}
	// The scheme passthrough, because the resolver of scheme dns asks again
	// only every 30 s.
	conn, err := grpc.NewClient("passthrough:///"+cfg.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLS)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("dialing the signer: %w", err)
	}
	return &Client{
		conn:      conn,
		keys:      proto.NewKeyManagementClient(conn),
		own:       proto.NewCountersignClient(conn),
		signer:    proto.NewSignerClient(conn),
		health:    healthpb.NewHealthClient(conn),
		deadline:  cfg.Deadline,
		requestID: cfg.RequestID,
	}, nil
}

// Close ends the connection. RPCs under way fail with ErrUnavailable.
func (c *Client) Close() error { return c.conn.Close() }

// CreateKey returns the unused key of the signer for gun, role and algorithm,
// which the signer makes if it has none.
func (c *Client) CreateKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, algorithm string) (tuf.Key, error) {
	const doing = "asking the signer for a new key"
	var r *proto.PublicKey
	err := c.call(ctx, doing, func(ctx context.Context) (err error) {
		r, err = c.keys.CreateKey(ctx, &proto.CreateKeyRequest{Algorithm: algorithm, Gun: string(gun), Role: string(role)})
		return err
	})
	if err != nil {
		return tuf.Key{}, err
	}
	k, err := keyOf(r.GetKeyInfo(), r.GetPublicKey())
	if err == nil && k.Type != algorithm {
		err = fmt.Errorf("it answered with a key of type %q instead of %q", k.Type, algorithm)
	}
	if err != nil {
		return tuf.Key{}, fmt.Errorf("%s: %w", doing, err)
	}
	return k, nil
}

// Key returns the public part of key id (a canonical ID), if it belongs to gun
// and role and could sign. Upstream's signer ignores the claim, but says for
// which role a key was made: one of another is ErrKeyForbidden here too, one of
// no role at all (rows of old migrations) passes. From upstream's signer
// ErrNotFound may also mean that the key could not be read or opened.
func (c *Client) Key(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) (tuf.Key, error) {
	const doing = "asking the signer for a key"
	if id == "" {
		return tuf.Key{}, fmt.Errorf("%s: %w", doing, errNoKeyID)
	}
	var r *proto.GetKeyInfoResponse
	err := c.call(withClaim(ctx, gun, role), doing, func(ctx context.Context) (err error) {
		r, err = c.keys.GetKeyInfo(ctx, &proto.KeyID{ID: string(id)})
		return err
	})
	if err != nil {
		return tuf.Key{}, err
	}
	k, err := keyOf(r.GetKeyInfo(), r.GetPublicKey())
	switch made := r.GetRole(); {
	case err != nil:
	case k.ID() != id:
		err = fmt.Errorf("it answered with key %s instead of %s", k.ID(), id)
	case made != "" && role != "" && made != string(role):
		err = fmt.Errorf("%w: key %s is of role %.80q, and was asked for as of %q", storage.ErrKeyForbidden, id, made, role)
	}
	if err != nil {
		return tuf.Key{}, fmt.Errorf("%s: %w", doing, err)
	}
	return k, nil
}

// Sign has content signed with key id (a canonical ID), if it belongs to gun
// and role, in one RPC. The signature is in the form that metadata holds.
func (c *Client) Sign(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID, content []byte) ([]byte, error) {
	const doing = "having the signer sign"
	if id == "" {
		return nil, fmt.Errorf("%s: %w", doing, errNoKeyID)
	}
	var r *proto.Signature
	err := c.call(withClaim(ctx, gun, role), doing, func(ctx context.Context) (err error) {
		r, err = c.signer.Sign(ctx, &proto.SignatureRequest{KeyID: &proto.KeyID{ID: string(id)}, Content: content})
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(r.GetContent()) == 0 {
		return nil, fmt.Errorf("%s: it answered with an empty signature", doing)
	}
	return r.GetContent(), nil
}

// DeleteKey has the signer delete key id (a canonical ID), if it was made for gun
// and role; it is no error if there is none. The error wraps
// errors.ErrUnsupported if the signer is upstream's: that one would delete any
// key that it is told, of other repositories too.
func (c *Client) DeleteKey(ctx context.Context, gun tuf.GUN, role tuf.RoleName, id tuf.KeyID) error {
	const doing = "having the signer delete a key"
	if id == "" {
		return fmt.Errorf("%s: %w", doing, errNoKeyID)
	}
	return c.call(ctx, doing, func(ctx context.Context) error {
		_, err := c.own.DeleteOwnedKey(ctx, &proto.OwnedKey{ID: string(id), Gun: string(gun), Role: string(role)})
		return err
	})
}

// Check asks for the health of both of the signer's services, and returns nil
// only if both are serving.
func (c *Client) Check(ctx context.Context) error {
	for _, s := range [...]struct{ name, service string }{{"KeyManagement", healthKeyManagement}, {"Signer", healthSigner}} {
		var r *healthpb.HealthCheckResponse
		err := c.call(ctx, "checking the signer's "+s.name, func(ctx context.Context) (err error) {
			r, err = c.health.Check(ctx, &healthpb.HealthCheckRequest{Service: s.service})
			return err
		})
		if err != nil {
			return err
		}
		if got := r.GetStatus(); got != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("%w: Got the serving status of %s: %s, want SERVING", storage.ErrUnavailable, s.name, got)
		}
	}
	return nil
}

// call runs rpc within the deadline. All RPCs may be repeated: a key that was
// made and not told is still unused, a signature too many harms nobody. So
// what was cut off by a restart of the signer is asked again, a few times.
func (c *Client) call(ctx context.Context, doing string, rpc func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.deadline)
	defer cancel()
	if c.requestID != nil {
		if id := c.requestID(ctx); id != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, metaRequestID, id)
		}
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := firstPause
	for attempt := 1; ; attempt++ {
		if !c.awaitReady(patient) && c.conn.GetState() == connectivity.Connecting {
			// The signer's host does not answer at all. An RPC would wait for
			// it until its own deadline.
			return fmt.Errorf("%s: %w: no connection yet", doing, storage.ErrUnavailable)
		}
		err := rpc(ctx)
		if status.Code(err) != codes.Unavailable || attempt == maxAttempts || patient.Err() != nil {
			return errorOf(doing, err)
		}
		select {
		case <-time.After(pause):
		case <-patient.Done():
		}
		pause *= 4
	}
}

// awaitReady waits until the connection is ready, and reports whether it is.
// Where it is not because an attempt to connect has failed, an RPC fails at
// once and says why.
func (c *Client) awaitReady(ctx context.Context) bool {
	for {
		state := c.conn.GetState()
		switch state {
		case connectivity.Ready:
			return true
		case connectivity.Shutdown:
			return false
		case connectivity.Idle:
			c.conn.Connect()
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// withClaim attaches gun and role, so that the signer refuses a key that was
// made for others.
func withClaim(ctx context.Context, gun tuf.GUN, role tuf.RoleName) context.Context {
	return metadata.AppendToOutgoingContext(ctx, metaGUN, string(gun), metaRole, string(role))
}

// keyOf reads a key from an answer. Upstream's signer answers a fault of its
// database with an empty key and status OK.
func keyOf(info *proto.KeyInfo, public []byte) (tuf.Key, error) {
	k := tuf.Key{Type: info.GetAlgorithm().GetAlgorithm(), Public: public}
	if k.Type == "" || len(k.Public) == 0 {
		return tuf.Key{}, fmt.Errorf("%w: it answered with an empty key", storage.ErrUnavailable)
	}
	return k, nil
}
