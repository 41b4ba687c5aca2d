package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	"countersign/signer/seal"
	"countersign/storage"
)

// passphrases makes a passphrase function of a fixed set.
func passphrases(m map[string]string) func(string) (string, error) {
	return func(alias string) (string, error) {
		if p, ok := m[alias]; ok {
			return p, nil
		}
		return "", errors.New("nothing configured")
	}
}

func newSealer(t testing.TB, m map[string]string) *seal.Sealer {
	t.Helper()
	s, err := seal.New(seal.Config{Passphrase: passphrases(m), Iterations: seal.MinIterations})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// vectors returns the two sealed keys of testdata: standard and Go 1.15.
func vectors(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^eyJ\S+$`).FindAllString(string(data), -1)
	if len(found) != 2 {
		t.Fatalf("found %d vectors, want 2", len(found))
	}
	return found
}

func TestVectors(t *testing.T) {
	s := newSealer(t, map[string]string{"a": "defaultA", "b": "defaultB"})
	for i, v := range vectors(t) {
		got, err := s.Open("a", []byte(v))
		if err != nil || string(got) != "hello-private-key" {
			t.Errorf("vector %d: got %q, %v", i+1, got, err)
		}
		if _, err := s.Open("b", []byte(v)); !errors.Is(err, seal.ErrWrongPassphrase) {
			t.Errorf("vector %d with another passphrase: got %v", i+1, err)
		}
	}
}

// TestRawVectors compares both derivations alone, with a passphrase longer than
// the hash's block too.
func TestRawVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^pass=(\S+|"x" \* 80) +standard\S+=(\S+) +go1.15 quirk=(\S+)$`).FindAllSubmatch(data, -1)
	if len(lines) != 2 {
		t.Fatalf("found %d vectors, want 2", len(lines))
	}
	for _, l := range lines {
		pass := string(l[1])
		if pass == `"x" * 80` {
			pass = strings.Repeat("x", 80)
		}
		right, wrong := seal.Derive(pass, []byte("0123456789ab"), seal.MinIterations)
		if fmt.Sprintf("%x", right) != string(l[2]) || fmt.Sprintf("%x", wrong) != string(l[3]) {
			t.Errorf("%.10s: got %x and %x", pass, right, wrong)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	s := newSealer(t, map[string]string{"x": "correct horse", "long": strings.Repeat("p", 200)})
	rapid.Check(t, func(t *rapid.T) {
		alias := rapid.SampledFrom([]string{"x", "long"}).Draw(t, "alias")
		plain := rapid.SliceOfN(rapid.Byte(), 0, 4000).Draw(t, "plain")
		sealed, err := s.Seal(alias, plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Open(alias, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %x, %v", got, err)
		}
	})
}

func TestHeaderIsUpstreams(t *testing.T) {
	s := newSealer(t, map[string]string{"x": "p"})
	sealed, err := s.Seal("x", []byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(sealed), ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^\{"alg":"PBES2-HS256\+A128KW","enc":"A256GCM","p2c":8192,"p2s":"[-_A-Za-z0-9]{16}"\}$`)
	if !want.Match(raw) {
		t.Errorf("header is %s", raw)
	}
}

func TestOneSaltPerAliasAndRun(t *testing.T) {
	m := map[string]string{"x": "p", "y": "p"}
	salt := func(s *seal.Sealer, alias string) string {
		t.Helper()
		sealed, err := s.Seal(alias, []byte("k"))
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(sealed), ".")
		return head
	}
	s := newSealer(t, m)
	x := salt(s, "x")
	if salt(s, "x") != x {
		t.Error("two seals of one run have two salts")
	}
	if salt(s, "y") == x {
		t.Error("two aliases share a salt")
	}
	if salt(newSealer(t, m), "x") == x {
		t.Error("two runs share a salt")
	}
	m["x"] = "another"
	if salt(s, "x") == x {
		t.Error("the salt has outlived its passphrase")
	}
}

// TestGoJoseOpens holds what we write against an independent reader.
func TestGoJoseOpens(t *testing.T) {
	for _, iterations := range []int{seal.MinIterations, 20_000} {
		s, err := seal.New(seal.Config{Passphrase: passphrases(map[string]string{"x": "geheim"}), Iterations: iterations})
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := s.Seal("x", []byte("private"))
		if err != nil {
			t.Fatal(err)
		}
		object, err := jose.ParseEncryptedCompact(string(sealed), []jose.KeyAlgorithm{jose.PBES2_HS256_A128KW}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := object.Decrypt("geheim"); err != nil || string(got) != "private" {
			t.Errorf("%d iterations: go-jose reads %q, %v", iterations, got, err)
		}
	}
}

// joseSeal seals as go-jose does, with the options that it has.
func joseSeal(t testing.TB, pass string, iterations int, enc jose.ContentEncryption, zip jose.CompressionAlgorithm) []byte {
	t.Helper()
	e, err := jose.NewEncrypter(enc, jose.Recipient{
		Algorithm: jose.PBES2_HS256_A128KW, Key: pass, PBES2Count: iterations, PBES2Salt: []byte("0123456789ab"),
	}, &jose.EncrypterOptions{Compression: zip})
	if err != nil {
		t.Fatal(err)
	}
	object, err := e.Encrypt([]byte("from elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	compact, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(compact)
}

func TestOpensGoJose(t *testing.T) {
	s := newSealer(t, map[string]string{"x": "geheim"})
	for _, iterations := range []int{1000, 8192, seal.MaxIterations} {
		got, err := s.Open("x", joseSeal(t, "geheim", iterations, jose.A256GCM, jose.NONE))
		if err != nil || string(got) != "from elsewhere" {
			t.Errorf("%d iterations: got %q, %v", iterations, got, err)
		}
	}
}

func TestRefusesOtherForms(t *testing.T) {
	s := newSealer(t, map[string]string{"x": "geheim"})
	for name, sealed := range map[string][]byte{
		"too few iterations":  joseSeal(t, "geheim", 999, jose.A256GCM, jose.NONE),
		"too many iterations": joseSeal(t, "geheim", seal.MaxIterations+1, jose.A256GCM, jose.NONE),
		"other encryption":    joseSeal(t, "geheim", 1000, jose.A128GCM, jose.NONE),
		"compressed":          joseSeal(t, "geheim", 1000, jose.A256GCM, jose.DEFLATE),
	} {
		if _, err := s.Open("x", sealed); !errors.Is(err, seal.ErrCorrupt) || !errors.Is(err, storage.ErrKeySealed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestHostileCount: a row that asks for hours of work is refused before any.
func TestHostileCount(t *testing.T) {
	s := newSealer(t, map[string]string{"x": "p"})
	fields := strings.Split(vectors(t)[0], ".")
	for _, count := range []string{"2000000000", "-1", "0", "1e6", "99999999999999999999", `"8192"`, "null"} {
		h := fmt.Sprintf(`{"alg":"PBES2-HS256+A128KW","enc":"A256GCM","p2c":%s,"p2s":"AAAAAAAAAAAAAAAA"}`, count)
		fields[0] = base64.RawURLEncoding.EncodeToString([]byte(h))
		start := time.Now()
		_, err := s.Open("x", []byte(strings.Join(fields, ".")))
		if !errors.Is(err, seal.ErrCorrupt) {
			t.Errorf("p2c %s: got %v", count, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("p2c %s: took %v", count, took)
		}
	}
}

func TestErrorsSayWhich(t *testing.T) {
	const secret = "Tr0ub4dor-and-3"
	m := map[string]string{"x": secret, "empty": ""}
	s := newSealer(t, m)
	sealed, err := s.Seal("x", []byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(sealed)
	at := bytes.LastIndexByte(damaged[:bytes.LastIndexByte(damaged, '.')], '.') + 1 // the content
	if damaged[at] == 'A' {
		damaged[at] = 'B'
	} else {
		damaged[at] = 'A'
	}
	m["x2"] = "not " + secret
	tests := []struct {
		name, alias string
		sealed      []byte
		want        error
	}{
		{"no passphrase", "missing", sealed, seal.ErrNoPassphrase},
		{"empty passphrase", "empty", sealed, seal.ErrNoPassphrase},
		{"wrong passphrase", "x2", sealed, seal.ErrWrongPassphrase},
		{"damaged content", "x", damaged, seal.ErrCorrupt},
		{"nothing", "x", nil, seal.ErrCorrupt},
		{"cut short", "x", sealed[:len(sealed)-4], seal.ErrCorrupt},
		{"a sixth part", "x", append(bytes.Clone(sealed), ".AA"...), seal.ErrCorrupt},
		{"too long", "x", bytes.Repeat([]byte("A"), 1<<20), seal.ErrCorrupt},
	}
	for _, tt := range tests {
		_, err := s.Open(tt.alias, tt.sealed)
		if !errors.Is(err, tt.want) || !errors.Is(err, storage.ErrKeySealed) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			continue
		}
		for _, other := range []error{seal.ErrNoPassphrase, seal.ErrWrongPassphrase, seal.ErrCorrupt} {
			if other != tt.want && errors.Is(err, other) {
				t.Errorf("%s: is also %v", tt.name, other)
			}
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", tt.alias)) {
			t.Errorf("%s: %q does not name the alias", tt.name, err)
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the text holds the passphrase", tt.name)
		}
	}
	for _, alias := range []string{"missing", "empty"} {
		if _, err := s.Seal(alias, []byte("k")); !errors.Is(err, seal.ErrNoPassphrase) || !errors.Is(err, storage.ErrKeySealed) {
			t.Errorf("sealing under %s: got %v", alias, err)
		}
		if err := s.Check(alias); !errors.Is(err, seal.ErrNoPassphrase) {
			t.Errorf("checking %s: got %v", alias, err)
		}
	}
	if err := s.Check("x"); err != nil {
		t.Errorf("checking x: got %v", err)
	}
}

// TestOneDerivation: many rows of one run, opened by many goroutines, cost one
// derivation. At some hundredths of a second each they would take a minute.
func TestOneDerivation(t *testing.T) {
	var asked atomic.Int64
	config := seal.Config{Iterations: 200_000, Passphrase: func(string) (string, error) {
		asked.Add(1)
		return "p", nil
	}}
	s, err := seal.New(config)
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	start := time.Now()
	rows := make([][]byte, n)
	for i := range rows {
		if rows[i], err = s.Seal("x", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := seal.New(config) // the next run
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, row := range rows {
		wg.Go(func() {
			got, err := again.Open("x", row)
			if err != nil || string(got) != fmt.Sprint(i) {
				t.Errorf("row %d: got %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("sealing and opening %d keys took %v", n, took)
	}
	if got := asked.Load(); got != 2*n {
		t.Errorf("the passphrase was asked for %d times, want %d: once per use", got, 2*n)
	}
}

// TestManySalts opens more salts than are kept, twice.
func TestManySalts(t *testing.T) {
	var rows [][]byte
	for range 300 {
		rows = append(rows, joseSeal(t, "p", 1000, jose.A256GCM, jose.NONE)) // the cheapest that is opened
	}
	s := newSealer(t, map[string]string{"x": "p"})
	for range 2 {
		for i, row := range rows {
			if got, err := s.Open("x", row); err != nil || string(got) != "from elsewhere" {
				t.Fatalf("row %d: got %q, %v", i, got, err)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	some := passphrases(nil)
	for name, cfg := range map[string]seal.Config{
		"no function": {},
		"too few":     {Passphrase: some, Iterations: seal.MinIterations - 1},
		"negative":    {Passphrase: some, Iterations: -1},
		"too many":    {Passphrase: some, Iterations: seal.MaxIterations + 1},
	} {
		if _, err := seal.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzOpen: no row makes Open panic, take long, or fail without saying why; what
// opens was sealed under the passphrase.
func FuzzOpen(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v))
		f.Add([]byte(v[:len(v)/2]))
		f.Add([]byte(strings.Replace(v, ".", "..", 1)))
	}
	f.Add(joseSeal(f, "defaultA", 1000, jose.A256GCM, jose.NONE))
	f.Add(joseSeal(f, "defaultA", 1000, jose.A256GCM, jose.DEFLATE))
	f.Add([]byte("...."))
	f.Add([]byte("e30.AA.AA.AA.AA"))
	s := newSealer(f, map[string]string{"a": "defaultA"})
	f.Fuzz(func(t *testing.T, row []byte) {
		got, err := s.Open("a", row)
		if err != nil {
			if !errors.Is(err, storage.ErrKeySealed) {
				t.Errorf("error wraps no sentinel: %v", err)
			}
			return
		}
		if string(got) != "hello-private-key" && string(got) != "from elsewhere" {
			t.Errorf("opened as %q", got)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s := newSealer(b, map[string]string{"x": "p"})
	plain := make([]byte, 121)
	for b.Loop() {
		if _, err := s.Seal("x", plain); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := newSealer(b, map[string]string{"x": "p"})
	sealed, err := s.Seal("x", make([]byte, 121))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Open("x", sealed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDerive(b *testing.B) {
	for b.Loop() {
		s, err := seal.New(seal.Config{Passphrase: passphrases(map[string]string{"x": "p"})})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Seal("x", nil); err != nil {
			b.Fatal(err)
		}
	}
}
