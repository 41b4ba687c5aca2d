package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"countersign/certs"
	"countersign/internal/config"
	"countersign/migrations"
	"countersign/server/auth"
	"countersign/signer/rpc"
	"countersign/storage/keydb"
	"countersign/storage/sqldb"
)

// Verdicts of a Verdict line.
const (
	VerdictOK    = "ok"
	VerdictWarn  = "warning" // works now, but will not stay so, or is not safe
	VerdictFault = "FAULT"   // does not work
)

// A Verdict is one line of a check of an installation.
type Verdict struct {
	About   string `json:"about"` // such as "signer: certificate"
	Verdict string `json:"verdict"`
	Text    string `json:"text"`            // what was found
	ToDo    string `json:"to_do,omitempty"` // unless all is well
}

const (
	// checkTime bounds each question that is asked over the network.
	checkTime = 10 * time.Second
	// expiresSoon is when a certificate's end is worth a warning.
	expiresSoon = 30 * 24 * time.Hour
	// maxSkew is how far clocks may be apart. Tokens allow a minute.
	maxSkew = 30 * time.Second
	// lowDisk is when the disk of a SQLite file is worth a warning.
	lowDisk = 1 << 30
)

// CheckConfig names the installation as SiteConfig does.
type CheckConfig struct {
	ServerConfig, SignerConfig string
	Environ                    []string
	Now                        func() time.Time // time.Now, except in tests
}

// A checkup is a check of an installation under way.
type checkup struct {
	CheckConfig
	ctx    context.Context
	tell   func(Verdict)
	server *config.Server
	signer *config.Signer
}

// Check looks at the whole installation as far as it can be seen from here, and
// calls tell for each thing it has looked at, as soon as it has. Nothing is
// changed, and no key is used. The programs may be running or not. Where the two
// programs are on two machines, run it on each with the file that is there.
func Check(ctx context.Context, c CheckConfig, tell func(Verdict)) error {
	if c.ServerConfig == "" && c.SignerConfig == "" {
		return ErrNoDBConfig
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	k := &checkup{CheckConfig: c, ctx: ctx, tell: tell}
	k.configs()
	if k.server != nil {
		k.serverCertificates()
		k.auth()
		k.database("server", k.server.Storage, migrations.Server)
		k.handshake()
		k.http()
	}
	if k.signer != nil {
		k.signerCertificates()
		k.database("signer", k.signer.Storage.Storage, migrations.Signer)
		k.passphrases()
	}
	return ctx.Err()
}

func (k *checkup) ok(about, format string, args ...any) {
	k.tell(Verdict{About: about, Verdict: VerdictOK, Text: fmt.Sprintf(format, args...)})
}

func (k *checkup) warn(about, todo, format string, args ...any) {
	k.tell(Verdict{About: about, Verdict: VerdictWarn, Text: fmt.Sprintf(format, args...), ToDo: todo})
}

func (k *checkup) fault(about, todo string, err error) {
	k.tell(Verdict{About: about, Verdict: VerdictFault, Text: err.Error(), ToDo: todo})
}

func (k *checkup) configs() {
	report := func(program string, r *config.Report) {
		about := program + ": configuration"
		for _, f := range r.Faults {
			remedy := f.Remedy
			f.Remedy = ""
			k.fault(about, remedy, errors.New(f.String()))
		}
		for _, w := range r.Warnings {
			k.warn(about, "", "%s", w)
		}
		if len(r.Faults)+len(r.Warnings) == 0 {
			k.ok(about, "%s", r.File)
		}
	}
	if k.ServerConfig != "" {
		c, r := config.LoadServer(k.ServerConfig, k.Environ)
		report("server", r)
		if r.File != "" && c.Storage.Backend != "" {
			k.server = c
		}
	}
	if k.SignerConfig != "" {
		c, r := config.LoadSigner(k.SignerConfig, k.Environ)
		report("signer", r)
		if r.File != "" && c.Storage.Backend != "" {
			k.signer = c
		}
	}
}

func (k *checkup) serverCertificates() {
	if f := k.server.Server.TLSCertFile; f != "" {
		k.certificate("server: certificate", f, k.server.Server.TLSKeyFile, "", true)
	} else {
		k.warn("server: certificate", "set server.tls_cert_file and server.tls_key_file, unless a proxy speaks TLS for it", "none: plain HTTP, which docker and notary clients do not speak")
	}
	if f := k.server.TrustService.TLSClientCert; f != "" {
		k.certificate("server: certificate for the signer", f, k.server.TrustService.TLSClientKey, "", false)
	}
	if f := k.server.TrustService.TLSCAFile; f != "" {
		k.authorities("server: the signer's CA", f)
	}
}

func (k *checkup) signerCertificates() {
	host := ""
	if k.server != nil {
		host = k.server.TrustService.Hostname
	}
	k.certificate("signer: certificate", k.signer.Server.TLSCertFile, k.signer.Server.TLSKeyFile, host, true)
	switch ca := k.signer.Server.ClientCAFile; {
	case ca != "":
		k.authorities("signer: CA of its callers", ca)
	case !onLoopback(k.signer.Server.GRPCAddr):
		k.warn("signer: its callers", "set server.client_ca_file, and give the server a certificate (trust_service.tls_client_cert)",
			"not authenticated: whoever can connect to %s can have anything signed", k.signer.Server.GRPCAddr)
	}
}

func onLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// certificate looks at a pair of files: that they belong together, for which
// names and until when they are. With host it must be for that name. That of a
// client needs no name that could be looked up.
func (k *checkup) certificate(about, certFile, keyFile, host string, listener bool) {
	if certFile == "" || keyFile == "" {
		return // the configuration's fault, which has been told
	}
	if _, err := certs.Load(certs.Config{Files: certs.Files{Cert: certFile, Key: keyFile}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		k.fault(about, "", err)
		return
	}
	chain, err := readCertificates(certFile)
	if err != nil {
		k.fault(about, "", err)
		return
	}
	leaf := chain[0]
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 && listener {
		k.warn(about, "issue it anew with its names as subject alternative names", "%s has only a common name (%q), which no current client accepts", certFile, leaf.Subject.CommonName)
	}
	if host != "" {
		if err := leaf.VerifyHostname(host); err != nil {
			k.fault(about, "issue it anew for "+host+", or set trust_service.hostname to one of its names", fmt.Errorf("%s: %w", certFile, err))
			return
		}
	}
	if len(names) == 0 {
		names = []string{leaf.Subject.String()}
	}
	slices.Sort(names)
	k.lifetime(about, certFile, chain, "for "+strings.Join(slices.Compact(names), ", "))
}

func (k *checkup) authorities(about, file string) {
	chain, err := readCertificates(file)
	if err != nil {
		k.fault(about, "", err)
		return
	}
	k.lifetime(about, file, chain, fmt.Sprintf("%d certificates", len(chain)))
}

// lifetime tells of the first of chain that ends.
func (k *checkup) lifetime(about, file string, chain []*x509.Certificate, what string) {
	first := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	left := first.NotAfter.Sub(k.Now())
	text := fmt.Sprintf("%s: %s; %d days left", file, what, int(left.Hours()/24))
	switch {
	case left < 0:
		k.fault(about, "replace the file; the programs read it again by themselves", fmt.Errorf("%s: %q has expired on %s", file, first.Subject, first.NotAfter.UTC().Format(time.DateOnly)))
	case k.Now().Before(chain[0].NotBefore):
		k.fault(about, "look at the clock of this machine", fmt.Errorf("%s: %q is not valid before %s", file, chain[0].Subject, chain[0].NotBefore.UTC().Format(time.DateTime)))
	case left < expiresSoon:
		k.warn(about, "replace the file; the programs read it again by themselves", "%s", text)
	default:
		k.ok(about, "%s", text)
	}
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s holds no certificate that can be read", file)
	}
	return list, nil
}

func (k *checkup) auth() {
	const about = "server: client authentication"
	a := k.server.Auth
	var warnings warningCount
	log := slog.New(&warnings)
	var err error
	switch a.Type {
	case config.AuthToken:
		o := a.Options
		_, err = auth.NewTokens(auth.TokenConfig{Realm: o.Realm, Service: o.Service, Issuer: o.Issuer, RootCertBundle: o.RootCertBundle,
			Autoredirect: o.Autoredirect, FullAccessActions: o.FullAccessActions, Log: log, Now: k.Now})
	case config.AuthHtpasswd:
		_, err = auth.NewHtpasswd(auth.HtpasswdConfig{Realm: a.Options.Realm, Path: a.Options.Path, Policy: a.Options.Policy, Log: log, Now: k.Now})
	default:
		if a.Type != "" {
			return // the report of the configuration says so; the server does not start
		}
		if onLoopback(k.server.Server.HTTPAddr) {
			k.ok(about, "none, and only this machine can connect")
			return
		}
		k.warn(about, "set auth.type, or let only a proxy connect that knows who may do what", "none: whoever can connect can publish and delete")
		return
	}
	switch {
	case err != nil:
		k.fault(about, "", err)
	case len(warnings.texts) > 0:
		k.warn(about, "", "%s: %s", a.Type, strings.Join(warnings.texts, "; "))
	default:
		k.ok(about, "%s", a.Type)
	}
}

// warningCount keeps what is logged.
type warningCount struct{ texts []string }

func (w *warningCount) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w *warningCount) WithGroup(string) slog.Handler      { return w }

func (w *warningCount) Enabled(context.Context, slog.Level) bool { return true }

func (w *warningCount) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	w.texts = append(w.texts, text)
	return nil
}

// database asks a database for its tables and for its clock.
func (k *checkup) database(program string, c config.Storage, schema migrations.Schema) {
	about := program + ": database"
	if c.Backend == config.BackendMemory {
		k.warn(about, "", "memory: nothing is kept")
		return
	}
	cfg := sqldb.Config{Backend: c.Backend, URL: c.DBURL, Password: c.DBPassword, MaxOpen: 2}
	where, err := sqldb.Where(cfg)
	if err != nil {
		k.fault(about, "", err)
		return
	}
	if c.Backend == config.BackendSQLite {
		if _, err := os.Stat(where); err != nil {
			k.warn(about, "", "%s is not there yet: the program makes it when it starts", where)
			return
		}
		k.disk(program, filepath.Dir(where))
	}
	ctx, cancel := context.WithTimeout(k.ctx, checkTime)
	defer cancel()
	db, err := sqldb.Open(ctx, cfg)
	if err != nil {
		k.fault(about, "", err)
		return
	}
	defer db.Close()
	found, err := migrations.Inspect(ctx, db, schema)
	if err != nil {
		k.fault(about, "", fmt.Errorf("%s: %w", where, err))
		return
	}
	if warnings := found.Warnings(); len(warnings) > 0 {
		for _, w := range warnings {
			k.warn(about, "", "%s", w)
		}
	} else {
		k.ok(about, "%s, %s: %s", where, found.Server, found.Shape)
	}
	if c.Backend == config.BackendPostgres {
		k.clock(program, db, ctx)
	}
}

func (k *checkup) clock(program string, db *sqldb.DB, ctx context.Context) {
	before := k.Now()
	now, err := db.Clock(ctx)
	if err != nil {
		k.fault(program+": clock of the database", "", err)
		return
	}
	k.skew(program+": clock of the database", now, before, k.Now())
}

// skew compares a clock that was read between before and after with ours.
func (k *checkup) skew(about string, theirs, before, after time.Time) {
	off := time.Duration(0)
	if theirs.Before(before) {
		off = theirs.Sub(before)
	} else if theirs.After(after) {
		off = theirs.Sub(after)
	}
	if off.Abs() > maxSkew {
		k.warn(about, "let all machines ask the same time servers", "%s off ours: what one signs may be expired for the other", off.Round(time.Second))
		return
	}
	k.ok(about, "agrees with ours")
}

// handshake connects to the signer as the server does.
func (k *checkup) handshake() {
	const about = "server: signer"
	ts := k.server.TrustService
	store, err := certs.Load(certs.Config{Files: certs.Files{Cert: ts.TLSClientCert, Key: ts.TLSClientKey, CA: ts.TLSCAFile}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return // told already
	}
	addr := net.JoinHostPort(ts.Hostname, ts.Port)
	client, err := rpc.Dial(rpc.ClientConfig{Addr: addr, TLS: store.Client(ts.Hostname), Deadline: checkTime})
	if err != nil {
		k.fault(about, "", err)
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(k.ctx, checkTime)
	defer cancel()
	if err := client.Check(ctx); err != nil {
		k.fault(about, "is trust-signer running, and do the certificates fit? Its log and the lines about certificates tell more", fmt.Errorf("%s: %w", addr, err))
		return
	}
	k.ok(about, "%s answers, and says that it can sign", addr)
}

// http asks the server for its health, if it listens where we can reach it.
func (k *checkup) http() {
	const about = "server: health"
	host, port, err := net.SplitHostPort(k.server.Server.HTTPAddr)
	if err != nil {
		return // told already
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme, client := "http", &http.Client{Timeout: checkTime}
	if k.server.Server.TLSCertFile != "" {
		if k.server.Server.ClientCAFile != "" {
			k.ok(about, "not asked: the server wants a client's certificate")
			return
		}
		scheme = "https"
		// Which names the certificate is for has been told; this asks how the
		// server is, by whatever name it can be reached from here.
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	}
	r, err := http.NewRequestWithContext(k.ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/_notary_server/health", nil)
	if err != nil {
		k.fault(about, "", err)
		return
	}
	before := k.Now().Truncate(time.Second)
	resp, err := client.Do(r)
	if err != nil {
		k.fault(about, "is trust-server running?", err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		k.fault(about, "the log of trust-server says more", fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body))))
		return
	}
	k.ok(about, "%s answers that all is well", r.URL)
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		k.skew("server: clock", date, before, k.Now())
	}
}

// aliasesIn lists the aliases that keys in a database are sealed under.
func aliasesIn(ctx context.Context, cfg sqldb.Config) ([]string, error) {
	db, err := sqldb.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return keydb.New(db).Aliases(ctx)
}

// passphrases looks whether each alias that a key is sealed under has one, and
// whether it is weak. That keys open, "keys doctor" tells.
func (k *checkup) passphrases() {
	const about = "signer: passphrases"
	aliases := []string{k.signer.Storage.DefaultAlias}
	var unread error
	if c := k.signer.Storage; c.Backend != config.BackendMemory {
		cfg := sqldb.Config{Backend: c.Backend, URL: c.DBURL, Password: c.DBPassword, MaxOpen: 2}
		if where, err := sqldb.Where(cfg); c.Backend == config.BackendSQLite && err == nil {
			if _, err := os.Stat(where); err != nil {
				cfg.Backend = ""
			}
		}
		ctx, cancel := context.WithTimeout(k.ctx, checkTime)
		defer cancel()
		if cfg.Backend != "" {
			var used []string
			used, unread = aliasesIn(ctx, cfg)
			aliases = append(aliases, used...)
		}
	}
	if unread != nil {
		k.warn(about, "run this again when the database can be asked", "only that of the default alias was looked at: under which others keys are sealed cannot be read: %v", unread)
	}
	slices.Sort(aliases)
	for _, alias := range slices.Compact(aliases) {
		pass, err := k.signer.Passphrases.Passphrase(alias)
		switch why := config.WeakPassphrase(alias, pass); {
		case alias == "":
		case err != nil:
			k.fault(about, "keys are sealed under this alias: give its passphrase back", err)
		case why != "":
			k.warn(about, "give new keys another alias with a long random passphrase (openssl rand -base64 32), then: trust-admin keys rewrap", "that of alias %q is weak: %s", alias, why)
		default:
			k.ok(about, "alias %q has one", alias)
		}
	}
}
