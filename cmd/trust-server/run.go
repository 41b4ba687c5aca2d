package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"countersign/certs"
	"countersign/internal/config"
	"countersign/internal/program"
	"countersign/internal/service"
	"countersign/migrations"
	"countersign/server"
	"countersign/server/publish"
	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/storage/metadb"
)

const (
	name               = "trust-server"
	defaultConnections = 4096
	defaultRequestTime = time.Minute
)

// run is the program but for what a process is. It returns when ctx ends, with
// nil, or when it cannot go on.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	p, err := program.Begin(name, args, stdout, stderr)
	if err != nil {
		return err
	}
	cfg, report := config.LoadServer(p.Flags.Config, environ)
	p.UseLogging(cfg.Logging)
	d := &daemon{Program: p, cfg: cfg, metrics: prometheus.NewRegistry()}
	d.https = p.Certificates(report,
		program.CertKeys{Cert: "server.tls_cert_file", Key: "server.tls_key_file", CA: "server.client_ca_file"},
		certs.Files{Cert: cfg.Server.TLSCertFile, Key: cfg.Server.TLSKeyFile, CA: cfg.Server.ClientCAFile})
	d.toSigner = p.Certificates(report,
		program.CertKeys{Cert: "trust_service.tls_client_cert", Key: "trust_service.tls_client_key", CA: "trust_service.tls_ca_file"},
		certs.Files{Cert: cfg.TrustService.TLSClientCert, Key: cfg.TrustService.TLSClientKey, CA: cfg.TrustService.TLSCAFile})
	d.gate = d.openGate(report)
	if err := p.Settle(ctx, report); err != nil {
		return err
	}
	return d.run(ctx)
}

// A daemon is the running server.
type daemon struct {
	*program.Program
	cfg             *config.Server
	https, toSigner *certs.Store
	metrics         *prometheus.Registry
	health          *service.Health
	gate            gate          // nil: everybody may do everything
	store           *metadb.Store // set before health runs
}

func (d *daemon) run(ctx context.Context) error {
	d.WatchLevel()
	d.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	signer, err := rpc.Dial(rpc.ClientConfig{
		Addr:      net.JoinHostPort(d.cfg.TrustService.Hostname, d.cfg.TrustService.Port),
		TLS:       d.toSigner.Client(d.cfg.TrustService.Hostname),
		RequestID: server.RequestID,
	})
	if err != nil {
		return err
	}
	defer signer.Close()
	d.health = service.NewHealth(service.HealthConfig{Log: d.Log, Checks: []service.Check{
		{Name: "DB operational", Run: func(ctx context.Context) error { return d.store.Check(ctx) }, Public: publicDatabase},
		{Name: "Trust operational", Run: signer.Check, Public: publicTrust},
	}})

	g, ctx := errgroup.WithContext(ctx)
	if d.cfg.Server.TLSCertFile != "" {
		g.Go(func() error { d.https.Watch(ctx); return nil })
	}
	g.Go(func() error { d.toSigner.Watch(ctx); return nil })
	if d.gate != nil {
		g.Go(func() error { d.gate.Watch(ctx); return nil })
	}
	if d.Flags.Debug {
		g.Go(func() error { return service.ServeDebug(ctx, service.DebugAddr, d.Log, d.health, d.metrics) })
	}
	g.Go(func() error { return d.serve(ctx, signer) })
	return g.Wait()
}

// serve waits for the database and then serves until ctx ends. Before that it
// does not listen: a probe that is refused tells a balancer more plainly than any
// answer that nothing can be asked here.
func (d *daemon) serve(ctx context.Context, signer *rpc.Client) error {
	db, err := d.OpenDatabase(ctx, d.cfg.Storage, migrations.Server)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer db.Close()
	d.store = metadb.New(db.DB)
	if !db.Audit {
		d.Warn(ctx, "the audit log is off: it is not recorded who publishes and deletes, for its tables are missing or may not be used; what was said of the database tells how to mend that")
		d.store = d.store.WithoutAudit()
	}
	publisher, err := publish.New(publish.Config{
		Store: d.store, Signer: signer, Archivist: d.store, KeyAlgorithm: d.cfg.TrustService.KeyAlgorithm, Log: withRequest(d.Log), Now: time.Now,
		AllowUnvouched: d.cfg.Repositories.AllowUnvouched,
	})
	if err != nil {
		return err
	}
	handler, err := d.handler(publisher)
	if err != nil {
		return err
	}
	lis, err := service.Listen(ctx, d.cfg.Server.HTTPAddr, or(d.cfg.Server.Limits.Connections, defaultConnections))
	if err != nil && ctx.Err() != nil {
		return nil // it was looking for the address
	}
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { d.health.Run(ctx); return nil })
	g.Go(func() error { return publisher.RunRenewer(ctx) })
	g.Go(func() error { return d.serveHTTP(ctx, lis, handler) })
	return g.Wait()
}

func (d *daemon) handler(publisher *publish.Publisher) (http.Handler, error) {
	l, age := d.cfg.Server.Limits, d.cfg.Caching.MaxAge
	var access server.AccessFunc
	if d.gate != nil {
		access = d.gate.Authorize
	}
	return server.New(server.Config{
		Access:           access,
		Store:            d.store,
		Publisher:        publisher,
		Health:           d.health.Failing,
		Prefixes:         d.cfg.Repositories.GUNPrefixes,
		CurrentMaxAge:    time.Duration(age.CurrentMetadata) * time.Second,
		ConsistentMaxAge: time.Duration(age.ConsistentMetadata) * time.Second,
		Limits: server.Limits{
			Time: d.requestTime(), Body: int64(l.BodyBytes), Part: int64(l.PartBytes), Parts: l.Parts,
			Uploads: int64(l.UploadsBytes), ChangesPage: l.ChangesPage,
		},
		Registerer: d.metrics,
		Gatherer:   d.metrics,
		Log:        d.Log,
		Now:        time.Now,
	})
}

func (d *daemon) requestTime() time.Duration {
	return or(time.Duration(d.cfg.Server.Limits.RequestSeconds)*time.Second, defaultRequestTime)
}

func (d *daemon) serveHTTP(ctx context.Context, lis net.Listener, handler http.Handler) error {
	cfg := service.HTTPConfig{Handler: handler, RequestTime: d.requestTime(), Log: d.Log}
	if d.cfg.Server.TLSCertFile != "" {
		cfg.TLS = d.https.HTTPS()
	}
	if !service.Loopback(lis.Addr()) && d.cfg.Server.ClientCAFile == "" && d.gate == nil {
		d.Warn(ctx, "clients are not authenticated: whoever can connect can publish and delete; set auth.type, or keep the server behind a proxy that knows who may do what", "address", lis.Addr().String())
	}
	d.Log.InfoContext(ctx, "listening", "address", lis.Addr().String(), "tls", cfg.TLS != nil, "auth", or(d.cfg.Auth.Type, "none"))
	err := service.ServeHTTP(ctx, lis, cfg)
	d.Log.InfoContext(ctx, "stopped")
	return err
}

// publicDatabase and publicTrust are what the health endpoint says to anybody.

func publicDatabase(err error) string {
	if errors.Is(err, storage.ErrUnavailable) {
		return "the database cannot be reached"
	}
	return "Cannot access table: tuf_files"
}

func publicTrust(err error) string {
	if errors.Is(err, storage.ErrUnavailable) {
		return "the signer cannot be reached, or says that it cannot sign"
	}
	return "the signer fails"
}

// or returns v, or, if it is not set, def.
func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
