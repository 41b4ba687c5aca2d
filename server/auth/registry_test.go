package auth_test

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"countersign/internal/proctest"
	"countersign/server/auth"
)

// Upstream's verifier is the registry's. A registry, started with the same
// bundle, must take and refuse the same tokens in the same words; what is told
// apart is marked in the table, and must really differ.
func TestTokensBesideRegistry(t *testing.T) {
	t.Parallel()
	const gun = "library/app" // the registry's names have no host
	k := tokenKeys()
	dir := t.TempDir()
	addr := proctest.FreeAddr(t)
	bundle, config := filepath.Join(dir, "root.crt"), filepath.Join(dir, "registry.yml")
	putFile(t, bundle, k.bundle)
	putFile(t, config, fmt.Appendf(nil, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %s}
auth: {token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}}
`, dir, addr, tokenRealm, tokenService, tokenIssuer, bundle))
	p := proctest.Start(t, "docker-registry", nil, "serve", config)
	p.Await(t, "the registry", func() error {
		resp, err := http.Get("http://" + addr + "/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	tokens := newTokens(t, func(c *auth.TokenConfig) { c.Now = time.Now })

	ask := func(authorization, gun string) (allowed bool, challenge string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/v2/"+gun+"/tags/list", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", authorization)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusNotFound: // let in, and there is nothing
			return true, ""
		case http.StatusUnauthorized:
			return false, resp.Header.Get("Www-Authenticate")
		}
		t.Fatalf("the registry answered %s", resp.Status)
		return false, ""
	}
	compare := func(name, authorization string, differs bool) {
		theirs, challenge := ask(authorization, gun)
		r := bearer("")
		r.Header.Set("Authorization", strings.TrimSpace(authorization)) // as it comes over the wire
		_, err := tokens.Authorize(r, on(gun, "pull"))
		if (theirs != (err == nil)) != differs {
			t.Errorf("%s: the registry says %v, we say %v", name, theirs, err)
		}
		if refusal, ok := errors.AsType[*auth.Refusal](err); ok && !theirs && refusal.Challenge() != challenge {
			t.Errorf("%s: the registry's challenge is\n%s, ours\n%s", name, challenge, refusal.Challenge())
		}
	}
	for _, c := range tokenCases(gun) {
		compare(c.name, "Bearer "+c.token, c.differs)
	}
	good := k.ec.byKID(claimsWith("access", granting(gun, "pull")))
	for _, authorization := range []string{"", "Basic YTpi", good, "Bearer", "Bearer  " + good, "Bearer " + good + " x", "bEARER " + good} {
		compare(fmt.Sprintf("%.12q", authorization), authorization, false)
	}
}
