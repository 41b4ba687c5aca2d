package sqldb

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"strings"

	"modernc.org/sqlite"

	"countersign/storage"
)

// busyTimeout is how long a statement waits for a lock that another process
// holds, in milliseconds.
const busyTimeout = "5000"

// openSQLite makes one connection for writing, which takes the write lock when
// its transaction begins (a lock taken later can not wait: SQLite would fail at
// once), and a pool for reading. WAL lets them work beside each other;
// synchronous=FULL means that what was committed survives a power cut.
func (db *DB) openSQLite(c Config) error {
	path, err := sqlitePath(c.URL)
	if err != nil {
		return err
	}
	if !c.ReadOnly {
		if err := createPrivate(path); err != nil {
			return err
		}
	}
	pool := func(extra url.Values) (*sql.DB, error) {
		q := url.Values{
			"_busy_timeout": {busyTimeout},
			"_foreign_keys": {"on"},
			"_synchronous":  {"FULL"},
			"_defensive":    {"1"},
			"_dqs":          {"0"},
			"_error_rc":     {"1"},
		}
		for k, v := range extra {
			q[k] = v
		}
		u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}
		dsn := u.String()
		if !strings.HasPrefix(path, "/") {
			dsn = "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
		}
		conn, err := sqlite.NewConnector(dsn)
		if err != nil {
			return nil, fmt.Errorf("%w: SQLite path: %w", storage.ErrInvalid, err)
		}
		return sql.OpenDB(conn), nil
	}
	readers := min(c.MaxOpen, max(4, runtime.GOMAXPROCS(0)))
	if c.ReadOnly {
		if db.read, err = pool(url.Values{"mode": {"ro"}, "_query_only": {"on"}}); err != nil {
			return err
		}
		db.read.SetMaxOpenConns(readers)
		db.write = db.read
		return nil
	}
	if db.write, err = pool(url.Values{"_journal_mode": {"WAL"}, "_txlock": {"immediate"}}); err != nil {
		return err
	}
	db.write.SetMaxOpenConns(1)
	if db.read, err = pool(url.Values{"_query_only": {"on"}}); err != nil {
		return errors.Join(err, db.write.Close())
	}
	db.read.SetMaxOpenConns(readers)
	db.read.SetMaxIdleConns(readers)
	return nil
}

// sqlitePath reads a path as it stands, or the path of a file: URI. Settings in
// a URI are refused, for we choose them all.
func sqlitePath(s string) (string, error) {
	path, isURI := strings.CutPrefix(s, "file:")
	if isURI {
		path, query, _ := strings.Cut(path, "?")
		if query != "" {
			return "", fmt.Errorf("%w: a SQLite URI takes no settings after '?'", storage.ErrInvalid)
		}
		if rest, ok := strings.CutPrefix(path, "//"); ok {
			host, _, _ := strings.Cut(rest, "/")
			if host != "" && host != "localhost" {
				return "", fmt.Errorf("%w: a SQLite URI names a local file, as in file:///var/lib/db.sqlite", storage.ErrInvalid)
			}
			path = rest[len(host):]
		}
		var err error
		if path, err = url.PathUnescape(path); err != nil {
			return "", fmt.Errorf("%w: SQLite URI: %w", storage.ErrInvalid, err)
		}
		return checkPath(path)
	}
	return checkPath(s)
}

func checkPath(path string) (string, error) {
	if path == "" || strings.Contains(path, ":memory:") || strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("%w: SQLite needs the path of a file; a database in memory would be lost with its first connection", storage.ErrInvalid)
	}
	return path, nil
}

// createPrivate makes the file, if it is missing, for its owner alone. SQLite
// gives its -wal and -shm files the same mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: creating the SQLite file: %w", storage.ErrUnavailable, err)
	}
	return f.Close()
}
