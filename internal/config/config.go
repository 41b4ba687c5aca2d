// Package config is the one loader of the configuration of both programs:
// upstream's JSON files, the environment variables that override them, and
// the keys that we add. The comments of the structs are the manual of the
// keys.
//
// The rules are upstream's. Keys are case-insensitive at every level. The
// variable of a key is NOTARY_SERVER_ or NOTARY_SIGNER_ and its dotted path in
// upper case with "_" for "."; it beats the file, an empty one is ignored, and a
// list in it is split on white space. Scalars may be written as strings or as
// numbers. Where upstream ignores, this loader tells: an unknown key is a fault,
// and all faults are told at once.
package config

// Kinds of storage.
const (
	BackendPostgres = "postgres"
	BackendSQLite   = "sqlite3"
	BackendMemory   = "memory"
)

// Server is the configuration of trust-server.
type Server struct {
	Server       HTTP         `json:"server"`
	TrustService TrustService `json:"trust_service"`
	Storage      Storage      `json:"storage"`
	Auth         Auth         `json:"auth"`
	Logging      Logging      `json:"logging"`
	Caching      Caching      `json:"caching"`
	Repositories Repositories `json:"repositories"`
	Reporting    Reporting    `json:"reporting"`
}

// HTTP is the section "server" of trust-server.
type HTTP struct {
	// HTTPAddr is the host:port to listen on, for example ":4443". Required.
	HTTPAddr string `json:"http_addr"`
	// TLSCertFile and TLSKeyFile are the certificate chain and the private key,
	// PEM, not encrypted. Both or neither; without them the server speaks plain
	// HTTP. The server looks for changes every 5 seconds.
	TLSCertFile string `json:"tls_cert_file" path:"config"`
	TLSKeyFile  string `json:"tls_key_file" path:"config"`
	// ClientCAFile, if set, makes clients show a certificate that one of these
	// CAs (intermediates may stand for themselves) has issued. Needs TLSCertFile.
	ClientCAFile string `json:"client_ca_file" path:"config"`
	Limits       Limits `json:"limits"`
}

// Limits is the section "server.limits" of trust-server. 0 means the default,
// which no real client meets.
type Limits struct {
	// Connections that are open at once; more wait. Default 4096.
	Connections int `json:"connections"`
	// RequestSeconds is how long one request may take, its body included.
	// Default 60. An upload that brings less than 160 KiB in 10 seconds, and is
	// not at its end, is cut off.
	RequestSeconds int `json:"request_seconds"`
	// BodyBytes is the size of an upload. Default 32 MiB.
	BodyBytes int `json:"body_bytes"`
	// PartBytes is the size of one file in an upload. Default 16 MiB.
	PartBytes int `json:"part_bytes"`
	// Parts is the number of files in an upload. Default 1000.
	Parts int `json:"parts"`
	// UploadsBytes is the size of all uploads that are in memory at once, not
	// counting the first 64 KiB of each. Default 128 MiB.
	UploadsBytes int `json:"uploads_bytes"`
	// ChangesPage is the number of changefeed entries in one answer. Default 10000.
	ChangesPage int `json:"changes_page"`
}

// TrustService is the section "trust_service" of trust-server: where the signer is.
type TrustService struct {
	// Type must be "remote". Upstream's "local", keys in the server's memory, is
	// not offered: trust-server holds no key code.
	Type string `json:"type"`
	// Hostname and Port are the signer's. The signer's certificate must be for
	// Hostname. Required.
	Hostname string `json:"hostname"`
	Port     string `json:"port"`
	// KeyAlgorithm is that of the keys that the signer makes: "ecdsa" or
	// "ed25519". Required. Upstream starts with "rsa" too, and then no key can
	// be made; here it warns and means "ecdsa".
	KeyAlgorithm string `json:"key_algorithm"`
	// TLSCAFile holds the CAs that may have issued the signer's certificate, and
	// no others may; without it the system's may.
	TLSCAFile string `json:"tls_ca_file" path:"config"`
	// TLSClientCert and TLSClientKey are what the server shows to the signer.
	// Both or neither.
	TLSClientCert string `json:"tls_client_cert" path:"config"`
	TLSClientKey  string `json:"tls_client_key" path:"config"`
}

// Storage is the section "storage" of trust-server.
type Storage struct {
	// Backend is "postgres", "sqlite3", or "memory", which keeps nothing. Required.
	Backend string `json:"backend"`
	// DBURL says where the database is. For postgres a URL or key=value list as
	// libpq's, where PG* variables fill in what is missing. For sqlite3 the path
	// of a file; default trust-server.db or trust-signer.db beside the
	// configuration file. If neither this nor DBURLFile is set, the
	// variable DB_URL is taken, which Harbor's images set.
	DBURL string `json:"db_url" secret:"yes"`
	// DBURLFile names a file that holds what DBURL would. Not both.
	DBURLFile string `json:"db_url_file" path:"config"`
	// DBPasswordFile names a file that holds the password for PostgreSQL, with
	// any characters in it. It beats the one in DBURL.
	DBPasswordFile string `json:"db_password_file" path:"config"`
	// DBPassword is what DBPasswordFile holds.
	DBPassword string `json:"-"`
	// MaxOpenConns bounds the connections to PostgreSQL, or the readers of
	// SQLite. 0 means the default, 20.
	MaxOpenConns int `json:"max_open_conns"`
	// Migrate creates what the database lacks at the start. Default true. With
	// false the tables must be there.
	Migrate bool `json:"migrate" default:"true"`

	RethinkDB
}

// RethinkDB holds keys of upstream's RethinkDB backend. They warn and do nothing.
type RethinkDB struct {
	Database       string `json:"database" retired:"it is for RethinkDB, which is not supported"`
	TLSCAFile      string `json:"tls_ca_file" retired:"it is for RethinkDB, which is not supported; for PostgreSQL put sslrootcert into storage.db_url"`
	ClientCertFile string `json:"client_cert_file" retired:"it is for RethinkDB, which is not supported; for PostgreSQL put sslcert into storage.db_url"`
	ClientKeyFile  string `json:"client_key_file" retired:"it is for RethinkDB, which is not supported; for PostgreSQL put sslkey into storage.db_url"`
	Username       string `json:"username" retired:"it is for RethinkDB, which is not supported; for PostgreSQL put the user into storage.db_url"`
	Password       string `json:"password" secret:"yes" retired:"it is for RethinkDB, which is not supported; for PostgreSQL put the password into storage.db_url or storage.db_url_file"`
}

// Auth is the section "auth" of trust-server.
type Auth struct {
	// Type is "token", "htpasswd", or "" for no client authentication. Anything
	// else stops the start: what looks protected must not be open.
	Type string `json:"type"`
	// Options are taken from the file alone.
	Options AuthOptions `json:"options" env:"no"`
}

// AuthOptions is the section "auth.options". An option of the other type is a
// fault.
type AuthOptions struct {
	// Realm, for type "token", is the URL of the token service, which clients are
	// sent to; required. For type "htpasswd" it is the name under which clients
	// ask for the password; default "Countersign".
	Realm string `json:"realm" env:"no"`
	// Service is the audience of the tokens, Issuer who makes them. Required for
	// type "token".
	Service string `json:"service" env:"no"`
	Issuer  string `json:"issuer" env:"no"`
	// RootCertBundle is the file of the certificates, PEM, of the keys that sign
	// tokens. Unlike all other paths it is relative to the working directory.
	// Required for type "token".
	RootCertBundle string `json:"rootcertbundle" env:"no"`
	// Autoredirect sends clients to https://HOST/auth/token instead of Realm,
	// HOST being the one that the client asks for. Type "token" only. Default false.
	Autoredirect bool `json:"autoredirect" env:"no" strict:"yes"`
	// FullAccessActions are actions that together count as "*", which deleting
	// and rotating need: tokens of Harbor 2.0.6, 2.1.3 and 2.2.0 grant "push",
	// "pull" and "delete" to those who may do everything. Type "token" only.
	// Default: none.
	FullAccessActions []string `json:"full_access_actions" env:"no"`

	// Path is the file of names and bcrypt hashes, as "htpasswd -B" writes it.
	// Required for type "htpasswd".
	Path string `json:"path" path:"config" env:"no"`
	// Policy is the file that says which users may do what. Required for
	// type "htpasswd".
	Policy string `json:"policy" path:"config" env:"no"`
}

// Logging is the section "logging" of both programs.
type Logging struct {
	// Level is the least severe level that is logged: "panic", "fatal", "error",
	// "warn" ("warning"), "info", "debug" or "trace", in any case. Default "error".
	// SIGUSR1 and SIGUSR2 change it while the program runs.
	Level string `json:"level" default:"error"`
	// Format is "json", "logfmt" or "text". The flag -logf beats it. Default "json".
	Format string `json:"format" default:"json"`
}

// Caching is the section "caching" of trust-server.
type Caching struct {
	MaxAge MaxAge `json:"max_age"`
}

// MaxAge is the section "caching.max_age": for how many seconds, 0 to 31536000,
// HTTP caches may keep an answer. 0 tells them not to.
type MaxAge struct {
	// CurrentMetadata is for what a new publish replaces. Default 300.
	CurrentMetadata int `json:"current_metadata" default:"300"`
	// ConsistentMetadata is for what is asked for by checksum or version and
	// never changes. Default 2592000, 30 days.
	ConsistentMetadata int `json:"consistent_metadata" default:"2592000"`
}

// Repositories is the section "repositories" of trust-server.
type Repositories struct {
	// GUNPrefixes are the prefixes of the GUNs that are served; each ends in one
	// "/". Default: all GUNs are served.
	GUNPrefixes []string `json:"gun_prefixes"`
	// AllowUnvouched accepts a publish that takes from a delegation the keys by
	// which its stored file is signed, as upstream does: readers then skip the
	// delegation until somebody signs it again (notary witness). Default false:
	// such a publish is refused.
	AllowUnvouched bool `json:"allow_unvouched_delegations"`
}

// Reporting is the section "reporting" of both programs; all of it is retired.
type Reporting struct {
	Bugsnag Bugsnag `json:"bugsnag"`
}

// Bugsnag holds upstream's keys for the Bugsnag service. They warn and do nothing.
type Bugsnag struct {
	APIKey       string `json:"api_key" secret:"yes" retired:"there is no reporting to Bugsnag"`
	ReleaseStage string `json:"release_stage" retired:"there is no reporting to Bugsnag"`
	Endpoint     string `json:"endpoint" retired:"there is no reporting to Bugsnag"`
}

// Signer is the configuration of trust-signer.
type Signer struct {
	Server    GRPC          `json:"server"`
	Storage   SignerStorage `json:"storage"`
	Logging   Logging       `json:"logging"`
	Reporting Reporting     `json:"reporting"`
	// DefaultAlias is an older place for SignerStorage.DefaultAlias, which beats it.
	DefaultAlias string `json:"default_alias"`

	// Passphrases finds the passphrase of an alias.
	Passphrases *Passphrases `json:"-"`
}

// GRPC is the section "server" of trust-signer.
type GRPC struct {
	// GRPCAddr is the host:port to listen on, for example ":7899". Required.
	GRPCAddr string `json:"grpc_addr"`
	// HTTPAddr stands in the file of Docker's official image. It warns and does nothing.
	HTTPAddr string `json:"http_addr" retired:"signers have had no HTTP interface since Notary 0.4"`
	// TLSCertFile and TLSKeyFile are the certificate chain and the private key,
	// PEM, not encrypted. Required. The signer looks for changes every
	// 5 seconds.
	TLSCertFile string `json:"tls_cert_file" path:"config"`
	TLSKeyFile  string `json:"tls_key_file" path:"config"`
	// ClientCAFile makes clients show a certificate that one of these CAs
	// (intermediates may stand for themselves) has issued. Without it whoever can
	// connect can have anything signed.
	ClientCAFile string `json:"client_ca_file" path:"config"`
	// ClientNames are the names, one of which a client's certificate must be for.
	// Needs ClientCAFile. Default: every certificate that ClientCAFile vouches for
	// will do.
	ClientNames []string   `json:"client_names"`
	Limits      GRPCLimits `json:"limits"`
}

// GRPCLimits is the section "server.limits" of trust-signer.
type GRPCLimits struct {
	// Connections that are open at once; more wait. 0 means the default, 1024.
	Connections int `json:"connections"`
}

// SignerStorage is the section "storage" of trust-signer.
type SignerStorage struct {
	Storage
	// DefaultAlias is the passphrase alias under which new keys are sealed, at
	// most 50 bytes. Required, unless the backend is "memory".
	DefaultAlias string `json:"default_alias"`
	// PassphraseFiles names, per alias, a file that holds its passphrase. The
	// variables NOTARY_SIGNER_<ALIAS> and NOTARY_SIGNER_<ALIAS>_FILE, with the
	// alias in upper case and "_" for ".", beat it.
	PassphraseFiles map[string]string `json:"passphrase_files" path:"config"`
}
