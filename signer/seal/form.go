package seal

// A Form is how a key was sealed.
type Form struct {
	// Rounds is PBKDF2's iteration count.
	Rounds int
	// Older: the wrapping key was derived as by a build of upstream with Go 1.15.
	// No other build of upstream opens it. Only opening tells.
	Older bool
}

// FormOf reads what can be told without a passphrase: the rounds. It reports
// false if sealed is not of a form that Open accepts.
func FormOf(sealed []byte) (Form, bool) {
	p, err := parse(sealed)
	return Form{Rounds: p.header.P2C}, err == nil
}
