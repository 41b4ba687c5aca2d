package admin

import (
	"context"
	"errors"

	"countersign/storage"
	"countersign/tuf"
)

// ErrNotRecorded: the server's database has no audit log that we may read.
var ErrNotRecorded = errors.New("there is no audit log in the server's database: trust-admin db migrate makes one")

// LogConfig says which entries of the audit log.
type LogConfig struct {
	GUN tuf.GUN // "" for all
	// Last shows only the newest so many; 0 shows all.
	Last int
}

// logPage is how many entries are read together.
const logPage = 1000

// Log calls f for each entry of the audit log, oldest first.
func (s *Site) Log(ctx context.Context, c LogConfig, f func(storage.Event) error) error {
	if !s.Recorded {
		return ErrNotRecorded
	}
	q := storage.EventQuery{GUN: c.GUN, Limit: logPage}
	if c.Last > 0 {
		q.Newest, q.Limit = true, c.Last
	}
	for {
		page, err := s.Metadata.Events(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := f(e); err != nil {
				return err
			}
		}
		if c.Last > 0 || len(page) < q.Limit {
			return nil
		}
		q.After = page[len(page)-1].ID
	}
}
