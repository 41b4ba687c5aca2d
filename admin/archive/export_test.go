package archive

// SetMaxSums shortens the longest list of sums, and returns what undoes that.
func SetMaxSums(n int64) func() {
	before := maxSums
	maxSums = n
	return func() { maxSums = before }
}
