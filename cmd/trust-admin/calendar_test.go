package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"countersign/admin"
	"countersign/tuf"
	"countersign/tuf/tuftest"
)

// An event of a calendar: its properties, alarms left out, with values as they
// are meant.
type event map[string]string

var (
	icsName = regexp.MustCompile(`^[A-Z0-9-]+$`)
	icsTime = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
)

// parseCalendar reads a calendar as strictly as RFC 5545 is written: every line
// ends with CRLF and has at most 75 octets of UTF-8, folds are a CRLF and one blank, components
// nest, and each event has its required properties once.
func parseCalendar(t *testing.T, data string) []event {
	t.Helper()
	if !strings.HasSuffix(data, "\r\n") {
		t.Fatal("the last line does not end")
	}
	var unfolded []string
	for _, line := range strings.Split(strings.TrimSuffix(data, "\r\n"), "\r\n") {
		if len(line) > 75 || !utf8.ValidString(line) || strings.ContainsAny(line, "\r\n") || line == "" {
			t.Fatalf("line of %d octets: %q", len(line), line)
		}
		for _, r := range line {
			if r < ' ' && r != '\t' || r == 0x7f {
				t.Fatalf("a control character in %q", line)
			}
		}
		if rest, folded := strings.CutPrefix(line, " "); folded {
			if len(unfolded) == 0 {
				t.Fatal("the first line is folded")
			}
			unfolded[len(unfolded)-1] += rest
			continue
		}
		unfolded = append(unfolded, line)
	}
	var stack []string
	var events []event
	var calendar, current event
	for i, line := range unfolded {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !icsName.MatchString(name) {
			t.Fatalf("no property: %q", line)
		}
		switch name {
		case "BEGIN":
			if want := map[string]string{"VCALENDAR": "", "VEVENT": "VCALENDAR", "VALARM": "VCALENDAR VEVENT"}; want[value] != strings.Join(stack, " ") || i == 0 != (value == "VCALENDAR") {
				t.Fatalf("%s in %v", value, stack)
			}
			stack = append(stack, value)
			if value == "VCALENDAR" {
				calendar = event{}
			} else if value == "VEVENT" {
				current = event{}
			}
			continue
		case "END":
			if len(stack) == 0 || stack[len(stack)-1] != value {
				t.Fatalf("END:%s in %v", value, stack)
			}
			stack = stack[:len(stack)-1]
			if value == "VEVENT" {
				events = append(events, current)
			}
			if value == "VCALENDAR" && i != len(unfolded)-1 {
				t.Fatal("lines behind the end")
			}
			continue
		}
		if len(stack) == 0 {
			t.Fatalf("outside of everything: %q", line)
		}
		into := map[string]event{"VCALENDAR": calendar, "VEVENT": current, "VALARM": {}}[stack[len(stack)-1]]
		if _, twice := into[name]; twice {
			t.Fatalf("%s twice", name)
		}
		switch name {
		case "SUMMARY", "DESCRIPTION", "CATEGORIES":
			value = unescapeText(t, value)
		case "DTSTAMP", "DTSTART":
			if _, err := time.Parse(icsStamp, value); err != nil || !icsTime.MatchString(value) {
				t.Fatalf("%s: %q", name, value)
			}
		}
		into[name] = value
	}
	if len(stack) > 0 || calendar["VERSION"] != "2.0" || calendar["PRODID"] == "" {
		t.Fatalf("calendar %v, open: %v", calendar, stack)
	}
	seen := map[string]bool{}
	for _, e := range events {
		for _, required := range []string{"UID", "DTSTAMP", "DTSTART", "SUMMARY"} {
			if e[required] == "" {
				t.Fatalf("no %s: %v", required, e)
			}
		}
		if seen[e["UID"]] {
			t.Fatalf("UID %s twice", e["UID"])
		}
		seen[e["UID"]] = true
	}
	return events
}

func unescapeText(t *testing.T, s string) string {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && strings.ContainsRune(`\;,`, rune(s[i+1])):
			i++
			b.WriteByte(s[i])
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == 'n':
			i++
			b.WriteByte('\n')
		case strings.ContainsRune(`\;,`, rune(s[i])):
			t.Fatalf("not escaped: %q", s)
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func TestCalendar(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC)
	var list []admin.Expiry
	// Each length, so that folds come everywhere, also within a character.
	for n := range 120 {
		list = append(list, admin.Expiry{
			GUN: tuf.GUN("example.org/" + strings.Repeat("ü", n)), Role: "targets", Kind: admin.ExpiryCertificate, Expires: now.Add(time.Duration(n) * time.Hour),
			RenewedBy: admin.RenewedByHolder, Keys: []tuf.KeyID{tuf.KeyID(fmt.Sprintf("%064d", n))}, CommonNames: []string{`a, "b"; c\d` + "\r\nEND:VCALENDAR\x00\u0085"},
			Effect: "clients refuse it; all of it", How: "a, b",
		})
	}
	two := list[0]
	two.Kind = admin.ExpiryFile
	list = append(list, two)
	write := func(at time.Time) string {
		var b bytes.Buffer
		if err := writeCalendar(&b, list, at); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	first, second := parseCalendar(t, write(now)), parseCalendar(t, write(now.Add(time.Hour)))
	if len(first) != len(list) || len(second) != len(list) {
		t.Fatalf("%d and %d events, want %d", len(first), len(second), len(list))
	}
	for i, e := range first {
		if e["UID"] != second[i]["UID"] || e["DTSTAMP"] != "20261121T160000Z" || second[i]["DTSTAMP"] != "20261121T170000Z" {
			t.Errorf("not stable: %v, %v", e, second[i])
		}
		if e["DTSTART"] != list[i].Expires.Format(icsStamp) || !strings.HasPrefix(e["SUMMARY"], string(list[i].GUN)+": ") {
			t.Errorf("%v", e)
		}
		if want := `Certificate: a, "b"; c\d\r\nEND:VCALENDAR\x00\u0085`; !strings.Contains(e["DESCRIPTION"], want) || !strings.Contains(e["DESCRIPTION"], string(list[i].Keys[0])) {
			t.Fatalf("%q does not hold %q", e["DESCRIPTION"], want)
		}
	}
	// A renewal is another entry; none is an empty calendar.
	list[0].Expires = list[0].Expires.Add(time.Second)
	if parseCalendar(t, write(now))[0]["UID"] == first[0]["UID"] {
		t.Error("the same UID for another date")
	}
	list = nil
	if events := parseCalendar(t, write(now)); len(events) != 0 {
		t.Errorf("%v", events)
	}
}

// The command's three forms and its exit codes.
func TestExpiryCommand(t *testing.T) {
	s := newShop(t, "sqlite3")
	fresh := tuftest.New(t, "example.org/fresh", tuftest.Options{})
	s.put(fresh)
	without := func(args ...string) (int, string, string) { // the signer's keys are not known
		return runAdmin(t, append(args, s.flags[:2]...)...)
	}
	if code, out, errs := without("expiry"); code != 0 || !strings.Contains(out, "server") || errs != "" {
		t.Errorf("only what the server renews: %d %s%s", code, out, errs)
	}
	if code, out, _ := without("expiry", "--skip-server"); code != 0 || out != "nothing expires within the time\n" {
		t.Errorf("nothing: %d %s", code, out)
	}
	soon := tuftest.New(t, "example.org/soon", tuftest.Options{})
	soon.Targets["targets"].Expires = time.Now().Add(10*24*time.Hour + time.Hour)
	s.put(soon)
	code, out, errs := without("expiry", "--within", "2w", "--skip-server")
	if lines := strings.Split(out, "\n"); code != 3 || len(lines) != 3 || !strings.Contains(lines[1], "    10  file         key holder  example.org/soon, targets (") || !strings.Contains(errs, "1 date within 2w") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, _, _ := without("expiry", "--within", "1w", "--skip-server"); code != 0 {
		t.Errorf("later than that: %d", code)
	}
	code, out, _ = without("expiry", "example.org/soon", "--all", "--output", "ics")
	if events := parseCalendar(t, out); code != 3 || len(events) != 5 { // four files and the certificate
		t.Errorf("%d, %d events", code, len(events))
	}
	code, out, _ = without("expiry", "--within", "2w", "--prefix", "example.org/s", "--output", "json")
	if code != 3 || !strings.Contains(out, `"days_left": 10`) || !strings.Contains(out, `"renewed_by": "key holder"`) || strings.Contains(out, "fresh") {
		t.Errorf("%d\n%s", code, out)
	}
}
