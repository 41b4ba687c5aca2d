package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Bounds of the files that are read: no configuration comes near them.
const (
	maxConfigFile = 1 << 20
	maxSecretFile = 64 << 10
	maxNesting    = 16
)

// A node is one value of the file: an object, a list, or a scalar.
type node struct {
	key    string           // as written
	fields map[string]*node // of an object, by lower-case key
	list   []*node
	scalar any // string, json.Number, bool, or nil for null
	kind   nodeKind
}

type nodeKind int

const (
	scalarNode nodeKind = iota
	listNode
	objectNode
)

func (k nodeKind) String() string { return [...]string{"a plain value", "a list", "an object"}[k] }

// locate follows upstream's lookup: the directory is searched for the base name
// without its extension, with ".json". So x/t.yml means x/t.json if that exists.
func locate(path string) string {
	base := filepath.Base(path)
	candidate := filepath.Join(filepath.Dir(path), strings.TrimSuffix(base, filepath.Ext(base))+".json")
	if info, err := os.Stat(candidate); err == nil && !info.IsDir() {
		return candidate
	}
	return path
}

// readFile reads a file, but not more than limit bytes of it. Its errors do not
// repeat the path.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	return raw, nil
}

// bare strips operation and path, which the fault names already.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// parseFile reads a JSON object. Duplicate keys, also ones that differ only in
// case, are errors: which one counts would be a guess.
func parseFile(raw []byte) (*node, error) {
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")) // some editors put one there
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	root, err := parseValue(dec, 0)
	if err == nil && root.kind != objectNode {
		err = errors.New("it holds no JSON object")
	}
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something stands behind the JSON object")
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", lineOf(raw, err, dec.InputOffset()), err)
	}
	return root, nil
}

func lineOf(raw []byte, err error, offset int64) int {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		offset = syntax.Offset
	}
	return 1 + bytes.Count(raw[:min(offset, int64(len(raw)))], []byte("\n"))
}

func parseValue(dec *json.Decoder, depth int) (*node, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("it is nested deeper than %d levels", maxNesting)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('{'):
		return parseObject(dec, depth)
	case json.Delim('['):
		n := &node{kind: listNode}
		for dec.More() {
			item, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, item)
		}
		_, err := dec.Token()
		return n, err
	}
	return &node{kind: scalarNode, scalar: tok}, nil
}

func parseObject(dec *json.Decoder, depth int) (*node, error) {
	n := &node{kind: objectNode, fields: map[string]*node{}}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key := tok.(string) // the decoder admits nothing else here
		value, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		value.key = key
		lower := strings.ToLower(key)
		if _, twice := n.fields[lower]; twice {
			return nil, fmt.Errorf("the key %q is given twice", key)
		}
		n.fields[lower] = value
	}
	_, err := dec.Token()
	return n, err
}
