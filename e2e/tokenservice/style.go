package main

import (
	"fmt"
	"slices"
	"strings"
)

// A style is what a token looks like and what is wrong with it.
type style struct {
	harbor   string // whose rule for "*": "1.10.6", "2.1.3" or "", the later one
	key      string // the name of the key that signs
	names    string // how the header names the key: "kid", "kid-rfc7638", "x5c" or "jwk"
	audArray bool   // the audience is an array of one
	refresh  bool   // refresh tokens are given
	fault    string // one of faults, or ""
}

// faults are the ways in which a token can be no good, or nearly so.
var faults = []string{
	"expired",      // for longer than clocks may differ
	"just-expired", // by less than that: still good
	"early",        // not valid yet
	"nearly-early", // by less than clocks may differ: good already
	"audience",     // for another service
	"issuer",       // by somebody else
	"none",         // without a signature, and says so
	"hs256-public", // a MAC, with the PEM form of the public key as the secret
	"hs256-cert",   // a MAC, with the PEM form of the certificate as the secret
	"truncated",    // cut in the signature
	"stranger",     // signed by another key than the header names
	"impostor",     // signed by, and names, a key that nobody trusts
}

// parseStyle understands the words of a path:
//
//	harbor-1.10.6   "*" for who manages the project (up to 1.10.6, 2.0.5, 2.1.2)
//	harbor-2.1.3    "*" for nobody (2.0.6, 2.1.3, 2.2.0)
//	key-NAME        another key than the default one
//	kid-rfc7638, x5c, jwk   how the key is named; else by libtrust's ID in kid
//	aud-array       the audience is an array
//	refresh         docker gets a refresh token at its login
//	and one of faults
func (s *service) parseStyle(words string) (style, error) {
	st := style{key: "default", names: "kid"}
	for _, word := range strings.Split(words, ",") {
		name, isKey := strings.CutPrefix(word, "key-")
		release, isRelease := strings.CutPrefix(word, "harbor-")
		switch {
		case word == "":
		case isKey && s.keys[name] != nil:
			st.key = name
		case isRelease && (release == "1.10.6" || release == "2.1.3"):
			st.harbor = release
		case word == "kid-rfc7638" || word == "x5c" || word == "jwk":
			st.names = word
		case word == "aud-array":
			st.audArray = true
		case word == "refresh":
			st.refresh = true
		case st.fault == "" && slices.Contains(faults, word):
			st.fault = word
		default:
			return style{}, fmt.Errorf("the word %q is not understood", word)
		}
	}
	return st, nil
}
