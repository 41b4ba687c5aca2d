package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"countersign/internal/config"
	"countersign/server/auth"
	"countersign/tuf"
)

// ExplainConfig says which token to explain, and to which server.
type ExplainConfig struct {
	ServerConfig string   // path of trust-server's configuration file
	Environ      []string // in the form of os.Environ
	Token        string   // as it was sent; "Bearer" in front of it does not matter
	GUN          tuf.GUN  // what it is to be used on; "" asks for no access
	Actions      []string // "pull", "push", "*"
	Log          *slog.Logger
}

// ExplainToken walks the checks that the server makes of a token, with the
// server's own code, keys and configuration. The error is about the
// configuration; what is wrong with the token is in the checks.
func ExplainToken(c ExplainConfig) ([]auth.Check, error) {
	cfg, report := config.LoadServer(c.ServerConfig, c.Environ)
	// Faults elsewhere do not matter here: an operator may not be allowed to read
	// the server's private key.
	var faults config.Faults
	for _, f := range report.Faults {
		if f.Key == "" || f.Key == "auth" || strings.HasPrefix(f.Key, "auth.") {
			faults = append(faults, f)
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if cfg.Auth.Type != config.AuthToken {
		return nil, fmt.Errorf("%s: auth.type is %q, so that this server looks at no tokens", report.File, cfg.Auth.Type)
	}
	o := cfg.Auth.Options
	tokens, err := auth.NewTokens(auth.TokenConfig{
		Realm: o.Realm, Service: o.Service, Issuer: o.Issuer, RootCertBundle: o.RootCertBundle, Autoredirect: o.Autoredirect,
		FullAccessActions: o.FullAccessActions, Log: c.Log, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	need, err := accessTo(c.GUN, c.Actions)
	if err != nil {
		return nil, err
	}
	token := strings.TrimSpace(c.Token)
	if scheme, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(strings.TrimSuffix(scheme, ":"), "bearer") {
		token = strings.TrimSpace(rest)
	}
	if token == "" {
		return nil, errors.New("no token was given")
	}
	return tokens.Explain(token, need), nil
}

func accessTo(gun tuf.GUN, actions []string) (need []auth.Access, err error) {
	if gun == "" {
		return nil, nil
	}
	if _, err := tuf.ParseGUN(string(gun)); err != nil {
		return nil, err
	}
	for _, a := range actions {
		if a != "pull" && a != "push" && a != "*" {
			return nil, fmt.Errorf("there is no action %q: a server asks for pull, push or *", a)
		}
		need = append(need, auth.Access{Type: "repository", Name: string(gun), Action: a})
	}
	return need, nil
}
