// Package auth decides who may do what: by the bearer tokens of a registry's
// token service ([Tokens]), or by a password file and a policy ([Htpasswd]). It
// answers no request; package server does, and asks it.
//
// Whatever cannot be read, parsed or understood is refused: there is no input
// that turns a check off.
package auth

import "errors"

// errNothing: nobody is allowed nothing, or a caller who forgets to ask would let
// everybody do all.
var errNothing = errors.New("nothing was asked for")

// An Access is one action on one resource, as bearer tokens name them. In JSON
// it is the detail of a 401, and its members are upstream's.
type Access struct {
	Type   string // "repository" or "registry"
	Class  string // always ""
	Name   string // the GUN, or "catalog"
	Action string // "push", "pull" or "*"
}

// A Refusal is the error of a request that is not allowed. Its text is for the
// log: it says which check failed, and never holds a token or a password.
type Refusal struct {
	challenge string
	public    string
	cause     error
}

// Error says why, for the log.
func (r *Refusal) Error() string { return r.cause.Error() }

// Unwrap returns the failed check.
func (r *Refusal) Unwrap() error { return r.cause }

// Challenge is the value of the header WWW-Authenticate.
func (r *Refusal) Challenge() string { return r.challenge }

// Public is what the caller is told: at most which action is missing, and
// nothing of which check failed. It may be empty.
func (r *Refusal) Public() string { return r.public }
