package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// What names repositories, roles, tags and certificates was chosen by others,
// and the database may hold anything: no byte of it reaches a terminal that the
// terminal would not simply print.

// printable is s with all else escaped as Go does, and cut in the middle to at
// most width characters.
func printable(s string, width int) string {
	if utf8.RuneCountInString(s) > width {
		// Before it is escaped, so that megabytes are not.
		runes := []rune(s)
		keep := max(width-1, 2)
		s = string(runes[:keep-keep/2]) + "…" + string(runes[len(runes)-keep/2:])
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case strconv.IsPrint(r):
			b.WriteString(s[i : i+n])
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// lines writes JSON, one value a line, in which every character that a terminal
// would not simply print is escaped.
type lines struct{ w io.Writer }

func (l lines) write(v any, indent bool) error {
	data, err := json.Marshal(v)
	if indent && err == nil {
		data, err = json.MarshalIndent(v, "", "  ")
	}
	if err != nil {
		return err
	}
	var b strings.Builder
	b.Grow(len(data) + 1)
	for _, r := range string(data) {
		switch {
		case strconv.IsPrint(r) || r == '\n':
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('\n')
	_, err = io.WriteString(l.w, b.String())
	return err
}

// humanSize is a number of bytes in at most seven characters.
func humanSize(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB"} {
		f /= 1000
		if f < 9.95 {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
		if f < 999.5 {
			return fmt.Sprintf("%.0f %s", f, unit)
		}
	}
	return fmt.Sprintf("%.0f PB", f/1000)
}

// clock is a time as the tables show it, in UTC.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// paragraph breaks text into lines of at most width characters, each behind indent,
// the first behind first. A word that is longer is cut.
func paragraph(w io.Writer, width int, first, indent, text string) error {
	var b strings.Builder
	line, used := first, utf8.RuneCountInString(first)
	empty := true
	for _, word := range strings.Fields(text) {
		for word != "" {
			n := utf8.RuneCountInString(word)
			room := width - used
			if !empty {
				room--
			}
			if n <= room {
				if !empty {
					line += " "
					used++
				}
				line, used, empty, word = line+word, used+n, false, ""
				continue
			}
			if empty { // longer than a whole line
				runes := []rune(word)
				line, word = line+string(runes[:max(room, 1)]), string(runes[max(room, 1):])
			}
			b.WriteString(line + "\n")
			line, used, empty = indent, utf8.RuneCountInString(indent), true
		}
	}
	if !empty {
		b.WriteString(line + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
