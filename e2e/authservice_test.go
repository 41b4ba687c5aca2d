package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What Harbor calls its services and itself.
const (
	notaryService   = "harbor-notary"
	registryService = "harbor-registry"
	tokenIssuer     = "harbor-token-issuer"
)

// Projects of the token service. GUNs are registry host, project, name.
const (
	privateProject = "team"
	publicProject  = "public"
)

// A person may be allowed something, or not. The name is the user's.
type person string

const (
	admin      person = "admin"      // everything, and manages the project
	maintainer person = "maintainer" // pull, push and delete
	pusher     person = "pusher"     // pull and push
	reader     person = "reader"     // pull
	nobody     person = "nobody"     // has an account, and no more
	operator   person = "operator"   // may see the catalog
	anonymous  person = ""
)

// everyone are those whose rights are tested with the clients.
var everyone = []person{admin, maintainer, pusher, reader, nobody, anonymous}

// String is for the names of tests.
func (p person) String() string {
	if p == anonymous {
		return "anonymous"
	}
	return string(p)
}

// password is strange enough to be found in any log that holds it.
func (p person) password() string { return "pw-" + string(p) + "-k7&Z/%20:x" }

// basic is what a Basic login sends.
func (p person) basic() string { return base64Of(string(p) + ":" + p.password()) }

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// permissions are Harbor's, for the private project.
var permissions = map[person][]string{
	admin:      {"pull", "push", "delete", "scanner-pull", "manage"},
	maintainer: {"pull", "push", "delete"},
	pusher:     {"pull", "push", "scanner-pull"},
	reader:     {"pull"},
	nobody:     nil,
	operator:   nil,
}

// A tokenService is the token service of a test, as a process with TLS. See the
// program for the words that choose what tokens are like.
type tokenService struct {
	*process
	dir    string
	url    string
	client *http.Client
}

// newTokenService makes the keys that sign tokens, with their certificates, and
// starts a service with a certificate of the stack's authority:
//
//	default  RSA, in a certificate without a subject, as Harbor's installer makes it
//	ec       P-256
//	lapsed   P-256; the certificate has expired, as Helm's does after a year
//	leaf     P-256; in no bundle, but its authority is
//	next     RSA, in no bundle at first
func newTokenService(t testing.TB, s *stack) *tokenService {
	t.Helper()
	program := filepath.Join(s.dir, "tokenservice")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./tokenservice").CombinedOutput(); err != nil {
		t.Fatalf("building the token service: %v\n%s", err, out)
	}
	ts := &tokenService{dir: filepath.Join(s.dir, "tokens"), client: s.client()}
	if err := os.Mkdir(ts.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	year := 365 * 24 * time.Hour
	ts.makeKey(t, "default", newRSA(t), year)
	ts.makeKey(t, "next", newRSA(t), year)
	ts.makeKey(t, "ec", newEC(t), year)
	ts.makeKey(t, "lapsed", newEC(t), -time.Minute)
	newAuthority(t, ts.dir).issue(t, "leaf")
	s.ca.issue(t, "tokens-tls")

	keys := object{}
	for _, name := range []string{"default", "next", "ec", "lapsed", "leaf"} {
		keys[name] = object{"cert": ts.file(name + ".crt"), "key": ts.file(name + ".key")}
	}
	users := object{}
	for p, granted := range permissions {
		users[string(p)] = object{"password": p.password(), "projects": object{privateProject: granted}, "catalog": p == operator}
	}
	n := port(t)
	raw, err := json.Marshal(object{
		"addr": loopback(n), "tls": object{"cert": s.ca.file("tokens-tls.crt"), "key": s.ca.file("tokens-tls.key")},
		"issuer": tokenIssuer, "services": object{notaryService: object{"host": true}, registryService: object{}},
		"keys": keys, "users": users, "public": []string{publicProject},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ts.file("config.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ts.url = "https://localhost:" + strconv.Itoa(n)
	if ts.process, err = start("tokenservice", ts.file("log"), exec.Command(program, "-config="+ts.file("config.json"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ts.kill)
	if err := waitForPort(ts.process, loopback(n), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	return ts
}

func (ts *tokenService) file(name string) string { return filepath.Join(ts.dir, name) }

func newRSA(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newEC(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// makeKey writes a key and a certificate for it that ends so long from now.
func (ts *tokenService) makeKey(t testing.TB, name string, k crypto.Signer, life time.Duration) {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, ts.file(name+".crt"), "CERTIFICATE", der)
	switch k := k.(type) {
	case *rsa.PrivateKey:
		writePEM(t, ts.file(name+".key"), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k))
	case *ecdsa.PrivateKey:
		if der, err = x509.MarshalECPrivateKey(k); err != nil {
			t.Fatal(err)
		}
		writePEM(t, ts.file(name+".key"), "EC PRIVATE KEY", der)
	}
}

// bundle writes a file of the certificates of those keys, as if by an editor
// that replaces files whole, and returns its path.
func (ts *tokenService) bundle(t testing.TB, file string, keys ...string) string {
	t.Helper()
	var all []byte
	for _, name := range keys {
		raw, err := os.ReadFile(ts.file(name + ".crt"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw...)
	}
	return replaceFile(t, ts.file(file), all)
}

func replaceFile(t testing.TB, path string, content []byte) string {
	t.Helper()
	err := os.WriteFile(path+".new", content, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// realm is where clients ask for tokens that are as the words say.
func (ts *tokenService) realm(words ...string) string {
	if strings.Join(words, "") == "" {
		return ts.url + "/service/token"
	}
	return ts.url + "/with/" + strings.Join(words, ",") + "/service/token"
}

// token fetches a token as clients do by GET.
func (ts *tokenService) token(t testing.TB, p person, words []string, scopes ...string) string {
	t.Helper()
	q := url.Values{"service": {notaryService}, "scope": scopes}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ts.realm(words...)+"?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if p != anonymous {
		req.SetBasicAuth(string(p), p.password())
	}
	resp, err := ts.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct{ Token string }
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &got)
	}
	if err != nil || got.Token == "" {
		t.Fatalf("the token service answers %s: %s", resp.Status, body)
	}
	return got.Token
}

// asked counts the lines of the log that have all the words.
func (ts *tokenService) asked(t testing.TB, words ...string) int {
	t.Helper()
	raw, err := os.ReadFile(ts.log)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// people are all who have an account.
func people() []person { return slices.Sorted(maps.Keys(permissions)) }
