//go:build race

package admin_test

// raceDetector makes everything slower, RSA and SQLite in pure Go by far the
// most. It needs fewer rows: it sees an unguarded access even if nothing comes of
// it.
const raceDetector = true
