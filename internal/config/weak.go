package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// minPassphrase is the length, in characters, below which a passphrase is
// called weak: it can be tried out by whoever has a copy of the database.
// Harbor's installer makes 8, its chart "defaultalias" for everybody.
const minPassphrase = 16

var wellKnown = []string{"defaultalias", "password", "passphrase", "changeme"}

// WeakPassphrase says why the passphrase of alias is weak; "" if it is not. It
// tells nothing of the passphrase that an attacker would not try first.
func WeakPassphrase(alias, passphrase string) (why string) {
	switch {
	case strings.EqualFold(passphrase, alias):
		return "it is the alias itself"
	case slices.Contains(wellKnown, strings.ToLower(passphrase)):
		return "it is one that everybody tries first"
	case utf8.RuneCountInString(passphrase) < minPassphrase:
		return fmt.Sprintf("it is shorter than %d characters", minPassphrase)
	}
	return ""
}
