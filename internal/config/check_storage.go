package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

func (b *binder) checkStorage(s *Storage, defaultFile string) {
	b.checkLimits("storage.", map[string]limit{"max_open_conns": {s.MaxOpenConns, maxOpenConns}})
	switch s.Backend {
	case BackendPostgres:
		b.checkPostgres(s)
	case BackendSQLite:
		b.readURLFile(s)
		if s.DBURL == "" {
			s.DBURL = defaultFile
		}
		if !filepath.IsAbs(s.DBURL) && !strings.HasPrefix(s.DBURL, "file:") {
			s.DBURL = filepath.Join(b.dir, s.DBURL)
		}
		b.checkFolder(s.DBURL)
	case BackendMemory:
		b.warn("storage.backend", "nothing is kept: all metadata and keys are gone when the program ends")
	case "mysql":
		b.fault("storage.backend", "MySQL is not supported", `move the data to PostgreSQL and set it to "postgres", or start anew with "sqlite3"`)
	case "rethinkdb":
		b.fault("storage.backend", "RethinkDB is not supported", `set it to "postgres" or "sqlite3"; publishers then initialise their repositories anew`)
	default:
		b.fault("storage.backend", "not a supported storage backend", `set it to "postgres" or "sqlite3"`)
	}
}

// checkFolder looks for the folder of SQLite's file, which nobody else makes:
// to wait for it would be to wait for ever.
func (b *binder) checkFolder(file string) {
	if uri, err := url.Parse(file); strings.HasPrefix(file, "file:") {
		if err != nil || uri.Path == "" {
			return // relative to the working directory, or told when it is opened
		}
		file = uri.Path
	}
	info, err := os.Stat(filepath.Dir(file))
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		// Not its name: what is given for a path may be a URL with a password.
		b.fault("storage.db_url", fmt.Sprintf("the folder of the database file cannot be used: %v", bare(err)),
			"make it, or name another file; relative paths are relative to the directory of the configuration file")
	}
}

func (b *binder) checkPostgres(s *Storage) {
	b.readURLFile(s)
	if s.DBPasswordFile != "" {
		s.DBPassword = b.readSecret("storage.db_password_file", s.DBPasswordFile)
	}
	if s.DBURL == "" && s.DBURLFile == "" {
		s.DBURL = b.env["DB_URL"]
		b.given["storage.db_url"] = given{from: "DB_URL"}
	}
	if s.DBURL == "" {
		if s.DBURLFile == "" { // else it has been told
			delete(b.given, "storage.db_url")
			b.fault("storage.db_url", "must provide a non-empty database source for postgres",
				"for example postgres://user@db.example.com/notary?sslmode=verify-full, or a file that holds it in storage.db_url_file")
		}
		return
	}
	const form = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=… or host=… user=… dbname=…"
	if strings.HasPrefix(s.DBURL, "postgres://") || strings.HasPrefix(s.DBURL, "postgresql://") {
		const encode = "in user and password, write : / ? # [ ] @ % as %3A %2F %3F %23 %5B %5D %40 %25"
		read := readDBURL(s.DBURL)
		switch {
		case read.problem != "":
			b.fault("storage.db_url", read.problem, encode+"; or put the password into a file, storage.db_password_file")
			return
		case read.lenient != "":
			b.warn("storage.db_url", "its password is not encoded as in a URL; it is read as "+read.lenient+"; to be sure, "+encode)
		}
		s.DBURL = read.text
	} else if !keyValue.MatchString(s.DBURL) {
		b.fault("storage.db_url", "it is neither a PostgreSQL URL nor a list of key=value", form)
	}
}

var keyValue = regexp.MustCompile(`^\s*[a-z_]+\s*=`)

// readURLFile takes storage.db_url from a file. What the environment names
// beats what the file names; two from the same place contradict each other.
func (b *binder) readURLFile(s *Storage) {
	if s.DBURLFile == "" {
		return
	}
	fileInEnv, urlInEnv := b.given["storage.db_url_file"].from != "", b.given["storage.db_url"].from != ""
	switch {
	case s.DBURL != "" && fileInEnv == urlInEnv:
		b.fault("storage.db_url_file", "storage.db_url is given too", "remove one of them")
	case s.DBURL != "" && urlInEnv:
		s.DBURLFile = ""
		b.paths = slices.DeleteFunc(b.paths, func(p pathKey) bool { return p.key == "storage.db_url_file" })
	default:
		s.DBURL = strings.TrimSpace(b.readSecret("storage.db_url_file", s.DBURLFile))
	}
}

// readSecret returns what the file holds, without line ends behind it. A file
// that cannot be read is left to checkPaths.
func (b *binder) readSecret(key, file string) string {
	raw, err := readFile(file, maxSecretFile)
	if err != nil {
		return ""
	}
	secret := strings.TrimRight(string(raw), "\r\n")
	if strings.TrimSpace(secret) == "" {
		b.fault(key, "the file is empty", "")
	}
	return secret
}
