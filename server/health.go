package server

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// health answers whether this process can do its work: {} or, with 503, what
// cannot be reached and why.
func (s *server) health(w http.ResponseWriter, _ *request) error {
	failing := s.Health()
	status := http.StatusOK
	if len(failing) > 0 {
		status = http.StatusServiceUnavailable
	} else {
		failing = map[string]string{}
	}
	body, err := json.Marshal(failing)
	if err != nil {
		return fmt.Errorf("encoding the health: %w", err)
	}
	writeBody(w, status, "application/json; charset=utf-8", body)
	return nil
}
