package admin_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"countersign/admin"
	"countersign/storage"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// Every date of a repository: of the files, and of the certificates in root and
// in delegations; who can renew each; which are due.
func TestExpiries(t *testing.T) {
	t.Parallel()
	onBothSites(t, func(l *looker) {
		const gun tuf.GUN = "example.org/e"
		r := newRepo(l.t, gun)
		at := func(days int) time.Time { return lookNow.Add(time.Duration(days) * day) }
		root := tuftest.NewKey(l.t, tuf.KeyECDSA).Certify(l.t, tuftest.Cert{CN: string(gun), NotBefore: at(-5), NotAfter: at(20)})
		r.SetKeys("root", 1, root)
		signer := tuftest.NewKey(l.t, tuf.KeyRSA).Certify(l.t, tuftest.Cert{CN: "Alice", NotBefore: at(-400), NotAfter: at(-35)})
		r.SetKeys("targets/alice", 1, signer)
		r.SetKeys("targets/releases", 1, signer) // as docker does; one certificate
		r.Root.Expires, r.Targets["targets"].Expires, r.Targets["targets/alice"].Expires = at(3650), at(89), at(91)
		r.Targets["targets/releases"].Expires, r.Snapshot.Expires, r.Timestamp.Expires = at(-1).Add(-time.Minute), at(90), at(14)
		l.put(r)
		l.put(newRepo(l.t, "example.org/later"))
		l.key(gun, "timestamp", r.Keys["timestamp"][0].Key)
		l.key("example.org/later", "timestamp", tuftest.NewKey(l.t, tuf.KeyECDSA).Key) // not the one that root lists

		list := func(c admin.ExpiryConfig) (lines []string) {
			got, err := l.Expiries(l.t.Context(), c)
			if err != nil {
				l.t.Fatal(err)
			}
			for i, e := range got {
				if i > 0 && e.Expires.Before(got[i-1].Expires) {
					l.t.Errorf("%v is behind %v", e.Expires, got[i-1].Expires)
				}
				if e.Effect == "" || e.How == "" || strings.Contains(e.How, " GUN ") {
					l.t.Errorf("%+v", e)
				}
				lines = append(lines, fmt.Sprintf("%s %s %d %s %v", e.Role, e.Kind, e.DaysLeft, e.RenewedBy, e.Due))
			}
			return lines
		}
		named := admin.Selection{GUNs: []tuf.GUN{gun}}
		within := []string{
			"targets/releases certificate -35 key holder true", "targets/releases file -2 key holder true",
			"timestamp file 14 server false", "root certificate 20 key holder true", "targets file 89 key holder true", "snapshot file 90 key holder true",
		}
		if diff := cmp.Diff(within, list(admin.ExpiryConfig{Selection: named, Within: 90 * day})); diff != "" {
			l.t.Errorf("within 90 days (-want +got):\n%s", diff)
		}
		skip := slices.Delete(slices.Clone(within), 2, 3)
		if diff := cmp.Diff(skip, list(admin.ExpiryConfig{Selection: named, Within: 90 * day, SkipServer: true})); diff != "" {
			l.t.Errorf("without the server's (-want +got):\n%s", diff)
		}
		all := append(slices.Clone(within), "targets/alice file 91 key holder false", "root file 3650 key holder false")
		if diff := cmp.Diff(all, list(admin.ExpiryConfig{Selection: named, Within: 90 * day, All: true})); diff != "" {
			l.t.Errorf("all (-want +got):\n%s", diff)
		}
		if got := list(admin.ExpiryConfig{Selection: admin.Selection{All: true}, Within: 14 * day}); !slices.Contains(got, "timestamp file 13 nobody true") || len(got) != 4 {
			l.t.Errorf("of all repositories: %q", got)
		}
		if got := list(admin.ExpiryConfig{Selection: admin.Selection{Prefix: "example.org/none"}, Within: 14 * day}); got != nil {
			l.t.Errorf("of none: %q", got)
		}
		canonical, err := signer.CanonicalID()
		if err != nil {
			l.t.Fatal(err)
		}
		details, err := l.Expiries(l.t.Context(), admin.ExpiryConfig{Selection: named, Within: 0})
		if err != nil || len(details) != 2 || !slices.Equal(details[0].CommonNames, []string{"Alice"}) || !slices.Equal(details[0].Keys, []tuf.KeyID{canonical}) ||
			!details[0].Expires.Equal(at(-35)) || !slices.Equal(details[1].CommonNames, []string{"Alice"}) {
			l.t.Errorf("%+v, %v", details, err)
		}
		l.Keys = nil
		if got := list(admin.ExpiryConfig{Selection: named, Within: 90 * day}); !slices.Contains(got, "timestamp file 14 server false") || !slices.Contains(got, "snapshot file 90 either true") {
			l.t.Errorf("without the signer: %q", got)
		}
		if _, err := l.Expiries(l.t.Context(), admin.ExpiryConfig{Selection: admin.Selection{GUNs: []tuf.GUN{"example.org/f"}}}); !errors.Is(err, storage.ErrNotFound) {
			l.t.Errorf("no such repository: %v", err)
		}
	})
}

func TestParseDays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"90d": 90 * day, "12h": 12 * time.Hour, "2w": 14 * day, "0d": 0, "36600d": 36600 * day} {
		if got, err := admin.ParseDays(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "90", "-1d", "+1d", "1.5d", "1m", "90 d", "9999999999999999999h", "40000d", "1d1h", "１d"} {
		if got, err := admin.ParseDays(text); !errors.Is(err, admin.ErrDuration) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
