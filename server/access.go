package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"countersign/server/auth"
	"countersign/storage"
	"countersign/tuf"
)

// An AccessFunc returns who sent r, for the log, or an error unless they may do
// all of need. If the error is a [Challenger], the answer is 401 with that
// challenge; any other error is a fault of this side. r is only to be read, and
// not its body.
type AccessFunc func(r *http.Request, need []auth.Access) (subject string, err error)

// A Challenger is a refusal that tells the client how to be allowed.
type Challenger interface {
	error
	// Challenge is the value of the header WWW-Authenticate.
	Challenge() string
	// Public is what the client may know of the reason; it may be empty.
	Public() string
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
	defer func() {
		actor := q.subject
		if actor != "" {
			actor = storage.ActorClient + actor
		}
		q.Request = q.WithContext(storage.WithOrigin(q.Context(), storage.Origin{Actor: actor, RequestID: q.id}))
	}()
	if s.Access == nil {
		return nil
	}
	need := required(q.op, q.target.gun)
	subject, err := s.Access(q.Request, need)
	q.subject = subject
	if refusal, ok := errors.AsType[Challenger](err); ok {
		a := answerUnauthorized.with(need)
		if public := refusal.Public(); public != "" {
			a.message += ": " + public
		}
		return fmt.Errorf("%w: %w", a, refusal)
	}
	if err != nil {
		return fmt.Errorf("checking access: %w", err)
	}
	return nil
}

// required lists what op needs. All that is not about one GUN is for whoever
// may see the whole catalog.
func required(op operation, gun string) []auth.Access {
	if gun == "" || actions[op] == nil {
		return []auth.Access{{Type: "registry", Name: "catalog", Action: "*"}}
	}
	var need []auth.Access
	for _, action := range actions[op] {
		need = append(need, auth.Access{Type: "repository", Name: gun, Action: action})
	}
	return need
}
