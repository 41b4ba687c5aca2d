package admin

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"countersign/storage/metadb"
	"countersign/tuf"
)

// What follows says in words what is wrong with a repository, and what mends it.
// The commands are those of the clients; where a docker client has one of its
// own it is named.

// Who renews a file or a certificate.
const (
	RenewedByServer = "server"     // by itself, before it expires or when it is read
	RenewedByHolder = "key holder" // whoever holds the keys
	RenewedByEither = "either"     // the server if it holds the key, which nobody has looked up
	RenewedByNobody = "nobody"     // the server should, but its signer has no key that root lists
)

// renewer says who renews the file of r.
func (r *RoleState) renewer() string {
	switch r.Role {
	case tuf.RoleTimestamp, tuf.RoleSnapshot:
	default:
		return RenewedByHolder
	}
	held := map[string]bool{}
	for _, k := range r.Keys {
		held[k.Holder] = true
	}
	switch {
	case held[HeldByServer]:
		return RenewedByServer
	case r.Role == tuf.RoleTimestamp && held[HeldByUnknown]:
		return RenewedByServer // no client can hold it
	case held[HeldByUnknown]:
		return RenewedByEither
	case r.Role == tuf.RoleTimestamp:
		return RenewedByNobody
	}
	return RenewedByHolder
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)

// word is the GUN as an argument of a command to be typed.
func word(gun tuf.GUN) string {
	if plainWord.MatchString(string(gun)) {
		return string(gun)
	}
	return "GUN"
}

// ShortID is enough of a key ID to tell it from others of a repository.
func ShortID(id tuf.KeyID) string { return fmt.Sprintf("%.12s", string(id)) }

func shortIDs(keys []KeyState, want func(KeyState) bool) string {
	var ids []string
	for _, k := range keys {
		if !want(k) {
			continue
		}
		if len(ids) == 5 {
			return strings.Join(ids, ", ") + " and others"
		}
		ids = append(ids, ShortID(k.Canonical))
	}
	return strings.Join(ids, ", ")
}

func everyKey(KeyState) bool { return true }

func (r *RoleState) trouble(state, what, do string) {
	r.Troubles = append(r.Troubles, Trouble{What: what, Do: do, state: state})
	r.Verifies = false
}

func (r *RoleState) note(what, do string) {
	r.Notes = append(r.Notes, Trouble{What: what, Do: do})
}

const fromBackup = "Bring the row back from a backup of the server's database or an archive of the repository"

func damaged(r *RoleState, what string) {
	r.trouble(StateDamaged, "its stored file is damaged: "+what+".",
		fromBackup+". Without one, whoever holds the keys publishes again, or the name is purged and started anew.")
}

func missing(r *RoleState, sum tuf.Checksum, newer bool) {
	what := fmt.Sprintf("the file that the metadata above names (SHA-256 %.12s…) is not stored", sum)
	if newer {
		what += "; what is stored as its newest version is another file"
	}
	r.trouble(StateDamaged, what+".", fromBackup+". Clients get 404 for it until then.")
}

func noTimestamp(stats map[tuf.RoleName]metadb.RoleStats) Trouble {
	t := Trouble{state: StateNoTimestamp, What: "there is no timestamp, so that clients find no repository of this name, but the name is taken.",
		Do: fromBackup + ", or purge the name so that it can be started anew."}
	if len(stats) == 0 {
		t.What, t.Do = "there is no file of this name.", "Nothing: it can be started by a first push."
	}
	return t
}

// unpublished notes that a delegation has no file yet.
func unpublished(r *RoleState) {
	if len(r.Keys) < r.Threshold {
		r.note(fmt.Sprintf("needs %s, but %s lists %s: nobody can ever sign it.", count(r.Threshold, "signature"), r.Parent, count(len(r.Keys), "key")),
			fmt.Sprintf("Whoever holds a key of %s adds a key to it, or removes it.", r.Parent))
		return
	}
	r.note("nothing has been published by it yet.", "Nothing, unless somebody waits for its signature.")
}

func stranger(r *RoleState, below bool) {
	if below {
		r.note(fmt.Sprintf("clients do not read it, because %s above it does not verify.", r.Role.Parent()), "Nothing, once that is mended.")
		return
	}
	r.note("nothing delegates to it: clients do not read it.", "Nothing. It stays named until the snapshot is made anew without it.")
}

func expired(r *RoleState) {
	do := fmt.Sprintf("Whoever holds one of its keys (%s) publishes it anew: any push with that key does, or notary witness GUN %s -p.", shortIDs(r.Keys, everyKey), r.Role)
	switch r.Role {
	case tuf.RoleRoot:
		do = "Whoever holds the root key publishes a new root: notary key rotate GUN targets, or any other rotation."
	case tuf.RoleSnapshot:
		do = "Whoever holds the snapshot key publishes anything, or has the server take it over: notary key rotate GUN snapshot -r. If the server holds it, the next read renews it."
	}
	r.trouble(StateExpired, fmt.Sprintf("it expired at %s: clients refuse it.", stamp(r.Expires)), do)
}

func overdue(r *RoleState) {
	r.note(fmt.Sprintf("it expired at %s; the server renews it when it is next read.", stamp(r.Expires)),
		"Nothing. If it stays so, look at the log of the server for why it is not renewed.")
}

// keyless: root lists timestamp keys, of which the signer has none.
func keyless(r *RoleState, gone bool) {
	what := fmt.Sprintf("the signer has none of the keys that root lists for it (%s): it cannot be renewed", shortIDs(r.Keys, everyKey))
	do := "Bring the row back from a backup of the signer's database, or whoever holds the root key has a new one made: notary key rotate GUN timestamp -r."
	if gone {
		r.trouble(StateExpired, what+fmt.Sprintf(", and it expired at %s.", stamp(r.Expires)), do)
		return
	}
	r.note(what+fmt.Sprintf(" when it expires at %s, and nothing can be published.", stamp(r.Expires)), do)
}

func gap(r *RoleState, version tuf.Version) {
	r.trouble(StateDamaged, fmt.Sprintf("version %d of it is not stored: clients that know an older one cannot get to the current one.", version),
		fromBackup+". Clients that are new to the repository are not affected.")
}

func brokenChain(r *RoleState, from, to tuf.Version, err error) {
	r.trouble(StateUnverified, fmt.Sprintf("version %d does not vouch for version %d (%v): clients that know version %d or an older one refuse the current one.", from, to, err, from),
		"If the new root is really the owner's, such clients forget the old one: they remove the folder of the repository below ~/.docker/trust/tuf (or ~/.notary/tuf). If not, somebody has replaced it: bring the old one back from a backup.")
}

// explainRoot says why root is not vouched for by itself.
func explainRoot(r *RoleState, gun tuf.GUN, now time.Time, err error) {
	var why []string
	for _, k := range r.Keys {
		c := k.Certificate
		switch id := ShortID(k.Canonical); {
		case c == nil:
			why = append(why, "key "+id+" is no certificate")
		case now.After(c.NotAfter):
			why = append(why, fmt.Sprintf("the certificate of key %s ended at %s", id, stamp(c.NotAfter)))
		case now.AddDate(0, 0, 1).Before(c.NotBefore):
			why = append(why, fmt.Sprintf("the certificate of key %s begins only at %s", id, stamp(c.NotBefore)))
		case c.CommonName != string(gun) && !(strings.HasSuffix(c.CommonName, "*") && strings.HasPrefix(string(gun), strings.TrimRight(c.CommonName, "*"))):
			why = append(why, fmt.Sprintf("the certificate of key %s is for %.255q", id, c.CommonName))
		case !k.Signed:
			why = append(why, "there is no good signature by key "+id)
		}
		if len(why) == 5 {
			break
		}
	}
	if len(why) == 0 {
		why = []string{err.Error()}
	}
	r.trouble(StateUnverified, "it does not vouch for itself: "+strings.Join(why, "; ")+". Clients refuse the whole repository.",
		"Whoever holds the root key publishes a new root: notary key rotate GUN root. If the key is lost, the name has to be purged and started anew.")
}

// explain says why the file of r does not verify against a.
func explain(r *RoleState, env *tuf.Envelope, a tuf.Authority, err error) {
	by := "root"
	if r.Parent != "" {
		by = string(r.Parent)
	}
	good, listed := 0, map[tuf.KeyID]KeyState{}
	for _, k := range r.Keys {
		listed[k.ID] = k
		if k.Signed {
			good++
		}
	}
	var foreign, bad []string
	for _, s := range env.Signatures {
		switch k, ok := listed[s.KeyID]; {
		case !ok:
			foreign = append(foreign, ShortID(s.KeyID))
		case !k.Signed:
			bad = append(bad, ShortID(k.Canonical))
		}
	}
	what := fmt.Sprintf("%d of %s needed that are good", good, count(a.Threshold, "signature"))
	reached := len(r.Keys) >= a.Threshold
	switch {
	case len(r.Keys) == 0:
		what = fmt.Sprintf("it needs %s, but %s lists no key for it: nobody can sign it", count(a.Threshold, "signature"), by)
	case !reached:
		what = fmt.Sprintf("it needs %s, but %s lists only %s for it: that can not be met", count(a.Threshold, "signature"), by, count(len(r.Keys), "key"))
	case good >= a.Threshold:
		what = err.Error()
	}
	if len(env.Signatures) == 0 {
		what += "; it is not signed at all"
	}
	if len(foreign) > 0 {
		what += fmt.Sprintf("; it is signed by key %s, which %s does not list (any more)", firstFew(foreign), by)
	}
	if len(bad) > 0 {
		what += fmt.Sprintf("; the signature by key %s is not one of these bytes: changed after it was signed, or damaged", firstFew(bad))
	}
	what += ". " + refusal(r, len(env.Signatures) > 0 && good < a.Threshold)
	r.trouble(StateUnverified, what, remedy(r, reached, len(bad) > 0))
}

// refusal says what clients do. The client library passes over a delegation
// that lacks signatures, but stops at one with none, or with a key under another's ID.
func refusal(r *RoleState, lacking bool) string {
	if r.Role.IsDelegation() && lacking {
		return "Clients pass over what it and those below it have signed."
	}
	return "Clients refuse the whole repository."
}

// remedy says what gives r good signatures.
func remedy(r *RoleState, reached, bad bool) string {
	var ways []string
	if bad {
		ways = append(ways, fromBackup)
	}
	switch {
	case r.Role.IsDelegation():
		if reached {
			ways = append(ways, fmt.Sprintf("Whoever holds key %s signs it anew: notary witness GUN %s -p, or docker trust sign of any tag", shortIDs(r.Keys, everyKey), r.Role))
		} else {
			ways = append(ways, fmt.Sprintf("Whoever holds a key of %s gives it a key, whose holder then signs: notary delegation add GUN %s CERT.pem --all-paths -p, or docker trust signer add", r.Parent, r.Role))
		}
		ways = append(ways, fmt.Sprintf("Or whoever holds a key of %s removes it: notary delegation remove GUN %s -y -p, or docker trust signer remove", r.Parent, r.Role))
	case r.Role == tuf.RoleTargets && reached:
		ways = append(ways, fmt.Sprintf("Whoever holds key %s signs it anew: notary witness GUN targets -p", shortIDs(r.Keys, everyKey)))
	case r.Role == tuf.RoleTargets:
		ways = append(ways, "Whoever holds the root key gives it a key: notary key rotate GUN targets")
	default:
		ways = append(ways, fmt.Sprintf("Whoever holds the root key has the server make a new key, and with it a new file: notary key rotate GUN %s -r", r.Role))
	}
	return strings.Join(ways, ". ") + "."
}

// inCommands puts the GUN into the commands of the troubles, if it can be typed.
func (r *Repository) inCommands() {
	put := func(list []Trouble) {
		for i := range list {
			list[i].Do = strings.ReplaceAll(list[i].Do, " GUN ", " "+word(r.GUN)+" ")
		}
	}
	put(r.Troubles)
	for _, role := range r.Roles {
		put(role.Troubles)
		put(role.Notes)
	}
}

func firstFew(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], ", ") + " and others"
	}
	return strings.Join(list, ", ")
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
