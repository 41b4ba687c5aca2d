package seal

// Derive gives tests both derivations: the standard one and that of Go 1.15.
func Derive(pass string, salt []byte, iterations int) (right, wrong [kekSize]byte) {
	return derive(pass, salt, iterations, standard), derive(pass, salt, iterations, go115)
}
