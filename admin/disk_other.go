//go:build !unix

package admin

func (k *checkup) disk(string, string) {}
