package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"

	"countersign/storage"
)

const (
	connectTimeout = 5 * time.Second
	// cancelGrace is how long a statement may go on after its context has
	// ended. A server that lives answers the driver's cancel request at once;
	// one that hangs is left by closing the socket.
	cancelGrace = time.Second
)

// errConnect marks the errors of making a connection.
var errConnect = errors.New("connecting to the database")

// openPostgres makes the pool. Statements are never prepared, and each goes
// out in one round trip with binary parameters: that is what works through a
// transaction pooler such as pgbouncer.
func (db *DB) openPostgres(c Config) error {
	cfg, err := parsePostgres(c.URL)
	if err != nil {
		return err
	}
	user, _, _ := strings.Cut(c.URL, "@")
	percent := c.Password == "" && strings.Contains(user, "://") && strings.Contains(user, "%")
	if c.Password != "" {
		cfg.Password = c.Password
	}
	db.host, db.port = cfg.Host, int(cfg.Port)
	db.write = sql.OpenDB(connector{cfg: cfg, percent: percent})
	db.read = db.write
	db.write.SetMaxOpenConns(c.MaxOpen)
	db.write.SetMaxIdleConns(c.MaxIdle)
	db.write.SetConnMaxLifetime(c.MaxLifetime)
	return nil
}

// parsePostgres reads both forms of connection string. The driver's own error
// texts quote parts of what they could not read, which may be parts of a
// password with a stray '@', '/' or blank: only those about one named setting
// are passed on.
func parsePostgres(url string) (pq.Config, error) {
	if strings.TrimSpace(url) == "" {
		return pq.Config{}, fmt.Errorf("%w: the database URL is empty", storage.ErrInvalid)
	}
	cfg, err := pq.NewConfig(url)
	if err != nil {
		if s := err.Error(); strings.HasPrefix(s, "pq: wrong value for") || strings.HasPrefix(s, "pq: environment variable") ||
			strings.HasPrefix(s, "pq: weak sslmode") {
			return pq.Config{}, fmt.Errorf("%w: database URL: %s", storage.ErrInvalid, s)
		}
		return pq.Config{}, fmt.Errorf("%w: the database URL cannot be read; special characters in a password must be percent-encoded in a URL, or quoted with ' in the key=value form", storage.ErrInvalid)
	}
	if err := checkFiles(cfg); err != nil {
		return pq.Config{}, err
	}
	cfg.BinaryParameters = true
	// Times are written in UTC, without a zone. In columns with one, which tools
	// that move databases from MySQL make, they mean the session's.
	cfg = cfg.Clone()
	maps.DeleteFunc(cfg.Runtime, func(k, _ string) bool { return strings.EqualFold(k, "timezone") })
	cfg.Runtime["TimeZone"] = "UTC"
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	return cfg, nil
}

// connector makes connections that give up when their context has ended.
type connector struct {
	cfg pq.Config
	// percent: the password was in a URL, with a % that stands for something else.
	percent bool
}

func (c connector) Driver() driver.Driver { return &pq.Driver{} }

// Connect is called by database/sql, for new connections also outside of any
// request. Then connect_timeout limits it; otherwise the context too, which the
// driver heeds only until the socket is open, not for the login that follows.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	p, err := pq.NewConnectorConfig(c.cfg.Clone())
	if err != nil {
		return nil, c.explain(err)
	}
	d := &dialer{}
	p.Dialer(d)
	unhook := context.AfterFunc(ctx, d.abort)
	inner, err := p.Connect(ctx)
	if err == nil && !unhook() {
		inner.Close()
		err = ctx.Err()
	}
	if err != nil {
		unhook()
		return nil, c.explain(err)
	}
	full, ok := inner.(pqConn)
	if !ok {
		inner.Close()
		return nil, fmt.Errorf("%w: the driver's connection lacks a method", errConnect)
	}
	return &conn{pqConn: full, socket: d.settle()}, nil
}

// dialer remembers the socket of the connection that it was made for. The
// driver also dials with it to send cancel requests; those it must not remember.
type dialer struct {
	net net.Dialer

	// mu guards the rest. It is not held while dialing.
	mu      sync.Mutex
	last    net.Conn
	settled bool // the login is over
	aborted bool
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.net.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.aborted && !d.settled {
		c.Close()
		return nil, context.Canceled
	}
	if !d.settled {
		d.last = c
	}
	return c, nil
}

// abort ends a login that is under way.
func (d *dialer) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborted = true
	if d.last != nil && !d.settled {
		d.last.Close()
	}
}

func (d *dialer) settle() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = true
	return d.last
}

// pqConn is what database/sql uses of the driver's connection.
type pqConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

// conn closes its socket some time after the context of a call has ended. The
// driver alone would wait for a hanging server for as long as TCP does, and
// the request that has long given up would hold its place in the pool.
type conn struct {
	pqConn
	socket net.Conn
}

func (c *conn) guard(ctx context.Context) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	finished := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		t := time.NewTimer(cancelGrace)
		defer t.Stop()
		select {
		case <-finished:
		case <-t.C:
			c.socket.Close()
		}
	})
	return func() {
		unhook()
		close(finished)
	}
}

func (c *conn) Ping(ctx context.Context) error {
	defer c.guard(ctx)()
	return c.pqConn.Ping(ctx)
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	defer c.guard(ctx)()
	return c.pqConn.ExecContext(ctx, query, args)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	stop := c.guard(ctx)
	r, err := c.pqConn.QueryContext(ctx, query, args)
	if err != nil {
		stop()
		return nil, err
	}
	return &rows{Rows: r, stop: stop}, nil
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	stop := c.guard(ctx)
	t, err := c.pqConn.BeginTx(ctx, opts)
	if err != nil {
		stop()
		return nil, err
	}
	return &tx{Tx: t, stop: stop}, nil
}

type rows struct {
	driver.Rows
	stop func()
}

// Close is called once by database/sql.
func (r *rows) Close() error {
	defer r.stop()
	return r.Rows.Close()
}

type tx struct {
	driver.Tx
	stop func()
}

func (t *tx) Commit() error {
	defer t.stop()
	return t.Tx.Commit()
}

func (t *tx) Rollback() error {
	defer t.stop()
	return t.Tx.Rollback()
}
