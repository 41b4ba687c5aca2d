package cjson

import (
	"bytes"
	"unicode/utf8"
)

// canonicalEnd returns where the value ends that begins at data[i], if it stands
// there in canonical form, or -1. It judges nothing else: what it does not
// accept is read again by those who know why.
func canonicalEnd(data []byte, i, depth int, visit func(name, value []byte)) int {
	if i == len(data) {
		return -1
	}
	switch c := data[i]; {
	case c == '"':
		end, _ := canonicalString(data, i)
		return end
	case c == '{' && depth < MaxDepth:
		return canonicalObject(data, i+1, depth+1, visit)
	case c == '[' && depth < MaxDepth:
		return canonicalArray(data, i+1, depth+1)
	case c == '-', '0' <= c && c <= '9':
		return canonicalNumber(data, i)
	}
	for _, l := range [...]string{"true", "false", "null"} {
		if bytes.HasPrefix(data[i:], []byte(l)) {
			return i + len(l)
		}
	}
	return -1
}

func canonicalObject(data []byte, i, depth int, visit func(name, value []byte)) int {
	if i < len(data) && data[i] == '}' {
		return i + 1
	}
	var last []byte
	lastEscaped := false
	for first := true; ; first = false {
		if i == len(data) || data[i] != '"' {
			return -1
		}
		end, escaped := canonicalString(data, i)
		if end < 0 || end == len(data) || data[end] != ':' {
			return -1
		}
		name := data[i+1 : end-1]
		if !first {
			less := bytes.Compare(last, name) < 0
			if escaped || lastEscaped {
				less = compareNames(last, name) < 0
			}
			if !less {
				return -1
			}
		}
		last, lastEscaped = name, escaped
		if i = canonicalEnd(data, end+1, depth, nil); i < 0 || i == len(data) {
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

func canonicalArray(data []byte, i, depth int) int {
	if i < len(data) && data[i] == ']' {
		return i + 1
	}
	for {
		if i = canonicalEnd(data, i, depth, nil); i < 0 || i == len(data) {
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
