package cjson

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A Kind is what sort of value comes next.
type Kind byte

// The kinds of a JSON value. None is the end of the input, or a byte that can
// begin no value.
const (
	None Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

var kinds = [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}

func (k Kind) String() string { return kinds[k] }

// A Reader reads JSON values from a byte slice, one after the other. Every
// method that reads a value fails with a [*SyntaxError] and then leaves the
// Reader useless. A Reader is not safe for use by several goroutines.
type Reader struct {
	data  []byte
	pos   int
	depth int

	values  int          // read so far, of all objects and arrays
	number  *NumberError // the first of the current call of Canonical
	members []member     // of all objects open in Canonical
	names   [][]byte     // of all objects open in Object
	scratch []byte       // for sorting
}

// NewReader returns a Reader of data, which must not change while it is read.
func NewReader(data []byte) *Reader { return &Reader{data: data} }

// Kind returns what sort of value comes next, and skips white space before it.
func (r *Reader) Kind() Kind {
	r.space()
	if r.pos == len(r.data) {
		return None
	}
	switch c := r.data[r.pos]; {
	case c == '"':
		return String
	case c == '{':
		return Object
	case c == '[':
		return Array
	case c == '-', '0' <= c && c <= '9':
		return Number
	case c == 't', c == 'f':
		return Bool
	case c == 'n':
		return Null
	}
	return None
}

// End fails unless only white space is left.
func (r *Reader) End() error {
	r.space()
	if r.pos < len(r.data) {
		return r.fail("data behind the JSON value")
	}
	return nil
}

// Object reads an object. It calls f for each member, with its name; f must
// read the value. If f fails, so does Object, with the same error. That a name
// came twice is found at the end: until Object returns nil, what f has read
// does not count.
func (r *Reader) Object(f func(name []byte) error) error {
	if err := r.open('{'); err != nil {
		return err
	}
	base, sorted := len(r.names), true
	for n := 0; ; n++ {
		done, err := r.next('}', n)
		if err != nil {
			return err
		}
		if done {
			break
		}
		name, escaped, err := r.scanName()
		if err != nil {
			return err
		}
		if escaped {
			name = unescape(nil, name)
		}
		if sorted && n > 0 {
			sorted = bytes.Compare(r.names[len(r.names)-1], name) < 0
		}
		r.names = append(r.names, name)
		if err := f(name); err != nil {
			return err
		}
	}
	names := r.names[base:]
	if !sorted {
		slices.SortFunc(names, bytes.Compare)
		for i := 1; i < len(names); i++ {
			if bytes.Equal(names[i-1], names[i]) {
				return r.duplicate(names[i])
			}
		}
	}
	r.names = r.names[:base]
	return nil
}

// Array reads an array. It calls f for each element; f must read the value. If
// f fails, so does Array, with the same error.
func (r *Reader) Array(f func() error) error {
	if err := r.open('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		done, err := r.next(']', n)
		if done || err != nil {
			return err
		}
		if err := f(); err != nil {
			return err
		}
	}
}

// Text reads a string and returns what it means. The slice may be part of the
// input: it must not be changed.
func (r *Reader) Text() ([]byte, error) {
	if r.Kind() != String {
		return nil, r.fail("expected a string")
	}
	raw, escaped, err := r.scanString()
	if escaped && err == nil {
		raw = unescape(nil, raw)
	}
	return raw, err
}

// Int reads a number that is written as an integer of at most 64 bits: neither
// 1.0 nor 1e3.
func (r *Reader) Int() (int64, error) {
	if r.Kind() != Number {
		return 0, r.fail("expected a number")
	}
	literal, _, err := r.scanNumber()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(literal), 10, 64)
	if err != nil {
		return 0, r.fail("%.80s is no integer of 64 bits", literal)
	}
	return n, nil
}

// Skip reads a value of any kind and returns it as it stands in the input.
func (r *Reader) Skip() ([]byte, error) {
	kind := r.Kind()
	from := r.pos
	var err error
	switch kind {
	case Object:
		err = r.Object(func([]byte) error { _, err := r.Skip(); return err })
	case Array:
		err = r.Array(func() error { _, err := r.Skip(); return err })
	case String:
		_, _, err = r.scanString()
	case Number:
		_, _, err = r.scanNumber()
	default:
		_, err = r.scanLiteral()
	}
	return r.data[from:r.pos], err
}

func (r *Reader) fail(format string, args ...any) error {
	return &SyntaxError{Offset: r.pos, msg: fmt.Sprintf(format, args...)}
}

func (r *Reader) duplicate(name []byte) error { return r.fail("duplicate member %.80q", name) }

func (r *Reader) space() {
	for r.pos < len(r.data) {
		if c := r.data[r.pos]; c > ' ' || (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
			return
		}
		r.pos++
	}
}

func (r *Reader) open(c byte) error {
	r.space()
	if r.pos == len(r.data) || r.data[r.pos] != c {
		return r.fail("expected %q", c)
	}
	if r.depth == MaxDepth {
		return r.fail("nested deeper than %d", MaxDepth)
	}
	r.depth++
	r.pos++
	return nil
}

// next steps to the next element of what open has opened, or behind its end.
// Of its elements n have been read.
func (r *Reader) next(end byte, n int) (done bool, err error) {
	r.space()
	switch {
	case r.pos == len(r.data):
		return false, r.fail("unexpected end")
	case r.data[r.pos] == end:
		r.pos++
		r.depth--
		return true, nil
	case n > 0 && r.data[r.pos] != ',':
		return false, r.fail("expected ',' or %q", end)
	case n == MaxMembers:
		return false, r.fail("more than %d values in one object or array", MaxMembers)
	case r.values == MaxValues:
		return false, r.fail("more than %d values", MaxValues)
	}
	if n > 0 {
		r.pos++
	}
	r.values++
	return false, nil
}

// scanName reads the name of a member and the colon.
func (r *Reader) scanName() (raw []byte, escaped bool, err error) {
	r.space()
	if r.pos == len(r.data) || r.data[r.pos] != '"' {
		return nil, false, r.fail("expected the name of a member")
	}
	if raw, escaped, err = r.scanString(); err != nil {
		return nil, false, err
	}
	r.space()
	if r.pos == len(r.data) || r.data[r.pos] != ':' {
		return nil, false, r.fail("expected ':'")
	}
	r.pos++
	return raw, escaped, nil
}

// plain are the bytes that a string can hold and that mean themselves, except
// for those of longer UTF-8 sequences.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// scanString checks the string that begins at the current byte and returns
// what is between its quotes.
func (r *Reader) scanString() (raw []byte, escaped bool, err error) {
	from := r.pos + 1
	for r.pos = from; r.pos < len(r.data); {
		c := r.data[r.pos]
		switch {
		case plain[c]:
			r.pos++
		case c == '"':
			r.pos++
			return r.data[from : r.pos-1], escaped, nil
		case c == '\\':
			escaped = true
			if err := r.scanEscape(); err != nil {
				return nil, false, err
			}
		case c < ' ':
			return nil, false, r.fail("control character in a string")
		default:
			c, size := utf8.DecodeRune(r.data[r.pos:])
			if c == utf8.RuneError && size == 1 {
				return nil, false, r.fail("string is not UTF-8")
			}
			r.pos += size
		}
	}
	return nil, false, r.fail("unexpected end of a string")
}

func (r *Reader) scanEscape() error {
	r.pos++
	if r.pos == len(r.data) {
		return r.fail("unexpected end of a string")
	}
	switch r.data[r.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
	case 'u':
		if _, ok := hex4(r.data[r.pos+1:]); !ok {
			return r.fail(`\u without four hex digits`)
		}
		r.pos += 4
	default:
		return r.fail("unknown escape")
	}
	r.pos++
	return nil
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var c rune
	for _, d := range b[:4] {
		switch {
		case '0' <= d && d <= '9':
			d -= '0'
		case 'a' <= d && d <= 'f':
			d -= 'a' - 10
		case 'A' <= d && d <= 'F':
			d -= 'A' - 10
		default:
			return 0, false
		}
		c = c<<4 | rune(d)
	}
	return c, true
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unescape appends what a string means that scanString has accepted. Half a
// surrogate pair means U+FFFD, as in encoding/json.
func unescape(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i+1:]
		if raw[0] != 'u' {
			dst = append(dst, escapes[raw[0]])
			raw = raw[1:]
			continue
		}
		c, _ := hex4(raw[1:])
		raw = raw[5:]
		if utf16.IsSurrogate(c) {
			pair := rune(unicode.ReplacementChar)
			if len(raw) > 1 && raw[0] == '\\' && raw[1] == 'u' {
				low, _ := hex4(raw[2:])
				pair = utf16.DecodeRune(c, low)
			}
			if c = pair; c != unicode.ReplacementChar {
				raw = raw[6:]
			}
		}
		dst = utf8.AppendRune(dst, c)
	}
}

// scanNumber checks the number that begins at the current byte. A short one is
// in canonical form already: an integer that a float64 can hold exactly.
func (r *Reader) scanNumber() (literal []byte, short bool, err error) {
	from := r.pos
	if r.data[r.pos] == '-' {
		r.pos++
	}
	digits := r.pos
	short = true
	switch {
	case r.pos < len(r.data) && r.data[r.pos] == '0':
		r.pos++
		short = digits == from // not -0
	case !r.scanDigits():
		return nil, false, r.fail("expected a digit")
	}
	short = short && r.pos-digits <= 15
	if r.pos < len(r.data) && r.data[r.pos] == '.' {
		short = false
		r.pos++
		if !r.scanDigits() {
			return nil, false, r.fail("expected a digit")
		}
	}
	if r.pos < len(r.data) && (r.data[r.pos] == 'e' || r.data[r.pos] == 'E') {
		short = false
		r.pos++
		if r.pos < len(r.data) && (r.data[r.pos] == '+' || r.data[r.pos] == '-') {
			r.pos++
		}
		if !r.scanDigits() {
			return nil, false, r.fail("expected a digit")
		}
	}
	return r.data[from:r.pos], short, nil
}

func (r *Reader) scanDigits() bool {
	from := r.pos
	for r.pos < len(r.data) && '0' <= r.data[r.pos] && r.data[r.pos] <= '9' {
		r.pos++
	}
	return r.pos > from
}

func (r *Reader) scanLiteral() ([]byte, error) {
	for _, l := range [...]string{"true", "false", "null"} {
		if bytes.HasPrefix(r.data[r.pos:], []byte(l)) {
			r.pos += len(l)
			return r.data[r.pos-len(l) : r.pos], nil
		}
	}
	if r.pos == len(r.data) {
		return nil, r.fail("unexpected end")
	}
	return nil, r.fail("expected a value")
}
