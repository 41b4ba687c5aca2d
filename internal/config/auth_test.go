package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"countersign/internal/config"
)

// withToken asks for tokens, with a bundle in dir.
func withToken(t *testing.T, dir string) tree {
	t.Helper()
	return set(validServer(), "auth", tree{"type": "token", "options": tree{
		"realm": "https://registry.example.com/token", "service": "notary", "issuer": "registry",
		"rootcertbundle": write(t, filepath.Join(dir, "root.crt"), "any"),
	}})
}

// withHtpasswd asks for passwords, with files in dir.
func withHtpasswd(t *testing.T, dir string) tree {
	t.Helper()
	write(t, filepath.Join(dir, "htpasswd"), "any")
	write(t, filepath.Join(dir, "policy.json"), "any")
	return set(validServer(), "auth", tree{"type": "htpasswd", "options": tree{"path": "htpasswd", "policy": "./policy.json"}})
}

func TestToken(t *testing.T) {
	dir := t.TempDir()
	v := withToken(t, dir)
	want := config.AuthOptions{Realm: "https://registry.example.com/token", Service: "notary", Issuer: "registry", RootCertBundle: filepath.Join(dir, "root.crt")}
	for name, c := range map[string]struct {
		key    string
		value  any
		change func(*config.AuthOptions)
	}{
		"as it is":          {"auth.options.autoredirect", nil, func(*config.AuthOptions) {}},
		"redirected":        {"auth.options.autoredirect", true, func(o *config.AuthOptions) { o.Autoredirect = true }},
		"not redirected":    {"auth.options.autoredirect", false, func(*config.AuthOptions) {}},
		"service as number": {"auth.options.service", 17, func(o *config.AuthOptions) { o.Service = "17" }},
		"full access": {"auth.options.full_access_actions", []string{"push", "delete"},
			func(o *config.AuthOptions) { o.FullAccessActions = []string{"push", "delete"} }},
		"full access in a string": {"auth.options.full_access_actions", "push delete",
			func(o *config.AuthOptions) { o.FullAccessActions = []string{"push", "delete"} }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, r := loadServer(t, set(v, c.key, c.value))
			wantClean(t, r)
			want := want
			c.change(&want)
			if diff := cmp.Diff(config.Auth{Type: config.AuthToken, Options: want}, cfg.Auth); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(r.Warnings) > 0 {
				t.Errorf("warnings: %q", r.Warnings)
			}
		})
	}
}

func TestHtpasswd(t *testing.T) {
	dir := t.TempDir()
	v := withHtpasswd(t, dir)
	for realm, want := range map[string]string{"": "Countersign", "Our notary": "Our notary"} {
		cfg, r := config.LoadServer(writeTree(t, dir, set(v, "auth.options.realm", realm)), nil)
		wantClean(t, r)
		options := config.AuthOptions{Realm: want, Path: filepath.Join(dir, "htpasswd"), Policy: filepath.Join(dir, "policy.json")}
		if diff := cmp.Diff(config.Auth{Type: config.AuthHtpasswd, Options: options}, cfg.Auth); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if len(r.Warnings) > 0 {
			t.Errorf("warnings: %q", r.Warnings)
		}
	}
}

func TestAuthFaults(t *testing.T) {
	const (
		openly  = "rather than serve openly"
		missing = "token auth requires a valid option string: "
	)
	dir := t.TempDir()
	none, token, htpasswd := validServer(), withToken(t, dir), withHtpasswd(t, dir)
	for name, c := range map[string]struct {
		base  tree
		key   string
		value any
		fault string
		want  string
	}{
		"no realm":                  {token, "auth.options.realm", nil, "", missing + `"realm"`},
		"empty issuer":              {token, "auth.options.issuer", "", "", missing + `"issuer"`},
		"null service":              {token, "auth.options.service", nil, "", missing + `"service"`},
		"no bundle":                 {token, "auth.options.rootcertbundle", nil, "", missing + `"rootcertbundle"`},
		"realm is no string":        {token, "auth.options.realm", tree{}, "", "plain value"},
		"bundle not there":          {token, "auth.options.rootcertbundle", "/no/root.crt", "", "unable to open token auth root certificate bundle file /no/root.crt: no such file"},
		"bundle is a folder":        {token, "auth.options.rootcertbundle", dir, "", "it is a directory"},
		"quoted autoredirect":       {token, "auth.options.autoredirect", "true", "", "without quotes"},
		"empty action":              {token, "auth.options.full_access_actions", []string{"push", ""}, "", "an action in the list is empty"},
		"path with token":           {token, "auth.options.path", "htpasswd", "", `it is for the type "htpasswd", and auth.type is "token"`},
		"policy with token":         {token, "auth.options.policy", "policy.json", "", "remove it, or change auth.type"},
		"unknown option":            {token, "auth.options.rootcertbundel", "x", "", `did you mean "auth.options.rootcertbundle"?`},
		"no password file":          {htpasswd, "auth.options.path", nil, "", `htpasswd auth requires a valid option string: "path"`},
		"no policy":                 {htpasswd, "auth.options.policy", nil, "", `htpasswd auth requires a valid option string: "policy"`},
		"policy not there":          {htpasswd, "auth.options.policy", "no.json", "", "no such file"},
		"service with htpasswd":     {htpasswd, "auth.options.service", "notary", "", `it is for the type "token"`},
		"issuer with htpasswd":      {htpasswd, "auth.options.issuer", "registry", "", `it is for the type "token"`},
		"bundle with htpasswd":      {htpasswd, "auth.options.rootcertbundle", "/no/root.crt", "", `it is for the type "token"`},
		"redirecting with htpasswd": {htpasswd, "auth.options.autoredirect", true, "", `it is for the type "token"`},
		"actions with htpasswd":     {htpasswd, "auth.options.full_access_actions", "push", "", `it is for the type "token"`},
		"upper case":                {token, "auth.type", "Token", "", `did you mean "token"?`},
		"blank in front":            {token, "auth.type", " token", "", `did you mean "token"?`},
		"blank behind":              {htpasswd, "auth.type", "htpasswd ", "", `did you mean "htpasswd"?`},
		"all upper case":            {htpasswd, "auth.type", "HTPASSWD", "", `did you mean "htpasswd"?`},
		"a letter too many":         {token, "auth.type", "tokens", "", openly},
		"of the registry":           {none, "auth.type", "silly", "", openly + " to everybody as upstream would"},
		"what would mean none":      {none, "auth.type", "none", "", "or remove the section auth if everybody who can connect may do everything"},
		"blank":                     {none, "auth.type", " ", "", openly},
		"a number":                  {none, "auth.type", 0, "", openly},
		"an object":                 {none, "auth.type", tree{}, "", "plain value"},
		"a realm without a type":    {none, "auth.options.realm", "r", "auth.type", openly},
		"actions without a type":    {none, "auth.options.full_access_actions", "push", "auth.type", openly},
		"type null":                 {token, "auth.type", nil, "", openly},
		"options, wrong shape":      {none, "auth.options", "x", "", "must be an object"},
		"section, wrong shape":      {none, "auth", "token", "", "must be an object"},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := config.LoadServer(writeTree(t, dir, set(c.base, c.key, c.value)), nil)
			if c.fault == "" {
				c.fault = c.key
			}
			wantFault(t, r, c.fault, c.want)
		})
	}
}

func TestMissingOptionsAtOnce(t *testing.T) {
	for kind, want := range map[string][]string{
		"token":    {"auth.options.realm", "auth.options.issuer", "auth.options.service", "auth.options.rootcertbundle"},
		"htpasswd": {"auth.options.path", "auth.options.policy"},
	} {
		for _, v := range []tree{{"type": kind}, {"type": kind, "options": tree{}}, {"type": kind, "options": nil}} {
			_, r := loadServer(t, set(validServer(), "auth", v))
			if diff := cmp.Diff(want, faultKeys(r)); diff != "" {
				t.Errorf("%v: settings at fault (-want +got):\n%s", v, diff)
			}
			for _, f := range r.Faults {
				if f.Remedy == "" {
					t.Errorf("%s: no remedy", f.Key)
				}
			}
		}
	}
}

func TestNoAuth(t *testing.T) {
	for _, v := range []tree{nil, {}, {"type": ""}, {"type": nil}, {"type": nil, "options": nil}, {"options": tree{}}, {"type": "", "options": tree{"realm": "", "autoredirect": false}}} {
		cfg, r := loadServer(t, set(validServer(), "auth", v))
		wantClean(t, r)
		if cfg.Auth.Type != "" {
			t.Errorf("%v: type %q", v, cfg.Auth.Type)
		}
	}
}

// TestAuthFromEnvironment: the type is taken, the options are not.
func TestAuthFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	_, r := loadServer(t, validServer(), "NOTARY_SERVER_AUTH_TYPE=token", "NOTARY_SERVER_AUTH_OPTIONS_REALM=https://x/token")
	wantFault(t, r, "auth.type", "(from NOTARY_SERVER_AUTH_TYPE): token auth requires options")
	want := []string{"the variable NOTARY_SERVER_AUTH_OPTIONS_REALM is not used: auth.options.realm can be given in the file alone"}
	if diff := cmp.Diff(want, r.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}

	cfg, r := loadServer(t, withToken(t, dir), "NOTARY_SERVER_AUTH_OPTIONS_ISSUER=other", "NOTARY_SERVER_AUTH_OPTIONS_SERVICE=", "NOTARY_SIGNER_AUTH_OPTIONS_REALM=x")
	wantClean(t, r)
	if cfg.Auth.Options.Issuer != "registry" || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "NOTARY_SERVER_AUTH_OPTIONS_ISSUER") {
		t.Errorf("issuer %q, warnings %q", cfg.Auth.Options.Issuer, r.Warnings)
	}

	_, r = loadServer(t, withToken(t, dir), "NOTARY_SERVER_AUTH_TYPE=off")
	wantFault(t, r, "auth.type", "rather than serve openly")
}

func TestRealmThatLeadsNowhere(t *testing.T) {
	dir := t.TempDir()
	v := withToken(t, dir)
	for realm, warns := range map[string]bool{
		"http://registry:8080/token": false, "https://registry.example.com/service/token?x=y": false, "HTTPS://registry/token": false,
		"registry.example.com/token": true, "/service/token": true, "token realm": true, "ftp://registry/token": true, "https:///token": true, "https://a b/": true,
	} {
		_, r := loadServer(t, set(v, "auth.options.realm", realm))
		wantClean(t, r)
		if warned := len(r.Warnings) == 1 && strings.HasPrefix(r.Warnings[0], "auth.options.realm: it is no absolute URL"); warned != warns {
			t.Errorf("%q: warnings %q", realm, r.Warnings)
		}
	}
}

// TestBundleIsRelativeToTheWorkingDirectory, and its fault says where that leads.
func TestBundleIsRelativeToTheWorkingDirectory(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	v := set(withToken(t, dir), "auth.options.rootcertbundle", "root.crt")
	t.Chdir(elsewhere)
	_, r := config.LoadServer(writeTree(t, dir, v), nil)
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, r, "auth.options.rootcertbundle", filepath.Join(wd, "root.crt")+": no such file")
	if got := r.Faults[0].Remedy; !strings.Contains(got, "relative to the working directory, unlike all others") {
		t.Errorf("remedy %q", got)
	}
	t.Chdir(dir)
	cfg, r := config.LoadServer(filepath.Join(dir, "config.json"), nil)
	wantClean(t, r)
	if cfg.Auth.Options.RootCertBundle != "root.crt" {
		t.Errorf("the bundle became %q", cfg.Auth.Options.RootCertBundle)
	}
}
