package publish_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/notary/trustpinning"
	notarytuf "github.com/theupdateframework/notary/tuf"
	"github.com/theupdateframework/notary/tuf/data"

	"countersign/server/publish"
	"countersign/storage"
	"countersign/tuf"
)

// errElsewhere is what upstream answers without saying why, when what is stored
// does not load.
var errElsewhere = errors.New("no detail")

// upstream puts an upload to the library's own builder, in the order of
// upstream's server, up to where that would sign. An error is a *Rejection as
// it would reach the client, or errElsewhere.
func (s *stack) upstream(gun tuf.GUN, up files) (err error) {
	s.Helper()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	load := func(b notarytuf.RepoBuilder, role tuf.RoleName) error {
		gen, err := s.store.Generation(s.Context(), gun, role)
		if errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if err != nil {
			s.Fatal(err)
		}
		f, ok := gen.Files[role]
		if !ok {
			return errElsewhere
		}
		if err := b.Load(data.RoleName(role), f.Data, 1, true); err != nil {
			return errElsewhere
		}
		return nil
	}
	b := notarytuf.NewRepoBuilder(data.GUN(gun), nil, trustpinning.TrustPinConfig{})
	if err := load(b, root); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if file, ok := up[root]; ok {
		env, err := tuf.ParseEnvelope(file)
		if err != nil {
			return err
		}
		current := int64(b.GetLoadedVersion(data.CanonicalRootRole))
		if env.Version != current && env.Version != current+1 {
			return &publish.Rejection{Kind: publish.KindBadRoot, Msg: fmt.Sprintf("Root modifications must increment the version. Current %d, new %d", current, env.Version)}
		}
		b = b.BootstrapNewBuilder()
		if err := b.Load(data.CanonicalRootRole, file, int(current), false); err != nil {
			return &publish.Rejection{Kind: publish.KindBadRoot, Msg: err.Error()}
		}
	} else if !b.IsLoaded(data.CanonicalRootRole) {
		return &publish.Rejection{Kind: publish.KindValidation, Msg: "no pre-existing root and no root provided in update."}
	}
	var names []tuf.RoleName
	for role := range up {
		if role == targets || role.IsDelegation() {
			names = append(names, role)
		}
	}
	slices.SortFunc(names, func(x, y tuf.RoleName) int {
		if d := x.Depth() - y.Depth(); d != 0 {
			return d
		}
		return strings.Compare(string(x), string(y))
	})
	for _, role := range names {
		var above []tuf.RoleName
		for p := role.Parent(); p != ""; p = p.Parent() {
			if !b.IsLoaded(data.RoleName(p)) {
				above = append([]tuf.RoleName{p}, above...)
			}
		}
		for _, p := range above {
			if err := load(b, p); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		if err := b.Load(data.RoleName(role), up[role], 1, false); err != nil {
			return &publish.Rejection{Kind: publish.KindBadTargets, Msg: err.Error()}
		}
	}
	if file, ok := up[snapshot]; ok {
		if err := b.Load(data.CanonicalSnapshotRole, file, 1, false); err != nil {
			return &publish.Rejection{Kind: publish.KindBadSnapshot, Msg: err.Error()}
		}
	}
	return nil
}

// deliberate lists the rules above under which we do not say what upstream
// says, and why. "accepts": upstream accepts the files, and only the database
// or the reader finds out.
var deliberate = map[string]string{
	"file/version beyond 32 bits":                                       "accepts: its database refuses it with the same answer",
	"file/delegation version beyond 32 bits":                            "accepts: its database refuses it with the same answer",
	"file/expires now":                                                  "the library asks the time of day, some milliseconds later",
	"file/signed is null":                                               "panics",
	"file/not JSON":                                                     "never gets here",
	"file/timestamp not JSON":                                           "never gets here",
	"file/no such role":                                                 "never gets here",
	"root/same again":                                                   "accepts: its database refuses it with the same answer",
	"targets/same version":                                              "accepts: its database refuses it with the same answer",
	"targets/same version of a leaf":                                    "accepts: its database refuses it with the same answer",
	"targets/older version":                                             "accepts: its database refuses it with the same answer",
	"targets/one of two is not new":                                     "accepts: its database refuses it with the same answer",
	"targets/delegation null":                                           "panics",
	"targets/delegations of the wrong type":                             "the words of another JSON library",
	"targets/delegated by a parent that was removed":                    "no detail",
	"snapshot/version beyond 32 bits":                                   "accepts: its database refuses it with the same answer",
	"snapshot/same version":                                             "accepts: its database refuses it with the same answer",
	"snapshot/comes after another delegation":                           "accepts: its database refuses it with the same answer",
	"snapshot/wrong length":                                             "accepts: clients read no more than the length, and fail",
	"snapshot/only sha512":                                              "accepts: clients ask for files by their SHA-256, and find none",
	"snapshot/names what nobody has":                                    "accepts: 404 for readers",
	"snapshot/names what is no role":                                    "accepts: of no use to anybody",
	"snapshot/names itself":                                             "accepts: of no use to anybody",
	"snapshot/targets not uploaded":                                     "accepts: 404 for readers",
	"snapshot/names older targets":                                      "accepts: a rollback",
	"snapshot/names an older delegation":                                "accepts: a rollback",
	"snapshot/names a stored delegation by its sha512 alone":            "accepts: clients ask for files by their SHA-256, and find none",
	"snapshot/names what nobody has, beside what is stored":             "accepts: 404 for readers",
	"snapshot/names the current file by a wrong length":                 "accepts: clients read no more than the length, and fail",
	"snapshot/names the current file by a wrong sha512":                 "accepts: clients refuse the file",
	"snapshot/names a delegation that was removed":                      "accepts: a file that nobody vouches for",
	"snapshot/leaves out a delegation":                                  "accepts: the next publish may bring it back at an older version",
	"snapshot/leaves out a delegation of a delegation":                  "accepts: the same",
	"snapshot/leaves out a delegation with all below":                   "accepts: the same",
	"snapshot/leaves out a delegation that new targets list":            "accepts: the same",
	"snapshot/leaves out a delegation to which other keys are given":    "accepts: the same",
	"snapshot/leaves out what stands below an uploaded delegation":      "accepts: the same",
	"snapshot/leaves out what stands below, beside new targets":         "accepts: the same",
	"file/nested deeper than 16 levels":                                 "accepts: it has all that stands above read for each file",
	"repository/root takes the targets key away":                        "accepts: clients refuse the targets",
	"repository/root raises the targets threshold":                      "accepts: clients refuse the targets",
	"repository/the same with a snapshot of the client":                 "accepts: clients refuse the targets",
	"repository/targets replace a delegation's key":                     "accepts: clients skip the delegation",
	"repository/targets raise a delegation's threshold":                 "accepts: clients skip the delegation",
	"repository/targets raise a delegation's threshold, keys as before": "accepts: clients skip the delegation",
	"repository/targets list another key under the same ID":             "accepts: clients skip the delegation",
	"repository/a delegation replaces its child's key":                  "accepts: clients skip the delegation",
	"repository/the same with a snapshot of the client, which is right": "accepts: clients skip the delegation",
	"repository/a key is replaced above an upload":                      "no detail",
}

// The same verdict, kind and text as upstream's, but where it is on purpose.
func TestSameAsUpstream(t *testing.T) {
	t.Parallel()
	for group, rules := range map[string][]rule{
		"file": fileRules, "root": rootRules, "targets": targetsRules, "snapshot": snapshotRules, "repository": repositoryRules,
	} {
		for _, c := range rules {
			name := group + "/" + c.name
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newStack(t)
				r := s.repo(c.client, a, ab, "targets/c")
				if c.stored {
					s.must(r, r.Upload())
				}
				up := c.files(s, r)
				theirs := s.upstream(r.GUN, up)
				ours := s.publish(r.GUN, up)
				same := sameAnswer(ours, theirs)
				if reason, ok := deliberate[name]; ok == same {
					t.Errorf("ours: %v\ntheirs: %v\ndifferent on purpose: %v %s", ours, theirs, ok, reason)
				}
				if strings.HasPrefix(deliberate[name], "accepts") && theirs != nil {
					t.Errorf("upstream does not accept it: %v", theirs)
				}
			})
		}
	}
}

func sameAnswer(ours, theirs error) bool {
	var x, y *publish.Rejection
	if !errors.As(ours, &x) || !errors.As(theirs, &y) {
		return ours == nil && theirs == nil
	}
	return x.Kind == y.Kind && x.Msg == y.Msg
}
