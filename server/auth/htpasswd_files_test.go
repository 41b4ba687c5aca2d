package auth_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"countersign/server/auth"
)

func TestPasswordFileChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	s.allowed("bob", "right b", pull)

	for name, half := range map[string]string{
		"empty": "", "comments": "# the\n# team\n", "in a hash": users[:strings.Index(users, hashB)+40], "in a name": "alice:" + hashA + "\nbo", "not text": "\x00\xff\n",
	} {
		write(t, s.users, half)
		s.Look(t.Context())
		s.allowed("bob", "right b", pull)
		s.allowed("carol", "right y", pull)
		if log := s.log.String(); strings.Count(log, "stays in force") != 1 {
			t.Errorf("%s: %s", name, log)
		}
		s.log.b.Reset()
	}
	if err := os.Remove(s.users); err != nil {
		t.Fatal(err)
	}
	s.Look(t.Context())
	s.allowed("bob", "right b", pull)

	write(t, s.users, "bob:"+hashY+"\ndave:"+hashA+"\n")
	s.Look(t.Context())
	_, err := s.ask("bob", "right b", pull)
	s.refused(err, publicWrong)
	s.allowed("bob", "right y", pull)
	s.allowed("dave", "right a", pull)
	_, err = s.ask("carol", "right y", pull)
	s.refused(err, publicWrong)
	if log := s.log.String(); !strings.Contains(log, "users that are not in the password file") || !strings.Contains(log, "first=[alice]") {
		t.Error(log)
	}
}

// Watch is what does it in the program.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t, users, rules)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Watch(ctx); close(done) }()
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it goes on after its context")
	}
}

func TestPasswordFileFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, want string }{
		"empty":         {"", `line 1: there is no user: add one with "htpasswd -B"`},
		"comments":      {"# a\n\n", `line 2: there is no user`},
		"no colon":      {"alice:" + hashA + "\nsecret\n", `line 2: there is no ":" between a name and a hash: have lines made by "htpasswd -B"`},
		"empty name":    {":" + hashA, `line 1: "": a name is empty`},
		"star":          {"*:" + hashA, `line 1: "*": a name cannot be "*"`},
		"blank before":  {" alice:" + hashA, `line 1: " alice": there are blanks around the name`},
		"control":       {"al\x01ice:" + hashA, `a name cannot hold ":" or control characters`},
		"not UTF-8":     {"al\xffice:" + hashA, `line 1: "al\xffice": the name is not UTF-8`},
		"long name":     {strings.Repeat("n", 256) + ":" + hashA, `…: the name is longer than 255 bytes`},
		"twice":         {"alice:" + hashA + "\n\nbob:" + hashA + "\nalice:" + hashB, `line 4: "alice" is already in line 1: remove one`},
		"plain":         {"alice:secret", `line 1: "alice": the password is not hashed with bcrypt: set the password anew with "htpasswd -B"`},
		"nothing":       {"alice:", `the password is not hashed with bcrypt`},
		"MD5":           {"alice:$apr1$secret$secretsecretsecret", `the password is not hashed with bcrypt`},
		"SHA":           {"alice:{SHA}secretsecretsecretsecret=", `the password is not hashed with bcrypt`},
		"SHA-256":       {"alice:$5$secret$secret", `the password is not hashed with bcrypt`},
		"2x":            {"alice:" + strings.Replace(hashA, "$2a$", "$2x$", 1), `the password is not hashed with bcrypt`},
		"2":             {"alice:" + strings.Replace(hashA, "$2a$", "$2$", 1), `the password is not hashed with bcrypt`},
		"cut off":       {"alice:" + hashA[:59], `line 1: "alice": the bcrypt hash is cut off or damaged: set the password anew`},
		"too long":      {"alice:" + hashA + "x", `cut off or damaged`},
		"other letters": {"alice:" + strings.Replace(hashA, "u", "=", 1), `cut off or damaged`},
		"no cost":       {"alice:" + strings.Replace(hashA, "$04$", "$xx$", 1), `cut off or damaged`},
		"no dollar":     {"alice:" + strings.Replace(hashA, "$04$", "$04.", 1), `cut off or damaged`},
		"cheap":         {"alice:" + strings.Replace(hashA, "$04$", "$03$", 1), `the cost of the bcrypt hash is 3, and must be 4 to 15: set the password anew with "htpasswd -B -C 10"`},
		"dear":          {"alice:" + strings.Replace(hashA, "$04$", "$16$", 1), `the cost of the bcrypt hash is 16`},
		"large":         {strings.Repeat("#\n", 4<<20+1), `larger than 8 MiB`},
		"several":       {"alice\nbob:x\n:", `line 1: there is no ":" between a name and a hash: have lines made by "htpasswd -B"; line 2: "bob": the password is not hashed with bcrypt: set the password anew with "htpasswd -B"; line 3: "": a name is empty`},
		"many":          {strings.Repeat("x\n", 100), `; and 80 more`},
	} {
		s, err := trySite(t, c.file, rules)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), s.users) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, secret := range []string{"secret", "abcdefghij", "$2"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v tells %q", name, err, secret)
			}
		}
	}
	for name, file := range map[string]string{
		"byte order mark": "\ufeffalice:" + hashA, "CRLF": "alice:" + hashA + "\r\n\r\n", "blanks after": "alice:" + hashA + " \t\n", "costliest": "alice:" + hashA + "\nzoe:" + strings.Replace(hashA, "$04$", "$15$", 1),
	} {
		t.Run(name, func(t *testing.T) {
			newSite(t, file, rules).allowed("alice", "right a", pull)
		})
	}
}

// Who has to mend two files is told of both at once.
func TestFaultsOfBothFiles(t *testing.T) {
	t.Parallel()
	_, err := trySite(t, "alice:x", `{}`)
	if err == nil || !strings.Contains(err.Error(), "not hashed with bcrypt") || !strings.Contains(err.Error(), `there is no "rules"`) {
		t.Error(err)
	}
	_, err = auth.NewHtpasswd(auth.HtpasswdConfig{Realm: "Notary", Path: "/nowhere/users", Policy: "/nowhere/policy", Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nowhere/users") || !strings.Contains(err.Error(), "/nowhere/policy") {
		t.Error(err)
	}
	if _, err = auth.NewHtpasswd(auth.HtpasswdConfig{Realm: "Notary"}); err == nil {
		t.Error("made without a log and a clock")
	}
}
