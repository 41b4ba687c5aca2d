package cjson

import (
	"bytes"
	"unicode/utf8"
)

// A canonical reads input that stands in canonical form.
type canonical struct {
	data   []byte
	values int // as [Reader.values]
}

// value returns where the value ends that begins at data[i], if it stands there
// in canonical form and within all limits, or -1. It judges nothing else: what
// it does not accept is read again by those who know why.
func (c *canonical) value(i, depth int, visit func(name, value []byte)) int {
	data := c.data
	if i == len(data) {
		return -1
	}
	switch b := data[i]; {
	case b == '"':
		end, _ := canonicalString(data, i)
		return end
	case b == '{' && depth < MaxDepth:
		return c.object(i+1, depth+1, visit)
	case b == '[' && depth < MaxDepth:
		return c.array(i+1, depth+1)
	case b == '-', '0' <= b && b <= '9':
		return canonicalNumber(data, i)
	}
	for _, l := range [...]string{"true", "false", "null"} {
		if bytes.HasPrefix(data[i:], []byte(l)) {
			return i + len(l)
		}
	}
	return -1
}

// count reports whether there may be one more value beside n others.
func (c *canonical) count(n int) bool {
	c.values++
	return n < MaxMembers && c.values <= MaxValues
}

func (c *canonical) object(i, depth int, visit func(name, value []byte)) int {
	data := c.data
	if i < len(data) && data[i] == '}' {
		return i + 1
	}
	var last []byte
	lastEscaped := false
	for n := 0; ; n++ {
		if i == len(data) || data[i] != '"' || !c.count(n) {
			return -1
		}
		end, escaped := canonicalString(data, i)
		if end < 0 || end == len(data) || data[end] != ':' {
			return -1
		}
		name := data[i+1 : end-1]
		if n > 0 {
			less := bytes.Compare(last, name) < 0
			if escaped || lastEscaped {
				less = compareNames(last, name) < 0
			}
			if !less {
				return -1
			}
		}
		last, lastEscaped = name, escaped
		if i = c.value(end+1, depth, nil); i < 0 || i == len(data) {
			return -1
		}
		if visit != nil {
			if escaped {
				name = unescape(nil, name)
			}
			visit(name, data[end+1:i])
		}
		switch data[i] {
		case '}':
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

func (c *canonical) array(i, depth int) int {
	data := c.data
	if i < len(data) && data[i] == ']' {
		return i + 1
	}
	for n := 0; ; n++ {
		if !c.count(n) {
			return -1
		}
		if i = c.value(i, depth, nil); i < 0 || i == len(data) {
			return -1
		}
		switch data[i] {
		case ']':
			return i + 1
		case ',':
			i++
		default:
			return -1
		}
	}
}

func canonicalString(data []byte, i int) (end int, escaped bool) {
	for i++; i < len(data); {
		c := data[i]
		switch {
		case plain[c]:
			i++
		case c == '"':
			return i + 1, escaped
		case c == '\\':
			if i+1 == len(data) || (data[i+1] != '"' && data[i+1] != '\\') {
				return -1, false
			}
			escaped = true
			i += 2
		default:
			r, size := utf8.DecodeRune(data[i:])
			if c < utf8.RuneSelf || (r == utf8.RuneError && size == 1) {
				return -1, false
			}
			i += size
		}
	}
	return -1, false
}

// canonicalNumber leaves integers of more than 15 digits to others.
func canonicalNumber(data []byte, i int) int {
	from := i
	if data[i] == '-' {
		i++
	}
	digits := i
	for i < len(data) && '0' <= data[i] && data[i] <= '9' {
		i++
	}
	switch n := i - digits; {
	case n == 0, n > 15, data[digits] == '0' && (n > 1 || digits > from):
		return -1
	case i < len(data) && (data[i] == '.' || data[i] == 'e' || data[i] == 'E'):
		return -1
	}
	return i
}
