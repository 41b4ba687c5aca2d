// Package e2e holds the tests that run the programs as users do: real
// processes, real TLS, PostgreSQL and SQLite, the notary and docker clients of
// Debian, and the client library that both of them embed.
//
// The server and the signer are swappable: each of them may be ours or
// upstream's, which shows that either half can be put in and taken out again,
// and that a failure is not the harness's own.
//
// COUNTERSIGN_BIN names a directory with built programs; without it the tests
// build their own. COUNTERSIGN_E2E_PAIR (for instance "upstream/upstream", the
// server first) chooses the pair for the tests that do not name one.
package e2e
