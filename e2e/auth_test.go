package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// cliHost is the registry of the GUNs of the notary client, which never asks it.
const cliHost = "registry.example:5000"

// The servers of an authStack, by what they ask clients for.
const (
	openServer   = "nothing"
	byHarbor     = "harbor-2.8"    // tokens of Harbor's last release with Notary
	byHarborOld  = "harbor-1.10.6" // and of older ones
	byHarborMid  = "harbor-2.1.3"
	byFullAccess = "full-access" // the same, but push, pull and delete count as "*"
	byPassword   = "htpasswd"
	byUpstream   = "upstream" // tokens, as upstream's server takes them

	byRedirect         = "autoredirect"
	byUpstreamRedirect = "upstream with autoredirect"

	byChangingKey      = "a key that changes"
	byChangingPassword = "a password that changes"
)

// An authStack is one database and signer, a token service, and servers that
// each ask for something else.
type authStack struct {
	*stack
	ts *tokenService
	on map[string]int // server by what it asks for
	// registryPort is where the registry of docker will listen.
	registryPort int
	bundle       string // the certificates that all but reloading servers trust
}

func newAuthStack(t *testing.T) *authStack {
	t.Helper()
	a := &authStack{stack: newStack(t, stackConfig{server: ours, signer: ours, backend: onPostgres}), on: map[string]int{openServer: 0}}
	a.ts = newTokenService(t, a.stack)
	a.registryPort = port(t)
	a.secrets = []string{"eyJ"} // begins every token
	for _, p := range people() {
		a.secrets = append(a.secrets, p.password(), p.basic())
	}
	a.bundle = a.ts.bundle(t, "bundle.pem", "default", "ec", "lapsed", "ca")
	for asks, words := range map[string][]string{
		byHarbor: nil, byHarborOld: {"harbor-1.10.6"}, byHarborMid: {"harbor-2.1.3"}, byFullAccess: {"harbor-2.1.3"},
	} {
		o := a.tokenAuth(a.bundle, words...)
		if asks == byFullAccess {
			o["options"].(object)["full_access_actions"] = []string{"push", "pull", "delete"}
		}
		a.on[asks] = a.addServer(ours, o)
	}
	a.on[byPassword] = a.addServer(ours, a.passwordAuth("shared", cliHost, fmt.Sprintf("localhost:%d", a.registryPort)))
	a.on[byChangingPassword] = a.addServer(ours, a.passwordAuth("changing", cliHost))
	a.on[byChangingKey] = a.addServer(ours, a.tokenAuth(a.ts.bundle(t, "changing.pem", "default")))
	a.on[byUpstream] = a.addServer(upstream, a.tokenAuth(a.bundle))
	redirecting := a.tokenAuth(a.bundle)
	redirecting["options"].(object)["autoredirect"] = true
	a.on[byRedirect], a.on[byUpstreamRedirect] = a.addServer(ours, redirecting), a.addServer(upstream, redirecting)
	return a
}

// tokenAuth is a section "auth".
func (a *authStack) tokenAuth(bundle string, words ...string) object {
	return object{"type": "token", "options": object{
		"realm": a.ts.realm(words...), "service": notaryService, "issuer": tokenIssuer, "rootcertbundle": bundle,
	}}
}

// passwordAuth is a section "auth" with files of that name.
func (a *authStack) passwordAuth(name string, hosts ...string) object {
	a.t.Helper()
	return object{"type": "htpasswd", "options": object{
		"realm": "e2e", "path": a.writePasswords(name+".htpasswd", map[person]string{}), "policy": a.writePolicy(name+".policy", hosts...),
	}}
}

// writePasswords writes a password file with everybody in it. other are the
// passwords that differ from the usual.
func (a *authStack) writePasswords(name string, other map[person]string) string {
	a.t.Helper()
	var b strings.Builder
	for _, p := range people() {
		password := p.password()
		if o, ok := other[p]; ok {
			password = o
		}
		hash, err := bcrypt.GenerateFromPassword([]byte(password), 5) // the cost of htpasswd
		if err != nil {
			a.t.Fatal(err)
		}
		b.WriteString(string(p) + ":" + string(hash) + "\n")
	}
	return replaceFile(a.t, a.file(name), []byte(b.String()))
}

// writePolicy writes what the token service also grants, for some hosts.
func (a *authStack) writePolicy(name string, hosts ...string) string {
	a.t.Helper()
	rules := []object{{"users": []person{operator}, "gun_prefix": "", "actions": []string{"*"}}}
	for _, host := range hosts {
		rules = append(rules,
			object{"users": []person{admin}, "gun_prefix": host + "/" + privateProject + "/", "actions": []string{"*"}},
			object{"groups": []string{"writers"}, "gun_prefix": host + "/" + privateProject + "/", "actions": []string{"push", "pull"}},
			object{"users": []person{reader}, "gun_prefix": host + "/" + privateProject + "/", "actions": []string{"pull"}},
			object{"users": []string{"*"}, "gun_prefix": host + "/" + publicProject + "/", "actions": []string{"pull"}})
	}
	raw, err := json.Marshal(object{"groups": object{"writers": []person{maintainer, pusher}}, "rules": rules})
	if err != nil {
		a.t.Fatal(err)
	}
	return replaceFile(a.t, a.file(name), raw)
}

func (a *authStack) file(name string) string { return filepath.Join(a.dir, name) }

// TestAuth is authentication from end to end: by tokens and by passwords, with
// the notary and docker clients and without.
func TestAuth(t *testing.T) {
	t.Parallel()
	a := newAuthStack(t)
	t.Run("notary", a.testNotary)
	t.Run("docker", a.testDocker)
	t.Run("wire", a.testWire)
	t.Run("basic", a.testBasic)
	t.Run("new key", a.testNewKey)
	t.Run("new password", a.testNewPassword)
}

// rights are what the outcome of every operation follows from.
type rights struct{ read, publish, all bool }

// rightsOn are everybody's rights at each kind of server. Who is not listed has
// the same everywhere.
func rightsOn(asks string, p person) rights {
	r := map[person]rights{
		admin: {true, true, true}, maintainer: {true, true, false}, pusher: {true, true, false}, reader: {read: true},
	}[p]
	switch {
	case asks == byHarborMid:
		r.all = false // its tokens have no "*"
	case p == maintainer:
		// Harbor before gave "*" to who manages a project, Harbor after to who may
		// push, pull and delete. So does the server that counts these as "*".
		r.all = asks == byHarbor || asks == byFullAccess || asks == byUpstream
	}
	return r
}

// testNotary is what everybody can do with the command line client. What they
// cannot is refused, and changes nothing.
func (a *authStack) testNotary(t *testing.T) {
	t.Parallel()
	for _, asks := range []string{byHarbor, byHarborOld, byHarborMid, byFullAccess, byPassword, byUpstream} {
		t.Run(asks, func(t *testing.T) {
			t.Parallel()
			for _, p := range everyone {
				c := &cliCase{authStack: a, t: t, asks: asks, person: p, rights: rightsOn(asks, p)}
				c.run()
			}
		})
	}
}

// A cliCase is one person with the notary client at one server.
type cliCase struct {
	*authStack
	t    *testing.T
	asks string
	person
	rights rights
}

// gun is a GUN of this case alone.
func (c *cliCase) gun(project, name string) string {
	return strings.Join([]string{cliHost, project, c.asks, c.String(), name}, "/")
}

// notary is the client of the person, for that server.
func (c *cliCase) notary(asks string) *notary {
	c.t.Helper()
	n := newNotary(c.t, c.stack, c.on[asks])
	if c.person != anonymous {
		n.env = append(n.env, "NOTARY_AUTH="+c.basic())
	}
	return n
}

func (c *cliCase) run() {
	c.t.Helper()
	// An open server makes repositories with this person's keys.
	owner := c.notary(openServer)
	there := c.notary(c.asks)
	there.flags[len(there.flags)-1] = owner.flags[len(owner.flags)-1] // the same trust directory
	old, fresh, public := c.gun(privateProject, "old"), c.gun(privateProject, "new"), c.gun(publicProject, "app")
	owner.run("init", "-p", old)
	owner.run("init", "-p", public)

	c.reads(old, c.rights.read)
	c.reads(public, true)
	c.expect(c.rights.publish, there, "init", fresh)
	if !c.rights.publish {
		owner.run("init", fresh)
	}
	c.expect(c.rights.publish, there, "publish", fresh)
	c.exists(fresh, c.rights.publish)
	c.expect(false, there, "init", "-p", strings.Replace(fresh, "/"+privateProject+"/", "/elsewhere/", 1))

	c.expect(c.rights.all, there, "key", "rotate", old, "snapshot", "-r")
	want := 1
	if c.rights.all {
		want = 2
	}
	if got := c.walk(c.t, 0, old).version("root"); got != want {
		c.t.Errorf("%v: root has version %d after the rotation, want %d", c.person, got, want)
	}
	c.expect(c.rights.all, there, "delete", "--remote", old)
	c.exists(old, !c.rights.all)
}

// reads lists a GUN with a client that has not seen it before. The client sends
// no password to a server that asks for one, but only to a token service: it
// never reads where people have passwords.
func (c *cliCase) reads(gun string, allowed bool) {
	c.t.Helper()
	n := c.notary(c.asks)
	if c.asks == byPassword {
		c.refused(noPassword, n, "list", gun)
		return
	}
	c.expect(allowed, n, "list", gun)
}

// What the client says to a 401, and when it has nothing to answer one with.
const (
	notAuthorized = "you are not authorized to perform this operation: server returned 401."
	noPassword    = "no basic auth credentials"
)

// expect runs a command that must succeed if it is allowed, and else be refused
// for want of a right.
func (c *cliCase) expect(allowed bool, n *notary, args ...string) {
	c.t.Helper()
	switch {
	case allowed:
		if out, err := n.try("", n.command(args)...); err != nil {
			c.t.Errorf("%v: notary %s: %v\n%s", c.person, strings.Join(args, " "), err, out)
		}
	case c.asks == byPassword && c.person == anonymous:
		c.refused(noPassword, n, args...)
	default:
		c.refused(notAuthorized, n, args...)
	}
}

// refused runs a command that must fail and say why.
func (c *cliCase) refused(why string, n *notary, args ...string) {
	c.t.Helper()
	out, err := n.try("", n.command(args)...)
	if c.asks == byUpstream && (strings.Contains(out, "broken pipe") || strings.Contains(out, "connection reset")) {
		return // it closes the connection of who is still sending, and so cannot say why
	}
	if err == nil || !strings.Contains(out, why) {
		c.t.Errorf("%v: notary %s: %v, want it to fail and say %q:\n%s", c.person, strings.Join(args, " "), err, why, out)
	}
}

// exists holds a GUN to be there, or not.
func (c *cliCase) exists(gun string, want bool) {
	c.t.Helper()
	status, _ := get(c.t, c.client(), c.gunURL(0, gun)+"root.json")
	if (status == http.StatusOK) != want {
		c.t.Errorf("%v: %s is answered with %d, want it to exist: %t", c.person, gun, status, want)
	}
}
