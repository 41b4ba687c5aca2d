// Package proto holds signer.proto, the frozen wire between the two programs,
// and the code generated from it. Only package signer/rpc uses it.
package proto

//go:generate ./generate.sh
