package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"countersign/internal/config"
	"countersign/migrations"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/storage/sqldb"
)

// SiteConfig names an installation by the configuration files of its programs.
// Either may be empty, if what is to be done does not need that database.
type SiteConfig struct {
	ServerConfig string
	SignerConfig string
	// Environ is in the form of os.Environ; it overrides the files as it does for
	// the programs.
	Environ []string
	// Actor is who does it, for the audit log: "operator NAME".
	Actor string
	// Tool is the program and its version, for archives.
	Tool string
	Log  *slog.Logger
	Now  func() time.Time // time.Now, except in tests

	// Step, if set, is called after each step that a crash could follow, with the
	// step's name. It is how tests end the process there.
	Step func(name string)
}

// A Site is an installation with its databases open. The programs may be running.
type Site struct {
	SiteConfig
	Server   *config.Server // nil without ServerConfig
	Signer   *config.Signer // nil without SignerConfig
	Metadata *metadb.Store  // nil without ServerConfig
	Keys     *keydb.Store   // nil without SignerConfig
	// Recorded: the tables of the audit log, and of purges, may be used.
	Recorded bool

	open []*sqldb.DB
}

// OpenSite opens the databases that the configuration files name. They must have
// been made already. The error tells all that is wrong with the configuration,
// as far as it is about databases and passphrases; faults elsewhere do not matter
// to an operator, who may not be allowed to read the programs' private keys.
func OpenSite(ctx context.Context, c SiteConfig) (*Site, error) {
	if c.ServerConfig == "" && c.SignerConfig == "" {
		return nil, ErrNoDBConfig
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Site{SiteConfig: c}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.connect(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes the databases.
func (s *Site) Close() error {
	var err error
	for _, db := range s.open {
		err = errors.Join(err, db.Close())
	}
	return err
}

// step tells that a step is done.
func (s *Site) step(name string) {
	if s.Step != nil {
		s.Step(name)
	}
}

func (s *Site) load() error {
	var faults []error
	relevant := func(file string, r *config.Report) {
		var left config.Faults
		for _, f := range r.Faults {
			if f.Key == "" || strings.HasPrefix(f.Key, "storage") || strings.HasPrefix(f.Key, "NOTARY_SIGNER_") {
				left = append(left, f)
			}
		}
		if len(left) > 0 {
			faults = append(faults, fmt.Errorf("%s: %w", file, left))
		}
	}
	if s.ServerConfig != "" {
		c, r := config.LoadServer(s.ServerConfig, s.Environ)
		s.Server = c
		relevant(s.ServerConfig, r)
	}
	if s.SignerConfig != "" {
		c, r := config.LoadSigner(s.SignerConfig, s.Environ)
		s.Signer = c
		relevant(s.SignerConfig, r)
	}
	return errors.Join(faults...)
}

func (s *Site) connect(ctx context.Context) error {
	if s.Server != nil {
		db, found, err := s.database(ctx, "trust-server", s.Server.Storage, migrations.Server)
		if err != nil {
			return err
		}
		s.Recorded = found.Audit
		s.Metadata = metadb.New(db)
		if !s.Recorded {
			s.Metadata = s.Metadata.WithoutAudit()
		}
	}
	if s.Signer != nil {
		db, _, err := s.database(ctx, "trust-signer", s.Signer.Storage.Storage, migrations.Signer)
		if err != nil {
			return err
		}
		s.Keys = keydb.New(db)
	}
	return nil
}

func (s *Site) database(ctx context.Context, program string, c config.Storage, schema migrations.Schema) (*sqldb.DB, *migrations.Finding, error) {
	cfg := sqldb.Config{Backend: c.Backend, URL: c.DBURL, Password: c.DBPassword, MaxOpen: 4, Now: s.Now}
	where, err := sqldb.Where(cfg)
	if c.Backend == config.BackendMemory {
		err = fmt.Errorf("%w: storage.backend is %q: nothing is kept", storage.ErrInvalid, c.Backend)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the database of %s: %w", program, err)
	}
	if c.Backend == config.BackendSQLite {
		// Opening would make the file.
		if _, err := os.Stat(where); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("the database of %s: there is no file %s; is this the right configuration?", program, where)
		}
	}
	opening, cancel := context.WithTimeout(ctx, dbTime)
	defer cancel()
	db, err := sqldb.Open(opening, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("the database of %s: %w", program, err)
	}
	s.open = append(s.open, db)
	found, err := migrations.Check(opening, db, schema)
	if err != nil {
		return nil, nil, fmt.Errorf("the database of %s: %w", program, err)
	}
	return db, found, nil
}
