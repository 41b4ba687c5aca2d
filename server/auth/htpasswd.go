package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/crypto/bcrypt"
)

// ErrBusy is a password that was not checked, since too many others are waiting
// to be. It says nothing of the password, and passes.
var ErrBusy = errors.New("too many passwords are waiting to be checked")

const (
	// A checked password need not be compared again for this long: docker sends
	// it with each of the dozen requests of a push.
	keepVerified = 5 * time.Minute
	maxVerified  = 4096
	// bcrypt looks at no more bytes of a password.
	maxPassword = 72
	// maxAuthorization bounds the header, which is compared, decoded and hashed.
	maxAuthorization = 4096
)

// HtpasswdConfig is what an [Htpasswd] is made of. All fields are required.
type HtpasswdConfig struct {
	// Realm is what clients show when they ask for a password: printable ASCII.
	Realm string
	// Path is the password file: lines of a name, ":" and a bcrypt hash, as
	// "htpasswd -B" writes them, with the prefix $2a$, $2b$ or $2y$ and a cost of
	// 4 to 15. Blank lines and lines that begin with "#" are skipped. At most
	// 8 MiB, as the policy.
	Path string
	// Policy is the file that says who may do what, in JSON:
	//
	//	{
	//	  "groups": {"ci": ["bot1", "bot2"]},
	//	  "rules": [
	//	    {"users": ["*"], "gun_prefix": "registry.example.com/", "actions": ["pull"]},
	//	    {"users": ["alice"], "groups": ["ci"], "gun_prefix": "registry.example.com/team/", "actions": ["pull", "push"]},
	//	    {"users": ["carol"], "gun": "registry.example.com/team/app", "actions": ["*"]},
	//	    {"users": ["root"], "gun_prefix": "", "actions": ["*"]}
	//	  ]
	//	}
	//
	// A user may do what any rule allows; what none allows is refused. A rule
	// names "users", "groups" or both; the user "*" is everybody in the password
	// file. It is about one GUN ("gun") or about all below a prefix, which ends in
	// one "/" ("gun_prefix"; "" is all GUNs), never both. Of "actions", "pull"
	// reads; "push", which needs "pull" beside it, publishes; "*" does all, and
	// alone deletes GUNs, rotates the server's keys and, with "gun_prefix": "",
	// reads the changefeed of all GUNs. Members that are not known, or stand
	// twice, are faults.
	Policy string

	Log *slog.Logger
	Now func() time.Time // time.Now, except in tests
}

// Htpasswd lets users in by name and password. It serves any number of requests
// at once.
//
// Docker logs in to read and to write. Upstream's notary client logs in to
// write, delete and rotate; its reading commands (list, lookup, verify,
// delegation list) end with "no basic auth credentials" once they see a Basic
// challenge, before they ask for anything. Only a token service helps them.
type Htpasswd struct {
	challenge string
	path      string
	log       *slog.Logger
	now       func() time.Time
	users     *watched[*passwords]
	policy    *watched[*policy]

	verified verified
	queue    *queue // of those whose password is to be compared
	compare  func(hash, password []byte) error
}

// NewHtpasswd reads both files. The error tells all that is wrong with them, and
// holds no hash.
func NewHtpasswd(c HtpasswdConfig) (*Htpasswd, error) {
	switch {
	case c.Log == nil || c.Now == nil:
		return nil, errors.New("password authentication needs a log and a clock")
	case c.Realm == "" || strings.ContainsFunc(c.Realm, func(r rune) bool { return r > unicode.MaxASCII || unicode.IsControl(r) }):
		return nil, fmt.Errorf("the realm %s cannot be sent to clients: use printable ASCII, such as %q", quoted(c.Realm), "Notary")
	}
	h := &Htpasswd{
		challenge: `Basic realm="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(c.Realm) + `"`,
		path:      c.Path,
		log:       c.Log,
		now:       c.Now,
		verified:  verified{until: map[[sha256.Size]byte]time.Time{}},
		queue:     newQueue(),
		compare:   bcrypt.CompareHashAndPassword,
	}
	_, _ = rand.Read(h.verified.key[:]) // never fails
	var faultUsers, faultPolicy error
	h.users, faultUsers = watch(c.Path, c.Log, func(raw []byte) (*passwords, error) {
		users, err := parsePasswords(raw)
		if err == nil && h.policy != nil {
			h.tellUnknown(users, h.policy.get())
		}
		return users, err
	})
	h.policy, faultPolicy = watch(c.Policy, c.Log, func(raw []byte) (*policy, error) {
		p, err := parsePolicy(raw)
		if err == nil && h.users != nil {
			h.tellUnknown(h.users.get(), p)
		}
		return p, err
	})
	if err := errors.Join(faultUsers, faultPolicy); err != nil {
		return nil, err
	}
	return h, nil
}

// tellUnknown warns of users that only the policy knows. That is no fault: of two
// files, one changes first.
func (h *Htpasswd) tellUnknown(users *passwords, p *policy) {
	if names := p.unknown(users); len(names) > 0 {
		h.log.Warn("the policy names users that are not in the password file", "path", h.path, "count", len(names), "first", names[:min(len(names), 10)])
	}
}

// Watch reads both files anew when they change, until ctx ends: a new password
// and a new rule hold within 5 seconds. A file that cannot be read or has a
// fault, such as one that is being written, changes nothing.
func (h *Htpasswd) Watch(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { h.users.run(ctx) })
	running.Go(func() { h.policy.run(ctx) })
	running.Wait()
}

// Authorize returns the name of the user who sent r, if its password is right and
// the policy gives all of need. Otherwise the error is a [*Refusal], or
// [ErrBusy], or that of r's context.
//
// GET /v2/ is for every user, whatever need says: that is where clients take the
// challenge from, and where "docker login" finds out whether it has worked.
func (h *Htpasswd) Authorize(r *http.Request, need []Access) (subject string, err error) {
	if len(need) == 0 {
		return "", errNothing
	}
	name, password, err := credentials(r.Header)
	if err == nil {
		err = h.verify(r.Context(), host(r.RemoteAddr), name, password)
	}
	if refused, ok := errors.AsType[*badCredentials](err); ok {
		return "", &Refusal{challenge: h.challenge, public: refused.public, cause: err}
	}
	if err != nil {
		return "", err
	}
	if r.Method == http.MethodGet && r.URL.Path == "/v2/" {
		return name, nil
	}
	var missing []string
	policy := h.policy.get()
	for _, a := range need {
		if !policy.allows(name, a) {
			missing = append(missing, doing(a.Action))
		}
	}
	if missing == nil {
		return name, nil
	}
	what := brief(need[0].Name)
	if need[0].Type != "repository" {
		missing, what = []string{"use"}, "what concerns all GUNs"
	}
	public := fmt.Sprintf("%s may not %s %s", brief(name), strings.Join(missing, " or "), what)
	return name, &Refusal{challenge: h.challenge, public: public, cause: errors.New(public)}
}

// doing says in words what an action does with a GUN.
func doing(action string) string {
	switch action {
	case "pull":
		return "pull from"
	case "push":
		return "push to"
	}
	return "delete or rotate keys of"
}

// brief is s as it can stand in an answer, of which clients read only 1023 bytes:
// JSON makes six of a byte at worst.
func brief(s string) string {
	const most = 64
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// badCredentials are the caller's fault. The text is for the log, and has no
// password; public is for the caller.
type badCredentials struct{ text, public string }

func (b *badCredentials) Error() string { return b.text }

// All that is known of a wrong pair is that it is one: else names could be found
// out.
func wrong(text string) error {
	return &badCredentials{text, "user name or password is wrong"}
}

func malformed(text string) error {
	return &badCredentials{"the header Authorization " + text, "the header Authorization cannot be read: send one, with Basic credentials"}
}

// credentials reads the header Authorization.
func credentials(header http.Header) (name, password string, err error) {
	given := header["Authorization"]
	if len(given) == 0 {
		return "", "", &badCredentials{"no user name and password", ""}
	}
	scheme, rest, _ := strings.Cut(given[0], " ")
	switch {
	case len(given) > 1:
		return "", "", malformed("is there more than once")
	case len(given[0]) > maxAuthorization:
		return "", "", malformed(fmt.Sprintf("is longer than %d bytes", maxAuthorization))
	case !strings.EqualFold(scheme, "Basic"):
		return "", "", malformed("is not of the scheme Basic")
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimLeft(rest, " "))
	if err != nil {
		return "", "", malformed("is not base64")
	}
	name, password, colon := strings.Cut(string(pair), ":")
	switch {
	case !colon:
		return "", "", malformed(`has no ":" between name and password`)
	case strings.ContainsRune(string(pair), 0):
		// bcrypt repeats a password and a NUL: with NULs in it, different
		// passwords would be one.
		return "", "", malformed("holds a NUL")
	case name == "" || password == "":
		return "", "", malformed("has an empty name or password")
	case len(password) > maxPassword:
		// Whatever follows would be right.
		return "", "", &badCredentials{
			"the password is longer than bcrypt can tell apart",
			fmt.Sprintf("a password has at most %d bytes: have a shorter one set", maxPassword),
		}
	}
	return name, password, nil
}

// verify checks a password. For a user who does not exist it takes as long as
// for those whose hashes have the file's usual cost.
func (h *Htpasswd) verify(ctx context.Context, from, name, password string) error {
	if h.remembers(name, password) {
		return nil
	}
	leave, err := h.queue.enter(ctx, from, name, h.users.get().has(name))
	if err != nil {
		return err
	}
	defer leave()
	if h.remembers(name, password) {
		return nil // a request beside this one has been first
	}
	users := h.users.get()
	hash, known := users.hashes[name]
	if !known {
		hash = users.dummy
	}
	err = h.compare([]byte(hash), []byte(password))
	switch {
	case !known:
		return wrong("there is no user of that name") // which may be a password in the wrong field
	case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword):
		return wrong("wrong password for " + quoted(name))
	case err != nil:
		return wrong(fmt.Sprintf("comparing the password of %s: %v", quoted(name), err))
	}
	h.verified.add(h.verified.tag(hash, name, password), h.now())
	return nil
}

// remembers reports whether the password has been compared a short while ago,
// and with the hash that the file has now.
func (h *Htpasswd) remembers(name, password string) bool {
	hash, known := h.users.get().hashes[name]
	return known && h.verified.has(h.verified.tag(hash, name, password), h.now())
}

// verified remembers which passwords are right, in a form that is of no use
// without the key, which never leaves the process.
type verified struct {
	key [32]byte

	mu    sync.Mutex // guards until; nothing waits or hashes while it is held
	until map[[sha256.Size]byte]time.Time
}

// tag stands for a password that was compared with hash. Hashes have one length,
// and names no NUL, so that no two triples run into one.
func (v *verified) tag(hash, name, password string) (tag [sha256.Size]byte) {
	mac := hmac.New(sha256.New, v.key[:])
	mac.Write([]byte(hash + name + "\x00" + password))
	mac.Sum(tag[:0])
	return tag
}

func (v *verified) has(tag [sha256.Size]byte, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.until[tag]
	return ok && now.Before(until)
}

// add remembers tag. Only right passwords come here, so that nobody else can
// push them out.
func (v *verified) add(tag [sha256.Size]byte, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.until) >= maxVerified {
		for old, until := range v.until {
			if !now.Before(until) {
				delete(v.until, old)
			}
		}
	}
	for old := range v.until { // whichever comes first
		if len(v.until) < maxVerified {
			break
		}
		delete(v.until, old)
	}
	v.until[tag] = now.Add(keepVerified)
}

// passwords is what a password file says.
type passwords struct {
	hashes map[string]string
	dummy  string // a hash of the usual cost, of no password that anybody knows
}

func (p *passwords) has(name string) bool { _, ok := p.hashes[name]; return ok }

// byteOrderMark is what some editors put in front of UTF-8.
const byteOrderMark = "\ufeff"

// parsePasswords reads a password file. The error tells the faults that it has,
// each with its line, and quotes nothing but names.
func parsePasswords(raw []byte) (*passwords, error) {
	p := &passwords{hashes: map[string]string{}}
	firstLine := map[string]int{}
	var costs [maxCost + 1]int
	var f faults
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(raw, []byte(byteOrderMark))) {
		number++
		text := strings.TrimRight(string(line), " \t\r\n")
		if text == "" || text[0] == '#' {
			continue
		}
		name, hash, colon := strings.Cut(text, ":")
		if !colon {
			f.add(number, `there is no ":" between a name and a hash: have lines made by "htpasswd -B"`)
			continue
		}
		cost, fault := hashFault(hash)
		switch bad := nameFault(name); {
		case bad != "":
			f.add(number, "%s: %s", quoted(name), bad)
		case firstLine[name] > 0:
			f.add(number, "%s is already in line %d: remove one", quoted(name), firstLine[name])
		case fault != "":
			f.add(number, "%s: %s", quoted(name), fault)
		default:
			costs[cost]++
		}
		firstLine[name] = number
		p.hashes[name] = hash
	}
	if number = max(number, 1); len(firstLine) == 0 && f.count() == 0 {
		f.add(number, `there is no user: add one with "htpasswd -B"`)
	}
	usual := minCost
	for cost, n := range costs {
		if n >= costs[usual] {
			usual = cost
		}
	}
	p.dummy = fmt.Sprintf("$2y$%02d$%s", usual, strings.Repeat("O", hashTail))
	return p, f.err()
}

// Costs of hashes: bcrypt's least, and what takes about two seconds.
const (
	minCost = bcrypt.MinCost
	maxCost = 15
)

// hashTail is the length of salt and hash together.
const hashTail = 22 + 31

// hashFault returns the cost of a hash, or why it cannot be used.
func hashFault(hash string) (cost int, fault string) {
	const remedy = `set the password anew with "htpasswd -B"`
	if len(hash) < 4 || hash[:2] != "$2" || !strings.ContainsRune("aby", rune(hash[2])) || hash[3] != '$' {
		return 0, "the password is not hashed with bcrypt: " + remedy
	}
	tail := hash[4:]
	if len(tail) != 3+hashTail || tail[2] != '$' || !isDigit(tail[0]) || !isDigit(tail[1]) || strings.ContainsFunc(tail[3:], notRadix64) {
		return 0, "the bcrypt hash is cut off or damaged: " + remedy
	}
	cost = 10*int(tail[0]-'0') + int(tail[1]-'0')
	if cost < minCost || cost > maxCost {
		return 0, fmt.Sprintf(`the cost of the bcrypt hash is %d, and must be %d to %d: set the password anew with "htpasswd -B -C 10"`, cost, minCost, maxCost)
	}
	return cost, ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func notRadix64(r rune) bool {
	return r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}
