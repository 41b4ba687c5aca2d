package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"countersign/tuf"
)

// An Access is one action on one resource, as bearer tokens name them. In JSON
// it is the detail of a 401, and its members are upstream's.
type Access struct {
	Type   string // "repository" or "registry"
	Class  string // always ""
	Name   string // the GUN, or "catalog"
	Action string // "push", "pull" or "*"
}

// An AccessFunc returns who sent r, for the log, or an error unless they may do
// all of need. If the error is a [Challenger], the answer is 401 with that
// challenge; any other error is a fault of this side. r is only to be read, and
// not its body.
type AccessFunc func(r *http.Request, need []Access) (subject string, err error)

// A Challenger is a refusal that tells the client how to be allowed.
type Challenger interface {
	error
	// Challenge is the value of the header WWW-Authenticate.
	Challenge() string
}

// admit checks that the GUN is one that this server can have: a read of any
// other finds nothing, and an upload is told why.
func (s *server) admit(q *request) error {
	if q.target.gun == "" {
		return nil
	}
	gun, err := tuf.ParseGUN(q.target.gun)
	if err == nil && s.served(gun) {
		q.gun = gun
		return nil
	}
	switch update := q.op == opUpdate; {
	case err != nil && update:
		return answerInvalidGUN.with(because(err.Error()))
	case err != nil:
		return answerNotFound
	case !update:
		return answerNoRoute
	}
	return answerInvalidGUN.with(fmt.Sprintf("Require GUNs with prefix: %v", s.Prefixes))
}

func (s *server) served(gun tuf.GUN) bool {
	for _, prefix := range s.Prefixes {
		if strings.HasPrefix(string(gun), prefix) {
			return true
		}
	}
	return len(s.Prefixes) == 0
}

// authorize asks the access hook for all that the operation needs.
func (s *server) authorize(q *request) error {
	if s.Access == nil {
		return nil
	}
	need := required(q.op, q.target.gun)
	subject, err := s.Access(q.Request, need)
	q.subject = subject
	if refusal, ok := errors.AsType[Challenger](err); ok {
		return fmt.Errorf("%w: %w", answerUnauthorized.with(need), refusal)
	}
	if err != nil {
		return fmt.Errorf("checking access: %w", err)
	}
	return nil
}

// required lists what op needs. All that is not about one GUN is for whoever
// may see the whole catalog.
func required(op operation, gun string) []Access {
	if gun == "" || actions[op] == nil {
		return []Access{{Type: "registry", Name: "catalog", Action: "*"}}
	}
	var need []Access
	for _, action := range actions[op] {
		need = append(need, Access{Type: "repository", Name: gun, Action: action})
	}
	return need
}
