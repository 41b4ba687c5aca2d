package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Prefixes of the environment variables.
const (
	serverPrefix = "NOTARY_SERVER"
	signerPrefix = "NOTARY_SIGNER"
)

// LoadServer reads the configuration of trust-server from the file that path
// leads to and from environ, which is in the form of os.Environ. What is wrong
// with it is in the report, all of it; the Server holds what could be read
// even then, so that the caller can look for more.
func LoadServer(path string, environ []string) (*Server, *Report) {
	cfg := &Server{}
	b := load(cfg, path, serverPrefix, environ)
	if b.loaded {
		b.checkServer(cfg)
		b.checkPaths()
		b.misspelt(reflect.TypeFor[Server](), "")
	}
	return cfg, b.report
}

// LoadSigner is LoadServer for trust-signer.
func LoadSigner(path string, environ []string) (*Signer, *Report) {
	cfg := &Signer{}
	b := load(cfg, path, signerPrefix, environ)
	if b.loaded {
		cfg.Passphrases = newPassphrases(b, cfg.Storage.PassphraseFiles)
		b.checkSigner(cfg)
		b.checkPaths()
		b.misspelt(reflect.TypeFor[Signer](), cfg.Storage.DefaultAlias)
	}
	return cfg, b.report
}

// load fills cfg, a pointer to a struct.
func load(cfg any, path, prefix string, environ []string) *binder {
	b := &binder{prefix: prefix, env: map[string]string{}, report: &Report{}, given: map[string]given{}}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			b.env[name] = value
		}
	}
	fault := func(problem, remedy string) *binder {
		b.report.Faults = Faults{{Problem: problem, Remedy: remedy}}
		return b
	}
	if path == "" {
		return fault("no configuration file is given", "name it: -config=PATH")
	}
	file := locate(path)
	b.report.File, b.dir = file, filepath.Dir(file)
	raw, err := readFile(file, maxConfigFile)
	if err != nil {
		return fault(fmt.Sprintf("reading %s: %v", file, err), unreadable(file, err, "the working directory"))
	}
	root, err := parseFile(raw)
	if err != nil {
		remedy := ""
		if ext := filepath.Ext(file); ext != ".json" {
			remedy = fmt.Sprintf("only JSON is read, whatever the extension (%s) says", ext)
		} else if strings.HasSuffix(err.Error(), "looking for beginning of object key string") {
			remedy = "a comma in front of it may be one too many, or the key lacks its quotes" // upstream's documentation has such a comma
		}
		return fault(fmt.Sprintf("reading %s: %v", file, err), remedy)
	}
	b.bind(reflect.ValueOf(cfg).Elem(), root, "")
	b.loaded = true
	return b
}

// unreadable is what to do about a file that cannot be opened. written is its
// path as it was given, base what that is relative to.
func unreadable(written string, err error, base string) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("the program runs as user %d, who must be allowed to read it", os.Geteuid())
	case written != "" && !filepath.IsAbs(written):
		return "relative paths are relative to " + base
	}
	return ""
}

// misspelt warns of variables that differ from a known one by a letter or two.
// Others may well be somebody else's: Kubernetes makes NOTARY_SERVER_PORT out of
// the name of a service, and NOTARY_SIGNER_DEFAULTALIAS is a passphrase.
func (b *binder) misspelt(t reflect.Type, alias string) {
	var known []string
	for _, k := range keysOf(t, "") {
		if strings.Contains(k, ".") {
			known = append(known, strings.TrimPrefix(b.variable(k), b.prefix+"_"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.env)) {
		rest, ours := strings.CutPrefix(name, b.prefix+"_")
		if option, ok := strings.CutPrefix(rest, "AUTH_OPTIONS_"); ours && ok && b.prefix == serverPrefix && b.env[name] != "" {
			b.report.Warnings = append(b.report.Warnings, fmt.Sprintf("the variable %s is not used: auth.options.%s can be given in the file alone", name, strings.ToLower(option)))
			continue
		}
		if !ours || slices.Contains(known, rest) || name == b.variable(alias) {
			continue
		}
		if near := nearest(rest, known); near != "" && distance(rest, near) <= 2 {
			b.report.Warnings = append(b.report.Warnings, fmt.Sprintf("the variable %s is not used; did you mean %s_%s?", name, b.prefix, near))
		}
	}
}

// keysOf lists the dotted keys of the settings in t.
func keysOf(t reflect.Type, prefix string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("json")
		switch {
		case name == "-":
		case name == "":
			keys = append(keys, keysOf(f.Type, prefix)...)
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, keysOf(f.Type, prefix+name+".")...)
		default:
			keys = append(keys, prefix+name)
		}
	}
	return keys
}
