//go:build race

package publish_test

// raceDetector makes everything slower. It needs fewer rounds: it sees an
// unguarded access even if nothing comes of it.
const raceDetector = true
