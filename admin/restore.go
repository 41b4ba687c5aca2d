package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"

	"countersign/admin/archive"
	"countersign/certs"
	"countersign/server/publish"
	"countersign/signer/rpc"
	"countersign/storage"
	"countersign/storage/metadb"
	"countersign/tuf"
)

// RestoreConfig says what to bring back.
type RestoreConfig struct {
	Path string // of an archive of kind "purge" or "orphans"
	// Replace purges what has taken the name meanwhile, with an archive of its own
	// in Dir. Without it a GUN that has any row is left alone.
	Replace bool
	Dir     string
	Reason  string
	// KeysElsewhere is that of the purge.
	KeysElsewhere bool
	// NewTimestamp has the signer sign a timestamp that follows all that clients
	// may have seen: higher than all that are on record, and at least Version.
	NewTimestamp bool
	Version      tuf.Version
}

// A Restored is a repository that was brought back.
type Restored struct {
	GUN   tuf.GUN `json:"gun"`
	Files int     `json:"files"`
	Keys  int     `json:"keys"`
	// Already: all files were there before.
	Already bool `json:"already_there,omitempty"`
	// Replaced is the purge of what had the name.
	Replaced *PurgeRecord `json:"replaced,omitempty"`
	// OtherForm are keys that the signer has in another sealed form than the
	// archive: they were sealed anew since, and stay so.
	OtherForm []tuf.KeyID `json:"keys_sealed_anew,omitempty"`
	// Timestamp is the version that was signed anew; 0 if none was.
	Timestamp tuf.Version `json:"new_timestamp,omitempty"`
}

// renewals is how many versions of a timestamp must be left: versions are never
// used again, and the last one is the end of a repository.
const renewals = 1_000_000

// ErrAlive: the GUN of an archive has rows already.
var ErrAlive = errors.New("there is a repository of that name")

// Restore brings back what an archive holds, and calls done for each repository.
// The archive is read to its end before anything is written. Each repository
// comes back in steps; after a crash the same call goes on. The keys come first,
// so that there is no moment at which a repository can be read and not renewed;
// its files come back in one transaction.
func (s *Site) Restore(ctx context.Context, c RestoreConfig, done func(Restored) error) error {
	if s.Metadata == nil || s.Keys == nil {
		return errors.New("to restore needs the configurations of both programs")
	}
	c.Reason = cleanReason(c.Reason)
	a, err := archive.Open(c.Path)
	if err != nil {
		return err
	}
	defer a.Close()
	if a.Header.Kind == "prune" {
		return s.restorePruned(ctx, c, a, done)
	}
	if k := a.Header.Kind; k != "purge" && k != "orphans" {
		return fmt.Errorf("%s is an archive of kind %q, and only what was purged can be restored: try trust-admin import", c.Path, k)
	}
	var publisher *publish.Publisher
	if c.NewTimestamp {
		p, end, err := s.publisher()
		if err != nil {
			return err
		}
		defer end()
		publisher = p
	}
	// Each reads a repository's files once, and a transaction may have to be
	// tried again: the files are read by passes of their own.
	var list []*archive.Repository
	if err := a.Each(func(r *archive.Repository, _ archive.Files) error {
		list = append(list, r)
		return nil
	}); err != nil {
		return err
	}
	for _, r := range list {
		out, err := s.restore(ctx, c, a, r, publisher)
		if err == nil {
			err = done(out)
		}
		if err != nil {
			return fmt.Errorf("restoring %s: %w", r.GUN, err)
		}
	}
	return nil
}

func (s *Site) restore(ctx context.Context, c RestoreConfig, a *archive.Archive, r *archive.Repository, publisher *publish.Publisher) (Restored, error) {
	out := Restored{GUN: r.GUN, Files: len(r.Files), Keys: len(r.Keys)}
	replaced, err := s.makeRoom(ctx, c, r)
	if err != nil {
		return out, err
	}
	out.Replaced = replaced
	s.step("room made")
	if out.OtherForm, err = s.restoreKeys(ctx, r); err != nil {
		return out, err
	}
	s.step("keys restored")
	if len(r.Files) > 0 {
		fresh, err := s.Metadata.Restore(ctx, metadb.Restoration{
			GUN: r.GUN, Files: r.Files, Changes: r.Changes, Each: a.FilesOf(r.GUN),
			Event: storage.Event{
				Action: storage.ActionRestore, GUN: r.GUN, Origin: storage.Origin{Actor: s.Actor},
				Roles: newestOf(r.Files), Reason: withArchive(c.Reason, c.Path, a.Digest),
			},
		})
		if errors.Is(err, storage.ErrVersionConflict) {
			err = fmt.Errorf("%w, published just now: %w", ErrAlive, err)
		}
		if err != nil {
			return out, err
		}
		out.Already = !fresh
		s.step("files restored")
		// A server that was about to have the keys deleted, for the purge, has
		// stopped by now: the root lists them. What it did before is undone.
		if _, err := s.restoreKeys(ctx, r); err != nil {
			return out, err
		}
	}
	if publisher != nil && len(r.Files) > 0 {
		if out.Timestamp, err = s.newTimestamp(ctx, c, publisher, r); err != nil {
			return out, fmt.Errorf("all of it is back, but for the new timestamp: %w", err)
		}
		s.step("timestamp signed")
	}
	return out, nil
}

// makeRoom ends a purge that has not ended, which would take the keys away again,
// and makes sure that nobody has the name, or nobody but the archive's own rows.
func (s *Site) makeRoom(ctx context.Context, c RestoreConfig, r *archive.Repository) (*PurgeRecord, error) {
	open, err := s.Metadata.Purges(ctx, metadb.PurgeQuery{GUN: r.GUN, Open: true, Limit: 100})
	if err != nil {
		return nil, err
	}
	for _, p := range open {
		if _, err := s.endPurge(ctx, p, nil); err != nil {
			return nil, err
		}
	}
	if len(r.Files) == 0 {
		return nil, nil // keys alone take nothing from anybody
	}
	have, err := s.Metadata.Files(ctx, r.GUN)
	if err != nil || len(have) == 0 || metadb.Holds(have, r.Files) {
		return nil, err
	}
	if !c.Replace {
		return nil, fmt.Errorf("%w, with %d files: trust-admin show %s shows it; --replace purges it first, into an archive of its own", ErrAlive, len(have), r.GUN)
	}
	p, err := s.Purge(ctx, PurgeConfig{GUN: r.GUN, Dir: c.Dir, Reason: "replaced by " + c.Path, KeysElsewhere: c.KeysElsewhere})
	return &p, err
}

// restoreKeys puts the keys back, byte for byte. None stays doomed.
func (s *Site) restoreKeys(ctx context.Context, r *archive.Repository) (other []tuf.KeyID, err error) {
	for _, k := range r.Keys {
		if s.Recorded {
			if _, err := s.Metadata.Spare(ctx, r.GUN, []storage.DoomedKey{{GUN: k.GUN, Role: k.Role, ID: k.ID}}); err != nil {
				return nil, err
			}
		}
		err := s.Keys.Put(ctx, k)
		if !errors.Is(err, storage.ErrVersionConflict) {
			if err != nil {
				return nil, err
			}
			continue
		}
		have, err := s.Keys.Key(ctx, k.ID)
		if err != nil {
			return nil, err
		}
		if have.GUN != k.GUN || have.Role != k.Role || !bytes.Equal(have.Public, k.Public) {
			return nil, fmt.Errorf("key %s is stored for %s of %s: this is another installation's archive, or one of the two is wrong", k.ID, have.Role, have.GUN)
		}
		other = append(other, k.ID)
	}
	return other, nil
}

// publisher has timestamps signed by the running signer, as the server has. No
// passphrase is needed for that.
func (s *Site) publisher() (*publish.Publisher, func(), error) {
	t := s.Server.TrustService
	store, err := certs.Load(certs.Config{Files: certs.Files{Cert: t.TLSClientCert, Key: t.TLSClientKey, CA: t.TLSCAFile}, Now: s.Now})
	if err != nil {
		return nil, nil, fmt.Errorf("what the server shows to the signer: %w", err)
	}
	client, err := rpc.Dial(rpc.ClientConfig{Addr: net.JoinHostPort(t.Hostname, t.Port), TLS: store.Client(t.Hostname)})
	if err != nil {
		return nil, nil, err
	}
	p, err := publish.New(publish.Config{Store: s.Metadata, Signer: client, KeyAlgorithm: t.KeyAlgorithm, Now: s.Now})
	return p, func() { _ = client.Close() }, err
}

// newTimestamp signs a timestamp above all that are known, unless that has been
// done after an earlier restoration that was cut off.
func (s *Site) newTimestamp(ctx context.Context, c RestoreConfig, p *publish.Publisher, r *archive.Repository) (tuf.Version, error) {
	gen, err := s.Metadata.Generation(ctx, r.GUN)
	if err != nil {
		return 0, err
	}
	highest, err := s.Metadata.MaxTimestamp(ctx, r.GUN)
	if err != nil {
		return 0, err
	}
	restored := tuf.Version(0)
	for _, f := range r.Files {
		if f.Role == tuf.RoleTimestamp {
			restored = max(restored, f.Version)
		}
	}
	if v := gen.Timestamp.Version; v > restored && v == highest && v >= c.Version {
		return v, nil
	}
	if v := max(highest, c.Version); v > tuf.MaxVersion-renewals {
		return 0, fmt.Errorf("%w: a timestamp of version %d leaves no versions for its renewals", storage.ErrInvalid, v)
	}
	next, err := p.Succeed(ctx, s.Metadata, r.GUN, max(highest+1, c.Version), storage.Event{
		Action: storage.ActionRestore, Origin: storage.Origin{Actor: s.Actor}, Reason: "a new timestamp, above all that clients have seen",
	})
	return next.Version, err
}
