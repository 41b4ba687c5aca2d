//go:build !race

package storagetest

const raceDetector = false
