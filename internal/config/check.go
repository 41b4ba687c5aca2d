package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxAge   = 365 * 24 * 60 * 60 // seconds
	maxAlias = 50                 // upstream's column

	// Far above what anybody needs, and far below what overflows or cannot be
	// had.
	maxConnections = 1 << 20
	maxOpenConns   = 10_000
	maxRequest     = 24 * 60 * 60 // seconds
	maxBody        = 1 << 30      // no database takes a larger file
	maxUploads     = 1 << 40
	maxParts       = 1_000_000
	maxPage        = 1_000_000
)

// LogLevels are the names of the levels, most severe first.
var LogLevels = []string{"panic", "fatal", "error", "warn", "info", "debug", "trace"}

// LogFormats are the names of the formats.
var LogFormats = []string{"json", "logfmt", "text"}

func (b *binder) checkServer(cfg *Server) {
	b.checkAddr("server.http_addr", cfg.Server.HTTPAddr, ":4443")
	b.checkPair("server.tls_cert_file", cfg.Server.TLSCertFile, "server.tls_key_file", cfg.Server.TLSKeyFile,
		"give both, or neither for plain HTTP")
	if cfg.Server.ClientCAFile != "" && cfg.Server.TLSCertFile == "" && cfg.Server.TLSKeyFile == "" {
		b.fault("server.client_ca_file", "client certificates need TLS", "give server.tls_cert_file and server.tls_key_file too, or remove it")
	}
	l := &cfg.Server.Limits
	b.checkLimits("server.limits.", map[string]limit{
		"connections": {l.Connections, maxConnections}, "request_seconds": {l.RequestSeconds, maxRequest}, "body_bytes": {l.BodyBytes, maxBody},
		"part_bytes": {l.PartBytes, maxBody}, "parts": {l.Parts, maxParts}, "uploads_bytes": {l.UploadsBytes, maxUploads}, "changes_page": {l.ChangesPage, maxPage},
	})
	b.checkTrustService(&cfg.TrustService)
	b.checkStorage(&cfg.Storage, "trust-server.db")
	b.checkAuth(&cfg.Auth)
	b.checkLogging(&cfg.Logging)
	b.checkMaxAge("caching.max_age.current_metadata", cfg.Caching.MaxAge.CurrentMetadata)
	b.checkMaxAge("caching.max_age.consistent_metadata", cfg.Caching.MaxAge.ConsistentMetadata)
	b.checkPrefixes(cfg.Repositories.GUNPrefixes)
}

func (b *binder) checkMaxAge(key string, seconds int) {
	if seconds < 0 || seconds > maxAge {
		b.fault(key, fmt.Sprintf("must specify a cache-control max-age between 0 and %d", maxAge), "")
	}
}

func (b *binder) checkPrefixes(prefixes []string) {
	for _, prefix := range prefixes {
		if !validPrefix(prefix) {
			b.report.Faults = append(b.report.Faults, Fault{
				Key: "repositories.gun_prefixes", Value: prefix, From: b.given["repositories.gun_prefixes"].from,
				Problem: "invalid GUN prefix", Remedy: `write it as "registry.example.com/team/": no "/" or ".." in front, one "/" at the end, no blanks`,
			})
		}
	}
}

func (b *binder) checkSigner(cfg *Signer) {
	b.checkAddr("server.grpc_addr", cfg.Server.GRPCAddr, ":7899")
	s := &cfg.Server
	if s.TLSCertFile == "" && s.TLSKeyFile == "" {
		b.fault("server.tls_cert_file", "the signer speaks TLS only and needs a certificate", "give server.tls_cert_file and server.tls_key_file")
	} else {
		b.checkPair("server.tls_cert_file", s.TLSCertFile, "server.tls_key_file", s.TLSKeyFile, "give both")
	}
	b.checkNames(s)
	b.checkLimits("server.limits.", map[string]limit{"connections": {s.Limits.Connections, maxConnections}})
	b.checkStorage(&cfg.Storage.Storage, "trust-signer.db")
	b.checkLogging(&cfg.Logging)
	b.checkAlias(cfg)
}

// checkNames refuses an allow-list that allows all, or nobody.
func (b *binder) checkNames(s *GRPC) {
	const key = "server.client_names"
	switch {
	case s.ClientNames == nil:
	case len(s.ClientNames) == 0:
		b.fault(key, "the list is empty, so nobody could connect", "name those who may, or remove it if every certificate that server.client_ca_file vouches for will do")
	case slices.ContainsFunc(s.ClientNames, func(name string) bool { return strings.TrimSpace(name) == "" }):
		b.fault(key, "a name in the list is empty", "remove it")
	case s.ClientCAFile == "":
		b.fault(key, "names are looked for in client certificates, and without server.client_ca_file nobody has to show one",
			"give server.client_ca_file too, or remove it")
	}
}

// checkAlias settles the default alias, and looks whether it has a passphrase.
// Upstream starts without one, and so may we: old keys may be under other
// aliases. But it is told.
func (b *binder) checkAlias(cfg *Signer) {
	if cfg.Storage.DefaultAlias == "" {
		cfg.Storage.DefaultAlias = cfg.DefaultAlias
	}
	alias := cfg.Storage.DefaultAlias
	if cfg.Storage.Backend == BackendMemory {
		return
	}
	if alias == "" {
		b.fault("storage.default_alias", "must provide a default alias for the key DB",
			`name the passphrase for new keys, for example "passwordalias1", and put the passphrase itself into the variable `+variable(b.prefix, "passwordalias1"))
		return
	}
	if len(alias) > maxAlias {
		b.fault("storage.default_alias", fmt.Sprintf("it is longer than the %d bytes that its column holds", maxAlias), "")
	}
	_, err := cfg.Passphrases.Passphrase(alias)
	if file := variable(b.prefix, alias) + "_FILE"; err != nil && !errors.Is(err, ErrNoPassphrase) && b.env[file] != "" {
		b.report.Faults = append(b.report.Faults, Fault{Key: file, Value: b.env[file], Problem: err.Error()})
	} else if err != nil {
		b.report.Warnings = append(b.report.Warnings, "no new key can be made: "+err.Error())
	}
}

func (b *binder) checkTrustService(ts *TrustService) {
	switch ts.Type {
	case "remote":
	case "local":
		b.fault("trust_service.type", "keys in the server's own memory are not offered: trust-server holds no key code",
			`set it to "remote" and run trust-signer; to try things out, "trust-admin dev" starts both`)
	default:
		b.fault("trust_service.type", `must be "remote"`, "")
	}
	if ts.Type != "remote" {
		return // the other keys are then of no use
	}
	if ts.Hostname == "" {
		b.fault("trust_service.hostname", "the host of the signer is needed", "give the name that the signer's certificate is for")
	}
	if port, err := net.LookupPort("tcp", ts.Port); err != nil || port == 0 {
		b.fault("trust_service.port", "it must be a port number", `trust-signer conventionally listens on "7899"`)
	}
	switch ts.KeyAlgorithm {
	case "ecdsa", "ed25519":
	case "rsa":
		b.warn("trust_service.key_algorithm", `signers make no RSA keys; "ecdsa" is used instead`)
		ts.KeyAlgorithm = "ecdsa"
	default:
		b.fault("trust_service.key_algorithm", "invalid key algorithm configured", `set it to "ecdsa" or "ed25519"`)
	}
	b.checkPair("trust_service.tls_client_cert", ts.TLSClientCert, "trust_service.tls_client_key", ts.TLSClientKey,
		"give both, or neither if the signer asks for no client certificate")
}

func (b *binder) checkLogging(l *Logging) {
	l.Level = strings.ToLower(l.Level)
	if l.Level == "warning" {
		l.Level = "warn"
	}
	if !slices.Contains(LogLevels, l.Level) {
		b.fault("logging.level", "not a valid log level", "use one of "+strings.Join(LogLevels, ", "))
	}
	if !slices.Contains(LogFormats, l.Format) {
		b.fault("logging.format", "not a valid log format", "use one of "+strings.Join(LogFormats, ", "))
	}
}

func (b *binder) checkAddr(key, addr, example string) {
	remedy := fmt.Sprintf("write it as HOST:PORT, or :PORT for all addresses; %q is usual", example)
	if addr == "" {
		b.fault(key, "the address to listen on is needed", remedy)
		return
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil && port == "" {
		err = fmt.Errorf("address %s: missing port in address", addr)
	}
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		b.fault(key, err.Error(), remedy)
	}
}

func (b *binder) checkPair(certKey, cert, keyKey, key, remedy string) {
	if (cert == "") == (key == "") {
		return
	}
	have, miss := certKey, keyKey
	if cert == "" {
		have, miss = keyKey, certKey
	}
	b.fault(miss, "it is missing beside "+have, remedy)
}

// A limit is a number that was set, and the most that makes sense.
type limit struct {
	value int
	most  int64
}

func (b *binder) checkLimits(prefix string, limits map[string]limit) {
	for _, key := range slices.Sorted(maps.Keys(limits)) {
		if l := limits[key]; l.value < 0 {
			b.fault(prefix+key, "it must not be negative", "0 stands for the default")
		} else if int64(l.value) > l.most {
			b.fault(prefix+key, fmt.Sprintf("it must not be above %d", l.most), "0 stands for the default")
		}
	}
}

// checkPaths looks whether every file that is named can be read.
func (b *binder) checkPaths() {
	for _, p := range b.paths {
		f, err := os.Open(p.path)
		if err == nil {
			var info os.FileInfo
			if info, err = f.Stat(); err == nil && info.IsDir() {
				err = fmt.Errorf("it is a directory")
			}
			_ = f.Close()
		}
		if err == nil {
			continue
		}
		if p.key == rootCertBundle {
			b.faultBundle(p.path, err)
			continue
		}
		b.fault(p.key, fmt.Sprintf("reading %s: %v", p.path, bare(err)),
			unreadable(b.given[p.key].value, err, "the directory of the configuration file"))
	}
}

// rootCertBundle is the only path that is relative to the working directory, as
// upstream's is.
const rootCertBundle = "auth.options.rootcertbundle"

func (b *binder) faultBundle(path string, err error) {
	remedy := unreadable(path, err, "the working directory, unlike all others: write it in full")
	if abs, absErr := filepath.Abs(path); absErr == nil {
		path = abs
	}
	b.fault(rootCertBundle, fmt.Sprintf("unable to open token auth root certificate bundle file %s: %v", path, bare(err)), remedy)
}

// validPrefix is upstream's rule for repositories.gun_prefixes.
func validPrefix(p string) bool {
	return strings.TrimSpace(p) == p && strings.HasSuffix(p, "/") && path.Clean(p)+"/" == p &&
		!strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "..")
}
