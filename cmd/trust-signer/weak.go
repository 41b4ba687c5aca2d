package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"countersign/internal/config"
)

// minPassphrase is the length, in characters, below which a passphrase is
// called weak: it can be tried out by whoever has a copy of the database.
// Harbor's installer makes 8, its chart "defaultalias" for everybody.
const minPassphrase = 16

var wellKnown = []string{"defaultalias", "password", "passphrase", "changeme"}

// weakPassphrases returns a warning for each alias of the configuration whose
// passphrase is weak. It never holds the passphrase, nor its length.
func weakPassphrases(cfg *config.Signer) (warnings []string) {
	if cfg.Passphrases == nil || cfg.Storage.Backend == config.BackendMemory {
		return nil
	}
	aliases := slices.Collect(maps.Keys(cfg.Storage.PassphraseFiles))
	aliases = append(aliases, cfg.Storage.DefaultAlias)
	slices.Sort(aliases)
	for _, alias := range slices.Compact(aliases) {
		pass, err := cfg.Passphrases.Passphrase(alias)
		if alias == "" || err != nil {
			continue // it is told elsewhere that there is none
		}
		why := ""
		switch {
		case strings.EqualFold(pass, alias):
			why = "it is the alias itself"
		case slices.Contains(wellKnown, strings.ToLower(pass)):
			why = "it is one that everybody tries first"
		case utf8.RuneCountInString(pass) < minPassphrase:
			why = fmt.Sprintf("it is shorter than %d characters", minPassphrase)
		default:
			continue
		}
		warnings = append(warnings, fmt.Sprintf("the passphrase of the alias %q is weak: %s, so that whoever gets a copy of the database can open the keys. "+
			"For new keys, name another alias in storage.default_alias and give it a long random passphrase (openssl rand -base64 32); "+
			"keep this one as long as keys are sealed under it", alias, why))
	}
	return warnings
}
