package config

import (
	"fmt"
	"net/url"
	"strings"
)

// Types of client authentication.
const (
	AuthToken    = "token"
	AuthHtpasswd = "htpasswd"
)

// defaultRealm names the server in the question for a name and a password.
const defaultRealm = "Countersign"

// checkAuth refuses what does not protect. Upstream serves openly, without a
// word, under any type that it does not know.
func (b *binder) checkAuth(a *Auth) {
	o := &a.Options
	switch a.Type {
	case "":
		if o.given() {
			b.fault("auth.type", "auth.options are given, but no type: the server does not start, rather than serve openly to everybody",
				`set it to "token" or "htpasswd", or remove the section auth if everybody who can connect may do everything`)
		}
	case AuthToken:
		b.checkToken(o)
	case AuthHtpasswd:
		b.checkHtpasswd(o)
	default:
		b.fault("auth.type", "there is no such type of authentication: the server does not start, rather than serve openly to everybody as upstream would",
			typeRemedy(a.Type))
	}
}

// given says whether any of the options is.
func (o *AuthOptions) given() bool {
	return o.Realm != "" || o.Service != "" || o.Issuer != "" || o.RootCertBundle != "" || o.Autoredirect ||
		len(o.FullAccessActions) > 0 || o.Path != "" || o.Policy != ""
}

func typeRemedy(given string) string {
	meant := nearest(strings.ToLower(strings.TrimSpace(given)), []string{AuthToken, AuthHtpasswd})
	if meant != "" {
		return fmt.Sprintf("did you mean %q?", meant)
	}
	return `set it to "token" or "htpasswd", or remove the section auth if everybody who can connect may do everything`
}

// An authOption is a setting below auth.options.
type authOption struct{ name, value, remedy string }

// require tells, in upstream's words, each option that is missing.
func (b *binder) require(kind string, options []authOption) {
	missing := 0
	for _, o := range options {
		if o.value == "" {
			missing++
		}
	}
	if missing == len(options) && b.given["auth.type"].from != "" {
		b.fault("auth.type", kind+" auth requires options, and they can be given in the file alone", "write the whole section auth into the file")
		return
	}
	for _, o := range options {
		if o.value == "" {
			b.fault("auth.options."+o.name, fmt.Sprintf("%s auth requires a valid option string: %q", kind, o.name), o.remedy)
		}
	}
}

// foreign refuses options of the other type: who gives them expects of them
// what this type does not do.
func (b *binder) foreign(kind, other string, options []authOption) {
	for _, o := range options {
		if o.value != "" {
			b.fault("auth.options."+o.name, fmt.Sprintf("it is for the type %q, and auth.type is %q", other, kind), "remove it, or change auth.type")
		}
	}
}

func (b *binder) checkToken(o *AuthOptions) {
	b.require(AuthToken, []authOption{
		{"realm", o.Realm, "give the URL of the token service, for example https://registry.example.com/service/token"},
		{"issuer", o.Issuer, "give the name that the tokens hold as iss; Harbor's is harbor-token-issuer"},
		{"service", o.Service, "give the name that the tokens hold as aud; Harbor's is harbor-notary"},
		{"rootcertbundle", o.RootCertBundle, "name the file with the certificates of the keys that sign tokens"},
	})
	b.foreign(AuthToken, AuthHtpasswd, []authOption{{"path", o.Path, ""}, {"policy", o.Policy, ""}})
	if u, err := url.Parse(o.Realm); o.Realm != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		b.warn("auth.options.realm", "it is no absolute URL such as https://registry.example.com/service/token, so clients will find no token service")
	}
	for _, action := range o.FullAccessActions {
		if strings.TrimSpace(action) == "" {
			b.fault("auth.options.full_access_actions", "an action in the list is empty", `list those that together count as "*", for example ["push", "pull", "delete"]`)
		}
	}
	if o.RootCertBundle != "" {
		b.paths = append(b.paths, pathKey{rootCertBundle, o.RootCertBundle})
	}
}

func (b *binder) checkHtpasswd(o *AuthOptions) {
	b.require(AuthHtpasswd, []authOption{
		{"path", o.Path, "name the file of names and bcrypt hashes, which \"htpasswd -B -c FILE NAME\" makes"},
		{"policy", o.Policy, "name the JSON file that says who may do what"},
	})
	redirect := ""
	if o.Autoredirect {
		redirect = "true"
	}
	b.foreign(AuthHtpasswd, AuthToken, []authOption{
		{"service", o.Service, ""}, {"issuer", o.Issuer, ""}, {"rootcertbundle", o.RootCertBundle, ""},
		{"autoredirect", redirect, ""}, {"full_access_actions", strings.Join(o.FullAccessActions, " "), ""},
	})
	if o.Realm == "" {
		o.Realm = defaultRealm
	}
}
