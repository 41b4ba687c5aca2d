package auth_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"countersign/server/auth"
)

// Hashes of "right a", "right b" and "right y", made by crypt(3) of Debian, and
// of "testpassword", made by the program htpasswd.
const (
	hashA    = "$2a$04$abcdefghijklmnopqrstuuThPud3d2YCi9ebHuPLuQ.6THW2695Ki"
	hashB    = "$2b$04$abcdefghijklmnopqrstuuOPJ0B3iwAa/.yUMl45RpgbzligSPcXe"
	hashY    = "$2y$04$abcdefghijklmnopqrstuunzS3YXu3hStPb7sRnclOHiPwyf9Xttm"
	hashTest = "$2y$05$T2MlBvkN1R/yICNnLuf1leOlOfAY0DvybctbbWUFKlojfkShVgn4m"
)

const (
	users = "# the team\n\nalice:" + hashA + "\nbob:" + hashB + "\r\ncarol:" + hashY + "\n  \ntestuser:" + hashTest + "\n"
	rules = `{"rules":[{"users":["*"],"gun_prefix":"example.com/","actions":["pull"]},{"users":["alice"],"gun_prefix":"","actions":["*"]}]}`
)

var (
	pull    = []auth.Access{{Type: "repository", Name: "example.com/a", Action: "pull"}}
	upload  = []auth.Access{{Type: "repository", Name: "example.com/a", Action: "push"}, {Type: "repository", Name: "example.com/a", Action: "pull"}}
	all     = []auth.Access{{Type: "repository", Name: "example.com/a", Action: "*"}}
	catalog = []auth.Access{{Type: "registry", Name: "catalog", Action: "*"}}
)

// A site is an Htpasswd with its files, its clock and its log.
type site struct {
	*auth.Htpasswd
	t             *testing.T
	users, policy string
	past          atomic.Int64 // since the start
	log           *buffer
}

// buffer is a log that may be written from several goroutines.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func trySite(t *testing.T, users, policy string) (*site, error) {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, users: filepath.Join(dir, "users"), policy: filepath.Join(dir, "policy.json"), log: &buffer{}}
	write(t, s.users, users)
	write(t, s.policy, policy)
	start := time.Now()
	var err error
	s.Htpasswd, err = auth.NewHtpasswd(auth.HtpasswdConfig{
		Realm: "Notary", Path: s.users, Policy: s.policy,
		Log: slog.New(slog.NewTextHandler(s.log, nil)),
		Now: func() time.Time { return start.Add(time.Duration(s.past.Load())) },
	})
	return s, err
}

func newSite(t *testing.T, users, policy string) *site {
	t.Helper()
	s, err := trySite(t, users, policy)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// count counts the runs of bcrypt from now on.
func (s *site) count() *atomic.Int64 {
	var n atomic.Int64
	var real func(hash, password []byte) error
	real = s.SetCompare(func(hash, password []byte) error {
		n.Add(1)
		return real(hash, password)
	})
	return &n
}

func request(t *testing.T, method, path, name, password string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name != "" {
		r.SetBasicAuth(name, password)
	}
	return r
}

func (s *site) ask(name, password string, need []auth.Access) (string, error) {
	s.t.Helper()
	return s.Authorize(request(s.t, "GET", "/v2/example.com/a/_trust/tuf/root.json", name, password), need)
}

func (s *site) allowed(name, password string, need []auth.Access) {
	s.t.Helper()
	if subject, err := s.ask(name, password, need); err != nil || subject != name {
		s.t.Errorf("%s: %q, %v", name, subject, err)
	}
}

// refused checks the refusal, which says public, and that neither it nor the log
// holds what must not be told.
func (s *site) refused(err error, public string, secrets ...string) {
	s.t.Helper()
	refusal, ok := errors.AsType[*auth.Refusal](err)
	if !ok {
		s.t.Fatalf("%v is no refusal", err)
	}
	if refusal.Challenge() != `Basic realm="Notary"` || refusal.Public() != public {
		s.t.Errorf("challenge %q, public %q", refusal.Challenge(), refusal.Public())
	}
	for _, secret := range append(secrets, "right", "$2") {
		if text := refusal.Error() + s.log.String(); strings.Contains(text, secret) {
			s.t.Errorf("%q tells %q", text, secret)
		}
	}
	if text := refusal.Error(); text == "" || len(text) > 300 || strings.ContainsAny(text, "\n\x00") {
		s.t.Errorf("text for the log: %q", text)
	}
}

const publicWrong = "user name or password is wrong"

func TestPasswords(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	for name, password := range map[string]string{"alice": "right a", "bob": "right b", "carol": "right y", "testuser": "testpassword"} {
		s.allowed(name, password, pull)
		_, err := s.ask(name, password+"!", pull)
		s.refused(err, publicWrong)
	}
	for name, password := range map[string]string{"Alice": "right a", "bob": "right a", "carol ": "right y", "nobody": "right a", "# the team": "x", "testuser": hashTest} {
		subject, err := s.ask(name, password, pull)
		s.refused(err, publicWrong)
		if subject != "" {
			t.Errorf("a wrong password makes %q the sender", subject)
		}
	}
	_, err := s.ask(strings.Repeat("n\n", 500), "x", pull)
	s.refused(err, publicWrong)
	if _, err := s.ask("alice", "right a", nil); err == nil {
		t.Error("who asks for nothing may do nothing")
	}
}

// bcrypt sees 72 bytes: what begins with the password and goes on is not it.
func TestLongPassword(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("p", 72)
	hash, err := bcrypt.GenerateFromPassword([]byte(longest), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "alice:"+string(hash), rules)
	s.allowed("alice", longest, pull)
	_, err = s.ask("alice", longest+"p", pull)
	s.refused(err, "a password has at most 72 bytes: have a shorter one set", longest)
}

func TestMalformedCredentials(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	n := s.count()
	encode := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	good := encode("alice:right a")
	const public = "the header Authorization cannot be read: send one, with Basic credentials"
	for name, c := range map[string]struct {
		header []string
		public string
	}{
		"none":           {nil, ""},
		"empty":          {[]string{""}, public},
		"scheme only":    {[]string{"Basic"}, public},
		"bearer":         {[]string{"Bearer " + strings.TrimPrefix(good, "Basic ")}, public},
		"no blank":       {[]string{strings.Replace(good, " ", "", 1)}, public},
		"not base64":     {[]string{"Basic YWxpY2U6*"}, public},
		"cut off":        {[]string{good[:len(good)-1]}, public},
		"something else": {[]string{good + " x"}, public},
		"no colon":       {[]string{encode("alice")}, public},
		"no name":        {[]string{encode(":right a")}, public},
		"no password":    {[]string{encode("alice:")}, public},
		"NUL":            {[]string{encode("alice:right a\x00right a")}, public},
		"NUL in name":    {[]string{encode("alice\x00:right a")}, public},
		"twice":          {[]string{good, good}, public},
		"huge":           {[]string{encode("alice:" + strings.Repeat("x", 1<<20))}, public},
		"long password":  {[]string{encode("alice:" + strings.Repeat("x", 2000))}, "a password has at most 72 bytes: have a shorter one set"},
	} {
		r := request(t, "GET", "/v2/", "", "")
		r.Header["Authorization"] = c.header
		_, err := s.Authorize(r, pull)
		if err == nil {
			t.Errorf("%s: allowed", name)
			continue
		}
		s.refused(err, c.public, "YWxpY2U6", "xxxx")
	}
	if n.Load() != 0 {
		t.Errorf("bcrypt ran %d times", n.Load())
	}
	r := request(t, "GET", "/v2/", "", "")
	r.Header.Set("Authorization", strings.Replace(good, "Basic ", "bASIC  ", 1))
	if _, err := s.Authorize(r, pull); err != nil {
		t.Error(err)
	}
}

// Whoever may log in gets a 200 from GET /v2/, and from nothing else.
func TestPing(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, `{"rules":[]}`)
	_, err := s.Authorize(request(t, "GET", "/v2/", "", ""), catalog)
	s.refused(err, "")
	_, err = s.Authorize(request(t, "GET", "/v2/", "bob", "wrong"), catalog)
	s.refused(err, publicWrong)
	if subject, err := s.Authorize(request(t, "GET", "/v2/", "bob", "right b"), catalog); err != nil || subject != "bob" {
		t.Errorf("%q, %v", subject, err)
	}
	for _, r := range []*http.Request{
		request(t, "HEAD", "/v2/", "bob", "right b"), request(t, "POST", "/v2/", "bob", "right b"), request(t, "GET", "/v2", "bob", "right b"),
		request(t, "GET", "/v2/_trust/changefeed", "bob", "right b"), request(t, "GET", "/", "bob", "right b"),
	} {
		subject, err := s.Authorize(r, catalog)
		s.refused(err, "bob may not use what concerns all GUNs")
		if subject != "bob" {
			t.Errorf("%s %s is from %q", r.Method, r.URL, subject)
		}
	}
}

func TestMissingActions(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	_, err := s.ask("bob", "right b", upload)
	s.refused(err, "bob may not push to example.com/a")
	_, err = s.ask("bob", "right b", all)
	s.refused(err, "bob may not delete or rotate keys of example.com/a")
	upload := []auth.Access{{Type: "repository", Name: "other.com/a", Action: "push"}, {Type: "repository", Name: "other.com/a", Action: "pull"}}
	_, err = s.ask("bob", "right b", upload)
	s.refused(err, "bob may not push to or pull from other.com/a")
	_, err = s.ask("bob", "right b", []auth.Access{{Type: "repository", Name: "a\x01" + strings.Repeat("ü", 200), Action: "pull"}})
	s.refused(err, "bob may not pull from a?"+strings.Repeat("ü", 31)+"…")
	for _, need := range [][]auth.Access{pull, upload, all, catalog} {
		s.allowed("alice", "right a", need)
	}
}

func TestRealm(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	config := auth.HtpasswdConfig{Path: s.users, Policy: s.policy, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	for _, realm := range []string{"", "a\r\nSet-Cookie: x", "Schlüssel", "\x7f"} {
		config.Realm = realm
		if _, err := auth.NewHtpasswd(config); err == nil || !strings.Contains(err.Error(), "use printable ASCII") {
			t.Errorf("%q: %v", realm, err)
		}
	}
	config.Realm = `the "trust" \ server`
	h, err := auth.NewHtpasswd(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Authorize(request(t, "GET", "/v2/", "", ""), catalog)
	refusal, ok := errors.AsType[*auth.Refusal](err)
	if !ok || refusal.Challenge() != `Basic realm="the \"trust\" \\ server"` {
		t.Errorf("%v, %v", err, refusal)
	}
}

func TestVerifiedOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	n := s.count()
	step := func(what string, runs int64) {
		t.Helper()
		if got := n.Swap(0); got != runs {
			t.Errorf("%s: bcrypt ran %d times, not %d", what, got, runs)
		}
	}
	s.allowed("bob", "right b", pull)
	step("first", 1)
	s.allowed("bob", "right b", pull)
	step("second", 0)
	_, err := s.ask("bob", "right", pull)
	s.refused(err, publicWrong, "right")
	_, err = s.ask("alice", "right b", pull)
	s.refused(err, publicWrong)
	step("wrong ones", 2)
	_, err = s.ask("bob", "right", pull)
	s.refused(err, publicWrong)
	step("a wrong one again", 1)
	s.past.Store(int64(auth.KeepVerified) - 1)
	s.allowed("bob", "right b", pull)
	step("just within", 0)
	s.past.Store(int64(auth.KeepVerified))
	s.allowed("bob", "right b", pull)
	step("later", 1)
	write(t, s.users, strings.ReplaceAll(users, hashB, hashA))
	s.Look(t.Context())
	_, err = s.ask("bob", "right b", pull)
	s.refused(err, publicWrong)
	step("after a change", 1)
	if s.Remembered() != 1 {
		t.Errorf("%d passwords are remembered", s.Remembered())
	}
}

func TestVerifiedBounded(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range auth.MaxVerified + 50 {
		fmt.Fprintf(&many, "user%d:%s\n", i, hashA)
	}
	s := newSite(t, many.String(), rules)
	s.SetCompare(func(_, _ []byte) error { return nil })
	for i := range auth.MaxVerified + 50 {
		s.allowed(fmt.Sprintf("user%d", i), "x", pull)
	}
	if s.Remembered() != auth.MaxVerified {
		t.Errorf("%d passwords are remembered", s.Remembered())
	}
	s.past.Store(int64(auth.KeepVerified))
	s.allowed("user0", "x", pull)
	if s.Remembered() != 1 {
		t.Errorf("%d passwords are remembered after all have expired", s.Remembered())
	}
}

// Names cannot be found out by the time that an answer takes.
func TestUnknownUserCostsAsMuch(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.ReplaceAll(users, "$04$", "$06$"), rules)
	var seen []string
	var real func(hash, password []byte) error
	real = s.SetCompare(func(hash, password []byte) error {
		cost, err := bcrypt.Cost(hash)
		seen = append(seen, fmt.Sprint(cost, " ", err, " ", real(hash, password)))
		return real(hash, password)
	})
	for _, name := range []string{"alice", "nobody"} {
		_, err := s.ask(name, "x", pull)
		s.refused(err, publicWrong)
	}
	want := fmt.Sprint(6, " ", nil, " ", bcrypt.ErrMismatchedHashAndPassword)
	if diff := cmp.Diff([]string{want, want}, seen); diff != "" {
		t.Error(diff)
	}
	s.SetCompare(func(_, _ []byte) error { return nil })
	_, err := s.ask("nobody", "x", pull)
	s.refused(err, publicWrong) // even if the password fitted
}
