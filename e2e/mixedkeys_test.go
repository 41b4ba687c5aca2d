package e2e_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"countersign/signer/seal"
	"countersign/signer/sealtest"
)

const (
	secondAlias      = "second"
	secondPassphrase = "older-but-still-Long#enough"
)

// A keptKey says what somebody's history has made of the keys of one GUN.
type keptKey struct {
	name  string
	form  sealtest.Form
	alias string
	spoil func(t testing.TB, sealed []byte) []byte // nil: it is good
	gone  bool                                     // the rows are deleted

	detail string // in the answers, "" if the keys sign
	log    string // in the signer's log
}

var keptKeys = []keptKey{
	{name: "standard", form: sealtest.Form{Passphrase: signerPassphrase}, alias: signerAlias},
	{name: "go115", form: sealtest.Form{Passphrase: signerPassphrase, Go115: true}, alias: signerAlias},
	{name: "second", form: sealtest.Form{Passphrase: secondPassphrase}, alias: secondAlias},
	{name: "second-go115", form: sealtest.Form{Passphrase: secondPassphrase, Go115: true}, alias: secondAlias},
	{
		name: "wrong", form: sealtest.Form{Passphrase: "nobody knows"}, alias: signerAlias,
		detail: "wrong passphrase for its alias", log: "wrong passphrase",
	},
	{
		name: "no-alias", form: sealtest.Form{Passphrase: signerPassphrase}, alias: "lost",
		detail: "no passphrase for the key's alias", log: "no passphrase",
	},
	{
		name: "corrupt", form: sealtest.Form{Passphrase: signerPassphrase}, alias: signerAlias,
		spoil:  func(t testing.TB, sealed []byte) []byte { return sealtest.Flip(t, sealed, 3) },
		detail: "what is stored of it is corrupt", log: "its row is corrupt",
	},
	{name: "missing", gone: true, detail: "does not have a key that root lists", log: "not found"},
}

// TestMixedKeys runs the programs on a table of keys from two kinds of upstream's
// builds and two aliases, among which some are of no use any more: the good ones
// sign, each of the others is told apart in status, body and log, and none of
// them is replaced.
func TestMixedKeys(t *testing.T) {
	t.Parallel()
	s := newStack(t, stackConfig{server: ours, signer: ours})
	s.secrets = append(s.secrets, secondPassphrase, "nobody knows")
	publishers := map[string]*publisher{}
	for _, k := range keptKeys {
		p := s.newPublisher(t, 0, k.gun(), newKeys())
		p.initialize(t, true)
		publishers[k.name] = p
	}
	if err := s.signer.end(syscall.SIGTERM, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	s.resealKeys(t)
	s.addAlias(t)
	s.startSigner()
	const countKeys = "select count(*) from private_keys where deleted_at is null"
	before := sql(t, s.signerDB, countKeys)

	for _, k := range keptKeys {
		p := publishers[k.name]
		base := s.gunURL(0, k.gun())
		if a := s.ask(t, "GET", base+"timestamp.json"); a.status != http.StatusOK {
			t.Errorf("%s: reading: %v", k.name, a)
		}
		p.add(t, "targets", "first")
		p.rec.take()
		err := p.Publish()
		answers := p.rec.take()
		if len(answers) == 0 {
			t.Fatalf("%s: publish: %v without an answer", k.name, err)
		}
		s.judge(t, k, "publish", answers[len(answers)-1])
		s.judge(t, k, "key", s.ask(t, "GET", base+"timestamp.key"))
		s.expire(t, k.gun())
		s.judge(t, k, "renewal", s.ask(t, "GET", base+"timestamp.json"))
		if k.detail == "" {
			s.mustVerify(t, 0, k.gun(), "targets")
		}
		s.signerTold(t, k)
	}
	if after := sql(t, s.signerDB, countKeys); after != before {
		t.Errorf("%s keys are stored, %s were", after, before)
	}
	s.databaseAway(t)
}

func (k keptKey) gun() string { return "e2e.example/mixed/" + k.name }

// resealKeys makes of the keys that the signer has made what keptKeys says.
func (s *stack) resealKeys(t *testing.T) {
	t.Helper()
	sealer, err := seal.New(seal.Config{Passphrase: func(string) (string, error) { return signerPassphrase, nil }})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keptKeys {
		if k.gone {
			sql(t, s.signerDB, "delete from private_keys where gun = '%s'", k.gun())
			continue
		}
		rows := strings.Fields(sql(t, s.signerDB, "select key_id || ' ' || encode(private, 'hex') from private_keys where gun = '%s'", k.gun()))
		if len(rows) != 4 {
			t.Fatalf("%s has the keys %q, want two", k.gun(), rows)
		}
		for ; len(rows) > 0; rows = rows[2:] {
			sealed, err := hex.DecodeString(rows[1])
			if err != nil {
				t.Fatal(err)
			}
			plaintext, err := sealer.Open(signerAlias, sealed)
			if err != nil {
				t.Fatal(err)
			}
			sealed = sealtest.Seal(t, k.form, plaintext)
			if k.spoil != nil {
				sealed = k.spoil(t, sealed)
			}
			sql(t, s.signerDB, "update private_keys set private = decode('%x', 'hex'), passphrase_alias = '%s' where key_id = '%s'", sealed, k.alias, rows[0])
		}
	}
}

// addAlias gives the signer a second passphrase, in a file.
func (s *stack) addAlias(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(s.file("signer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cfg object
	if err := json.Unmarshal(raw, &cfg); err != nil {
		t.Fatal(err)
	}
	cfg["storage"].(object)["passphrase_files"] = object{secondAlias: "second.pass"}
	s.writeConfig("signer.json", cfg)
	if err := os.WriteFile(filepath.Join(s.dir, "second.pass"), []byte(secondPassphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// expire lets the stored timestamp of gun be one of the past.
func (s *stack) expire(t *testing.T, gun string) {
	t.Helper()
	sql(t, s.serverDB, `update tuf_files set data = d, sha256 = encode(sha256(d), 'hex')
		from (select id, convert_to(regexp_replace(convert_from(data, 'UTF8'), '"expires":"[^"]*"', '"expires":"2020-01-01T00:00:00Z"'), 'UTF8') d
		      from tuf_files where gun = '%s' and role = 'timestamp') new where tuf_files.id = new.id`, gun)
}

// ask sends a request without a body.
func (s *stack) ask(t *testing.T, method, target string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{method: method, path: req.URL.Path}
	resp, err := s.client().Do(req)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	a.status, a.retryAfter, a.body, a.err = resp.StatusCode, resp.Header.Get("Retry-After"), string(raw), err
	return a
}

// judge holds an answer about the keys of k to what it must say.
func (s *stack) judge(t *testing.T, k keptKey, what string, a answer) {
	t.Helper()
	if k.detail == "" {
		if a.status != http.StatusOK {
			t.Errorf("%s, %s: %v", k.name, what, a)
		}
		return
	}
	if k.gone && what == "publish" {
		// The one fault that its owner can mend: he is told how.
		if a.status != http.StatusBadRequest || !strings.Contains(a.body, "notary key rotate") {
			t.Errorf("%s, %s: %v", k.name, what, a)
		}
		return
	}
	if a.status != http.StatusInternalServerError || a.retryAfter != "" || !strings.Contains(a.body, k.detail) || len(a.body) >= 1024 {
		t.Errorf("%s, %s: %v, want %q", k.name, what, a, k.detail)
	}
	if k.alias != "" && strings.Contains(a.body, k.alias) {
		t.Errorf("%s, %s: the alias is told to everybody: %v", k.name, what, a)
	}
	_, id, _ := strings.Cut(a.body, "(request ")
	id, _, _ = strings.Cut(id, ")")
	for _, p := range []*process{s.servers[0], s.signer} {
		if id == "" || !s.logHolds(t, p, id, "") {
			t.Errorf("%s, %s: the log of %s does not hold the request %q", k.name, what, p.name, id)
		}
	}
}

// logHolds reports whether a line of p's log holds all words. A line may be
// written after the answer.
func (s *stack) logHolds(t *testing.T, p *process, words ...string) bool {
	t.Helper()
	err := waitFor(10*time.Second, "a line of the log", func() error {
		raw, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
	line:
		for line := range bytes.Lines(raw) {
			for _, w := range words {
				if !bytes.Contains(line, []byte(w)) {
					continue line
				}
			}
			return nil
		}
		return fmt.Errorf("no line with %q", words)
	})
	return err == nil
}

// signerTold holds that the signer's log names the fault with its key and alias.
func (s *stack) signerTold(t *testing.T, k keptKey) {
	t.Helper()
	if k.detail == "" {
		return
	}
	words := []string{`"rpc failed: `, k.log + `" method=`, "key_id="}
	if !k.gone {
		id := sql(t, s.signerDB, "select key_id from private_keys where gun = '%s' and role = 'timestamp'", k.gun())
		words = append(words, "key_id="+id, "alias="+k.alias, "level=error")
	}
	if !s.logHolds(t, s.signer, words...) {
		t.Errorf("%s: no line of the signer's log holds %q", k.name, words)
	}
}

// databaseAway is the fifth fault: it passes, and so the answer is 503.
func (s *stack) databaseAway(t *testing.T) {
	t.Helper()
	u, err := url.Parse(s.signerDB)
	if err != nil {
		t.Fatal(err)
	}
	name := path.Base(u.Path)
	sql(t, s.serverDB, `alter database %q with allow_connections false`, name)
	sql(t, s.serverDB, `select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '%s'`, name)
	for _, k := range keptKeys[:1] {
		s.unavailable(t, "key while the signer's database is away", s.ask(t, "GET", s.gunURL(0, k.gun())+"timestamp.key"))
	}
	if !s.logHolds(t, s.signer, `"rpc failed: temporarily unavailable"`) {
		t.Error("the signer's log does not tell that its database is away")
	}
	sql(t, s.serverDB, `alter database %q with allow_connections true`, name)
	err = waitFor(20*time.Second, "the signer to have its database back", func() error {
		if a := s.ask(t, "GET", s.gunURL(0, keptKeys[0].gun())+"timestamp.key"); a.status != http.StatusOK {
			return fmt.Errorf("%v", a)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
