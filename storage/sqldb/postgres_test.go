package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"countersign/internal/pgtest"
	"countersign/storage"
	"countersign/storage/sqldb"
)

func open(t testing.TB, c sqldb.Config) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func exec(t testing.TB, db *sqldb.DB, statement string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func scanText(r *sql.Rows) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}

func text(t testing.TB, q sqldb.Querier, query string, args ...any) string {
	t.Helper()
	s, err := sqldb.One(t.Context(), q, scanText, query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

// TestTxBounds: a transaction does not wait for ever for a lock, nor for its own
// client; statements outside of it are as the server is configured.
func TestTxBounds(t *testing.T) {
	t.Parallel()
	db := open(t, sqldb.Config{Backend: "postgres", URL: pgtest.URL(t), MaxOpen: 1})
	const settings = `select current_setting('lock_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout')`
	before := text(t, db, settings)
	if err := db.Tx(t.Context(), func(tx *sqldb.Tx) error {
		if got := text(t, tx, settings); got != sqldb.LockTimeout+" 10s" || got == before {
			t.Errorf("in a transaction: %s", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := text(t, db, settings); got != before {
		t.Errorf("after it: %s, want %s", got, before)
	}
}

// TestForms: both forms of connection string, and a password from elsewhere.
func TestForms(t *testing.T) {
	t.Parallel()
	raw := pgtest.URL(t)
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pgtest.Password)
	pairs := fmt.Sprintf("host=%s port=%s user=%s password='%s' dbname=%s sslmode=disable",
		u.Hostname(), u.Port(), u.User.Username(), quoted, strings.TrimPrefix(u.Path, "/"))
	bare := *u
	bare.User = url.User(u.User.Username())
	for name, c := range map[string]sqldb.Config{
		"URL":                    {URL: raw},
		"postgresql:":            {URL: "postgresql" + strings.TrimPrefix(raw, "postgres")},
		"key=value":              {URL: pairs},
		"password from a file":   {URL: bare.String(), Password: pgtest.Password},
		"password replaced":      {URL: strings.Replace(pairs, quoted, "wrong", 1), Password: pgtest.Password},
		"binary_parameters=no":   {URL: raw + "&binary_parameters=no"},
		"with a connect_timeout": {URL: raw + "&connect_timeout=9"},
	} {
		c.Backend = "postgres"
		db := open(t, c)
		if got := text(t, db, `select length($1::bytea)::text`, []byte{0, 1, 2}); got != "3" {
			t.Errorf("%s: %s bytes arrived", name, got)
		}
	}
}

// TestNoPasswords: no error of any kind shows a part of the password.
func TestNoPasswords(t *testing.T) {
	t.Parallel()
	good := pgtest.URL(t)
	u, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	with := func(user, password, host string) string {
		c := *u
		c.User, c.Host = url.UserPassword(user, password), host
		return c.String()
	}
	for _, dsn := range []string{
		with("trust", "hunter2", u.Host),
		with("nobody", "hunter2", u.Host),
		with("trust", "hunter2", "127.0.0.1:1"),
		with("trust", "hunter2", "no such host"),
		strings.Replace(with("trust", "hunter2", u.Host), u.Path, "/missing", 1),
		"postgres://trust:hunter2/x@127.0.0.1:5432/db",
		"postgres://trust:hun ter2@127.0.0.1:5432/db",
		"postgres://trust:%zzhunter2@127.0.0.1/db",
		"postgres://trust:1hunter2#@127.0.0.1/db?sslmode=disable",
		"postgres://trust:hunter2@127.0.0.1:port/db",
		"postgres://trust:hunter2@127.0.0.1/db?sslmode=sometimes",
		"postgres://trust:hunter2@127.0.0.1/db?connect_timeout=soon",
		"host=127.0.0.1 password=my hunter2 sslmode=disable",
		"host=127.0.0.1 password='hunter2",
		`host=127.0.0.1 password=hunter2\`,
		"",
		"  ",
	} {
		_, err := sqldb.Open(t.Context(), sqldb.Config{Backend: "postgres", URL: dsn})
		if err == nil {
			t.Errorf("%s was opened", dsn)
			continue
		}
		if !errors.Is(err, storage.ErrInvalid) && !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: %v is neither invalid nor unavailable", dsn, err)
		}
		if s := err.Error(); strings.Contains(s, "unter2") || strings.Contains(s, "ter2") {
			t.Errorf("%s: %s", dsn, s)
		}
	}
	// What can be said safely is said.
	_, err = sqldb.Open(t.Context(), sqldb.Config{Backend: "postgres", URL: strings.Replace(good, "disable", "sometimes", 1)})
	if err == nil || !strings.Contains(err.Error(), "sslmode") {
		t.Errorf("wrong sslmode: %v", err)
	}
	_, err = sqldb.Open(t.Context(), sqldb.Config{Backend: "postgres", URL: with("trust", "hunter2", u.Host)})
	if err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("wrong password: %v", err)
	}
	_, err = sqldb.Open(t.Context(), sqldb.Config{Backend: "mysql", URL: good})
	wantErr(t, err, storage.ErrInvalid)
}

// TestPostgresErrors: what the database says, and what it means.
func TestPostgresErrors(t *testing.T) {
	t.Parallel()
	db := open(t, sqldb.Config{Backend: "postgres", URL: pgtest.URL(t)})
	exec(t, db, `create table x (n integer unique, s varchar(3))`)
	exec(t, db, `insert into x values (1, 'abc')`)
	for _, test := range []struct {
		statement string
		args      []any
		want      error
	}{
		{`insert into x values (1, 'abc')`, nil, sqldb.ErrUnique},
		{`insert into x values (2, 'abcd')`, nil, storage.ErrTooLarge},
		{`insert into x values ($1, 'abc')`, []any{int64(1) << 40}, storage.ErrTooLarge},
		{`insert into x values (3, $1)`, []any{"a\x00b"}, storage.ErrInvalid},
		{`insert into x values (3, $1)`, []any{"\xff"}, storage.ErrInvalid},
		{`do $$ begin raise sqlstate '53100' using message = 'disk full'; end $$`, nil, storage.ErrUnavailable},
		{`do $$ begin raise sqlstate '40001' using message = 'again'; end $$`, nil, storage.ErrUnavailable},
		{`set transaction read only; insert into x values (9, 'abc')`, nil, storage.ErrUnavailable},
		{`select pg_terminate_backend(pg_backend_pid())`, nil, storage.ErrUnavailable},
	} {
		_, err := db.Exec(t.Context(), test.statement, test.args...)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.statement, err, test.want)
		}
	}
	err := db.Tx(t.Context(), func(tx *sqldb.Tx) error {
		if _, err := tx.Exec(t.Context(), `set local statement_timeout = 1`); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `select pg_sleep(5)`)
		return err
	})
	wantErr(t, err, storage.ErrUnavailable)
	_, err = db.Exec(t.Context(), `select nonsense`)
	for _, s := range []error{storage.ErrUnavailable, storage.ErrNotFound, storage.ErrInvalid, sqldb.ErrUnique} {
		if err == nil || errors.Is(err, s) {
			t.Errorf("a mistake of ours: %v is %v", err, s)
		}
	}
	_, err = sqldb.One(t.Context(), db, scanText, `select s from x where n = 77`)
	wantErr(t, err, storage.ErrNotFound)
}

// TestTooManyConnections: the database refuses a connection.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	u := pgtest.URL(t)
	root, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	first := open(t, sqldb.Config{Backend: "postgres", URL: u})
	root.User = url.UserPassword("postgres", pgtest.Password)
	admin := open(t, sqldb.Config{Backend: "postgres", URL: root.String()})
	exec(t, admin, fmt.Sprintf(`alter database %s connection limit 0`, text(t, first, `select current_database()`)))
	_, err = sqldb.Open(t.Context(), sqldb.Config{Backend: "postgres", URL: u})
	wantErr(t, err, storage.ErrUnavailable)
}

// TestDeadlock: a transaction that is chosen as the victim runs again.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	u := pgtest.URL(t)
	db := open(t, sqldb.Config{Backend: "postgres", URL: u})
	exec(t, db, `create table x (n integer primary key, v integer)`)
	exec(t, db, `insert into x values (1, 0), (2, 0)`)
	ready := make(chan struct{}, 2)
	met := make(chan struct{})
	runs := make(chan int, 100)
	add := func(first, second int) error {
		tries := 0
		return db.Tx(t.Context(), func(tx *sqldb.Tx) error {
			tries++
			runs <- tries
			if _, err := tx.Exec(t.Context(), `update x set v = v + 1 where n = $1`, first); err != nil {
				return err
			}
			if tries == 1 {
				ready <- struct{}{}
				<-met
			}
			_, err := tx.Exec(t.Context(), `update x set v = v + 1 where n = $1`, second)
			return err
		})
	}
	done := make(chan error, 2)
	go func() { done <- add(1, 2) }()
	go func() { done <- add(2, 1) }()
	<-ready
	<-ready
	close(met)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(runs) < 3 {
		t.Errorf("%d runs: there was no deadlock to survive", len(runs))
	}
	if got := text(t, db, `select string_agg(v::text, ',') from x`); got != "2,2" {
		t.Errorf("values %s, want 2,2", got)
	}
}

// TestPaused: the server hangs, with its sockets open. A call ends with its
// context, and the pool is not lost with it.
func TestPaused(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t)
	db := open(t, sqldb.Config{Backend: "postgres", URL: cluster.URL(t), MaxOpen: 2})
	exec(t, db, `create table x (n integer)`)
	cluster.Pause(t)
	for name, call := range map[string]func(context.Context) error{
		"query": func(ctx context.Context) error {
			_, err := sqldb.Collect(ctx, db, scanText, `select $1::text`, "a")
			return err
		},
		"exec": func(ctx context.Context) error { _, err := db.Exec(ctx, `insert into x values (1)`); return err },
		"unsure": func(ctx context.Context) error {
			_, _, err := db.ExecUnsure(ctx, `insert into x values (1)`)
			return err
		},
		"tx":   func(ctx context.Context) error { return db.Tx(ctx, func(*sqldb.Tx) error { return nil }) },
		"ping": db.Ping,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		err := call(ctx)
		cancel()
		wantErr(t, err, storage.ErrUnavailable)
		wantErr(t, err, context.DeadlineExceeded)
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	cluster.Resume(t)
	exec(t, db, `insert into x values (2)`)
}

// TestCanceled: a statement that runs for long ends with its context, in the
// database too.
func TestCanceled(t *testing.T) {
	t.Parallel()
	u := pgtest.URL(t)
	db := open(t, sqldb.Config{Backend: "postgres", URL: u})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := sqldb.Collect(ctx, db, scanText, `select pg_sleep(600)::text, $1::text`, "x")
		done <- err
	}()
	const running = `select count(*)::text from pg_stat_activity where datname = current_database() and query like 'select pg_sleep%' and state = 'active'`
	wait := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); text(t, db, running) != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not %s statements running", want)
			}
		}
	}
	wait("1")
	cancel()
	err := <-done
	wantErr(t, err, storage.ErrUnavailable)
	wantErr(t, err, context.Canceled)
	wait("0")
}

// TestUnsure: a statement is sent again when its connection breaks, and the
// caller learns of it.
func TestUnsure(t *testing.T) {
	t.Parallel()
	proxy, u := pgtest.NewProxy(t, pgtest.URL(t))
	db := open(t, sqldb.Config{Backend: "postgres", URL: u})
	exec(t, db, `create table x (n integer primary key)`)
	insert := func(n int) (int64, bool, error) {
		return db.ExecUnsure(t.Context(), `insert into x values ($1) on conflict do nothing`, n)
	}
	for i, test := range []struct {
		fault  pgtest.Fault
		rows   int64
		unsure bool
	}{{pgtest.None, 1, false}, {pgtest.LoseRequest, 1, true}, {pgtest.LoseAnswer, 0, true}} {
		proxy.Set(test.fault)
		rows, unsure, err := insert(i)
		if err != nil || rows != test.rows || unsure != test.unsure {
			t.Errorf("fault %d: %d rows, unsure %v, %v", test.fault, rows, unsure, err)
		}
	}
	proxy.Set(pgtest.Refuse)
	if _, _, err := insert(9); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("refused: %v", err)
	}
	proxy.Set(pgtest.None)
	if got := text(t, db, `select count(*)::text from x`); got != "3" {
		t.Errorf("%s rows, want 3", got)
	}
}

// TestPoolLimit: no more connections than allowed, whatever is asked at once.
func TestPoolLimit(t *testing.T) {
	t.Parallel()
	db := open(t, sqldb.Config{Backend: "postgres", URL: pgtest.URL(t), MaxOpen: 3})
	done := make(chan error, 50)
	for range cap(done) {
		go func() {
			_, err := sqldb.Collect(t.Context(), db, scanText, `select $1::text from pg_sleep(0.005)`, "x")
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if w, _ := db.Stats(); w.OpenConnections > 3 || w.Idle != w.OpenConnections {
		t.Errorf("%d connections, %d idle; want 3 kept", w.OpenConnections, w.Idle)
	}
}
