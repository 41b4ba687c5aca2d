package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"countersign/tuf"
)

// What an Expiry is of.
const (
	ExpiryFile        = "file"
	ExpiryCertificate = "certificate"
)

// ExpiryConfig says which dates.
type ExpiryConfig struct {
	Selection
	// Within is how far ahead to look. What has expired already is always in it.
	Within time.Duration
	// All lists later dates, too.
	All bool
	// SkipServer leaves out what the server renews by itself.
	SkipServer bool
}

// An Expiry is the date at which clients begin to refuse something, or at which a
// certificate ends.
type Expiry struct {
	GUN      tuf.GUN      `json:"gun"`
	Role     tuf.RoleName `json:"role"`
	Kind     string       `json:"kind"`
	Expires  time.Time    `json:"expires"`
	DaysLeft int          `json:"days_left"` // whole days, rounded down; negative once it has expired
	// RenewedBy is who can renew it: "server", "key holder", "either", "nobody".
	RenewedBy string      `json:"renewed_by"`
	Keys      []tuf.KeyID `json:"key_ids"` // canonical, of which a holder renews it; of a certificate its own
	// CommonNames are those of the certificates among Keys.
	CommonNames []string `json:"common_names,omitempty"`
	// Effect is what happens then, and How what renews it, in words.
	Effect string `json:"effect"`
	How    string `json:"how"`
	// Due: it lies within the time asked for, and somebody has to see to it.
	Due bool `json:"due"`
}

// Expiries lists when the current files of the repositories that are selected
// expire, and the certificates among their keys, the earliest first. It holds what
// it returns, and the files of few repositories at a time. A role that cannot be
// read has no date. The error wraps storage.ErrNotFound if a GUN that was named
// has no rows.
func (s *Site) Expiries(ctx context.Context, c ExpiryConfig) ([]Expiry, error) {
	now := s.Now()
	end := now.Add(c.Within)
	list := []Expiry{}
	err := s.surveys(ctx, c.Selection, false, func(r *Repository) error {
		if r.Versions == 0 && len(c.GUNs) > 0 {
			return s.noSuch(ctx, r.GUN)
		}
		for _, e := range r.expiries() {
			within := !e.Expires.After(end)
			if !within && !c.All || c.SkipServer && e.RenewedBy == RenewedByServer {
				continue
			}
			e.Due = within && e.RenewedBy != RenewedByServer
			e.DaysLeft = daysUntil(now, e.Expires)
			list = append(list, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Expiry) int {
		return cmp.Or(a.Expires.Compare(b.Expires), cmp.Compare(a.GUN, b.GUN), cmp.Compare(a.Role, b.Role), cmp.Compare(a.Kind, b.Kind), slices.Compare(a.Keys, b.Keys))
	})
	return list, nil
}

func daysUntil(now, t time.Time) int {
	d := t.Sub(now)
	days := int(d / (24 * time.Hour))
	if d < 0 && d%(24*time.Hour) != 0 {
		days--
	}
	return days
}

// expiries lists the dates of one repository.
func (r *Repository) expiries() []Expiry {
	var list []Expiry
	seen := map[tuf.KeyID]bool{} // certificates
	for _, role := range r.Roles {
		if !role.counts() {
			continue
		}
		if !role.Expires.IsZero() {
			list = append(list, r.fileExpiry(role))
		}
		for _, k := range role.Keys {
			if k.Certificate == nil || !role.Role.IsDelegation() && role.Role != tuf.RoleRoot {
				continue
			}
			if seen[k.ID] {
				continue // docker lists a signer's key for targets/releases, too
			}
			seen[k.ID] = true
			list = append(list, r.certificateExpiry(role, k))
		}
	}
	return list
}

func (r *Repository) fileExpiry(role *RoleState) Expiry {
	e := Expiry{GUN: r.GUN, Role: role.Role, Kind: ExpiryFile, Expires: role.Expires.UTC(), RenewedBy: role.renewer(), Keys: []tuf.KeyID{}}
	for _, k := range role.Keys {
		e.Keys = append(e.Keys, k.Canonical)
		if k.Certificate != nil && !slices.Contains(e.CommonNames, k.Certificate.CommonName) {
			e.CommonNames = append(e.CommonNames, k.Certificate.CommonName)
		}
	}
	gun := word(r.GUN)
	e.Effect = "clients refuse the repository"
	switch {
	case e.RenewedBy == RenewedByServer:
		e.Effect, e.How = "nothing", "the server renews it by itself"
	case e.RenewedBy == RenewedByEither:
		e.Effect, e.How = "clients refuse the repository, unless the server holds the key", "the server, if it holds the key; else any push by whoever does"
	case e.RenewedBy == RenewedByNobody:
		e.How = "the signer has lost the key: bring its row back, or notary key rotate " + gun + " timestamp -r"
	case role.Role == tuf.RoleRoot:
		e.How = "a rotation with the root key: notary key rotate " + gun + " targets"
	case role.Role == tuf.RoleSnapshot:
		e.How = "any publish with the snapshot key, or notary key rotate " + gun + " snapshot -r"
	case role.Role == tuf.RoleTargets:
		e.How = "any publish with the targets key, or notary witness " + gun + " targets -p"
	default:
		e.Effect = "clients pass over what this role signs"
		e.How = fmt.Sprintf("any publish with a key of it, or notary witness %s %s -p", gun, role.Role)
	}
	return e
}

func (r *Repository) certificateExpiry(role *RoleState, k KeyState) Expiry {
	e := Expiry{
		GUN: r.GUN, Role: role.Role, Kind: ExpiryCertificate, Expires: k.Certificate.NotAfter,
		RenewedBy: RenewedByHolder, Keys: []tuf.KeyID{k.Canonical}, CommonNames: []string{k.Certificate.CommonName},
		Effect: "clients refuse the repository", How: "a new root key, while the old one is at hand: notary key rotate " + word(r.GUN) + " root",
	}
	if role.Role.IsDelegation() {
		e.Effect = "nothing by itself: clients look at the date only when the certificate is added"
		e.How = fmt.Sprintf("a new certificate: notary delegation add %s %s CERT.pem -p", word(r.GUN), role.Role)
	} else if len(role.Keys) > 1 {
		e.Effect = "clients refuse the repository, unless enough other root keys have signed"
	}
	return e
}

// ErrDuration is a duration that cannot be read.
var ErrDuration = errors.New("a duration is a number and a unit: 12h, 90d, 2w")

var durationUnits = map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}

// ParseDays reads a duration in hours, days or weeks: "12h", "90d", "2w". At most
// 100 years. The error wraps ErrDuration.
func ParseDays(s string) (time.Duration, error) {
	const most = 100 * 366 * 24 * time.Hour
	if s == "" {
		return 0, fmt.Errorf("%w, and not nothing", ErrDuration)
	}
	unit, ok := durationUnits[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 31)
	if !ok || err != nil || s[0] == '+' {
		return 0, fmt.Errorf("%w, and not %.40q", ErrDuration, s)
	}
	if n > uint64(most/unit) {
		return 0, fmt.Errorf("%w, of at most 100 years, and not %.40q", ErrDuration, s)
	}
	return time.Duration(n) * unit, nil
}
