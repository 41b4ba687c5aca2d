package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"countersign/storage"
	"countersign/storage/keydb"
	"countersign/storage/metadb"
	"countersign/tuf"
)

const (
	// surveyTries is how often a damaged repository is read anew: a purge, or a
	// purge and a new start, between two queries looks like damage.
	surveyTries = 3
	// maxKeyRows is how many of a GUN's keys in the signer are looked at. Two are
	// usual; each rotation leaves one.
	maxKeyRows = 1000
	// maxRootSteps is how many versions of root are followed back.
	maxRootSteps = 1000
)

// survey reads the current generation of gun as a client does that knows
// nothing of it, and judges every role. Unlike a client it goes on behind a fault.
// It holds the current files of the one GUN. The error is a fault of a database,
// never of the repository. A GUN without rows has no versions. A brief one does
// not say which keys have signed what verifies, nor what their certificates are.
func (s *Site) survey(ctx context.Context, gun tuf.GUN, brief bool) (*Repository, error) {
	for try := 1; ; try++ {
		v := &survey{
			ctx: ctx, store: s.Metadata, now: s.Now(), brief: brief,
			r:      &Repository{Summary: Summary{GUN: gun, Signers: []tuf.RoleName{}, SnapshotKey: HeldByUnknown}},
			newest: map[tuf.RoleName]storage.FileRow{}, stats: map[tuf.RoleName]metadb.RoleStats{},
		}
		err := v.read(s.Keys)
		if err == nil {
			err = v.walk()
		}
		if err != nil {
			return nil, fmt.Errorf("looking at %.300q: %w", gun, err)
		}
		v.sum()
		v.r.inCommands()
		if v.r.State != StateDamaged || try == surveyTries {
			return v.r, nil
		}
	}
}

type survey struct {
	ctx   context.Context
	store *metadb.Store
	now   time.Time
	brief bool
	r     *Repository

	newest map[tuf.RoleName]storage.FileRow
	stats  map[tuf.RoleName]metadb.RoleStats
	held   map[tuf.KeyID]bool // by the signer; nil: not known
	root   *tuf.Root          // nil if it cannot be read
	meta   map[tuf.RoleName]tuf.FileMeta
}

// read fetches what most repositories consist of: the newest file of each role.
func (v *survey) read(keys *keydb.Store) error {
	stats, err := v.store.Stats(v.ctx, v.r.GUN)
	if err != nil {
		return err
	}
	roles := make([]tuf.RoleName, 0, len(stats))
	for _, st := range stats {
		v.stats[st.Role] = st
		v.r.Versions += st.Versions
		v.r.Size += st.Bytes
		roles = append(roles, st.Role)
	}
	rows, err := v.store.NewestRows(v.ctx, v.r.GUN, roles)
	if err != nil {
		return err
	}
	for _, row := range rows {
		v.newest[row.Role] = row
		if row.Role != tuf.RoleTimestamp && row.Role != tuf.RoleSnapshot && row.Created.After(v.r.LastPublish) {
			v.r.LastPublish = row.Created
		}
	}
	if keys == nil {
		return nil
	}
	list, err := keys.Rows(v.ctx, keydb.Query{GUN: v.r.GUN, Limit: maxKeyRows})
	if err != nil {
		return err
	}
	v.held = make(map[tuf.KeyID]bool, len(list))
	for _, k := range list {
		v.held[k.ID] = true
	}
	return nil
}

// add begins the state of a role.
func (v *survey) add(role, parent tuf.RoleName) *RoleState {
	r := &RoleState{Role: role, Parent: parent, Keys: []KeyState{}, Versions: v.stats[role].Versions, Bytes: v.stats[role].Bytes}
	v.r.Roles = append(v.r.Roles, r)
	return r
}

// walk fills in the roles in the order in which they are shown, which is not
// that in which they are read.
func (v *survey) walk() error {
	root, timestamp := v.add(tuf.RoleRoot, ""), v.add(tuf.RoleTimestamp, "")
	snapshot, targets := v.add(tuf.RoleSnapshot, ""), v.add(tuf.RoleTargets, "")
	row, ok := v.newest[tuf.RoleTimestamp]
	if !ok {
		v.r.Roles = nil
		v.r.Troubles = append(v.r.Troubles, noTimestamp(v.stats))
		return nil
	}
	tsEnv := v.parse(timestamp, row)
	var ts *tuf.Timestamp
	var err error
	if tsEnv != nil {
		if ts, err = tsEnv.Timestamp(); err != nil {
			damaged(timestamp, err.Error())
		}
	}
	if ts == nil {
		return nil
	}
	v.meta = map[tuf.RoleName]tuf.FileMeta{tuf.RoleSnapshot: ts.Snapshot}
	snapEnv, err := v.load(snapshot)
	if err != nil || snapEnv == nil {
		return err
	}
	snap, err := snapEnv.Snapshot()
	if err != nil {
		damaged(snapshot, err.Error())
		return nil
	}
	v.meta = snap.Meta
	if err := v.judgeRoot(root); err != nil || v.root == nil {
		return err
	}
	v.judge(timestamp, tsEnv, v.root.Authority(tuf.RoleTimestamp))
	v.judge(snapshot, snapEnv, v.root.Authority(tuf.RoleSnapshot))
	snapshot.Verifies = snapshot.Verifies && timestamp.Verifies && root.Verifies
	timestamp.Verifies = timestamp.Verifies && root.Verifies
	if err := v.judgeTargets(targets, v.root.Authority(tuf.RoleTargets), snapshot.Verifies); err != nil {
		return err
	}
	return v.strangers()
}

// judgeTargets judges targets or a delegation, and then what it delegates to.
func (v *survey) judgeTargets(r *RoleState, a tuf.Authority, above bool) error {
	if _, named := v.meta[r.Role]; !named {
		v.describe(r, nil, a)
		if r.Role == tuf.RoleTargets {
			damaged(r, "the snapshot does not name it")
		} else {
			unpublished(r)
		}
		return nil
	}
	env, err := v.load(r)
	if err != nil || env == nil {
		v.describe(r, nil, a)
		return err
	}
	t, err := env.Targets(r.Role)
	if err != nil {
		v.describe(r, nil, a)
		damaged(r, err.Error())
		return nil
	}
	v.judge(r, env, a)
	r.Verifies = r.Verifies && above
	r.content = t
	if !r.signed {
		// What it delegates to is said by nobody whom a client believes.
		return nil
	}
	for name := range t.Files() {
		if allows(r.allowed, name) {
			r.Tags++
		}
	}
	seen := map[tuf.RoleName]bool{}
	for i, d := range t.Delegations.Roles {
		if seen[d.Name] {
			continue // of several entries for one name the first counts
		}
		seen[d.Name] = true
		child := v.add(d.Name, r.Role)
		child.Paths, child.allowed = d.Paths, restrict(r.allowed, d.Paths)
		if err := v.judgeTargets(child, t.DelegationAt(i), r.Verifies); err != nil {
			return err
		}
	}
	return nil
}

// strangers adds what the snapshot names and no chain of delegations leads to.
// Clients never read it, but its file has to be there: a publisher that builds on the
// snapshot names it again.
func (v *survey) strangers() error {
	known := map[tuf.RoleName]bool{}
	for _, r := range v.r.Roles {
		known[r.Role] = true
	}
	for _, name := range slices.Sorted(maps.Keys(v.meta)) {
		if known[name] {
			continue
		}
		r := v.add(name, "")
		if !name.IsDelegation() {
			damaged(r, "the snapshot names it, but it is no role")
			continue
		}
		if _, err := v.load(r); err != nil {
			return err
		}
		parent := v.r.role(name.Parent())
		stranger(r, parent != nil && !parent.signed)
	}
	return nil
}

// load reads the file of r that the file above names, and its envelope; nil if
// there is a trouble.
func (v *survey) load(r *RoleState) (*tuf.Envelope, error) {
	m, named := v.meta[r.Role]
	var sum tuf.Checksum
	if !named || len(m.Hashes["sha256"]) != len(sum) {
		damaged(r, "the file above it names no SHA-256 of it")
		return nil, nil
	}
	copy(sum[:], m.Hashes["sha256"])
	row, ok := v.newest[r.Role]
	if !ok || tuf.Sum(row.Data) != sum {
		f, err := v.store.ByChecksum(v.ctx, v.r.GUN, r.Role, sum)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			missing(r, sum, ok)
			return nil, nil
		case errors.Is(err, storage.ErrDamaged):
			damaged(r, "its row has the right checksum, but other bytes: they were changed after they were stored")
			return nil, nil
		case err != nil:
			return nil, err
		}
		row = storage.FileRow{Data: f.Data}
		row.Role, row.Version, row.SHA256, row.Size, row.Created = f.Role, f.Version, sum.String(), int64(len(f.Data)), f.CreatedAt
	}
	if err := m.Check(r.Role, row.Data); err != nil {
		damaged(r, err.Error())
		return nil, nil
	}
	return v.parse(r, row), nil
}

// parse describes the file of r; nil if it is none.
func (v *survey) parse(r *RoleState, row storage.FileRow) *tuf.Envelope {
	sum := tuf.Sum(row.Data).String()
	r.Version, r.Size, r.SHA256, r.Stored = row.Version, int64(len(row.Data)), sum, row.Created
	if row.SHA256 != sum && r.Role != tuf.RoleTimestamp {
		// Clients ask for it by this checksum, and do not get it.
		damaged(r, fmt.Sprintf("its row has the checksum %.64q, but its bytes have another", row.SHA256))
	}
	env, err := tuf.ParseEnvelope(row.Data)
	if err != nil {
		damaged(r, err.Error())
		return nil
	}
	r.Expires = env.Expires
	if env.Version != int64(row.Version) {
		damaged(r, fmt.Sprintf("it is stored as version %d, but is version %d", row.Version, env.Version))
	}
	return env
}

// judgeRoot judges the current root, and whether clients that know an older one
// get from it to the current one.
func (v *survey) judgeRoot(r *RoleState) error {
	env, err := v.load(r)
	if err != nil || env == nil {
		return err
	}
	root, err := env.Root()
	if err != nil {
		damaged(r, err.Error())
		return nil
	}
	v.root = root
	v.describe(r, env, root.Authority(tuf.RoleRoot))
	own, err := root.LeafAuthority(v.r.GUN, v.now, true)
	if err == nil {
		err = env.Verify(tuf.RoleRoot, own)
	}
	r.signed = err == nil
	if err != nil {
		v.again(r, env, root.Authority(tuf.RoleRoot))
		explainRoot(r, v.r.GUN, v.now, err)
	}
	v.dates(r)
	r.Verifies = len(r.Troubles) == 0
	for next, n := root.Version, 0; next > 1 && n < maxRootSteps; next, n = next-1, n+1 {
		older, err := v.store.ByVersion(v.ctx, v.r.GUN, tuf.RoleRoot, next-1)
		if errors.Is(err, storage.ErrNotFound) {
			if next > 2 { // a first root may have version 2
				gap(r, next-1)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if env, err = v.leads(older, env); err != nil {
			brokenChain(r, older.Version, next, err)
			return nil
		}
	}
	return nil
}

// leads checks that older, a root, vouches for next, and returns its envelope.
func (v *survey) leads(older storage.Metadata, next *tuf.Envelope) (*tuf.Envelope, error) {
	env, err := tuf.ParseEnvelope(older.Data)
	if err != nil {
		return nil, err
	}
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	trusted, err := root.LeafAuthority(v.r.GUN, v.now, false)
	if err != nil {
		return nil, err
	}
	return env, next.Verify(tuf.RoleRoot, trusted)
}

// judge judges the signatures and the dates of a file other than root.
func (v *survey) judge(r *RoleState, env *tuf.Envelope, a tuf.Authority) {
	v.describe(r, env, a)
	err := env.Verify(r.Role, a)
	r.signed = err == nil
	if err != nil {
		v.again(r, env, a)
		explain(r, env, a, err)
	}
	v.dates(r)
	r.Verifies = len(r.Troubles) == 0
}

// describe lists the keys that may sign r, and those that have. env may be nil.
func (v *survey) describe(r *RoleState, env *tuf.Envelope, a tuf.Authority) {
	r.Threshold = a.Threshold
	var message []byte
	signatures := map[tuf.KeyID][]tuf.Signature{}
	if env != nil && !v.brief {
		message, _ = env.Canonical() // without it nothing is signed, as Verify will say
		for _, s := range env.Signatures {
			signatures[s.KeyID] = append(signatures[s.KeyID], s)
		}
	}
	seen := map[tuf.KeyID]bool{}
	for _, id := range a.KeyIDs {
		k, ok := a.Keys[id]
		if !ok || seen[id] {
			continue
		}
		seen[id] = true
		state := KeyState{ID: id, Canonical: id, Type: k.Type}
		if canonical, err := k.CanonicalID(); err == nil {
			state.Canonical = canonical
		}
		state.Holder = v.holder(state.Canonical)
		if !v.brief {
			state.Certificate = certificateOf(k)
		}
		for _, s := range signatures[id] {
			state.Signed = state.Signed || message != nil && k.VerifySignature(s.Method, message, s.Sig) == nil
		}
		r.Keys = append(r.Keys, state)
	}
}

// again describes r in full: it does not verify, and that is to be explained.
func (v *survey) again(r *RoleState, env *tuf.Envelope, a tuf.Authority) {
	if v.brief {
		v.brief, r.Keys = false, nil
		v.describe(r, env, a)
		v.brief = true
	}
}

func (v *survey) holder(id tuf.KeyID) string {
	switch {
	case v.held == nil:
		return HeldByUnknown
	case v.held[id]:
		return HeldByServer
	}
	return HeldByClient
}

// dates adds a trouble if the file has expired and the server does not renew it.
func (v *survey) dates(r *RoleState) {
	renewed := r.renewer()
	if renewed == RenewedByNobody {
		keyless(r, r.Expires.Before(v.now))
		return
	}
	if r.Expires.Before(v.now) {
		if renewed == RenewedByServer {
			overdue(r)
		} else {
			expired(r)
		}
	}
}

// sum fills in the summary.
func (v *survey) sum() {
	r := v.r
	for _, role := range r.Roles {
		if role.counts() && !role.Expires.IsZero() && (r.NextExpiry == nil || role.Expires.Before(r.NextExpiry.Expires)) {
			r.NextExpiry = &Deadline{role.Role, role.Expires}
		}
		if role.Parent == tuf.RoleTargets && role.Role != "targets/releases" {
			r.Signers = append(r.Signers, role.Role)
		}
		if role.Role == tuf.RoleSnapshot && len(role.Keys) > 0 {
			r.SnapshotKey = role.Keys[0].Holder
			for _, k := range role.Keys {
				if k.Holder == HeldByServer {
					r.SnapshotKey = HeldByServer
				}
			}
		}
	}
	r.Tags = len(r.TagNames(0))
	r.settle()
}

// counts: clients read it.
func (r *RoleState) counts() bool { return !r.Role.IsDelegation() || r.Parent != "" }

// allows reports whether a role with those prefixes may sign name.
func allows(prefixes *[]string, name string) bool {
	return prefixes == nil || slices.ContainsFunc(*prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// restrict returns those paths of a delegation that its parent may sign too.
func restrict(parent *[]string, paths []string) *[]string {
	kept := []string{}
	for _, p := range paths {
		if allows(parent, p) {
			kept = append(kept, p)
		}
	}
	return &kept
}
