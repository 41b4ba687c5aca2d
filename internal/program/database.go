package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"countersign/internal/config"
	"countersign/internal/service"
	"countersign/migrations"
	"countersign/storage"
	"countersign/storage/sqldb"
)

// openTime bounds one attempt to reach the database: what hangs is told.
const openTime = 30 * time.Second

// A Database is the open database of a daemon.
type Database struct {
	*sqldb.DB
	// Audit: the tables of the audit log may be used. Server only.
	Audit     bool
	temporary string // folder of a database that is not kept
}

// OpenDatabase opens the database that the configuration names, and creates
// what it lacks of the schema, unless storage.migrate forbids it, which does not
// hold for a database that is not kept. While the
// database cannot be reached it goes on trying until ctx ends; the log tells
// why. The error is one that time does not heal.
func (p *Program) OpenDatabase(ctx context.Context, s config.Storage, schema migrations.Schema) (*Database, error) {
	db := &Database{}
	cfg := sqldb.Config{Backend: s.Backend, URL: s.DBURL, Password: s.DBPassword, MaxOpen: s.MaxOpenConns}
	if s.Backend == config.BackendMemory {
		dir, err := os.MkdirTemp("", p.Name+"-")
		if err != nil {
			return nil, fmt.Errorf("making a folder for the temporary database: %w", err)
		}
		db.temporary = dir
		cfg.Backend, cfg.URL = config.BackendSQLite, filepath.Join(dir, "db")
	}
	transient := func(err error) bool { return errors.Is(err, storage.ErrUnavailable) }
	err := service.Retry(ctx, p.Log, "opening the database", transient, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, openTime)
		defer cancel()
		db.DB, err = sqldb.Open(ctx, cfg)
		return err
	})
	if err == nil {
		// No bound but the connection's own: an index on a large table takes
		// its time, and other replicas wait for the one that makes it.
		err = service.Retry(ctx, p.Log, "preparing the tables", transient, func(ctx context.Context) error {
			prepare, done := migrations.Adopt, "tables adopted"
			if !s.Migrate && db.temporary == "" {
				prepare, done = migrations.Check, "tables checked"
			}
			found, err := prepare(ctx, db.DB, schema)
			if err != nil {
				return err
			}
			db.Audit = found.Audit
			for _, w := range found.Warnings() {
				p.Warn(ctx, "database: "+w)
			}
			p.Log.InfoContext(ctx, done, "shape", found.Shape, "database_version", found.Server)
			return nil
		})
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	p.Log.InfoContext(ctx, "database open", "backend", s.Backend)
	return db, nil
}

// Close closes the database, and removes it if it was not to be kept.
func (d *Database) Close() error {
	var err error
	if d.DB != nil {
		err = d.DB.Close()
	}
	if d.temporary != "" {
		err = errors.Join(err, os.RemoveAll(d.temporary))
	}
	return err
}
