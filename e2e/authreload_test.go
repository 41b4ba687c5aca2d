package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// reloadLimit is how soon a file that changed must be in force.
const reloadLimit = 10 * time.Second

// status sends a GET with a header Authorization.
func (a *authStack) status(t *testing.T, url, authorization string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	resp, err := a.ts.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// becomes waits until all requests of a list are answered with their status.
func (a *authStack) becomes(t *testing.T, what, url string, want map[string]int) {
	t.Helper()
	if err := waitFor(reloadLimit, what, func() error {
		var wrong []error
		for authorization, status := range want {
			if got := a.status(t, url, authorization); got != status {
				wrong = append(wrong, fmt.Errorf("%.12s… is answered with %d, want %d", authorization, got, status))
			}
		}
		return errors.Join(wrong...)
	}); err != nil {
		t.Fatal(err)
	}
}

// complains waits until a server's log says it.
func (a *authStack) complains(t *testing.T, server int, words ...string) {
	t.Helper()
	if err := waitFor(reloadLimit, "a line of the log", func() error {
		raw, err := os.ReadFile(a.servers[server].log)
		if err != nil {
			return err
		}
	lines:
		for line := range strings.Lines(string(raw)) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return nil
		}
		return fmt.Errorf("no line has all of %q", words)
	}); err != nil {
		t.Fatal(err)
	}
}

// testNewKey replaces the key of the token service without anybody's restart: the
// bundle gets the new certificate beside the old one, then loses that.
func (a *authStack) testNewKey(t *testing.T) {
	t.Parallel()
	const file = "changing.pem"
	server := a.on[byChangingKey]
	gun := cliHost + "/" + privateProject + "/changing-key"
	a.newPublisher(t, 0, gun, newKeys()).initialize(t, true)
	url := a.gunURL(server, gun) + "root.json"
	older, newer := a.bearer(t, reader, gun), a.bearer(t, reader, gun, "key-next")

	a.becomes(t, "the first key", url, map[string]int{older: 200, newer: 401})
	a.ts.bundle(t, file, "default", "next")
	a.becomes(t, "both keys", url, map[string]int{older: 200, newer: 200})
	a.ts.bundle(t, file, "next")
	a.becomes(t, "the second key alone", url, map[string]int{older: 401, newer: 200})

	// Half a file is no reason to let nobody in, nor to trust the old key again.
	raw, err := os.ReadFile(a.ts.file(file))
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, a.ts.file(file), raw[:len(raw)/2])
	a.complains(t, server, "level=error", file)
	a.becomes(t, "the second key still", url, map[string]int{older: 401, newer: 200})
	if err := os.Remove(a.ts.file(file)); err != nil {
		t.Fatal(err)
	}
	a.complains(t, server, "level=error", file, "no such file")
	a.becomes(t, "the second key without a file", url, map[string]int{older: 401, newer: 200})
	a.ts.bundle(t, file, "default")
	a.becomes(t, "the first key again", url, map[string]int{older: 200, newer: 401})
}

// testNewPassword changes a password and the policy under a server.
func (a *authStack) testNewPassword(t *testing.T) {
	t.Parallel()
	const name, other = "changing", "another&password"
	server := a.on[byChangingPassword]
	gun := cliHost + "/" + privateProject + "/changing-password"
	a.newPublisher(t, 0, gun, newKeys()).initialize(t, true)
	url := a.gunURL(server, gun) + "root.json"
	old, changed := "Basic "+reader.basic(), "Basic "+base64Of(string(reader)+":"+other)
	pushing := "Basic " + pusher.basic()

	a.becomes(t, "the first password", url, map[string]int{old: 200, changed: 401, pushing: 200})
	a.writePasswords(name+".htpasswd", map[person]string{reader: other})
	a.becomes(t, "the second password", url, map[string]int{old: 401, changed: 200, pushing: 200})
	replaceFile(t, a.file(name+".htpasswd"), []byte("reader:plain text\n"))
	a.complains(t, server, "level=error", name+".htpasswd")
	a.becomes(t, "the second password still", url, map[string]int{old: 401, changed: 200, pushing: 200})

	a.writePolicy(name + ".policy")
	a.becomes(t, "a policy without this registry", url, map[string]int{changed: 401, pushing: 401})
	a.writePolicy(name+".policy", cliHost)
	a.becomes(t, "the first policy", url, map[string]int{old: 401, changed: 200, pushing: 200})
}
