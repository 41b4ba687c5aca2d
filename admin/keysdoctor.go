package admin

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"countersign/internal/config"
	"countersign/signer"
	"countersign/signer/seal"
	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/tuf"
)

const (
	// maxOtherAliases bounds the passphrases that a key is tried with which its own
	// does not open.
	maxOtherAliases = 16
	// keySettled is how long a key must not have been touched before it is judged by
	// what roots list. The signer records a use at most once a day, so one that
	// was recorded two days ago may have been repeated up to yesterday.
	keySettled = 48 * time.Hour
)

// DoctorConfig says how to look at the keys.
type DoctorConfig struct {
	// ServerSnapshots: the server makes every snapshot, as for docker's clients.
	// Then a root's snapshot key without a row is missing. Otherwise it is only
	// if there is a trace of it; without one its owner has it.
	ServerSnapshots bool
	// Progress, if set, is called after each page of rows.
	Progress func(done, total int64)
}

// An AliasState says how the keys of an alias opened.
type AliasState struct {
	Alias      string `json:"passphrase_alias"`
	Passphrase bool   `json:"has_passphrase"`
	Opened     int64  `json:"opened"`
	Failed     int64  `json:"failed"`
}

// A KeyCount is how many findings there are of a class.
type KeyCount struct {
	KeyAdvice
	Count int64 `json:"count"`
}

// A KeyReport sums up what DoctorKeys found.
type KeyReport struct {
	Rows    int64        `json:"rows"`
	Classes []KeyCount   `json:"classes"` // the worst first
	Aliases []AliasState `json:"aliases"`
	// NoRoots: without the server's database nothing is known of roots.
	NoRoots bool  `json:"roots_not_looked_at"`
	Faults  int64 `json:"faults"`
}

// DoctorKeys opens every key, and calls show for each finding: at least one for
// each row, KeyOpens if nothing else. With the server's database it also holds
// rows and roots against each other. The programs may be running: what changes
// meanwhile is looked at again before it is told of. It ends with the first error
// of show, or of a database. Private keys are wiped at once.
func (s *Site) DoctorKeys(ctx context.Context, c DoctorConfig, show func(KeyFinding) error) (*KeyReport, error) {
	sealer, err := s.sealer(0)
	if err != nil {
		return nil, err
	}
	d := &doctor{Site: s, cfg: c, sealer: sealer, show: show, counts: map[KeyClass]int64{}, aliases: map[string]*AliasState{}}
	if err := d.weigh(ctx); err != nil {
		return nil, err
	}
	if s.Metadata != nil {
		if err := d.walkRoots(ctx); err != nil {
			return nil, err
		}
	}
	err = s.eachKeyPage(ctx, keydb.Query{Deleted: true, Limit: keyPage}, func(page []storage.KeyRow) error { return d.page(ctx, page) })
	if err == nil {
		err = d.rest(ctx)
	}
	return d.report(), err
}

type doctor struct {
	*Site
	cfg    DoctorConfig
	sealer *seal.Sealer
	show   func(KeyFinding) error

	total, done int64
	counts      map[KeyClass]int64
	aliases     map[string]*AliasState
	tried       []string // aliases that have a passphrase
	// What roots say. It is small: what is in order is not kept.
	missing map[tuf.KeyID]KeyFinding
	foreign map[tuf.KeyID]KeyFinding
	client  []KeyFinding // snapshot keys that their owners have
}

func (d *doctor) tell(f KeyFinding) error {
	d.counts[f.Class]++
	return d.show(f)
}

// weigh looks at the passphrases of all aliases.
func (d *doctor) weigh(ctx context.Context) error {
	counts, err := d.Keys.AliasCounts(ctx)
	if err != nil {
		return err
	}
	live := map[string]int64{}
	for _, a := range counts {
		d.total += a.Rows
		live[a.Alias] = a.Rows - a.Deleted
	}
	// A passphrase that is weak matters if anything is, or will be, sealed under it.
	if alias := d.Signer.Storage.DefaultAlias; alias != "" && live[alias] == 0 {
		live[alias] = 1
	}
	for alias := range d.Signer.Storage.PassphraseFiles {
		live[alias] += 0
	}
	for _, alias := range aliasesOf(d.Environ) {
		if !slices.ContainsFunc(sortedKeys(live), func(known string) bool { return variableOf(known) == variableOf(alias) }) {
			live[alias] = 0
		}
	}
	for _, alias := range sortedKeys(live) {
		pass, err := d.Signer.Passphrases.Passphrase(alias)
		if live[alias] > 0 {
			d.aliases[alias] = &AliasState{Alias: alias, Passphrase: err == nil}
		}
		if err != nil {
			continue // each of its keys tells
		}
		if len(d.tried) < maxOtherAliases {
			d.tried = append(d.tried, alias)
		}
		if why := config.WeakPassphrase(alias, pass); why != "" && live[alias] > 0 {
			if err := d.tell(keyFinding(KeyWeakPassphrase, storage.Key{Alias: alias}, 0, why)); err != nil {
				return err
			}
		}
	}
	return nil
}

const signerVariable = "NOTARY_SIGNER_"

// aliasesOf guesses the aliases whose passphrases the environment has: a variable
// does not tell capital letters, nor dots. What else is set by such variables is
// left out.
func aliasesOf(environ []string) (aliases []string) {
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		alias, ok := strings.CutPrefix(name, signerVariable)
		alias = strings.TrimSuffix(alias, "_FILE")
		if first, _, _ := strings.Cut(alias, "_"); !ok || alias == "" || slices.Contains([]string{"SERVER", "STORAGE", "LOGGING", "REPORTING", "DEFAULT"}, first) {
			continue
		}
		aliases = append(aliases, strings.ToLower(alias))
	}
	slices.Sort(aliases)
	return slices.Compact(aliases)
}

// variableOf is the variable that holds the passphrase of alias.
func variableOf(alias string) string {
	return signerVariable + strings.ToUpper(strings.ReplaceAll(alias, ".", "_"))
}

func sortedKeys[V any](m map[string]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// page judges a page of rows: keys first, then roots, so that a key whose root
// was published meanwhile is found in it.
func (d *doctor) page(ctx context.Context, page []storage.KeyRow) error {
	opened := make([]KeyFinding, len(page))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, k := range page {
		g.Go(func() error {
			opened[i] = d.open(k)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	owed, err := d.owed(ctx, page)
	if err != nil {
		return err
	}
	for i, k := range page {
		d.done++
		if err := d.judge(k, opened[i], owed[k.ID]); err != nil {
			return err
		}
	}
	if d.cfg.Progress != nil {
		d.cfg.Progress(d.done, max(d.done, d.total))
	}
	return nil
}

// judge tells of one row: how it opened, and what roots make of it.
func (d *doctor) judge(k storage.KeyRow, opened KeyFinding, owed *KeyFinding) error {
	if k.Deleted.IsZero() {
		a := d.aliases[k.Alias]
		if a == nil { // made since the aliases were counted
			a = &AliasState{Alias: k.Alias, Passphrase: opened.Class != KeyNoPassphrase}
			d.aliases[k.Alias] = a
		}
		switch opened.Class {
		case KeyOpens, KeyOlder, KeyFewRounds:
			a.Opened++
		default:
			a.Failed++
		}
	}
	if id := (tuf.Key{Type: k.Algorithm, Public: k.Public}).ID(); opened.Class == KeyCorrupt && id != k.ID {
		// It explains why roots do not list it, and why what they list has no row.
		delete(d.missing, id)
		owed = nil
	}
	if owed == nil {
		return d.tell(opened)
	}
	if opened.Class != KeyOpens {
		if err := d.tell(opened); err != nil {
			return err
		}
	}
	return d.tell(*owed)
}

// open says how a key opens.
func (d *doctor) open(k storage.KeyRow) KeyFinding {
	form, _ := seal.FormOf(k.Sealed)
	if !k.Deleted.IsZero() {
		return keyFinding(KeyDeleted, k.Key, form.Rounds, "")
	}
	form, err := signer.Examine(d.sealer, k.Key)
	switch {
	case err == nil && form.Older:
		return keyFinding(KeyOlder, k.Key, form.Rounds, "")
	case err == nil && form.Rounds < seal.DefaultIterations:
		return keyFinding(KeyFewRounds, k.Key, form.Rounds, "")
	case err == nil:
		return keyFinding(KeyOpens, k.Key, form.Rounds, "")
	case errors.Is(err, storage.ErrKeyCorrupt):
		return faultFinding(k.Key, err)
	}
	for _, alias := range d.tried {
		other := k.Key
		other.Alias = alias
		if alias == k.Alias {
			continue
		}
		if _, again := signer.Examine(d.sealer, other); again == nil {
			return keyFinding(KeyWrongAlias, k.Key, form.Rounds, fmt.Sprintf("it opens with the passphrase of the alias %q", alias))
		}
	}
	f := faultFinding(k.Key, err)
	f.Rounds = form.Rounds
	return f
}

func (d *doctor) report() *KeyReport {
	r := &KeyReport{Rows: d.done, NoRoots: d.Metadata == nil, Classes: []KeyCount{}, Aliases: []AliasState{}}
	for _, a := range keyAdvice {
		if n := d.counts[a.Class]; n > 0 {
			r.Classes = append(r.Classes, KeyCount{a, n})
			if a.Fault {
				r.Faults += n
			}
		}
	}
	for _, alias := range sortedKeys(d.aliases) {
		r.Aliases = append(r.Aliases, *d.aliases[alias])
	}
	return r
}
