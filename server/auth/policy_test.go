package auth_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"countersign/server/auth"
)

// What one user may do with one GUN: the actions that the rules give.
func (s *site) may(name, gun string) (actions string) {
	s.t.Helper()
	for _, action := range []string{"pull", "push", "*"} {
		_, err := s.ask(name, "x", []auth.Access{{Type: "repository", Name: gun, Action: action}})
		if err == nil {
			actions += action + " "
		}
	}
	return strings.TrimSpace(actions)
}

func open(t *testing.T, policy string) *site {
	t.Helper()
	s := newSite(t, users, policy)
	s.SetCompare(func(_, _ []byte) error { return nil })
	return s
}

func TestRules(t *testing.T) {
	t.Parallel()
	s := open(t, `{
		"groups": {"ci": ["bob", "carol", "bob"], "unused": ["alice"]},
		"rules": [
			{"users": ["*"], "gun_prefix": "public/", "actions": ["pull"]},
			{"groups": ["ci"], "gun_prefix": "example.com/team/", "actions": ["pull", "push"]},
			{"users": ["bob"], "gun": "example.com/team/app", "actions": ["*"]},
			{"users": ["carol"], "groups": ["ci"], "gun": "example.com:5000/x", "actions": ["pull"]},
			{"users": ["carol"], "gun": "example.com:5000/x", "actions": ["push", "pull"]},
			{"users": ["alice"], "gun_prefix": "", "actions": ["pull", "push"]},
			{"users": ["testuser"], "gun_prefix": "", "actions": ["*"]},
			{"users": ["testuser", "*"], "gun": "\u00fc", "actions": ["pull"]}
		]}`)
	const everything = "pull push *"
	for _, c := range []struct{ user, gun, want string }{
		{"bob", "public/a", "pull"}, {"bob", "public/a/b/c", "pull"}, {"bob", "public", ""}, {"bob", "public/", ""}, {"bob", "publica/b", ""}, {"bob", "Public/a", ""}, {"bob", "x/public/a", ""},
		{"bob", "example.com/team/x", "pull push"}, {"bob", "example.com/team2/x", ""}, {"bob", "example.com/team", ""}, {"bob", "example.com/teams", ""},
		{"bob", "example.com/team/app", everything}, {"bob", "example.com/team/app/x", "pull push"}, {"bob", "example.com/team/app2", "pull push"},
		{"carol", "example.com/team/app", "pull push"}, {"carol", "example.com:5000/x", "pull push"}, {"bob", "example.com:5000/x", "pull"}, {"bob", "example.com:5000/x/y", ""},
		{"alice", "public/a", "pull push"}, {"alice", "x", "pull push"}, {"testuser", "x", everything},
		{"bob", "ü", "pull"}, {"bob", "x", ""}, {"bob", "", ""}, {"testuser", "", ""}, {"nobody", "public/a", ""}, {"*", "public/a", ""}, {"ci", "example.com/team/x", ""},
	} {
		if got := s.may(c.user, c.gun); got != c.want {
			t.Errorf("%s may do %q with %q, not %q", c.user, got, c.gun, c.want)
		}
	}
	for name, may := range map[string]bool{"testuser": true, "alice": false, "bob": false} {
		if _, err := s.ask(name, "x", catalog); (err == nil) != may {
			t.Errorf("%s and the catalog: %v", name, err)
		}
	}
	// What no route asks for, nobody has.
	for _, a := range []auth.Access{
		{Type: "repository", Name: "x", Action: "delete"}, {Type: "repository", Name: "x"}, {Type: "registry", Name: "x", Action: "*"},
		{Type: "", Name: "x", Action: "pull"}, {Type: "Repository", Name: "x", Action: "pull"},
	} {
		if _, err := s.ask("testuser", "x", []auth.Access{a}); err == nil {
			t.Errorf("%+v is allowed", a)
		}
	}
	// All of what is asked for is needed.
	if _, err := s.ask("bob", "x", append(slices.Clone(pull), auth.Access{Type: "repository", Name: "example.com/team/x", Action: "pull"})); err == nil {
		t.Error("a part is enough")
	}
}

// A prefix covers a GUN just if its segments are the first ones of the GUN, and
// not all of them.
func TestPrefixIsOfSegments(t *testing.T) {
	t.Parallel()
	segment := rapid.StringMatching(`[ab]{1,2}`)
	rapid.Check(t, func(r *rapid.T) {
		prefix := rapid.SliceOfN(segment, 1, 3).Draw(r, "prefix")
		gun := rapid.SliceOfN(segment, 1, 4).Draw(r, "gun")
		if rapid.Bool().Draw(r, "below") {
			gun = append(slices.Clone(prefix), gun...)
		}
		want := len(gun) > len(prefix) && slices.Equal(gun[:len(prefix)], prefix)
		g := auth.Covers(strings.Join(prefix, "/")+"/", strings.Join(gun, "/"))
		if g != want {
			r.Errorf("%q covers %q: %v", prefix, gun, g)
		}
	})
}

func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	policy := func(members, action string) string {
		return fmt.Sprintf(`{"groups":{"ci":[%s]},"rules":[{"groups":["ci"],"gun_prefix":"a/","actions":[%s]}]}`, members, action)
	}
	s := open(t, policy(`"bob"`, `"pull"`))
	check := func(bob, carol string) {
		t.Helper()
		s.Look(t.Context())
		if b, c := s.may("bob", "a/x"), s.may("carol", "a/x"); b != bob || c != carol {
			t.Errorf("bob %q, carol %q", b, c)
		}
	}
	check("pull", "")
	write(t, s.policy, policy(`"carol","bob"`, `"pull","push"`))
	check("pull push", "pull push")
	for _, half := range []string{"", "{", policy(`"carol"`, `"pull"`)[:60], `{"groups":{}}`, policy(`"carol"`, `"pul"`)} {
		write(t, s.policy, half)
		check("pull push", "pull push")
	}
	write(t, s.policy, policy(`"carol","dave"`, `"pull"`))
	check("", "pull")
	if log := s.log.String(); !strings.Contains(log, "first=[dave]") {
		t.Error(log)
	}
	write(t, s.policy, `{"rules":[]}`)
	check("", "")
}

func TestPolicyFaults(t *testing.T) {
	t.Parallel()
	rule := func(members string) string { return `{"rules":[` + "\n{" + members + "}\n]}" }
	const who, where, what = `"users":["bob"],`, `"gun_prefix":"a/",`, `"actions":["pull"]`
	newSite(t, users, "\ufeff \n"+rule(who+where+what)+"\n") // valid, before something in it breaks
	for name, c := range map[string]struct{ file, want string }{
		"empty":            {"", "line 1: this is not JSON: unexpected end of JSON input"},
		"not JSON":         {"{\n\n  x}", "line 3: this is not JSON: invalid character 'x'"},
		"two values":       {rule(who+where+what) + "\n{}", "line 4: this is not JSON"},
		"not UTF-8":        {`{"rules":[],"groups":{"` + "\xff" + `":[]}}`, "not UTF-8"},
		"list":             {"\n[]", "line 2: the policy must be an object"},
		"null":             {"null", "line 1: the policy must be an object"},
		"no rules":         {`{"groups":{}}`, `there is no "rules": add "rules":[] if nobody may do anything`},
		"unknown":          {"{\"rules\":[],\n\"rule\":[]}", `line 2: "rule" is not known here: there are ["groups" "rules"]`},
		"other case":       {`{"Rules":[]}`, `"Rules" is not known here`},
		"rules twice":      {`{"rules":[],"rules":[]}`, `"rules" stands here twice in one object`},
		"rules null":       {`{"rules":null}`, `"rules" must be a list`},
		"rule no object":   {"{\"rules\":[\n\n[]]}", "line 3: a rule must be an object"},
		"unknown member":   {rule(who + where + what + `,"allow":true`), `line 2: "allow" is not known here: there are ["actions" "groups" "gun" "gun_prefix" "users"]`},
		"actions twice":    {rule(who + where + what + `,"actions":["*"]`), `"actions" stands here twice`},
		"escaped twice":    {rule(who + where + what + `,"\u0061ctions":["*"]`), `"actions" stands here twice`},
		"nobody":           {rule(where + what), `line 2: this rule is for nobody: give it "users" or "groups"`},
		"no users":         {rule(`"users":[],` + where + what), "this rule is for nobody"},
		"users no list":    {rule(`"users":"bob",` + where + what), `"users" must be a list`},
		"user no string":   {rule(`"users":[null],` + where + what), "a name must be a string"},
		"user empty":       {rule(`"users":[""],` + where + what), "a name is empty"},
		"user with colon":  {rule(`"users":["a:b"],` + where + what), `"a:b": a name cannot hold ":"`},
		"no such group":    {rule(`"groups":["ci"],` + where + what), `there is no group "ci": add it to "groups"`},
		"all groups":       {rule(`"groups":["*"],` + where + what), `there is no group "*"`},
		"no GUN":           {rule(who + what), `line 2: give each rule either "gun" or "gun_prefix"; "gun_prefix":"" is all GUNs`},
		"GUN and prefix":   {rule(who + where + `"gun":"a/b",` + what), `either "gun" or "gun_prefix"`},
		"prefix null":      {rule(who + `"gun_prefix":null,` + what), `"gun_prefix" must be a string`},
		"prefix star":      {rule(who + `"gun_prefix":"*",` + what), `"gun_prefix" cannot be "*"`},
		"prefix bare":      {rule(who + `"gun_prefix":"a",` + what), `"gun_prefix" cannot be "a": write it as "registry.example.com/team/"`},
		"prefix slash":     {rule(who + `"gun_prefix":"/",` + what), `"gun_prefix" cannot be "/"`},
		"prefix slashes":   {rule(who + `"gun_prefix":"a//",` + what), `"gun_prefix" cannot be "a//"`},
		"prefix from root": {rule(who + `"gun_prefix":"/a/",` + what), `cannot be "/a/"`},
		"prefix upwards":   {rule(who + `"gun_prefix":"../a/",` + what), `cannot be "../a/"`},
		"prefix unclean":   {rule(who + `"gun_prefix":"a/../b/",` + what), `cannot be "a/../b/"`},
		"prefix blank":     {rule(who + `"gun_prefix":" a/",` + what), `cannot be " a/"`},
		"prefix pattern":   {rule(who + `"gun_prefix":"a/*/",` + what), `cannot be "a/*/"`},
		"prefix too long":  {rule(who + `"gun_prefix":"` + strings.Repeat("a", 255) + `/",` + what), `aaa"…: write it as`},
		"GUN empty":        {rule(who + `"gun":"",` + what), `"gun" cannot be ""`},
		"GUN with slash":   {rule(who + `"gun":"a/b/",` + what), `"gun" cannot be "a/b/": write it as "registry.example.com/team/app", without a "/" at the end`},
		"GUN null":         {rule(who + `"gun":null,` + what), `"gun" must be a string`},
		"no actions":       {rule(`"users":["bob"],"gun":"a"`), `this rule allows nothing: give it "actions"`},
		"empty actions":    {rule(who + where + `"actions":[]`), "this rule allows nothing"},
		"action unknown":   {rule(who + where + `"actions":["pull","read"]`), `there is no action "read": there are "pull", "push" and "*"`},
		"action case":      {rule(who + where + `"actions":["Pull"]`), `there is no action "Pull"`},
		"delete":           {rule(who + where + `"actions":["pull","push","delete"]`), `there is no action "delete": deleting and rotating keys need "*"`},
		"action no string": {rule(who + where + `"actions":[1]`), "an action must be a string"},
		"push alone":       {rule(who + where + `"actions":["push"]`), `line 2: this rule has "push" without "pull", and no client can upload without reading: add "pull"`},
		"groups a list":    {`{"groups":[],"rules":[]}`, `"groups" must be an object`},
		"group no list":    {`{"groups":{"ci":"bob"},"rules":[]}`, "a group must be a list"},
		"group twice":      {`{"groups":{"ci":["bob"],"ci":["carol"]},"rules":[]}`, `the group "ci" is here twice`},
		"group unnamed":    {`{"groups":{"":["bob"]},"rules":[]}`, `the group "": a name is empty`},
		"group of all":     {`{"groups":{"ci":["*"]},"rules":[]}`, `"*" cannot be in a group`},
		"nested":           {`{"rules":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}", "exceeded max depth"},
		"several":          {"{\"x\":1,\n\"rules\":[{},\n{\"users\":[\"bob\"],\"gun\":\"a\",\"actions\":[\"push\"]}]}", `line 1: "x" is not known here: there are ["groups" "rules"]; line 2: this rule is for nobody: give it "users" or "groups", or remove it; line 3: this rule has "push" without "pull"`},
		"many":             {`{"rules":[` + strings.Repeat("{},", 99) + "{}]}", "; and 80 more"},
		"many names":       {rule(`"users":[` + strings.Repeat(`"",`, 20_000) + `""]`), "; and 19981 more"},
	} {
		s, err := trySite(t, users, c.file)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), s.policy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
