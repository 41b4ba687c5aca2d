package admin

import (
	"errors"

	"countersign/storage"
	"countersign/tuf"
)

// A KeyClass is what is the matter with a key.
type KeyClass string

// The classes. Those above the line are no fault.
const (
	KeyOpens          KeyClass = "opens"
	KeyPending        KeyClass = "pending"
	KeyClientSnapshot KeyClass = "client-snapshot"
	KeyDeleted        KeyClass = "deleted"
	KeyOlder          KeyClass = "older-derivation"
	KeyFewRounds      KeyClass = "few-rounds"

	KeyNoPassphrase    KeyClass = "no-passphrase"
	KeyWrongPassphrase KeyClass = "wrong-passphrase"
	KeyWrongAlias      KeyClass = "wrong-alias"
	KeyCorrupt         KeyClass = "corrupt"
	KeyMissing         KeyClass = "missing-key"
	KeyWrongOwner      KeyClass = "wrong-owner"
	KeyNameless        KeyClass = "nameless"
	KeyNoGUN           KeyClass = "no-gun"
	KeyUnlisted        KeyClass = "unlisted"
	KeyWeakPassphrase  KeyClass = "weak-passphrase"
)

// A KeyAdvice says what a class means, and what to do.
type KeyAdvice struct {
	Class   KeyClass `json:"class"`
	Fault   bool     `json:"fault"` // it does not mend itself: do what Do says
	Meaning string   `json:"meaning"`
	Do      string   `json:"do,omitempty"`
}

// keyAdvice is in the order in which a summary tells, the worst first.
var keyAdvice = []KeyAdvice{
	{KeyMissing, true, "root lists a key of the server that has no row: its GUN cannot be published to, or renewed", "restore the row from a backup or an archive; or its owner rotates: notary key rotate GUN ROLE -r"},
	{KeyCorrupt, true, "the row holds no sealed key, or its parts are not of one key", "restore the row from a backup; else rotate, as for missing-key"},
	{KeyNoPassphrase, true, "there is no passphrase of the key's alias", "give it: NOTARY_SIGNER_<ALIAS>, or storage.passphrase_files"},
	{KeyWrongPassphrase, true, "the passphrase of the alias does not open the key; a salt or wrapped key that is damaged looks the same", "if other keys of the alias open, restore the row from a backup; else give the old passphrase back"},
	{KeyWrongAlias, true, "the key opens with the passphrase of another alias", "set passphrase_alias of the row to the alias that is named"},
	{KeyWrongOwner, true, "root lists a key whose row is of another GUN or role: the signer refuses it", "set gun and role of the row back, or rotate, as for missing-key"},
	{KeyNameless, true, "the row has neither GUN nor role: the key signs for whoever names it", "its owner rotates: notary key rotate GUN ROLE -r"},
	{KeyNoGUN, true, "its GUN has no rows in the server's database, and the key still signs", "trust-admin keys orphans"},
	{KeyUnlisted, true, "the key was used, and no stored root of its GUN lists it", "trust-admin keys orphans"},
	{KeyWeakPassphrase, true, "whoever gets a copy of the database can find the passphrase, and open the keys", "trust-admin keys rewrap --to another alias, with a passphrase of openssl rand -base64 32"},
	{KeyOlder, false, "sealed by a build of upstream with Go 1.15: our signer opens it, no other program does", "before going back to upstream: trust-admin keys rewrap"},
	{KeyFewRounds, false, "the passphrase is stretched less than today's keys are", "trust-admin keys rewrap"},
	{KeyDeleted, false, "marked as deleted: it signs nothing", ""},
	{KeyPending, false, "handed out or used of late, and not listed by a root yet", ""},
	{KeyClientSnapshot, false, "root's snapshot key has no row, nor a trace of one: its owner has the key", ""},
	{KeyOpens, false, "", ""},
}

func adviceOf(c KeyClass) KeyAdvice {
	for _, a := range keyAdvice {
		if a.Class == c {
			return a
		}
	}
	return KeyAdvice{Class: c}
}

// A KeyFinding is one thing that was found: of a row, of a root's key that has
// none, or of an alias.
type KeyFinding struct {
	Class  KeyClass     `json:"class"`
	Fault  bool         `json:"fault"`
	ID     tuf.KeyID    `json:"key_id,omitempty"`
	GUN    tuf.GUN      `json:"gun,omitempty"`
	Role   tuf.RoleName `json:"role,omitempty"`
	Alias  string       `json:"passphrase_alias,omitempty"`
	Rounds int          `json:"rounds,omitempty"`
	Text   string       `json:"text,omitempty"`
	Do     string       `json:"do,omitempty"`
}

func keyFinding(c KeyClass, k storage.Key, rounds int, text string) KeyFinding {
	about := adviceOf(c)
	return KeyFinding{Class: c, Fault: about.Fault, ID: k.ID, GUN: k.GUN, Role: k.Role, Alias: k.Alias, Rounds: rounds, Text: text, Do: about.Do}
}

// faultFinding tells why a key does not open. What err says of it is fit to be
// shown: no part of a key or passphrase is in it.
func faultFinding(k storage.Key, err error) KeyFinding {
	c := KeyCorrupt
	switch {
	case errors.Is(err, storage.ErrNoPassphrase):
		c = KeyNoPassphrase
	case errors.Is(err, storage.ErrWrongPassphrase):
		c = KeyWrongPassphrase
	}
	return keyFinding(c, k, 0, err.Error())
}
