package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"countersign/certs"
	"countersign/internal/config"
	"countersign/internal/program"
	"countersign/internal/service"
	"countersign/migrations"
	"countersign/signer"
	"countersign/signer/rpc"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/keydb"
)

const (
	name               = "trust-signer"
	defaultConnections = 1024
	// memoryAlias names the passphrase of keys that are not kept.
	memoryAlias = "memory"
)

// run is the program but for what a process is. It returns when ctx ends, with
// nil, or when it cannot go on.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	p, err := program.Begin(name, args, stdout, stderr)
	if err != nil {
		return err
	}
	cfg, report := config.LoadSigner(p.Flags.Config, environ)
	report.Warnings = append(report.Warnings, weakPassphrases(cfg)...)
	p.UseLogging(cfg.Logging)
	d := &daemon{Program: p, cfg: cfg, metrics: prometheus.NewRegistry()}
	d.tls = p.Certificates(report,
		program.CertKeys{Cert: "server.tls_cert_file", Key: "server.tls_key_file", CA: "server.client_ca_file"},
		certs.Files{Cert: cfg.Server.TLSCertFile, Key: cfg.Server.TLSKeyFile, CA: cfg.Server.ClientCAFile})
	if err := p.Settle(ctx, report); err != nil {
		return err
	}
	if !p.Flags.Debug {
		if err := signer.DenyDump(); err != nil {
			return err
		}
	}
	return d.run(ctx)
}

// A daemon is the running signer.
type daemon struct {
	*program.Program
	cfg     *config.Signer
	tls     *certs.Store
	metrics *prometheus.Registry
	keys    atomic.Pointer[signer.Service] // nil until the database is open
}

func (d *daemon) run(ctx context.Context) error {
	d.WatchLevel()
	d.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { d.tls.Watch(ctx); return nil })
	if d.Flags.Debug {
		health := service.NewHealth(service.HealthConfig{Log: d.Log, Checks: []service.Check{{Name: "DB operational", Run: d.check, Public: public}}})
		g.Go(func() error { health.Run(ctx); return nil })
		g.Go(func() error { return d.debug(ctx, health) })
	}
	g.Go(func() error { return d.serve(ctx) })
	return g.Wait()
}

func (d *daemon) debug(ctx context.Context, health http.Handler) error {
	return service.ServeDebug(ctx, service.DebugAddr, d.Log, health, d.metrics)
}

// serve waits for the database and then serves until ctx ends.
func (d *daemon) serve(ctx context.Context) error {
	db, err := d.OpenDatabase(ctx, d.cfg.Storage.Storage, migrations.Signer)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer db.Close()
	sealer, err := seal.New(seal.Config{Passphrase: d.passphrase()})
	if err != nil {
		return err
	}
	store := keydb.New(db.DB)
	keys, err := signer.New(signer.Config{
		Store: store, Sealer: sealer, DefaultAlias: d.cfg.Storage.DefaultAlias, Check: store.Check,
		Log: d.Log, RequestID: rpc.RequestID, Registerer: d.metrics,
	})
	if err != nil {
		return err
	}
	d.keys.Store(keys)
	srv, err := rpc.NewServer(rpc.ServerConfig{Keys: keys, Health: keys.Health, TLS: d.tls.Signer(d.cfg.Server.ClientNames...), Log: d.Log, Registerer: d.metrics})
	if err != nil {
		return err
	}
	// The first look derives the key of the default alias, which takes a while:
	// who finds us listening shall find us healthy. What is wrong is logged by
	// the server's own looks.
	_ = keys.Health(ctx)
	connections := d.cfg.Server.Limits.Connections
	if connections == 0 {
		connections = defaultConnections
	}
	lis, err := service.Listen(ctx, d.cfg.Server.GRPCAddr, connections)
	if err != nil && ctx.Err() != nil {
		return nil // it was looking for the address
	}
	if err != nil {
		return err
	}
	d.announce(ctx, lis)
	err = srv.Serve(ctx, lis)
	d.Log.InfoContext(ctx, "stopped")
	return err
}

func (d *daemon) announce(ctx context.Context, lis net.Listener) {
	addr := lis.Addr().String()
	if d.cfg.Server.ClientCAFile == "" && !service.Loopback(lis.Addr()) {
		d.Warn(ctx, "callers are not authenticated: whoever can connect can have anything signed; set server.client_ca_file", "address", addr)
	}
	d.Log.InfoContext(ctx, "listening", "address", addr, "client_certificates", d.cfg.Server.ClientCAFile != "")
}

// passphrase is the configuration's, but for keys that are not kept anyway: a
// passphrase made for this run will do for them.
func (d *daemon) passphrase() func(alias string) (string, error) {
	configured := d.cfg.Passphrases.Passphrase
	if d.cfg.Storage.Backend != config.BackendMemory {
		return configured
	}
	if d.cfg.Storage.DefaultAlias == "" {
		d.cfg.Storage.DefaultAlias = memoryAlias
	}
	made := rand.Text()
	return func(alias string) (string, error) {
		if pass, err := configured(alias); err == nil {
			return pass, nil
		}
		return made, nil
	}
}

var errNotOpen = errors.New("the database is not open yet")

func (d *daemon) check(ctx context.Context) error {
	if keys := d.keys.Load(); keys != nil {
		return keys.Health(ctx)
	}
	return errNotOpen
}

// public is what the debug port says of a failing check.
func public(err error) string {
	switch {
	case errors.Is(err, storage.ErrKeySealed):
		return "there is no passphrase for the default alias, or it does not fit"
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, errNotOpen):
		return "the database cannot be reached"
	}
	return "Cannot access table: private_keys"
}
