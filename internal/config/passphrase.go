package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Passphrases finds the passphrase of an alias, in this order: the variable
// NOTARY_SIGNER_<ALIAS>, the file that the variable NOTARY_SIGNER_<ALIAS>_FILE
// names, the file that storage.passphrase_files names. <ALIAS> is the alias in
// upper case with "_" for "."; aliases that differ in nothing else share a
// passphrase, as they do upstream. Its method may be called at once.
type Passphrases struct {
	env   map[string]string
	files map[string]string // by variable
}

func newPassphrases(b *binder, files map[string]string) *Passphrases {
	p := &Passphrases{env: b.env, files: map[string]string{}}
	for _, alias := range slices.Sorted(maps.Keys(files)) {
		v := variable(signerPrefix, alias)
		if _, twice := p.files[v]; twice {
			b.fault("storage.passphrase_files."+alias, "another alias has the same variable "+v, "remove one of them")
		}
		p.files[v] = files[alias]
	}
	return p
}

// ErrNoPassphrase: nothing gives a passphrase for that alias.
var ErrNoPassphrase = errors.New("no passphrase")

// Passphrase returns the passphrase of alias. A file is read anew each time;
// line ends behind the passphrase do not count. The error wraps ErrNoPassphrase or tells what is
// wrong with the file; it never holds a passphrase.
func (p *Passphrases) Passphrase(alias string) (string, error) {
	v := variable(signerPrefix, alias)
	if pass := p.env[v]; pass != "" {
		return pass, nil
	}
	file, from := p.env[v+"_FILE"], v+"_FILE"
	if file == "" {
		file, from = p.files[v], "storage.passphrase_files"
	}
	if file == "" {
		return "", fmt.Errorf("%w for the alias %q: set the variable %s, or name a file in %s_FILE or storage.passphrase_files", ErrNoPassphrase, alias, v, v)
	}
	raw, err := readFile(file, maxSecretFile)
	if err != nil {
		return "", fmt.Errorf("reading the passphrase for the alias %q from %s (%s): %w", alias, file, from, err)
	}
	pass := strings.TrimRight(string(raw), "\r\n")
	if pass == "" {
		return "", fmt.Errorf("%w for the alias %q: the file %s is empty", ErrNoPassphrase, alias, file)
	}
	return pass, nil
}
