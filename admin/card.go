package admin

import (
	"bytes"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"countersign/internal/atomicfile"
	"countersign/storage"
	"countersign/tuf"
)

// A Card tells the people around a repository that was purged what to do next.
// Its commands can be copied as they stand.
type Card struct {
	GUN     string
	At      time.Time
	Actor   string
	Reason  string
	Archive string
	Digest  string
	Keys    int
	// Server is the URL that clients use, or "" if it is not known here.
	Server string
	Tags   []TagPlan
	More   int // tags beyond Tags
	// Signers had delegations; Owners are the keys that nobody needs any more.
	Signers []string
	Owners  []OwnerKeys

	odd []string // of Signers, once they are sorted out
}

// cardTags bounds the tags on a card: who has more signs them by a script.
const cardTags = 50

// NewCard makes the card of a purge. The plan was made before it; it may be nil,
// if the purge was begun by a call of which nothing else is known.
func NewCard(r PurgeRecord, plan *PurgePlan, server string) Card {
	c := Card{
		GUN: string(r.GUN), At: r.At, Actor: r.Actor, Reason: r.Reason, Archive: r.Archive, Digest: r.Digest, Keys: len(r.Keys),
		Server: strings.TrimRight(server, "/"),
	}
	if plan != nil {
		c.Tags, c.Signers, c.Owners = plan.Tags, plan.Signers, plan.Owners
	}
	if plan != nil && len(c.Tags) > cardTags {
		c.Tags = c.Tags[:cardTags]
	}
	if plan != nil {
		c.More = plan.TagCount - len(c.Tags)
	}
	return c
}

// The card as text. Lines that begin with four blanks are commands for a shell.
const cardText = `RECOVERY CARD  {{.GUN}}

All trust data of this repository was removed from the trust server on
{{.At.UTC.Format "2006-01-02 15:04"}} UTC by {{.Actor}}{{if .Reason}}:
{{.Reason}}{{else}}.{{end}}
The images in the registry were not touched. {{.Keys}} keys of the signer went along.

Until 1 is done, pulls with content trust fail with "does not have trust data".
Until 2 is done on a machine, it refuses the new beginning with "could not
rotate trust to a new trusted root". That refusal is right: it is how an attack
would look. So tell people by another way than the registry.

1. DOCKER, THE ONE WHO PUBLISHES

Forget what this machine knows of the repository. Private keys stay.

    rm -rf {{.DockerDir}}/metadata {{.DockerDir}}/changelist

{{if .Server}}    export DOCKER_CONTENT_TRUST=1 DOCKER_CONTENT_TRUST_SERVER={{sh .Server}}
{{else}}    export DOCKER_CONTENT_TRUST=1

DOCKER_CONTENT_TRUST_SERVER stays as it was.
{{end}}
The first push makes new keys, and asks for their passphrases. Back up
~/.docker/trust/private afterwards: the root key in it is what was lost.
{{if .Tags}}
Sign again what was signed before. Each image is taken by its digest, so that
nobody can slip in another one:
{{range .DockerTags}}
    docker pull {{.Pinned}}
    docker tag {{.Pinned}} {{.Ref}}
    docker push {{.Ref}}
{{end}}{{if .More}}
and {{.More}} more; trust-admin export and the archive name them all.
{{end}}
A tag of images for several platforms must not be pushed so, since docker would
push one platform only. Sign it by the commands of part 3 instead.
{{else}}
Then push as ever:

    # docker push {{sh .GUN}}:TAG
{{end}}{{if .Signers}}
These signers had been added, and have to be again, with their public keys:
{{range .Signers}}
    # docker trust signer add --key {{sh .}}.pem {{sh .}} {{sh $.GUN}}
{{- end}}
{{end}}{{if .Odd}}
There were signers with names that no command takes:
{{range .Odd}}  {{printf "%+.200q" .}}
{{end}}{{end}}
2. DOCKER, EVERYBODY ELSE WHO PULLS

    rm -rf {{.DockerDir}}/metadata {{.DockerDir}}/changelist

3. THE NOTARY COMMAND

With another trust directory than ~/.notary (notary -d), change the first line.

    rm -rf {{.NotaryDir}}/metadata {{.NotaryDir}}/changelist

Who publishes, instead of part 1:

    notary {{.Notary}} init --publish {{sh .GUN}}
    notary {{.Notary}} key rotate {{sh .GUN}} snapshot -r
{{- range .Tags}}{{if .SHA256}}
    notary {{$.Notary}} addhash {{sh $.GUN}} {{sh .Name}} {{.Size}} --sha256 {{.SHA256}}{{end}}{{end}}
    notary {{.Notary}} publish {{sh .GUN}}

Whoever pinned the old root certificate under "trust_pinning" in
~/.notary/config.json puts the new one there.

4. HARBOR UP TO 2.8

harbor-core keeps what it has seen in a folder "notary-cache". Restart it:

    docker restart harbor-core                            # installed by compose
    kubectl rollout restart deployment harbor-core        # installed by Helm; the name may have a prefix

5. PORTIERIS

It keeps what it has seen within its pods:

    kubectl --namespace portieris rollout restart deployment portieris

6. CONNAISSEUR

It pins the public root key. Once part 1 is done, this prints the new one:

    curl --silent --show-error --fail {{.RootURL}} | python3 -c {{.PinScript}} | openssl x509 -noout -pubkey

Put it in place of the old "key" under "trustRoots" of the validator in
values.yaml, then:

    helm upgrade connaisseur helm --namespace connaisseur

TO UNDO IT

If the lost keys are found before anybody has published again:

{{if .ArchiveName}}    trust-admin restore {{sh .ArchiveName}} --server-config SERVER.json --signer-config SIGNER.json
{{else}}trust-admin restore brings back the archive {{printf "%+q" .Archive}}.
{{end}}
The archive's content has the SHA-256
{{key .Digest}}
{{range .Owners}}Keys of {{.Role}} that are of no use any more:{{range .IDs}}
  {{key .}}{{end}}
{{end}}`

// hexOrQuoted is a key ID or a digest as it is printed: anything else than hex
// is quoted, with all escaped that is not plain ASCII.
func hexOrQuoted(v any) string {
	s := fmt.Sprint(v)
	if hexPlain.MatchString(s) {
		return s
	}
	return fmt.Sprintf("%+.100q", s)
}

// keyName is id for a message.
func keyName(id tuf.KeyID) string { return hexOrQuoted(id) }

var (
	hexPlain   = regexp.MustCompile(`^[0-9a-f]{1,128}$`)
	shellPlain = regexp.MustCompile(`^[A-Za-z0-9_./:@=,+-]+$`)
	textCard   = template.Must(template.New("card").Funcs(template.FuncMap{"sh": shellQuote, "key": hexOrQuoted}).Parse(cardText))
	htmlCard   = htmltemplate.Must(htmltemplate.New("card").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Recovery card: {{.Title}}</title>
<style>body{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em}pre{background:#eee;padding:.6em;overflow-x:auto}h2{margin-top:2em;font-size:1em}</style>
</head><body>
{{range .Blocks}}{{if .Command}}<pre>{{.Text}}</pre>
{{else if .Heading}}<h2>{{.Text}}</h2>
{{else}}<p>{{.Text}}</p>
{{end}}{{end}}</body></html>
`))
)

// shellQuote makes s one word of a shell.
func shellQuote(s string) string {
	if shellPlain.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// DockerDir is where docker's client keeps what it knows of the repository.
func (c Card) DockerDir() string {
	return `"${DOCKER_CONFIG:-$HOME/.docker}"/trust/tuf/` + shellQuote(c.GUN)
}

// NotaryDir is where the notary command does.
func (c Card) NotaryDir() string { return `"$HOME"/.notary/tuf/` + shellQuote(c.GUN) }

// Notary are the flags of the notary command.
func (c Card) Notary() string { return "-s " + shellQuote(c.server()) }

func (c Card) server() string {
	if c.Server == "" {
		return "https://TRUST-SERVER"
	}
	return c.Server
}

// RootURL is where the new root will be.
func (c Card) RootURL() string {
	return shellQuote(c.server() + "/v2/" + c.GUN + "/_trust/tuf/root.json")
}

// PinScript prints the certificate of the root that it reads.
func (c Card) PinScript() string {
	return shellQuote(`import sys,json,base64; s=json.load(sys.stdin)["signed"]; sys.stdout.write(base64.b64decode(s["keys"][s["roles"]["root"]["keyids"][0]]["keyval"]["public"]).decode())`)
}

// A dockerTag is a tag that docker can sign again.
type dockerTag struct{ Ref, Pinned string }

// DockerTags are the tags that have a digest.
func (c Card) DockerTags() (tags []dockerTag) {
	for _, t := range c.Tags {
		if len(t.SHA256) == 64 {
			tags = append(tags, dockerTag{shellQuote(c.GUN + ":" + t.Name), shellQuote(c.GUN + "@sha256:" + t.SHA256)})
		}
	}
	return tags
}

// Text writes the card for a terminal or a mail.
func (c Card) Text(w io.Writer) error {
	if !clientName(c.GUN) {
		_, err := fmt.Fprintf(w, "RECOVERY CARD  %+q\n\nNo client can have used a repository of this name: there is nothing to do on clients.\n\n"+
			"The archive is %s, its content has the SHA-256 %s.\n", c.GUN, oneLine(c.Archive), hexOrQuoted(c.Digest))
		return err
	}
	return textCard.Execute(w, c.plain())
}

// clientName reports whether gun can be part of a path that is removed. Rows that
// were typed by hand may have names that lead elsewhere.
func clientName(gun string) bool {
	if gun != oneLine(gun) {
		return false
	}
	for _, part := range strings.Split(gun, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// plain takes from names what a terminal or a line-wise reader would take for
// something else.
func (c Card) plain() Card {
	for _, s := range []*string{&c.Actor, &c.Reason, &c.GUN, &c.Server} {
		// A line that began with blanks would be a command.
		*s = strings.TrimSpace(oneLine(*s))
	}
	tags, signers := c.Tags, c.Signers
	c.Tags, c.Signers = nil, nil
	for _, t := range tags {
		if t.Name == oneLine(t.Name) && t.Size >= 0 && (t.SHA256 == "" || hexPlain.MatchString(t.SHA256)) {
			c.Tags = append(c.Tags, t)
		} else {
			c.More++
		}
	}
	for _, name := range signers {
		if name == oneLine(name) {
			c.Signers = append(c.Signers, name)
		} else {
			c.odd = append(c.odd, name)
		}
	}
	return c
}

// Odd are signers that cannot be named in a command.
func (c Card) Odd() []string { return c.odd }

// ArchiveName is the archive's path, or "" if it cannot be named in a command.
func (c Card) ArchiveName() string {
	if c.Archive != oneLine(c.Archive) {
		return ""
	}
	return c.Archive
}

// oneLine puts a blank in place of all that is not simply printed: ends of lines,
// what moves the cursor, what turns the direction of writing, bytes of no character.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// HTML writes the card as a page for a browser, with nothing fetched from elsewhere.
func (c Card) HTML(w io.Writer) error {
	var b strings.Builder
	if err := c.Text(&b); err != nil {
		return err
	}
	type block struct {
		Text             string
		Command, Heading bool
	}
	var blocks []block
	for _, part := range strings.Split(strings.TrimSpace(b.String()), "\n\n") {
		part = strings.Trim(part, "\n")
		switch {
		case part == "":
		case strings.HasPrefix(part, "    "):
			lines := strings.Split(part, "\n")
			for i := range lines {
				lines[i] = strings.TrimPrefix(lines[i], "    ")
			}
			blocks = append(blocks, block{Text: strings.Join(lines, "\n"), Command: true})
		case len(blocks) == 0, part == strings.ToUpper(part):
			blocks = append(blocks, block{Text: part, Heading: true})
		default:
			blocks = append(blocks, block{Text: part})
		}
	}
	return htmlCard.Execute(w, map[string]any{"Title": c.plain().GUN, "Blocks": blocks})
}

// CheckCardFile makes sure, as far as can be known, that WriteFile will be able to
// write to path.
func CheckCardFile(path string) error {
	switch info, err := os.Stat(path); {
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is no file", storage.ErrInvalid, path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".card-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// WriteFile writes the card to a file that all may read, over what is there: as a
// page if the name ends in .html.
func (c Card) WriteFile(path string) error {
	var b bytes.Buffer
	write := c.Text
	if strings.HasSuffix(path, ".html") {
		write = c.HTML
	}
	if err := write(&b); err != nil {
		return err
	}
	return atomicfile.Write(path, b.Bytes(), 0o644)
}
