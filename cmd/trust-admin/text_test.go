package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain/name:1": "plain/name:1", "ü ключ": "ü ключ", "\x1b[2J": `\x1b[2J`, "a\nb\tc": `a\nb\tc`, "\xff\xc3": `\xff\xc3`,
		"\u202e\u009b\u2028": `\u202e\u009b\u2028`, "\x00\x7f": `\x00\x7f`,
	} {
		if got := printable(in, 20); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := printable("0123456789abcdef", 9); got != "0123…cdef" {
		t.Errorf("cut: %q", got)
	}
}

// Whatever a name is, it comes out in printable characters, bounded; and lines
// are never too long and hold every letter.
func TestTextProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		width := rapid.IntRange(5, 100).Draw(t, "width")
		got := printable(s, width)
		if utf8.RuneCountInString(got) > 10*width || !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\n\r\x00") {
			t.Fatalf("%q", got)
		}
		var b bytes.Buffer
		if err := paragraph(&b, 20, "+- ", "   ", got); err != nil {
			t.Fatal(err)
		}
		letters := ""
		for line := range strings.Lines(b.String()) {
			if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > 20 {
				t.Fatalf("long: %q", line)
			}
			letters += strings.Join(strings.Fields(line[3:]), "")
		}
		if letters != strings.Join(strings.Fields(got), "") {
			t.Fatalf("%q became %q", got, b.String())
		}
		text := rapid.String().Draw(t, "json")
		b.Reset()
		if err := (lines{&b}).write(text, false); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back != text {
			t.Fatalf("%q became %q: %v", text, back, err)
		}
	})
}

func TestHumanSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 123456: "123 kB", 999_600: "1.0 MB", 5 << 40: "5.5 TB", 1 << 62: "4612 PB"} {
		if got := humanSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
