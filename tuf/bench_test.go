package tuf_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/docker/go/canonical/json"
	"github.com/theupdateframework/notary/tuf/data"
	"github.com/theupdateframework/notary/tuf/signed"

	"countersign/tuf"
	"countersign/tuf/cjson"
	"countersign/tuf/tuftest"
)

// docker lists a tag with a SHA-256 alone.
func tagged(tb testing.TB, tags int) *tuftest.Repo {
	repo := tuftest.New(tb, "example.org/team/app", tuftest.Options{})
	for i := range tags {
		m := tuf.MetaOf(fmt.Appendf(nil, "manifest %d", i))
		delete(m.Hashes, "sha512")
		repo.Targets["targets"].Targets[fmt.Sprintf("v1.%d", i)] = m
	}
	return repo
}

// BenchmarkTargets parses and verifies a targets file, once as the server does
// and once as upstream's does at least: the envelope in its handler, then what
// its builder does.
func BenchmarkTargets(b *testing.B) {
	for _, tags := range []int{1000, 5000} {
		repo := tagged(b, tags)
		file := repo.File("targets")
		a := repo.Root.Authority("targets")
		b.Run(fmt.Sprintf("%d/ours", tags), func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			b.ReportAllocs()
			for b.Loop() {
				e, err := tuf.ParseEnvelope(file)
				if err != nil {
					b.Fatal(err)
				}
				if err := e.Verify("targets", a); err != nil {
					b.Fatal(err)
				}
				if _, err := e.Targets("targets"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/upstream", tags), func(b *testing.B) {
			role := data.BaseRole{Name: "targets", Threshold: 1, Keys: oracleKeys(a)}
			b.SetBytes(int64(len(file)))
			b.ReportAllocs()
			for b.Loop() {
				if err := json.Unmarshal(file, new(data.SignedMeta)); err != nil {
					b.Fatal(err)
				}
				s := new(data.Signed)
				if err := json.Unmarshal(file, s); err != nil {
					b.Fatal(err)
				}
				if err := signed.VerifySignatures(s, role); err != nil {
					b.Fatal(err)
				}
				if _, err := data.TargetsFromSigned(s, "targets"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCanonicalize(b *testing.B) {
	e, err := tuf.ParseEnvelope(tagged(b, 5000).File("targets"))
	if err != nil {
		b.Fatal(err)
	}
	sorted, err := e.Canonical()
	if err != nil {
		b.Fatal(err)
	}
	for name, raw := range map[string][]byte{"canonical": sorted, "almost": append([]byte(" "), sorted...), "spaced": bytes.ReplaceAll(sorted, []byte(":"), []byte(" : "))} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := cjson.Canonicalize(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
