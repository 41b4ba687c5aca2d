// Trust-server is the HTTP half of the pair: it stores and serves the TUF
// metadata of image repositories, checks what is published, and has the signer
// sign snapshots and timestamps. It holds no private key.
package main

import "countersign/internal/program"

func main() {
	program.Main(name, run)
}
