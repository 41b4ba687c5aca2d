package main

import (
	"fmt"
	"maps"
	"slices"

	"countersign/internal/config"
)

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
		why := config.WeakPassphrase(alias, pass)
		if why == "" {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("the passphrase of the alias %q is weak: %s, so that whoever gets a copy of the database can open the keys. "+
			"For new keys, name another alias in storage.default_alias and give it a long random passphrase (openssl rand -base64 32); "+
			"keep this one as long as keys are sealed under it", alias, why))
	}
	return warnings
}
