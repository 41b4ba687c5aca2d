package server

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"countersign/storage"
	"countersign/tuf"
)

// current answers with the file of that role that the newest timestamp commits
// to. To read root, targets or a delegation renews nothing, and costs one query.
func (s *server) current(w http.ResponseWriter, q *request) error {
	role, err := fileRole(q)
	if err != nil {
		return err
	}
	var m storage.Metadata
	switch role {
	case tuf.RoleTimestamp:
		m, err = s.Publisher.Timestamp(q.Context(), q.gun)
	case tuf.RoleSnapshot:
		m, err = s.Publisher.Snapshot(q.Context(), q.gun)
	default:
		m, err = s.committed(q, role)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", role, err)
	}
	return s.writeMetadata(w, q, m, s.cacheControl(s.CurrentMaxAge, ", must-revalidate"))
}

func (s *server) committed(q *request, role tuf.RoleName) (storage.Metadata, error) {
	g, err := s.Store.Generation(q.Context(), q.gun, role)
	if err != nil {
		return storage.Metadata{}, err
	}
	m, ok := g.Files[role]
	if !ok {
		return storage.Metadata{}, fmt.Errorf("%w: the snapshot does not name it", storage.ErrNotFound)
	}
	return m, nil
}

// byHash answers with the file of this GUN and this role that has that
// checksum. The routes take more spellings than any file has: those are 404.
func (s *server) byHash(w http.ResponseWriter, q *request) error {
	role, err := fileRole(q)
	if err != nil {
		return err
	}
	sum, err := tuf.ParseChecksum(q.target.checksum)
	if err != nil {
		return answerNotFound
	}
	m, err := s.Store.ByChecksum(q.Context(), q.gun, role, sum)
	if err != nil {
		return fmt.Errorf("reading %s by checksum: %w", role, err)
	}
	return s.writeMetadata(w, q, m, s.cacheControl(s.ConsistentMaxAge, ""))
}

// byVersion answers with the file of that version. Leading zeros are of no
// account; a version that no file can have is 404.
func (s *server) byVersion(w http.ResponseWriter, q *request) error {
	role, err := fileRole(q)
	if err != nil {
		return err
	}
	v, err := strconv.ParseInt(q.target.version, 10, 32)
	if err != nil || v < 1 {
		return answerNotFound
	}
	m, err := s.Store.ByVersion(q.Context(), q.gun, role, tuf.Version(v))
	if err != nil {
		return fmt.Errorf("reading version %d of %s: %w", v, role, err)
	}
	return s.writeMetadata(w, q, m, s.cacheControl(s.ConsistentMaxAge, ""))
}

// fileRole is the role in the path. A name that the route takes and that no
// file can have, such as "targets/Ä", is of a file that does not exist.
func fileRole(q *request) (tuf.RoleName, error) {
	role, err := tuf.ParseRoleName(q.target.role)
	if err != nil {
		return "", answerNotFound
	}
	return role, nil
}

// noCache is the Cache-Control of what may not be kept.
const noCache = "max-age=0, no-cache, no-store"

func (s *server) cacheControl(age time.Duration, more string) string {
	seconds := int64(age / time.Second)
	switch {
	case seconds == 0:
		return noCache
	case s.private:
		return fmt.Sprintf("private, max-age=%d%s", seconds, more)
	}
	return fmt.Sprintf("public, max-age=%d, s-maxage=%d%s", seconds, seconds, more)
}

// writeMetadata sends a file, or 304 if the client has it.
func (s *server) writeMetadata(w http.ResponseWriter, q *request, m storage.Metadata, cache string) error {
	header := func(h http.Header) {
		h.Set("Etag", `"`+m.Checksum.String()+`"`)
		h.Set("Cache-Control", cache)
		if cache == noCache {
			h.Set("Pragma", "no-cache")
		}
		if !m.CreatedAt.IsZero() {
			h.Set("Last-Modified", m.CreatedAt.UTC().Format(http.TimeFormat))
		}
	}
	if holds(q.Header.Values("If-None-Match"), `"`+m.Checksum.String()+`"`) {
		header(w.Header())
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return s.send(w, q, header, m.Data)
}

// holds reports whether a list of If-None-Match values names etag.
func holds(values []string, etag string) bool {
	for _, value := range values {
		for tag := range strings.SplitSeq(value, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}
