package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"countersign/internal/config"
	"countersign/migrations"
	"countersign/storage/sqldb"
)

// dbTime bounds the wait for one database to answer; migrating takes as long as it takes.
const dbTime = 30 * time.Second

// DBConfig names the databases by the configuration files of the programs that
// use them. Either may be empty.
type DBConfig struct {
	ServerConfig string
	SignerConfig string
	// Environ is in the form of os.Environ; it overrides the files as it does
	// for the programs.
	Environ []string
}

// ErrNoDBConfig is a DBConfig that names no file.
var ErrNoDBConfig = errors.New("no configuration file is named")

// A DBState is what was found of one program's database, and done to it.
type DBState struct {
	Program string `json:"program"`
	Config  string `json:"config"`
	Backend string `json:"backend"`
	// Where is the database, without its password.
	Where string `json:"where"`
	// Warnings are about the configuration.
	Warnings []string `json:"warnings,omitempty"`
	// Fault is why nothing could be found, or cannot be mended; "" if all is well.
	Fault string `json:"fault,omitempty"`
	// Note says why there is nothing to be found; "" if there is.
	Note string `json:"note,omitempty"`
	// ToDo: something is missing that migrating, or the tables' owner, mends.
	ToDo    bool                `json:"to_do"`
	Did     []string            `json:"did,omitempty"`
	Finding *migrations.Finding `json:"found,omitempty"`
}

// CheckDB looks at the databases and changes nothing; standbys will do. The
// error is a fault of the configuration, all of it; what is wrong with one
// database is in its state.
func CheckDB(ctx context.Context, cfg DBConfig) ([]DBState, error) {
	return eachDB(ctx, cfg, func(ctx context.Context, db *sqldb.DB, s migrations.Schema, st *DBState) (err error) {
		st.Finding, err = migrations.Inspect(ctx, db, s)
		return err
	}, false)
}

// MigrateDB brings the databases to the shape that both our programs and
// upstream's tools need, and tells what it did. Programs may run and clients
// publish meanwhile, as migrations.Migrate says. Errors are as with CheckDB.
func MigrateDB(ctx context.Context, cfg DBConfig) ([]DBState, error) {
	return eachDB(ctx, cfg, func(ctx context.Context, db *sqldb.DB, s migrations.Schema, st *DBState) (err error) {
		st.Finding, st.Did, err = migrations.Migrate(ctx, db, s)
		return err
	}, true)
}

type dbWork func(ctx context.Context, db *sqldb.DB, s migrations.Schema, st *DBState) error

func eachDB(ctx context.Context, cfg DBConfig, work dbWork, create bool) ([]DBState, error) {
	if cfg.ServerConfig == "" && cfg.SignerConfig == "" {
		return nil, ErrNoDBConfig
	}
	type job struct {
		schema  migrations.Schema
		storage config.Storage
		state   DBState
	}
	var jobs []job
	var faults []error
	add := func(s migrations.Schema, file string, storage config.Storage, r *config.Report) {
		if err := r.Err(); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", file, err))
		}
		jobs = append(jobs, job{s, storage, DBState{Program: "trust-" + string(s), Config: r.File, Backend: storage.Backend, Warnings: r.Warnings}})
	}
	if cfg.ServerConfig != "" {
		c, r := config.LoadServer(cfg.ServerConfig, cfg.Environ)
		add(migrations.Server, cfg.ServerConfig, c.Storage, r)
	}
	if cfg.SignerConfig != "" {
		c, r := config.LoadSigner(cfg.SignerConfig, cfg.Environ)
		add(migrations.Signer, cfg.SignerConfig, c.Storage.Storage, r)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	var states []DBState
	for _, j := range jobs {
		st := &j.state
		if err := oneDB(ctx, j.schema, j.storage, st, work, create); err != nil {
			st.Fault = err.Error()
		}
		if st.Finding != nil && st.Fault == "" {
			st.ToDo = !st.Finding.Done()
		}
		states = append(states, *st)
	}
	return states, ctx.Err()
}

func oneDB(ctx context.Context, s migrations.Schema, c config.Storage, st *DBState, work dbWork, create bool) error {
	if c.Backend == config.BackendMemory {
		st.Note = "nothing is kept, so there is nothing to look at"
		return nil
	}
	open := sqldb.Config{Backend: c.Backend, URL: c.DBURL, Password: c.DBPassword, MaxOpen: 2, ReadOnly: !create}
	where, err := sqldb.Where(open)
	if err != nil {
		return err
	}
	st.Where = where
	if c.Backend == config.BackendSQLite && !create {
		// Opening would make the file.
		if _, err := os.Stat(where); errors.Is(err, fs.ErrNotExist) {
			st.Note, st.ToDo = "there is no such file yet; the program makes it when it starts", true
			return nil
		}
	}
	opening, cancel := context.WithTimeout(ctx, dbTime)
	defer cancel()
	db, err := sqldb.Open(opening, open)
	if err != nil {
		return err
	}
	defer db.Close()
	return work(ctx, db, s, st)
}

// DBScript is what psql needs to close the gaps of these databases that their
// programs' roles may not close, or all of them.
func DBScript(states []DBState) string {
	var b strings.Builder
	for _, st := range states {
		if st.Finding != nil && st.Finding.Versions != nil {
			b.WriteString(st.Finding.Script())
		}
	}
	return b.String()
}
