package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// defaultPage is what records=0 asks for.
const defaultPage = 100

// noSum stands for the SHA-256 of a deletion: upstream's column has a fixed
// width, so that its readers know nothing else.
var noSum = strings.Repeat(" ", 64)

// A change is one entry of the changefeed as clients read it.
type change struct {
	ID        string
	CreatedAt time.Time
	GUN       tuf.GUN
	Version   tuf.Version
	SHA256    string
	Category  string
}

// changefeed answers with a page of changes, oldest first: for one GUN, or for
// all. No page has more than [Limits.ChangesPage] entries, whatever was asked
// for; a reader goes on from the last ID that it got until a page is empty.
func (s *server) changefeed(w http.ResponseWriter, q *request) error {
	query, err := s.changeQuery(q.URL.Query())
	if err != nil {
		return err
	}
	query.GUN = q.gun
	found, err := s.Store.Changes(q.Context(), query)
	if err != nil {
		return fmt.Errorf("reading the changefeed: %w", err)
	}
	page := struct {
		Count   int      `json:"count"`
		Records []change `json:"records"`
	}{len(found), make([]change, len(found))}
	for i, c := range found {
		page.Records[i] = change{strconv.FormatInt(c.ID, 10), c.CreatedAt.UTC(), c.GUN, c.Version, c.SHA256, c.Category}
		if c.SHA256 == "" {
			page.Records[i].SHA256 = noSum
		}
	}
	body, err := json.Marshal(page)
	if err != nil {
		return fmt.Errorf("encoding the changefeed: %w", err)
	}
	return s.send(w, q, nil, body)
}

// changeQuery reads the parameters. A negative number of records means
// backwards from change_id; so does, from the newest on, a negative change_id.
func (s *server) changeQuery(params url.Values) (storage.ChangeQuery, error) {
	var none storage.ChangeQuery
	records, err := parseInt32(params.Get("records"))
	if err != nil {
		return none, answerParameters.with("invalid records parameter: " + err.Error())
	}
	var id int64
	if text := params.Get("change_id"); text != "" {
		if id, err = parseInt32(text); err != nil {
			return none, answerParameters
		}
	}
	if records == 0 {
		records = defaultPage
	}
	query := storage.ChangeQuery{Limit: int(min(max(records, -records), int64(s.Limits.ChangesPage)))}
	switch {
	case records > 0 && id >= 0:
		query.After = id
	case records < 0 && id > 0:
		query.Before = id
	default:
		query.Newest = true
	}
	return query, nil
}

// parseInt32 reads a number as upstream does, since the text of the error is
// part of the answer. It quotes no more than is fit to be sent back.
func parseInt32(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if e, ok := errors.AsType[*strconv.NumError](err); ok {
		e.Num = bound(e.Num, 64)
	}
	return n, err
}
