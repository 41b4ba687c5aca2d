package auth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A TokenConfig says which tokens [Tokens] accepts. Its options are those of
// auth.options.
type TokenConfig struct {
	Realm          string // URL of the token service, for the challenge
	Service        string // who a token must be made for, its aud
	Issuer         string // who must have made it, its iss
	RootCertBundle string // path of the PEM file with the certificates of the token service

	// Autoredirect puts https://<Host of the request>/auth/token in the place
	// of Realm. A Host that cannot stand in a URL leaves Realm there.
	Autoredirect bool

	// FullAccessActions are the actions that together count as "*" on a
	// repository, as newer Harbors mean it, whose tokens hold no "*". Empty: none do.
	FullAccessActions []string

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
}

// check reports all that is missing at once, in upstream's words and its order.
func (c *TokenConfig) check() error {
	var faults []error
	for _, o := range []struct{ key, value, remedy string }{
		{"realm", c.Realm, "the URL of the token service"},
		{"issuer", c.Issuer, "the iss of its tokens"},
		{"service", c.Service, "the aud of its tokens"},
		{"rootcertbundle", c.RootCertBundle, "the path of a PEM file with its certificates"},
	} {
		if o.value == "" {
			faults = append(faults, fmt.Errorf("token auth requires a valid option string: %q: set auth.options.%s to %s", o.key, o.key, o.remedy))
		}
	}
	if slices.Contains(c.FullAccessActions, "") {
		faults = append(faults, errors.New("auth.options.full_access_actions: an action in the list is empty: name each, such as push, pull, delete"))
	}
	return errors.Join(faults...)
}

// Tokens checks bearer tokens as the registry's token protocol has them. Its
// methods may be called at the same time.
type Tokens struct {
	cfg    TokenConfig
	bundle *watched[*bundle]
}

// NewTokens reads the bundle. The error says what is wrong with which option,
// and what to do. Expired certificates are no error: see [Tokens.Authorize].
func NewTokens(cfg TokenConfig) (*Tokens, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.FullAccessActions = slices.Clone(cfg.FullAccessActions)
	started, broken := false, 0
	w, err := watch(cfg.RootCertBundle, cfg.Log, func(raw []byte) (*bundle, error) {
		b, err := parseBundle(raw)
		if err != nil {
			return nil, err
		}
		if started && b.broken > broken {
			// Most likely somebody is writing it: half of the keys must not
			// push the others out. Entries that have been broken all the time
			// must not keep a key in force that was taken out.
			return nil, fmt.Errorf("%d entries are cut off or not PEM, %d were before", b.broken, broken)
		}
		started, broken = true, b.broken
		b.warn(cfg.RootCertBundle, cfg.Log, cfg.Now())
		return b, nil
	})
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("unable to open token auth root certificate bundle file %q: %w: "+
			"auth.options.rootcertbundle must name a file that this program can read; a relative path starts at the working directory", cfg.RootCertBundle, err)
	}
	if err != nil {
		return nil, fmt.Errorf("auth.options.rootcertbundle: %w", err)
	}
	return &Tokens{cfg: cfg, bundle: w}, nil
}

// Watch reads the bundle again whenever it changes, until ctx ends. A bundle
// that cannot be used leaves the last good one in force, which the log says.
func (t *Tokens) Watch(ctx context.Context) { t.bundle.run(ctx) }

// Authorize returns whom the token of r names, or a [*Refusal] unless the token
// is valid and grants all of need. The subject may be "", which is how anonymous
// users of a token service are named; it has at most 256 bytes, all printable.
// With a refusal it is only told if the token is valid.
//
// The key of a certificate in the bundle is trusted when a token names it by
// kid, whatever the dates of the certificate: token services keep their key
// when it expires. A chain in x5c must be valid today.
func (t *Tokens) Authorize(r *http.Request, need []Access) (subject string, err error) {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || strings.Contains(token, " ") {
		return "", &Refusal{challenge: t.challenge(r, need, ""), cause: errors.New("token: none was sent")}
	}
	v := t.inspect(token)
	for _, s := range steps {
		if err := s.check(t, v); err != nil {
			return "", &Refusal{
				challenge: t.challenge(r, need, "invalid_token"),
				public:    "the token is not valid",
				cause:     fmt.Errorf("token: %w", err),
			}
		}
	}
	if len(need) == 0 {
		return "", errNothing
	}
	subject = printable(v.claims.Subject, maxSubject)
	var missing []Access
	for _, a := range need {
		if err := t.checkAccess(v, a); err != nil {
			missing = append(missing, a)
		}
	}
	if len(missing) > 0 {
		text := "the token does not grant " + describe(missing)
		return subject, &Refusal{
			challenge: t.challenge(r, need, "insufficient_scope"),
			public:    text,
			cause:     errors.New("token: " + text),
		}
	}
	return subject, nil
}

// A Check is one step in the verification of a token.
type Check struct {
	Name string // such as "issuer"
	OK   bool
	Text string // what was found, and if that is wrong, what was wanted and what to do
}

// Explain takes the same steps as [Tokens.Authorize], but goes on after one
// that fails. The token is accepted if all checks are OK. No text holds the
// token or its signature; what it claims is quoted and cut.
func (t *Tokens) Explain(token string, need []Access) []Check {
	v := t.inspect(token)
	v.explain = true
	var checks []Check
	add := func(name string, err error) {
		c := Check{Name: name, OK: err == nil, Text: v.found}
		if err != nil {
			c.Text = err.Error()
			if f, ok := errors.AsType[*fault](err); ok && f.remedy != "" {
				c.Text += "; " + f.remedy
			}
		}
		checks = append(checks, c)
		v.found = ""
	}
	for _, s := range steps {
		add(s.name, s.check(t, v))
	}
	for _, a := range need {
		add("access "+describe([]Access{a}), t.checkAccess(v, a))
	}
	return checks
}

func (t *Tokens) inspect(token string) *inspection {
	return &inspection{token: token, now: t.cfg.Now(), bundle: t.bundle.get()}
}

// describe names what is missing on one resource: the accesses that a request
// needs are all of the same one.
func describe(need []Access) string {
	var actions []string
	for _, a := range need {
		if !slices.Contains(actions, a.Action) {
			actions = append(actions, printable(a.Action, 64))
		}
	}
	resource := need[0].Name
	if need[0].Type != typeRepository {
		resource = need[0].Type + ":" + resource
	}
	// The body of an error has 1023 bytes at most, and JSON makes up to six of one.
	return strings.Join(actions, " and ") + " on " + printable(resource, 128)
}
