package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxToken is more than the servers of this project read of all headers.
	maxToken = 64 << 10
	// maxSubject bounds what of a name gets to the log.
	maxSubject = 256
	// leeway is how far the clocks may be apart.
	leeway = 60 * time.Second

	typeRepository = "repository"
)

// algorithms are those that a token may be signed with. There is none that an
// attacker could use with a public key for a secret.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512}

// A header is read with the JSON of go-jose: names match by case, and a name
// that is there twice is an error, so that nobody else can read it differently.
type header struct {
	Algorithm jose.SignatureAlgorithm `json:"alg"`
	KeyID     string                  `json:"kid"`
	X5C       []string                `json:"x5c"`
	JWK       *json.RawMessage        `json:"jwk"`
	Critical  *json.RawMessage        `json:"crit"`
}

type claims struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  audience        `json:"aud"`
	Expiry    *int64          `json:"exp"`
	NotBefore int64           `json:"nbf"`
	Access    []claimedAccess `json:"access"`
}

// A claimedAccess is an entry of the claim access. Of class nobody asks.
type claimedAccess struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// An audience is a string in all tokens of old, and may be an array.
type audience []string

func (a *audience) UnmarshalJSON(raw []byte) error {
	if bytes.HasPrefix(raw, []byte{'['}) {
		return json.Unmarshal(raw, (*[]string)(a))
	}
	var one *string
	if err := json.Unmarshal(raw, &one); err != nil {
		return err
	}
	if *a = nil; one != nil {
		*a = audience{*one}
	}
	return nil
}

// An inspection is a token on its way through the steps. What a step could not
// make out stays nil, and the steps that need it fail.
type inspection struct {
	token  string
	now    time.Time
	bundle *bundle

	header *header
	claims *claims
	key    any // *ecdsa.PublicKey or *rsa.PublicKey, trusted

	explain bool
	found   string // what the step just taken found, if explain
}

func (v *inspection) say(format string, args ...any) {
	if v.explain {
		v.found = fmt.Sprintf(format, args...)
	}
}

// A fault is why a step fails. Its text is for the log.
type fault struct {
	text   string
	remedy string // for [Tokens.Explain]
}

func (f *fault) Error() string { return f.text }

func failing(remedy, format string, args ...any) error {
	return &fault{text: fmt.Sprintf(format, args...), remedy: remedy}
}

// A step is one check of the token itself.
type step struct {
	name  string
	check func(*Tokens, *inspection) error
}

// steps are in the order of the verification. [Tokens.Authorize] and
// [Tokens.Explain] both take them from here, so that they cannot disagree.
var steps = []step{
	{"form", (*Tokens).checkForm},
	{"algorithm", (*Tokens).checkAlgorithm},
	{"issuer", (*Tokens).checkIssuer},
	{"audience", (*Tokens).checkAudience},
	{"expiry", (*Tokens).checkExpiry},
	{"not before", (*Tokens).checkNotBefore},
	{"signing key", (*Tokens).checkKey},
	{"signature", (*Tokens).checkSignature},
}

var (
	errNoHeader = &fault{text: "not checked: the header cannot be read"}
	errNoClaims = &fault{text: "not checked: the claims cannot be read"}
	errNoKey    = &fault{text: "not checked: there is no trusted key"}
)

func (t *Tokens) checkForm(v *inspection) error {
	const remedy = "give the token as the token service answered it, whole and without anything around it"
	if len(v.token) > maxToken {
		return failing(remedy, "it has %d bytes, want %d at most", len(v.token), maxToken)
	}
	parts := strings.Split(v.token, ".")
	if len(parts) != 3 {
		return failing(remedy, "it has %d parts, want 3 with dots between them", len(parts))
	}
	var h header
	var c claims
	headerErr, claimsErr := decode(parts[0], &h), decode(parts[1], &c)
	if headerErr == nil {
		v.header = &h
	}
	if claimsErr == nil {
		v.claims = &c
	}
	signature, signatureErr := decodePart(parts[2])
	switch {
	case headerErr != nil:
		return failing(remedy, "the header: %s", printable(headerErr.Error(), 256))
	case claimsErr != nil:
		return failing(remedy, "the claims: %s", printable(claimsErr.Error(), 256))
	case signatureErr != nil:
		return failing(remedy, "the signature: %s", signatureErr)
	case len(signature) == 0:
		return failing(remedy, "it has no signature")
	case h.Critical != nil:
		return failing("have the token service leave crit out", "its header has critical members (crit), of which none is known here")
	}
	v.say("three parts, header and claims are JSON")
	return nil
}

func decode(part string, into any) error {
	raw, err := decodePart(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// decodePart knows one form of each text: no padding, no line ends, no loose bits.
func decodePart(part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") {
		return nil, errors.New("line ends in base64url")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("not base64url without padding")
	}
	return raw, nil
}

func (t *Tokens) checkAlgorithm(v *inspection) error {
	if v.header == nil {
		return errNoHeader
	}
	if !slices.Contains(algorithms, v.header.Algorithm) {
		return failing("have the token service sign with one of these", "algorithm is %s, want one of %s", inQuotes(string(v.header.Algorithm)), algorithms)
	}
	v.say("%s", v.header.Algorithm)
	return nil
}

func (t *Tokens) checkIssuer(v *inspection) error {
	if v.claims == nil {
		return errNoClaims
	}
	if v.claims.Issuer != t.cfg.Issuer {
		return failing("the token is of another token service, or auth.options.issuer is wrong", "issuer is %s, want %s", inQuotes(v.claims.Issuer), inQuotes(t.cfg.Issuer))
	}
	v.say("%s, as wanted", inQuotes(t.cfg.Issuer))
	return nil
}

func (t *Tokens) checkAudience(v *inspection) error {
	if v.claims == nil {
		return errNoClaims
	}
	if !slices.Contains(v.claims.Audience, t.cfg.Service) {
		return failing("the token was asked for with another service, or auth.options.service is wrong", "audience is %s, want %s", list(v.claims.Audience), inQuotes(t.cfg.Service))
	}
	v.say("%s, as wanted", list(v.claims.Audience))
	return nil
}

func (t *Tokens) checkExpiry(v *inspection) error {
	switch {
	case v.claims == nil:
		return errNoClaims
	case v.claims.Expiry == nil:
		return failing("have the token service set exp", "it does not say when it expires")
	}
	at := moment(*v.claims.Expiry)
	if v.now.After(at.Add(leeway)) {
		return failing("ask for a new token, or set the clocks of both machines right", "it expired at %s, now is %s", stamp(at), stamp(v.now))
	}
	v.say("until %s, now is %s", stamp(at), stamp(v.now))
	return nil
}

func (t *Tokens) checkNotBefore(v *inspection) error {
	if v.claims == nil {
		return errNoClaims
	}
	at := moment(v.claims.NotBefore)
	if v.now.Before(at.Add(-leeway)) {
		return failing("set the clocks of both machines right", "it is not valid before %s, now is %s", stamp(at), stamp(v.now))
	}
	v.say("since %s", stamp(at))
	return nil
}

// checkAccess is the step that follows the others, once for each access needed.
func (t *Tokens) checkAccess(v *inspection, a Access) error {
	if v.claims == nil {
		return errNoClaims
	}
	var granted, others []string
	for _, g := range v.claims.Access {
		if g.Type == a.Type && g.Name == a.Name {
			granted = append(granted, g.Actions...)
		} else if v.explain {
			others = append(others, g.Type+":"+g.Name)
		}
	}
	isGranted := func(action string) bool { return slices.Contains(granted, action) }
	full := t.cfg.FullAccessActions
	switch {
	case isGranted(a.Action):
		v.say("granted: %s", list(granted))
		return nil
	case isGranted("*"):
		v.say("granted by %s", inQuotes("*"))
		return nil
	case a.Type == typeRepository && len(full) > 0 && !slices.ContainsFunc(full, func(f string) bool { return !isGranted(f) }):
		v.say("granted by %s together", list(full))
		return nil
	case !v.explain:
		return errors.New("not granted")
	}
	remedy := "the user may not do this there, or the token was asked for with another scope"
	if a.Action == "*" && a.Type == typeRepository && len(full) == 0 && isGranted("push") {
		remedy += `; a token service that never grants "*" needs auth.options.full_access_actions`
	}
	if len(granted) == 0 && len(others) > 0 {
		remedy += "; the token is about " + list(others) + ": the name must be the same to the letter, with host and port"
	}
	return failing(remedy, "the token grants %s on %s, want %s", list(granted), inQuotes(a.Type+":"+a.Name), inQuotes(a.Action))
}

// moment keeps what is absurd from wrapping around into the past.
func moment(seconds int64) time.Time {
	const absurd = 1 << 40 // more than thirty thousand years
	return time.Unix(min(max(seconds, -absurd), absurd), 0)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// inQuotes is how a claim gets into a text: one line, no surprises, not long.
func inQuotes(s string) string { return fmt.Sprintf("%+q", cut(s, 128)) }

func list(all []string) string {
	const most = 8
	var out []string
	for i, s := range all {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(all)-most))
			break
		}
		out = append(out, inQuotes(s))
	}
	return "[" + strings.Join(out, " ") + "]"
}

// printable cuts s, and puts a question mark for each rune that could do
// something to a terminal or a log.
func printable(s string, most int) string {
	return cut(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s), most)
}

// cut shortens s to at most that many bytes, between two runes.
func cut(s string, most int) string {
	const more = "..."
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len(more)], "") + more
}
