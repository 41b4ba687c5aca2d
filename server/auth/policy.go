package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a policy and of a password file, far beyond what people write.
const (
	maxGUN    = 255 // characters, as everywhere
	maxName   = 255 // bytes of a user's or group's name, as htpasswd has it
	maxFaults = 20  // told at once
)

// actions is a set of what a rule gives.
type actions uint8

const (
	mayPull actions = 1 << iota
	mayPush
	mayAll // delete, rotate keys
)

// gives says what an action in a rule stands for: "*" is all there is. A need
// for "*" is met by nothing less.
var gives = map[string]actions{"pull": mayPull, "push": mayPush, "*": mayPull | mayPush | mayAll}

// A grant is what one rule gives.
type grant struct {
	gun     string
	prefix  bool // all GUNs below gun, or, if that is "", all
	actions actions
}

// covers reports whether the grant is about the resource of a. The catalog is
// for who has all GUNs. Since a prefix ends in a slash, it ends where a segment
// ends.
func (g grant) covers(a Access) bool {
	switch {
	case a.Type == "registry" && a.Name == "catalog":
		return g.prefix && g.gun == ""
	case a.Type != "repository" || a.Name == "":
		return false
	case g.prefix:
		return len(a.Name) > len(g.gun) && strings.HasPrefix(a.Name, g.gun)
	}
	return a.Name == g.gun
}

// A policy is what a policy file says. See [HtpasswdConfig].Policy.
type policy struct {
	everyone []grant
	users    map[string][]grant
	groups   map[string][]grant
	memberOf map[string][]string // the groups of each user
}

// allows reports whether the rules for name together give a.
func (p *policy) allows(name string, a Access) bool {
	need, ok := map[string]actions{"pull": mayPull, "push": mayPush, "*": mayAll}[a.Action]
	if !ok {
		return false
	}
	var have actions
	add := func(grants []grant) {
		for _, g := range grants {
			if g.covers(a) {
				have |= g.actions
			}
		}
	}
	add(p.everyone)
	add(p.users[name])
	for _, group := range p.memberOf[name] {
		add(p.groups[group])
	}
	return have&need != 0
}

// unknown lists the users that p names and the password file does not have.
func (p *policy) unknown(users *passwords) []string {
	names := map[string]bool{}
	for name := range p.users {
		names[name] = !users.has(name)
	}
	for name := range p.memberOf {
		names[name] = !users.has(name)
	}
	maps.DeleteFunc(names, func(_ string, missing bool) bool { return !missing })
	return slices.Sorted(maps.Keys(names))
}

// parsePolicy reads a policy file. The error tells the faults that it has, each
// with its line.
func parsePolicy(raw []byte) (*policy, error) {
	p := &policyParser{
		file:   bytes.TrimPrefix(raw, []byte(byteOrderMark)),
		policy: &policy{users: map[string][]grant{}, groups: map[string][]grant{}, memberOf: map[string][]string{}},
		named:  map[string]bool{},
	}
	if !utf8.Valid(p.file) {
		return nil, errors.New("the policy is not UTF-8: save it as UTF-8")
	}
	var all json.RawMessage
	if err := json.Unmarshal(p.file, &all); err != nil {
		at := 0
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = int(syntax.Offset)
		}
		p.fault(span{at: at}, "this is not JSON: %v", err)
		return nil, p.err()
	}
	var groups, rules *span
	begin := len(p.file) - len(bytes.TrimLeft(p.file, " \t\r\n"))
	p.object(span{all, begin}, "the policy", map[string]func(span){
		"groups": func(v span) { groups = &v },
		"rules":  func(v span) { rules = &v },
	})
	if groups != nil {
		p.groups(*groups)
	}
	switch {
	case rules != nil:
		p.list(*rules, `"rules"`, p.rule)
	case p.count() == 0:
		p.fault(span{at: begin}, `there is no "rules": add "rules":[] if nobody may do anything`)
	}
	return p.policy, p.err()
}

// A span is a value, and where in the file it begins.
type span struct {
	raw json.RawMessage
	at  int
}

// A policyParser goes through valid JSON by itself: the standard decoder takes
// the last of two members with one name, and names in any case.
type policyParser struct {
	faults
	file   []byte
	policy *policy
	named  map[string]bool // the groups that there are
}

func (p *policyParser) fault(s span, format string, args ...any) {
	line := 0
	if len(p.found) < maxFaults { // else it is only counted
		line = 1 + bytes.Count(p.file[:min(s.at, len(p.file))], []byte("\n"))
	}
	p.add(line, format, args...)
}

// object calls for each member of the object s the function of that name.
func (p *policyParser) object(s span, what string, members map[string]func(span)) {
	if s.raw[0] != '{' {
		p.fault(s, "%s must be an object", what)
		return
	}
	seen := map[string]bool{}
	p.walk(s, func(name string, v span) {
		member := members[name]
		switch {
		case seen[name]:
			p.fault(v, "%s stands here twice in one object: remove one", quoted(name))
		case member == nil:
			p.fault(v, "%s is not known here: there are %q", quoted(name), slices.Sorted(maps.Keys(members)))
		default:
			member(v)
		}
		seen[name] = true
	})
}

// list calls item for each item of the list s.
func (p *policyParser) list(s span, what string, item func(span)) {
	if s.raw[0] != '[' {
		p.fault(s, "%s must be a list", what)
		return
	}
	p.walk(s, func(_ string, v span) { item(v) })
}

// walk calls each for the members or items of s. Nothing in it can fail: the
// file is JSON.
func (p *policyParser) walk(s span, each func(name string, v span)) {
	dec := json.NewDecoder(bytes.NewReader(s.raw))
	_, _ = dec.Token()
	for dec.More() {
		var name string
		if s.raw[0] == '{' {
			token, _ := dec.Token()
			name, _ = token.(string)
		}
		var v json.RawMessage
		if dec.Decode(&v) != nil {
			p.fault(s, "this is not JSON")
			return
		}
		each(name, span{v, s.at + int(dec.InputOffset()) - len(v)})
	}
}

// text returns the string s, or says that it is none. Above all, null is not "".
func (p *policyParser) text(s span, what string) (string, bool) {
	var text string
	if s.raw[0] != '"' || json.Unmarshal(s.raw, &text) != nil {
		p.fault(s, "%s must be a string", what)
		return "", false
	}
	return text, true
}

// names returns the list of names s.
func (p *policyParser) names(s span, what string) (names []string) {
	p.list(s, what, func(v span) {
		if name, ok := p.text(v, "a name"); ok {
			if fault := nameFault(name); fault != "" && name != everybody {
				p.fault(v, "%s: %s", quoted(name), fault)
			}
			names = append(names, name)
		}
	})
	return names
}

// everybody stands in rules for all users of the password file.
const everybody = "*"

func (p *policyParser) groups(s span) {
	if s.raw[0] != '{' {
		p.fault(s, `"groups" must be an object: {"ci":["bot1","bot2"]}`)
		return
	}
	p.walk(s, func(group string, v span) {
		if p.named[group] {
			p.fault(v, "the group %s is here twice: put all its users into one list", quoted(group))
			return
		}
		p.named[group] = true
		if fault := nameFault(group); fault != "" {
			p.fault(v, "the group %s: %s", quoted(group), fault)
		}
		for _, name := range p.names(v, "a group") {
			switch {
			case name == everybody:
				p.fault(v, `"*" cannot be in a group: write "users":["*"] in a rule for all users`)
			case !slices.Contains(p.policy.memberOf[name], group):
				p.policy.memberOf[name] = append(p.policy.memberOf[name], group)
			}
		}
	})
}

// rule reads one rule and adds it to the policy.
func (p *policyParser) rule(s span) {
	var users, groups []string
	var gun, prefix *string
	var g grant
	before := p.count()
	p.object(s, "a rule", map[string]func(span){
		"users":      func(v span) { users = p.names(v, `"users"`) },
		"groups":     func(v span) { groups = p.groupNames(v) },
		"gun":        func(v span) { gun = p.gun(v, false) },
		"gun_prefix": func(v span) { prefix = p.gun(v, true) },
		"actions":    func(v span) { g.actions = p.actions(v) },
	})
	if p.count() > before {
		return // what follows would only repeat it
	}
	switch {
	case len(users)+len(groups) == 0:
		p.fault(s, `this rule is for nobody: give it "users" or "groups", or remove it`)
	case (gun == nil) == (prefix == nil):
		p.fault(s, `give each rule either "gun" or "gun_prefix"; "gun_prefix":"" is all GUNs`)
	case g.actions == 0:
		p.fault(s, `this rule allows nothing: give it "actions", such as ["pull","push"]`)
	case g.actions&mayPush != 0 && g.actions&mayPull == 0:
		p.fault(s, `this rule has "push" without "pull", and no client can upload without reading: add "pull"`)
	case gun != nil:
		g.gun = *gun
		p.grant(users, groups, g)
	default:
		g.gun, g.prefix = *prefix, true
		p.grant(users, groups, g)
	}
}

func (p *policyParser) grant(users, groups []string, g grant) {
	for _, name := range users {
		if name == everybody {
			p.policy.everyone = append(p.policy.everyone, g)
		} else {
			p.policy.users[name] = append(p.policy.users[name], g)
		}
	}
	for _, group := range groups {
		p.policy.groups[group] = append(p.policy.groups[group], g)
	}
}

// groupNames returns the groups of a rule. That a group is missing is no matter
// of two files that change one after the other, as with users, but a typo.
func (p *policyParser) groupNames(s span) []string {
	names := p.names(s, `"groups"`)
	for _, group := range names {
		if !p.named[group] {
			p.fault(s, `there is no group %s: add it to "groups"; for single users write "users"`, quoted(group))
		}
	}
	return names
}

// gun returns what a rule is about.
func (p *policyParser) gun(s span, prefix bool) *string {
	what, remedy := `"gun"`, `write it as "registry.example.com/team/app", without a "/" at the end; for all below a name write "gun_prefix"`
	if prefix {
		what, remedy = `"gun_prefix"`, `write it as "registry.example.com/team/": no "/" or ".." in front, one "/" at the end, no blanks around; "" is all GUNs`
	}
	gun, ok := p.text(s, what)
	if !ok {
		return nil
	}
	if prefix && gun == "" {
		return &gun
	}
	name, slash := strings.CutSuffix(gun, "/")
	if slash != prefix || name == "" || path.Clean(name) != name || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "..") ||
		strings.TrimSpace(gun) != gun || strings.ContainsAny(gun, "*\x00") || utf8.RuneCountInString(gun) > maxGUN {
		p.fault(s, "%s cannot be %s: %s", what, quoted(gun), remedy)
	}
	return &gun
}

func (p *policyParser) actions(s span) (all actions) {
	p.list(s, `"actions"`, func(v span) {
		action, ok := p.text(v, "an action")
		if !ok {
			return
		}
		given, known := gives[action]
		switch {
		case action == "delete":
			p.fault(v, `there is no action "delete": deleting and rotating keys need "*"`)
		case !known:
			p.fault(v, `there is no action %s: there are "pull", "push" and "*", which also deletes and rotates keys`, quoted(action))
		}
		all |= given
	})
	return all
}

// nameFault says why name cannot be a user's or group's, or returns "".
func nameFault(name string) string {
	switch {
	case name == "":
		return "a name is empty: remove it or write it out"
	case name == everybody:
		return `a name cannot be "*", which stands for all users in the policy`
	case len(name) > maxName:
		return fmt.Sprintf("the name is longer than %d bytes", maxName)
	case !utf8.ValidString(name):
		return "the name is not UTF-8"
	case strings.TrimSpace(name) != name:
		return "there are blanks around the name: remove them"
	case strings.Contains(name, ":") || strings.ContainsFunc(name, unicode.IsControl):
		return `a name cannot hold ":" or control characters`
	}
	return ""
}

// quoted is s for messages: short, and in one line.
func quoted(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}

// faults collects what is wrong with a file.
type faults struct {
	found []string
	more  int
}

func (f *faults) add(line int, format string, args ...any) {
	if len(f.found) == maxFaults {
		f.more++
		return
	}
	f.found = append(f.found, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
}

func (f *faults) count() int { return len(f.found) + f.more }

// err returns all faults as one error, or nil.
func (f *faults) err() error {
	switch {
	case len(f.found) == 0:
		return nil
	case f.more > 0:
		return fmt.Errorf("%s; and %d more", strings.Join(f.found, "; "), f.more)
	}
	return errors.New(strings.Join(f.found, "; "))
}
