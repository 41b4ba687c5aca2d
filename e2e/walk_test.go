package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
)

// A metaFile is what the tests read of a metadata file, of any role.
type metaFile struct {
	Signed struct {
		Version int
		Meta    map[string]struct {
			Length int64
			Hashes map[string][]byte
		}
		Roles map[string]struct {
			KeyIDs []string `json:"keyids"`
		}
	}
}

// A generation is what one walk found, by role.
type generation map[string]metaFile

func (g generation) version(role string) int { return g[role].Signed.Version }

// rootKeys are the IDs that root lists for a role, in order.
func (g generation) rootKeys(role string) []string {
	return slices.Sorted(slices.Values(g["root"].Signed.Roles[role].KeyIDs))
}

// tryWalk reads a GUN from its timestamp down: the snapshot that it names, then
// every file that the snapshot names, each by its hash. It fails when one is
// missing or has other bytes than promised. It checks no signature: that is the
// client library's part.
func tryWalk(c *http.Client, base string) (generation, error) {
	g := generation{}
	stamp, err := fetch(c, base+"timestamp.json")
	if err != nil {
		return nil, err
	}
	if g["timestamp"], err = parse(stamp); err != nil {
		return nil, fmt.Errorf("timestamp: %w", err)
	}
	if err := g.follow(c, base, "timestamp", "snapshot"); err != nil {
		return nil, err
	}
	for role := range g["snapshot"].Signed.Meta {
		if err := g.follow(c, base, "snapshot", role); err != nil {
			return nil, err
		}
	}
	for _, role := range []string{"root", "targets"} {
		if _, ok := g[role]; !ok {
			return nil, fmt.Errorf("the snapshot names no %s", role)
		}
	}
	return g, nil
}

// follow reads the file of role to that the file of role from names.
func (g generation) follow(c *http.Client, base, from, to string) error {
	want := g[from].Signed.Meta[to]
	sum := want.Hashes["sha256"]
	body, err := fetch(c, fmt.Sprintf("%s%s.%x.json", base, to, sum))
	if err != nil {
		return fmt.Errorf("%s names it: %w", from, err)
	}
	if got := sha256.Sum256(body); hex.EncodeToString(sum) != hex.EncodeToString(got[:]) {
		return fmt.Errorf("%s of %s has SHA-256 %x, promised is %x", to, base, got, sum)
	}
	if int64(len(body)) != want.Length {
		return fmt.Errorf("%s of %s has %d bytes, promised are %d", to, base, len(body), want.Length)
	}
	if g[to], err = parse(body); err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	return nil
}

func parse(raw []byte) (metaFile, error) {
	var m metaFile
	err := json.Unmarshal(raw, &m)
	return m, err
}

func fetch(c *http.Client, url string) ([]byte, error) {
	resp, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return body, nil
}

// walk is tryWalk at rest: nobody publishes, so that the plain names must also
// serve just what the walk found.
func (s *stack) walk(t testing.TB, server int, gun string) generation {
	t.Helper()
	c, base := s.client(), s.gunURL(server, gun)
	g, err := tryWalk(c, base)
	if err != nil {
		t.Fatal(err)
	}
	for role := range g {
		raw, err := fetch(c, base+role+".json")
		if err != nil {
			t.Fatal(err)
		}
		m, err := parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if m.Signed.Version != g.version(role) {
			t.Fatalf("%s.json has version %d, the timestamp commits to %d", role, m.Signed.Version, g.version(role))
		}
	}
	return g
}
