package tuf_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/docker/go/canonical/json"
	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/notary/trustpinning"
	upstream "github.com/theupdateframework/notary/tuf"
	"github.com/theupdateframework/notary/tuf/data"

	"countersign/tuf"
	"countersign/tuf/tuftest"
)

const gun tuf.GUN = "example.org/team/app"

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // upstream logs each bad signature
	os.Exit(m.Run())
}

// A publish is a set of files that a client sends, with the root that is stored.
type publish struct {
	gun   tuf.GUN
	prev  []byte // nil for a new repository
	roles []tuf.RoleName
	files map[tuf.RoleName][]byte
}

// of takes all files of repo as the first publish of a repository.
func of(repo *tuftest.Repo) publish {
	return publish{gun: repo.GUN, roles: repo.Roles(), files: repo.Files()}
}

// A verdict is the role at which a publish fails, and why.
type verdict struct {
	role tuf.RoleName
	err  error
}

func (v verdict) String() string {
	if v.err == nil {
		return "accepted"
	}
	return fmt.Sprintf("%s: %v", v.role, v.err)
}

// ours judges p by the rules of this package, in the order of upstream's builder.
func ours(p publish, now time.Time) verdict {
	var prev, root *tuf.Root
	if p.prev != nil {
		e, err := tuf.ParseEnvelope(p.prev)
		if err == nil {
			prev, err = e.Root()
		}
		if err != nil {
			return verdict{"stored root", err}
		}
	}
	loaded := map[tuf.RoleName]*tuf.Targets{}
	var snapshot *tuf.Snapshot
	for _, role := range p.roles {
		e, err := tuf.ParseEnvelope(p.files[role])
		if err != nil {
			return verdict{role, err}
		}
		switch {
		case role == tuf.RoleRoot:
			if root, err = e.Root(); err == nil {
				err = tuf.VerifyRoot(e, root, prev, p.gun, now)
			}
		case role == tuf.RoleTargets:
			loaded[role], err = loadTargets(e, role, root.Authority(role), now)
		case role == tuf.RoleSnapshot:
			snapshot, err = loadSnapshot(e, root, p, loaded, now)
		case role == tuf.RoleTimestamp:
			err = loadTimestamp(e, root, p.files[tuf.RoleSnapshot], snapshot != nil, now)
		default:
			loaded[role], err = loadDelegation(e, role, loaded[role.Parent()], now)
		}
		if err != nil {
			return verdict{role, err}
		}
	}
	return verdict{}
}

func loadTargets(e *tuf.Envelope, role tuf.RoleName, a tuf.Authority, now time.Time) (*tuf.Targets, error) {
	if err := e.Verify(role, a); err != nil {
		return nil, err
	}
	t, err := e.Targets(role)
	if err != nil {
		return nil, err
	}
	return t, tuf.CheckExpiry(role, t.Expires, now)
}

func loadDelegation(e *tuf.Envelope, role tuf.RoleName, parent *tuf.Targets, now time.Time) (*tuf.Targets, error) {
	var a tuf.Authority
	listed := false
	if parent != nil {
		a, listed = parent.Delegation(role)
	}
	if !listed {
		return nil, fmt.Errorf("tuf: invalid role %s. delegation does not exist", role)
	}
	t, err := e.Targets(role)
	if err != nil {
		return nil, err
	}
	if err := e.Verify(role, a); err != nil {
		return nil, err
	}
	return t, tuf.CheckExpiry(role, t.Expires, now)
}

func loadSnapshot(e *tuf.Envelope, root *tuf.Root, p publish, loaded map[tuf.RoleName]*tuf.Targets, now time.Time) (*tuf.Snapshot, error) {
	if err := e.Verify(tuf.RoleSnapshot, root.Authority(tuf.RoleSnapshot)); err != nil {
		return nil, err
	}
	s, err := e.Snapshot()
	if err != nil {
		return nil, err
	}
	if err := tuf.CheckExpiry(tuf.RoleSnapshot, s.Expires, now); err != nil {
		return nil, err
	}
	for _, role := range p.roles {
		if role == tuf.RoleRoot || loaded[role] != nil {
			if err := s.Meta[role].Check(role, p.files[role]); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

func loadTimestamp(e *tuf.Envelope, root *tuf.Root, snapshot []byte, present bool, now time.Time) error {
	if err := e.Verify(tuf.RoleTimestamp, root.Authority(tuf.RoleTimestamp)); err != nil {
		return err
	}
	t, err := e.Timestamp()
	if err != nil {
		return err
	}
	if err := tuf.CheckExpiry(tuf.RoleTimestamp, t.Expires, now); err != nil {
		return err
	}
	if present {
		return t.Snapshot.Check(tuf.RoleSnapshot, snapshot)
	}
	return nil
}

// theirs judges p as upstream's server does: each part decoded by its handler,
// then loaded into a builder. It goes by the time of day.
func theirs(p publish) verdict {
	b := upstream.NewRepoBuilder(data.GUN(p.gun), nil, trustpinning.TrustPinConfig{})
	current := 1
	if p.prev != nil {
		if err := b.Load("root", p.prev, 1, true); err != nil {
			return verdict{"stored root", err}
		}
		current = b.GetLoadedVersion("root")
		b = b.BootstrapNewBuilder()
	}
	for _, role := range p.roles {
		if err := theirLoad(b, role, p.files[role], current); err != nil {
			return verdict{role, err}
		}
	}
	return verdict{}
}

func theirLoad(b upstream.RepoBuilder, role tuf.RoleName, file []byte, current int) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	var meta data.SignedMeta
	if err := json.Unmarshal(file, &meta); err != nil {
		return err
	}
	if role != tuf.RoleRoot {
		return b.Load(data.RoleName(role), file, 1, false)
	}
	if v := meta.Signed.Version; v != current && v != current+1 {
		return fmt.Errorf("Root modifications must increment the version. Current %d, new %d", current, v)
	}
	return b.Load("root", file, current, false)
}

func oracleKeys(a tuf.Authority) map[string]data.PublicKey {
	keys := make(map[string]data.PublicKey)
	for _, id := range a.KeyIDs {
		if k, ok := a.Keys[id]; ok {
			keys[string(id)] = data.NewPublicKey(k.Type, k.Public)
		}
	}
	return keys
}

// sameText is for breaks at which upstream's texts are the contract. Where a
// file cannot be decoded at all, the client sees neither.
func sameText(a, b verdict) bool {
	if a.err == nil || b.err == nil {
		return a.err == b.err
	}
	return a.role == b.role && (a.err.Error() == b.err.Error() || errors.Is(a.err, tuf.ErrMalformed))
}
