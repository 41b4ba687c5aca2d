package publish

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A Kind is the class of a Rejection: the name by which clients know it.
type Kind string

// The five kinds that clients can read. Each has its own beginning of the
// sentence that the user sees.
const (
	KindValidation   Kind = "ErrValidation"
	KindBadRoot      Kind = "ErrBadRoot"
	KindBadTargets   Kind = "ErrBadTargets"
	KindBadSnapshot  Kind = "ErrBadSnapshot"
	KindBadHierarchy Kind = "ErrBadHierarchy"
)

// A Rejection is a refused upload, in a form that clients can read.
type Rejection struct {
	Kind    Kind
	Missing string // the role that is missing; of KindBadHierarchy only
	// Msg is short: as JSON it takes at most 700 bytes, for clients read no
	// more than 1,024 of an error.
	Msg string
}

func (r *Rejection) Error() string { return string(r.Kind) + ": " + r.Msg }

const maxMsg = 700

func reject(kind Kind, format string, args ...any) *Rejection {
	return &Rejection{Kind: kind, Msg: shorten(fmt.Sprintf(format, args...))}
}

// shorten cuts s so that its JSON form, in which '<' takes six bytes, keeps to
// maxMsg.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxMsg {
		s = cut(s, maxMsg)
	}
	for jsonLen(s) > maxMsg {
		s = cut(s, len(s)-1-(jsonLen(s)-maxMsg)/6)
	}
	return s
}

// cut returns the longest prefix of s of whole runes and at most n bytes.
func cut(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func jsonLen(s string) int {
	b, err := json.Marshal(s)
	if err != nil { // a string always has a JSON form
		return 0
	}
	return len(b)
}
