package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A binder fills a configuration struct from a file and the environment. What
// it finds wrong goes into the report. Tags of the struct's fields:
//
//	json     the key
//	default  what holds if nothing is given
//	path     "config": a relative path is relative to the file's directory
//	secret   the value is never shown
//	env      "no": not to be overridden
//	strict   the JSON type must be right
//	retired  a key of upstream's that does nothing here, and why
type binder struct {
	prefix string // of the variables: "NOTARY_SERVER"
	env    map[string]string
	dir    string
	report *Report
	given  map[string]given // by dotted key
	paths  []pathKey        // files that must be readable
	loaded bool             // the file could be read
}

type pathKey struct{ key, path string }

// given says where a value came from, and what it was if it is no secret.
type given struct {
	value string
	from  string // the variable, "" for the file
}

// variable is the name of the environment variable that overrides key.
func (b *binder) variable(key string) string { return variable(b.prefix, key) }

func variable(prefix, key string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// fault records a fault of key, with its value if it may be shown. Only the
// first of a key counts: others follow from it.
func (b *binder) fault(key, problem, remedy string) {
	if slices.ContainsFunc(b.report.Faults, func(f Fault) bool { return f.Key == key }) {
		return
	}
	g := b.given[key]
	b.report.Faults = append(b.report.Faults, Fault{Key: key, Value: g.value, From: g.from, Problem: problem, Remedy: remedy})
}

func (b *binder) warn(key, text string) {
	if from := b.given[key].from; from != "" {
		key += " (from " + from + ")"
	}
	b.report.Warnings = append(b.report.Warnings, key+": "+text)
}

// bind fills the struct v from the object n, which may be nil.
func (b *binder) bind(v reflect.Value, n *node, prefix string) {
	known := b.bindFields(v, n, prefix)
	if n == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.fields)) {
		if slices.Contains(known, name) {
			continue
		}
		remedy := "remove it"
		if meant := meant(name, prefix, n, known); meant != "" {
			remedy = fmt.Sprintf("did you mean %q? If not, remove it", meant)
		}
		b.report.Faults = append(b.report.Faults, Fault{Key: prefix + n.fields[name].key, Problem: "there is no such setting", Remedy: remedy})
	}
}

// confused are keys that deployments have, which upstream ignores without a
// word, and what they hoped for.
var confused = map[string]string{
	"trust_service.tls_cert_file": "trust_service.tls_client_cert",
	"trust_service.tls_key_file":  "trust_service.tls_client_key",
	"server.addr":                 "server.http_addr",
	"storage.type":                "storage.backend",
}

// meant is the full key that an unknown one was likely meant to be, or "": one
// that the file does not give yet, if there is one.
func meant(name, prefix string, n *node, known []string) string {
	missing := slices.DeleteFunc(slices.Clone(known), func(k string) bool { return n.fields[k] != nil })
	if key, ok := strings.CutPrefix(confused[prefix+name], prefix); ok && slices.Contains(missing, key) {
		return prefix + key
	}
	for _, names := range [][]string{missing, known} {
		if near := nearest(name, names); near != "" {
			return prefix + near
		}
		if i := slices.IndexFunc(names, func(k string) bool { return strings.HasPrefix(k, name+"_") }); i >= 0 {
			return prefix + names[i]
		}
	}
	return ""
}

// bindFields fills the fields, those of embedded structs too, and returns their keys.
func (b *binder) bindFields(v reflect.Value, n *node, prefix string) []string {
	var known []string
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag
		name := tag.Get("json")
		switch {
		case name == "-":
		case name == "":
			known = append(known, b.bindFields(f, n, prefix)...)
		default:
			known = append(known, name)
			b.bindField(f, tag, child(n, name), prefix+name)
		}
	}
	return known
}

func child(n *node, name string) *node {
	if n == nil {
		return nil
	}
	c := n.fields[name]
	if c != nil && c.kind == scalarNode && c.scalar == nil {
		return nil // null is as good as absent
	}
	return c
}

func (b *binder) bindField(f reflect.Value, tag reflect.StructTag, n *node, key string) {
	if f.Kind() == reflect.Struct {
		if n != nil && n.kind != objectNode {
			b.fault(key, "it must be an object, and is "+n.kind.String(), "")
			n = nil
		}
		b.bind(f, n, key+".")
		return
	}
	value, found := b.lookup(tag, n, key)
	if why := tag.Get("retired"); why != "" {
		if found {
			b.warn(key, "ignored: "+why)
		}
		return
	}
	if !found {
		def := tag.Get("default")
		if def == "" {
			return
		}
		value = def
	}
	if err := assign(f, value, tag); err != nil {
		b.fault(key, err.Error(), "")
		return
	}
	if tag.Get("path") == "config" {
		b.resolve(f, key)
	}
}

// lookup goes from the key to its variable and then to the file, as upstream
// does: from the variable's name the key could not be told.
func (b *binder) lookup(tag reflect.StructTag, n *node, key string) (value any, found bool) {
	g := given{}
	if v := b.env[b.variable(key)]; v != "" && tag.Get("env") != "no" {
		value, found, g.from = v, true, b.variable(key)
	} else if n != nil {
		value, found = n, true
	}
	if !found {
		return nil, false
	}
	if tag.Get("secret") == "" {
		g.value = show(value)
	}
	b.given[key] = g
	return value, true
}

// show renders a value for a fault, not too long.
func show(value any) string {
	const limit = 120
	s := ""
	switch v := value.(type) {
	case string:
		s = v
	case *node:
		if v.kind != scalarNode {
			return ""
		}
		s = fmt.Sprint(v.scalar)
	}
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return s
}

// resolve makes relative paths relative to the directory of the file.
func (b *binder) resolve(f reflect.Value, key string) {
	join := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(b.dir, p)
	}
	if m, ok := f.Interface().(map[string]string); ok {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			m[k] = join(m[k])
			b.paths = append(b.paths, pathKey{key + "." + k, m[k]})
		}
		return
	}
	if f.String() != "" {
		f.SetString(join(f.String()))
		b.paths = append(b.paths, pathKey{key, f.String()})
	}
}

// assign converts value, a string or a node, to the type of f.
func assign(f reflect.Value, value any, tag reflect.StructTag) error {
	n, _ := value.(*node)
	if n != nil && tag.Get("strict") != "" {
		if _, ok := n.scalar.(bool); !ok {
			return errors.New("it must be true or false, without quotes")
		}
	}
	switch f.Interface().(type) {
	case []string:
		list, err := stringList(value)
		f.Set(reflect.ValueOf(list))
		return err
	case map[string]string:
		m, err := stringMap(n)
		f.Set(reflect.ValueOf(m))
		return err
	}
	s, err := scalarString(value)
	if err != nil {
		return err
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(s)
	case reflect.Int:
		i, err := strconv.ParseInt(strings.TrimSpace(s), 10, strconv.IntSize)
		if err != nil {
			return errors.New("it must be a whole number")
		}
		f.SetInt(i)
	case reflect.Bool:
		v, err := strconv.ParseBool(strings.TrimSpace(s))
		if err != nil {
			return errors.New("it must be true or false")
		}
		f.SetBool(v)
	default:
		panic("config: no conversion to " + f.Type().String())
	}
	return nil
}

// scalarString takes strings, numbers and booleans for each other.
func scalarString(value any) (string, error) {
	n, ok := value.(*node)
	if !ok {
		return value.(string), nil
	}
	if n.kind != scalarNode {
		return "", fmt.Errorf("it must be a plain value, and is %v", n.kind)
	}
	switch v := n.scalar.(type) {
	case string:
		return v, nil
	case json.Number:
		// 7899.0 and 7.899e3 are 7899, as they are to upstream.
		if f, err := v.Float64(); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return strconv.FormatFloat(f, 'f', -1, 64), nil
		}
		return v.String(), nil
	default:
		return fmt.Sprint(v), nil
	}
}

func stringList(value any) ([]string, error) {
	n, ok := value.(*node)
	if ok && n.kind == listNode {
		list := []string{}
		for _, item := range n.list {
			s, err := scalarString(item)
			if err != nil {
				return nil, errors.New("each item of the list must be a string")
			}
			list = append(list, s)
		}
		return list, nil
	}
	s, err := scalarString(value)
	if err != nil {
		return nil, errors.New("it must be a list of strings")
	}
	return strings.Fields(s), nil
}

func stringMap(n *node) (map[string]string, error) {
	if n == nil || n.kind != objectNode {
		return nil, errors.New("it must be an object, and only the file can give it")
	}
	m := map[string]string{}
	for _, item := range n.fields {
		s, err := scalarString(item)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", item.key, err)
		}
		m[item.key] = s
	}
	return m, nil
}
