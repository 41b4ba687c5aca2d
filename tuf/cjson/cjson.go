// Package cjson reads JSON strictly and writes its canonical form: the bytes
// that Notary v1 signs and hashes, in the dialect of docker/go.
//
// In canonical form there is no white space; members are sorted by the bytes of
// their names; strings escape '"' and '\' and nothing else, not even control
// characters; numbers are integers in decimal. A number is what is left of it
// after a float64: 1e3 and 1000.0 are 1000, -0 is 0, 2^53+1 is 2^53.
//
// Both readings of a file, for its signatures and for its meaning, rest on the
// one scanner in this package, so that they cannot disagree on what it says.
// What two readers might understand differently is refused:
//
//   - two members of one object with the same name (others keep the last)
//   - bytes that are not UTF-8 (others read U+FFFD)
//   - arrays and objects nested deeper than [MaxDepth], and more than
//     [MaxMembers] or [MaxValues] of them
//   - anything but white space behind the value
//   - in canonical form, numbers beyond 64 bits: what others make of them
//     depends on the processor
package cjson

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// MaxDepth is how deep arrays and objects may be nested, so that a few
// megabytes of "[" can not exhaust the stack. No real file comes near it.
const MaxDepth = 64

// What reading takes in memory goes by the number of values, not by their
// bytes: a value of seven bytes can cost a hundred. A targets file with 200,000
// tags, each with two checksums, is within both limits.
const (
	// MaxMembers is how many members one object, or elements one array, may have.
	MaxMembers = 1 << 18
	// MaxValues is how many values all objects and arrays of one input may have
	// together.
	MaxValues = 1 << 20
)

// A SyntaxError is input that is no JSON, or that this package refuses.
type SyntaxError struct {
	Offset int // of the byte at which reading stopped
	msg    string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s (byte %d)", e.msg, e.Offset) }

// A NumberError is a valid number that has no canonical form.
type NumberError struct{ msg string }

func (e *NumberError) Error() string { return e.msg }

// Canonicalize returns the canonical form of one JSON value: raw itself, or a
// part of it, if it stands in that form already. The error is a [*SyntaxError],
// or a [*NumberError] if nothing else is wrong.
func Canonicalize(raw []byte) ([]byte, error) {
	r := NewReader(raw)
	out, err := r.Canonical(nil)
	if _, number := err.(*NumberError); err != nil && !number {
		return nil, err
	}
	if end := r.End(); end != nil {
		return nil, end
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// AppendString appends s to dst as a canonical string. Bytes that are not
// UTF-8 pass unchanged.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}

// Canonical reads a value and returns its canonical form, which may be a part
// of the input. If the value is an object and visit is not nil, visit gets each
// member of it: the name, and the value as it stands in the input; it must
// change neither, and may be told of a member twice.
//
// After a [*NumberError] the reader stands behind the value like after success,
// and the rest of the input can be read.
func (r *Reader) Canonical(visit func(name, value []byte)) ([]byte, error) {
	r.space()
	// Files of real clients are in canonical form already, so nothing is
	// copied. It is tried once for the whole value: nested tries would let a
	// hostile file be read once for each level.
	c := canonical{data: r.data, values: r.values}
	if end := c.value(r.pos, r.depth, visit); end >= 0 {
		from := r.pos
		r.pos, r.values = end, c.values
		return r.data[from:end:end], nil
	}
	r.number = nil
	dst := make([]byte, 0, len(r.data)-r.pos)
	var err error
	if r.Kind() == Object {
		dst, err = r.appendObject(dst, visit)
	} else {
		dst, err = r.appendValue(dst)
	}
	if err == nil && r.number != nil {
		err = r.number
	}
	return dst, err
}

func (r *Reader) appendValue(dst []byte) ([]byte, error) {
	switch r.Kind() {
	case Object:
		return r.appendObject(dst, nil)
	case Array:
		return r.appendArray(dst)
	case String:
		raw, escaped, err := r.scanString()
		if err != nil {
			return dst, err
		}
		return appendScanned(dst, raw, escaped), nil
	case Number:
		literal, short, err := r.scanNumber()
		if err != nil {
			return dst, err
		}
		return r.appendNumber(dst, literal, short), nil
	default:
		literal, err := r.scanLiteral()
		return append(dst, literal...), err
	}
}

// appendScanned writes a string that scanString has accepted.
func appendScanned(dst, raw []byte, escaped bool) []byte {
	if escaped {
		return AppendString(dst, string(unescape(nil, raw)))
	}
	// Without an escape there is neither '"' nor '\' in it.
	dst = append(dst, '"')
	dst = append(dst, raw...)
	return append(dst, '"')
}

func (r *Reader) appendArray(dst []byte) ([]byte, error) {
	if err := r.open('['); err != nil {
		return dst, err
	}
	dst = append(dst, '[')
	for n := 0; ; n++ {
		done, err := r.next(']', n)
		if done || err != nil {
			return append(dst, ']'), err
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		if dst, err = r.appendValue(dst); err != nil {
			return dst, err
		}
	}
}

// A member is where `"name":value` stands in the output.
type member struct{ start, nameEnd, end int }

// name returns the name as written, without quotes.
func (m member) name(out []byte) []byte { return out[m.start+1 : m.nameEnd-1] }

// appendObject writes the members in the order in which they come, and moves
// them if that was not the canonical one.
func (r *Reader) appendObject(dst []byte, visit func(name, value []byte)) ([]byte, error) {
	if err := r.open('{'); err != nil {
		return dst, err
	}
	dst = append(dst, '{')
	base, sorted := len(r.members), true
	for n := 0; ; n++ {
		done, err := r.next('}', n)
		if err != nil {
			return dst, err
		}
		if done {
			break
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		m := member{start: len(dst)}
		raw, escaped, err := r.scanName()
		if err != nil {
			return dst, err
		}
		dst = appendScanned(dst, raw, escaped)
		m.nameEnd = len(dst)
		dst = append(dst, ':')
		r.space()
		from := r.pos
		if dst, err = r.appendValue(dst); err != nil {
			return dst, err
		}
		if visit != nil {
			if escaped {
				raw = unescape(nil, raw)
			}
			visit(raw, r.data[from:r.pos])
		}
		m.end = len(dst)
		if sorted && n > 0 {
			sorted = compareNames(r.members[len(r.members)-1].name(dst), m.name(dst)) < 0
		}
		r.members = append(r.members, m)
	}
	if !sorted {
		if err := r.sortMembers(dst, r.members[base:]); err != nil {
			return dst, err
		}
	}
	r.members = r.members[:base]
	return append(dst, '}'), nil
}

// sortMembers puts the members of one object, which end the output, in order.
func (r *Reader) sortMembers(out []byte, members []member) error {
	start := members[0].start
	slices.SortFunc(members, func(a, b member) int { return compareNames(a.name(out), b.name(out)) })
	r.scratch = r.scratch[:0]
	for i, m := range members {
		if i > 0 {
			if bytes.Equal(members[i-1].name(out), m.name(out)) {
				return r.duplicate(m.name(out))
			}
			r.scratch = append(r.scratch, ',')
		}
		r.scratch = append(r.scratch, out[m.start:m.end]...)
	}
	copy(out[start:], r.scratch)
	return nil
}

// compareNames orders two canonical names by the bytes that they mean, not by
// those that they are written with.
func compareNames(a, b []byte) int {
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return bytes.Compare(a, b)
	}
	for len(a) > 0 && len(b) > 0 {
		if a[0] == '\\' {
			a = a[1:]
		}
		if b[0] == '\\' {
			b = b[1:]
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// appendNumber writes a number as it is after a float64. One that can not be
// written is noted in r.number: the file may still be well-formed.
func (r *Reader) appendNumber(dst, literal []byte, short bool) []byte {
	if short {
		return append(dst, literal...)
	}
	f, err := strconv.ParseFloat(string(literal), 64)
	switch {
	case err != nil:
		r.refuse("json: cannot unmarshal number %.80s into Go value of type float64", literal)
	case math.Floor(f) != f, f < math.MinInt64, f >= -math.MinInt64:
		r.refuse("json: unsupported value: %s", strconv.FormatFloat(f, 'g', -1, 64))
	default:
		dst = strconv.AppendInt(dst, int64(f), 10)
	}
	return dst
}

func (r *Reader) refuse(format string, arg any) {
	if r.number == nil {
		r.number = &NumberError{fmt.Sprintf(format, arg)}
	}
}
