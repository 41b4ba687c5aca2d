package tuf_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	stdjson "encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/docker/go/canonical/json"
	"github.com/theupdateframework/notary/tuf/data"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// A difference is a case in which this package judges otherwise than upstream,
// on purpose. docs/differences.md tells users of them.
type difference struct {
	name   string
	reason string
	// stricter: we refuse, upstream accepts. Otherwise the other way round.
	stricter bool
	text     string // of our refusal
	make     func(*testing.T) publish
}

var differences = []difference{
	{"duplicate members", "which of the two counts depends on who reads", true, `duplicate member "version"`,
		theirSigned("targets", `"version":1`, `"version":2,"version":1`)},
	{"duplicate members, deep inside", "the signature is over one of them, a client may use the other", true, `duplicate member "length"`,
		theirSigned("targets", `"length":8`, `"length":9,"length":8`)},
	{"duplicate member of the envelope", "the same", true, `duplicate member "signatures"`,
		edited("targets", func(b []byte) []byte { return append([]byte(`{"signatures":[],`), b[1:]...) })},
	{"members in other case", "Go's decoder takes them for the known ones, others do not", true, `member "Version" could be read as "version"`,
		theirSigned("targets", `"version":1`, `"Version":1`)},
	{"members in other case, in the envelope", "the same", true, `member "SIGNATURES" could be read as "signatures"`,
		edited("targets", swap(`"signatures"`, `"SIGNATURES"`))},
	{"members in other case, in a signature", "the same", true, `member "KeyID" could be read as "keyid"`,
		edited("targets", swap(`[{"keyid"`, `[{"KeyID"`))},
	{"members in other case, in a key", "the same", true, `member "keyType" could be read as "keytype"`,
		theirSigned("targets", `"keytype"`, `"keyType"`)},
	{"members in other case, in a delegation", "the same", true, `could be read as "threshold"`,
		theirSigned("targets", `"threshold"`, `"thre\u017fhold"`)},
	{"members in other case, of a target", "the same", true, `member "Hashes" could be read as "hashes"`,
		theirSigned("targets", `"hashes"`, `"Hashes"`)},
	{"bytes that are not UTF-8", "they are read as U+FFFD, and then two names can be one", true, "not UTF-8",
		theirSigned("targets", `"v1"`, "\"v\xff\"")},
	{"nesting deeper than 64", "a few megabytes of it exhaust a stack", true, "nested deeper than 64",
		theirSigned("targets", `"version":1`, `"version":1,"x":`+strings.Repeat("[", 70)+strings.Repeat("]", 70))},
	{"numbers beyond 64 bits", "their canonical form depends on the processor", true, "json: unsupported value: 1e+20",
		theirSigned("targets", `"version":1`, `"version":1,"x":1e20`)},
	{"versions beyond 32 bits", "the database cannot hold them", true, "targets type metadata invalid: version cannot be more than 2147483647",
		theirSigned("targets", `"version":1`, `"version":2147483648`)},
	{"byte strings as arrays of numbers", "only Go's decoder knows them", true, "expected a string, not an array",
		theirSigned("targets", `"hashes":{`, `"hashes":{"md5":[1,2],`)},
	{"more than 100 signatures", "one file should not ask for unbounded work", true, "more than 100 signatures",
		edited("targets", swap(`"signatures":[`, `"signatures":[`+strings.Repeat(`{},`, tuf.MaxSignatures)))},
	{"more than 10,000 delegations", "a few bytes each, a hundred times that in memory", true, "more than 10000 roles",
		changed(func(t *testing.T, repo *tuftest.Repo) {
			d := &repo.Targets["targets"].Delegations
			d.Roles = append(d.Roles, slices.Repeat([]tuf.Delegation{{Name: "targets/z", Role: tuf.Role{Threshold: 1}}}, tuf.MaxRoles)...)
		})},
	{"more than 10,000 keys", "the same", true, "more than 10000 keys",
		changed(func(t *testing.T, repo *tuftest.Repo) {
			for i := range tuf.MaxKeys {
				repo.Targets["targets"].Delegations.Keys[tuf.KeyID(strconv.Itoa(i))] = tuf.Key{Type: "x", Public: []byte{}}
			}
		})},
	{"more than 1,000 key IDs of a role", "the same", true, "more than 1000 key IDs of one role",
		changed(func(t *testing.T, repo *tuftest.Repo) {
			d := repo.Delegation("targets/a")
			d.KeyIDs = slices.Repeat(d.KeyIDs, tuf.MaxKeyIDs+1)
		})},
	{"more than 10,000 paths", "the same", true, "more than 10000 paths of one role",
		changed(func(t *testing.T, repo *tuftest.Repo) {
			repo.Delegation("targets/a").Paths = slices.Repeat([]string{"x"}, tuf.MaxPaths+1)
		})},
	{"a snapshot of more than 20,000 files", "the same", true, "more than 20000 files",
		changed(edit("snapshot", func(s map[string]any) {
			for i := range tuf.MaxMeta {
				object(s, "meta")[fmt.Sprintf("targets/z%d", i)] = object(s, "meta", "targets")
			}
		}))},
	{"more than 16 hashes of a file", "the same", true, "more than 16 hashes of one file",
		theirSigned("targets", `"hashes":{`, `"hashes":{`+manyHashes())},
	{"a wrong length in a snapshot", "clients stop reading at it, and fail", true, "length of targets did not match: expected 1, not ",
		changed(edit("snapshot", func(s map[string]any) { object(s, "meta", "targets")["length"] = 1 }))},
	{"one public key under two IDs", "it would meet a threshold of two alone", true, "valid signatures did not meet threshold for targets",
		changed(func(t *testing.T, repo *tuftest.Repo) {
			k := tuftest.NewKey(t, tuf.KeyECDSA)
			cert := k.Certify(t, tuftest.Cert{CN: "x", NotBefore: repo.Now, NotAfter: repo.Now})
			repo.SetKeys("targets", 2, k, cert)
		})},
	{"one root key in two certificates", "the same", true, "failed to validate integrity of roots",
		changed(func(t *testing.T, repo *tuftest.Repo) {
			k := repo.Keys["root"][0]
			again := k.Certify(t, tuftest.Cert{CN: string(gun), NotBefore: repo.Now, NotAfter: repo.Now.Add(time.Hour)})
			repo.SetKeys("root", 2, k, again)
		})},
	{"RSA keys above 16384 bits", "one verification can take minutes", true, "valid signatures did not meet threshold for targets", hugeRSA},
	{"stored root whose certificate has expired", "its owner could never publish again, not even a new root", false, "", expiredRoot},
}

func manyHashes() (text string) {
	for i := range tuf.MaxHashes {
		text += fmt.Sprintf(`"md%d":"AAAA",`, i)
	}
	return text
}

func TestDifferences(t *testing.T) {
	for _, d := range differences {
		t.Run(d.name, func(t *testing.T) {
			p := d.make(t)
			got, want := ours(p, time.Now()), theirs(p)
			accepted, refused := want, got
			if !d.stricter {
				accepted, refused = got, want
			}
			if accepted.err != nil || refused.err == nil {
				t.Errorf("ours %s; upstream's %s", got, want)
			}
			if d.stricter && got.err != nil && !strings.Contains(got.err.Error(), d.text) {
				t.Errorf("got %s; want %s", got, d.text)
			}
		})
	}
}

// theirSigned changes the text of a signed part, and has upstream's canonical
// form of it signed.
func theirSigned(role tuf.RoleName, old, with string) func(*testing.T) publish {
	return func(t *testing.T) publish {
		t.Helper()
		repo := newRepo(t)
		replace(role, old, with)(t, repo)
		repo.Raw[role] = signTheirs(t, repo.Signed[role], repo.Keys[role]...)
		return of(repo)
	}
}

// signTheirs signs what upstream verifies, or, if it has no canonical form for
// it, the bytes themselves.
func signTheirs(t testing.TB, signed []byte, keys ...*tuftest.Key) []byte {
	message := signed
	var v map[string]any
	if json.Unmarshal(signed, &v) == nil {
		if m, err := json.MarshalCanonical(v); err == nil {
			message = m
		}
	}
	var sigs []tuf.Signature
	for _, k := range keys {
		sigs = append(sigs, k.Sign(t, message))
	}
	return tuftest.Join(t, signed, sigs...)
}

func changed(do func(*testing.T, *tuftest.Repo)) func(*testing.T) publish {
	return func(t *testing.T) publish {
		t.Helper()
		repo := newRepo(t)
		do(t, repo)
		return of(repo)
	}
}

func edited(role tuf.RoleName, f func([]byte) []byte) func(*testing.T) publish {
	return changed(raw(role, f))
}

// hugeRSA has targets signed by a key of more than 16384 bits. It is made of
// small primes, modulo each of which signing is quick.
func hugeRSA(t *testing.T) publish {
	t.Helper()
	repo := newRepo(t)
	const e = 65537
	var primes []*big.Int
	n := big.NewInt(1)
	for n.BitLen() <= 16384 {
		p, err := rand.Prime(rand.Reader, 256)
		if err != nil {
			t.Fatal(err)
		}
		primes = append(primes, p)
		n.Mul(n, p)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
	if err != nil {
		t.Fatal(err)
	}
	k := tuftest.Public(tuf.Key{Type: tuf.KeyRSA, Public: der})
	repo.SetKeys("targets", 1, k)
	size := (n.BitLen() + 7) / 8
	resign(t, repo, "targets", func(message []byte, _ []tuf.Signature) []tuf.Signature {
		digest := sha256.Sum256(message)
		padded := new(big.Int).SetBytes(pkcs1v15(digest[:], size))
		sig, product := new(big.Int), big.NewInt(1)
		for _, p := range primes { // sig is right modulo product
			d := new(big.Int).ModInverse(big.NewInt(e), new(big.Int).Sub(p, big.NewInt(1)))
			x := new(big.Int).Exp(padded, d, p)
			x.Sub(x, sig)
			x.Mul(x, new(big.Int).ModInverse(product, p))
			x.Mod(x, p)
			sig.Add(sig, x.Mul(x, product))
			product = new(big.Int).Mul(product, p)
		}
		return []tuf.Signature{{KeyID: k.ID(), Method: tuf.MethodRSAPKCS1v15, Sig: sig.FillBytes(make([]byte, size))}}
	})
	return of(repo)
}

// pkcs1v15 pads the SHA-256 digest of a message for a key of size bytes.
func pkcs1v15(digest []byte, size int) []byte {
	const header = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
	em := bytes.Repeat([]byte{0xff}, size)
	em[0], em[1] = 0, 1
	tail := append([]byte(header), digest...)
	em[size-len(tail)-1] = 0
	copy(em[size-len(tail):], tail)
	return em
}

// expiredRoot publishes a properly signed new root over one whose certificate
// has expired.
func expiredRoot(t *testing.T) publish {
	t.Helper()
	repo := newRepo(t)
	old := tuftest.NewKey(t, tuf.KeyECDSA).Certify(t, tuftest.Cert{CN: string(gun), NotBefore: repo.Now.Add(-2 * time.Hour), NotAfter: repo.Now.Add(-time.Hour)})
	repo.SetKeys("root", 1, old)
	prev := repo.File("root")
	repo.Rotate("root")
	repo.Next("root")
	p := of(repo)
	p.prev = prev
	return p
}

// TestServerMade: what upstream cannot make, or makes so that nobody can verify
// it, from a snapshot that it has accepted.
func TestServerMade(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, m := range map[string]tuf.FileMeta{
		"control character in the name of a hash": {Hashes: tuf.Hashes{"\x01": nil}},
		"custom with unsorted members":            {Custom: stdjson.RawMessage(`{"b":1,"a":2}`)},
		"custom with angle brackets":              {Custom: stdjson.RawMessage(`"<>"`)},
	} {
		meta := map[tuf.RoleName]tuf.FileMeta{"root": tuf.MetaOf(nil), "targets": tuf.MetaOf(nil), "targets/a": m}
		s := &tuf.Snapshot{Version: 1, Expires: at, Meta: meta}
		canonical, err := s.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		file, err := tuf.Seal(canonical, nil)
		if err != nil {
			t.Fatal(err)
		}
		e, err := tuf.ParseEnvelope(file)
		if err != nil {
			t.Fatal(err)
		}
		if verified, err := e.Canonical(); err != nil || !bytes.Equal(verified, canonical) {
			t.Errorf("%s: signed %s, verified %s, %v", name, canonical, verified, err)
		}

		theirs := data.Snapshot{SignedCommon: data.SignedCommon{Type: "Snapshot", Expires: at, Version: 1}, Meta: theirFiles(meta)}
		message, err := json.MarshalCanonical(theirs)
		if err != nil {
			t.Fatal(err)
		}
		file, err = json.Marshal(&data.SignedSnapshot{Signed: theirs})
		var v struct{ Signed map[string]any }
		if err == nil && json.Unmarshal(file, &v) == nil {
			if verified, _ := json.MarshalCanonical(v.Signed); bytes.Equal(verified, message) {
				t.Errorf("%s: upstream manages as well", name)
			}
		}
	}
}

var knownNames = strings.Fields(`signed signatures keyid method sig _type expires version keys roles consistent_snapshot targets
	delegations meta keytype keyval public private keyids threshold name paths length hashes custom`)

// deliberate returns why this package may refuse a file that upstream takes: the
// rows of the table that can be seen in the file itself. It finds them in
// another way than the package does.
func deliberate(file []byte) string {
	if !utf8.Valid(file) {
		return "not UTF-8"
	}
	var v any
	d := stdjson.NewDecoder(bytes.NewReader(file))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return ""
	}
	if reason := deliberateNames(file); reason != "" {
		return reason
	}
	return deliberateValue("", v)
}

func deliberateValue(name string, v any) string {
	switch v := v.(type) {
	case map[string]any:
		if name == "hashes" && len(v) > 16 || len(v) > 10_000 {
			return "too many members"
		}
		for n, v := range v {
			if name == "hashes" {
				n = "sig" // a byte string, as that is
			}
			if reason := deliberateValue(n, v); reason != "" {
				return reason
			}
		}
	case []any:
		if name == "sig" || name == "public" || name == "private" {
			return "bytes as an array"
		}
		if name == "signatures" && len(v) > tuf.MaxSignatures {
			return "too many signatures"
		}
		if name == "keyids" && len(v) > 1000 || len(v) > 10_000 {
			return "too many elements"
		}
		for _, v := range v {
			if reason := deliberateValue("", v); reason != "" {
				return reason
			}
		}
	case stdjson.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		if err == nil && (f >= math.MaxInt64 || f < math.MinInt64) {
			return "number beyond 64 bits"
		}
		if err == nil && name == "version" && f > math.MaxInt32 {
			return "version beyond 32 bits"
		}
	}
	return ""
}

// deliberateNames looks for names that come twice or in other case, and for
// deep nesting.
func deliberateNames(file []byte) string {
	type level struct {
		names []string
		next  bool // the next token is a value
		array bool
	}
	var open []level
	d := stdjson.NewDecoder(bytes.NewReader(file))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		if n := len(open); n > 0 && !open[n-1].array {
			top := &open[n-1]
			if name, ok := token.(string); ok && !top.next {
				if slices.Contains(top.names, name) {
					return "duplicate member"
				}
				top.names = append(top.names, name)
				if slices.ContainsFunc(knownNames, func(k string) bool { return k != name && strings.EqualFold(k, name) }) {
					return "member in other case"
				}
			}
			top.next = !top.next
		}
		switch token {
		case stdjson.Delim('{'), stdjson.Delim('['):
			open = append(open, level{array: token == stdjson.Delim('[')})
			if len(open) > tuf.MaxDepth {
				return "too deep"
			}
		case stdjson.Delim('}'), stdjson.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}

// TestDeliberate: the fuzz tests recognize the rows that are about content.
func TestDeliberate(t *testing.T) {
	beyondContent := []string{"a wrong length in a snapshot", "a snapshot of more than 20,000 files", "one public key under two IDs", "one root key in two certificates", "RSA keys above 16384 bits", "stored root whose certificate has expired"}
	for _, d := range differences {
		if slices.Contains(beyondContent, d.name) {
			continue
		}
		if deliberate(d.make(t).files["targets"]) == "" {
			t.Errorf("%s: not recognized", d.name)
		}
	}
	for role, file := range newRepo(t).Files() {
		if reason := deliberate(file); reason != "" {
			t.Errorf("valid %s: %s", role, reason)
		}
	}
}
