package sqldb

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Where describes the database that c names, without its password: role, host,
// port, database and sslmode, from the URL, PG* variables and their defaults; or
// the path of SQLite's file.
func Where(c Config) (string, error) {
	if Dialect(c.Backend) == SQLite {
		return sqlitePath(c.URL)
	}
	cfg, err := parsePostgres(c.URL)
	if err != nil {
		return "", err
	}
	hosts := []string{net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))}
	for _, m := range cfg.Multi {
		hosts = append(hosts, net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port))))
	}
	mode := cfg.SSLMode
	if mode == "" {
		mode = "require"
	}
	database := cfg.Database
	if database == "" {
		database = cfg.User
	}
	return fmt.Sprintf("database %s on %s as role %s, sslmode=%s", database, strings.Join(hosts, ","), cfg.User, mode), nil
}
