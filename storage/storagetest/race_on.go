//go:build race

package storagetest

// raceDetector makes everything slower, SQLite in pure Go by far the most. It
// needs fewer rounds: it sees an unguarded access even if nothing comes of it.
const raceDetector = true
