package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"countersign/admin"
)

// icsStamp is a date with time in UTC (RFC 5545, 3.3.5).
const icsStamp = "20060102T150405Z"

// writeCalendar writes the dates as an iCalendar (RFC 5545) with a reminder a
// week before each that somebody must see to.
func writeCalendar(w io.Writer, list []admin.Expiry, now time.Time) error {
	c := calendar{w: bufio.NewWriter(w)}
	c.line("BEGIN", "VCALENDAR")
	c.line("VERSION", "2.0")
	c.line("PRODID", "-//Countersign//trust-admin expiry//EN")
	c.line("CALSCALE", "GREGORIAN")
	c.line("X-WR-CALNAME", "Trust expiry")
	for _, e := range list {
		c.event(e, now)
	}
	c.line("END", "VCALENDAR")
	return c.w.Flush()
}

// A calendar keeps its first error in the writer.
type calendar struct{ w *bufio.Writer }

func (c calendar) event(e admin.Expiry, now time.Time) {
	what := string(e.Role)
	if e.Kind == admin.ExpiryCertificate {
		what = "certificate of " + what
	}
	c.line("BEGIN", "VEVENT")
	c.line("UID", uid(e))
	c.line("DTSTAMP", now.UTC().Format(icsStamp))
	c.line("DTSTART", e.Expires.UTC().Format(icsStamp))
	c.line("SUMMARY", escapeText(fmt.Sprintf("%s: %s expires", printable(string(e.GUN), 300), printable(what, 300))))
	description := fmt.Sprintf("Then: %s.\nRenewed by: %s (%s).", e.Effect, e.RenewedBy, e.How)
	for _, id := range e.Keys {
		description += "\nKey: " + printable(string(id), 64)
	}
	for _, cn := range e.CommonNames {
		description += "\nCertificate: " + printable(cn, 300)
	}
	c.line("DESCRIPTION", escapeText(description))
	c.line("CATEGORIES", escapeText(e.RenewedBy))
	c.line("TRANSP", "TRANSPARENT")
	if e.RenewedBy != admin.RenewedByServer {
		c.line("BEGIN", "VALARM")
		c.line("ACTION", "DISPLAY")
		c.line("TRIGGER", "-P7D")
		c.line("DESCRIPTION", escapeText(printable(string(e.GUN), 300)+": "+printable(what, 300)+" expires in a week"))
		c.line("END", "VALARM")
	}
	c.line("END", "VEVENT")
}

// uid is the same for the same date of the same thing, in every run; a renewal
// is another entry.
func uid(e admin.Expiry) string {
	h := sha256.New()
	key := ""
	if e.Kind == admin.ExpiryCertificate && len(e.Keys) > 0 {
		key = string(e.Keys[0])
	}
	for _, part := range []string{string(e.GUN), string(e.Role), e.Kind, key, e.Expires.UTC().Format(time.RFC3339Nano)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]) + "@countersign"
}

// escapeText escapes a value of type TEXT (3.3.11), and drops what it may not hold.
func escapeText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	return strings.NewReplacer(`\`, `\\`, ";", `\;`, ",", `\,`, "\n", `\n`).Replace(s)
}

// line writes one content line, folded so that none has more than 75 octets and
// no character is cut (3.1).
func (c calendar) line(name, value string) {
	text := name + ":" + value
	room := 75
	for len(text) > room {
		cut := room
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		_, _ = c.w.WriteString(text[:cut] + "\r\n ") // Flush returns the error
		text, room = text[cut:], 74
	}
	_, _ = c.w.WriteString(text + "\r\n")
}
