// Trust-signer is the half of the pair that holds keys: it makes the private
// keys of roles that the server manages, keeps them sealed in its own database,
// and signs with them.
package main

import "countersign/internal/program"

func main() {
	program.Main(name, run)
}
