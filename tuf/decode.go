package tuf

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"countersign/tuf/cjson"
)

// The functions of this file decode as encoding/json decodes into a struct,
// since that is what the clients do: null leaves a value as it is, unknown
// members are skipped. They refuse two things that it takes: a member in other
// case than that of a known one, and an array of numbers for a byte string.

func expected(want, got cjson.Kind) error { return fmt.Errorf("expected %s, not %s", want, got) }

func ambiguous(name []byte, known string) error {
	return fmt.Errorf("member %.80q could be read as %q", name, known)
}

// readNull reads a null, if there is one.
func readNull(r *cjson.Reader) bool {
	if r.Kind() != cjson.Null {
		return false
	}
	_, err := r.Skip()
	return err == nil
}

func readObject(r *cjson.Reader, f func(name []byte) error) error {
	if readNull(r) {
		return nil
	}
	if k := r.Kind(); k != cjson.Object {
		return expected(cjson.Object, k)
	}
	return r.Object(f)
}

func readArray(r *cjson.Reader, f func() error) error {
	if readNull(r) {
		return nil
	}
	if k := r.Kind(); k != cjson.Array {
		return expected(cjson.Array, k)
	}
	return r.Array(f)
}

// readUnknown skips a member that is none of the known ones.
func readUnknown(r *cjson.Reader, name []byte, known ...string) error {
	for _, k := range known {
		if strings.EqualFold(string(name), k) {
			return ambiguous(name, k)
		}
	}
	_, err := r.Skip()
	return err
}

func readText(r *cjson.Reader) (string, error) {
	if readNull(r) {
		return "", nil
	}
	if k := r.Kind(); k != cjson.String {
		return "", expected(cjson.String, k)
	}
	text, err := r.Text()
	return string(text), err
}

func readInt(r *cjson.Reader) (int64, error) {
	if readNull(r) {
		return 0, nil
	}
	if k := r.Kind(); k != cjson.Number {
		return 0, expected(cjson.Number, k)
	}
	return r.Int()
}

func readBool(r *cjson.Reader) error {
	if readNull(r) {
		return nil
	}
	if k := r.Kind(); k != cjson.Bool {
		return expected(cjson.Bool, k)
	}
	_, err := r.Skip()
	return err
}

func readBytes(r *cjson.Reader) ([]byte, error) { return appendBase64(nil, r) }

// appendBase64 decodes a byte string behind dst. For null it returns nil.
func appendBase64(dst []byte, r *cjson.Reader) ([]byte, error) {
	if readNull(r) {
		return nil, nil
	}
	if k := r.Kind(); k != cjson.String {
		return nil, expected(cjson.String, k)
	}
	text, err := r.Text()
	if err != nil {
		return nil, err
	}
	if dst == nil {
		dst = []byte{} // what is empty is not null
	}
	return base64.StdEncoding.AppendDecode(dst, text)
}

func readSignatures(r *cjson.Reader) ([]Signature, error) {
	var list []Signature
	err := readArray(r, func() error {
		if err := room(len(list), MaxSignatures, "signatures"); err != nil {
			return err
		}
		s, err := readSignature(r)
		list = append(list, s)
		return err
	})
	return list, err
}

func readSignature(r *cjson.Reader) (s Signature, err error) {
	err = readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "keyid":
			var id string
			id, err = readText(r)
			s.KeyID = KeyID(id)
		case "method":
			s.Method, err = readText(r)
			s.Method = strings.ToLower(s.Method)
		case "sig":
			s.Sig, err = readBytes(r)
		default:
			return readUnknown(r, name, "keyid", "method", "sig")
		}
		return err
	})
	return s, err
}

// room fails if a list of n cannot have another. Whoever reads a list asks
// before the next is read: what is refused shall not have cost memory.
func room(n, most int, what string) error {
	if n >= most {
		return fmt.Errorf("more than %d %s", most, what)
	}
	return nil
}

func readKeys(r *cjson.Reader) (map[KeyID]Key, error) {
	keys := make(map[KeyID]Key)
	err := readObject(r, func(id []byte) error {
		if err := room(len(keys), MaxKeys, "keys"); err != nil {
			return err
		}
		k, err := readKey(r)
		keys[KeyID(id)] = k
		return err
	})
	return keys, err
}

func readKey(r *cjson.Reader) (k Key, err error) {
	err = readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "keytype":
			k.Type, err = readText(r)
			return err
		case "keyval":
			return readObject(r, func(name []byte) (err error) {
				switch string(name) {
				case "public":
					k.Public, err = readBytes(r)
					return err
				case "private": // null in all metadata; counts for nothing
					_, err = readBytes(r)
					return err
				}
				return readUnknown(r, name, "public", "private")
			})
		}
		return readUnknown(r, name, "keytype", "keyval")
	})
	return k, err
}

func readKeyIDs(r *cjson.Reader) ([]KeyID, error) {
	var ids []KeyID
	err := readArray(r, func() error {
		if err := room(len(ids), MaxKeyIDs, "key IDs of one role"); err != nil {
			return err
		}
		id, err := readText(r)
		ids = append(ids, KeyID(id))
		return err
	})
	return ids, err
}

func readThreshold(r *cjson.Reader) (int, error) {
	n, err := readInt(r)
	if err == nil && int64(int(n)) != n {
		err = fmt.Errorf("threshold %d is too large", n)
	}
	return int(n), err
}

// readRole reads a role of a root file. It reports false for null.
func readRole(r *cjson.Reader) (role Role, ok bool, err error) {
	if readNull(r) {
		return role, false, nil
	}
	err = readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "keyids":
			role.KeyIDs, err = readKeyIDs(r)
		case "threshold":
			role.Threshold, err = readThreshold(r)
		default:
			return readUnknown(r, name, "keyids", "threshold")
		}
		return err
	})
	return role, true, err
}

func readDelegation(r *cjson.Reader) (d Delegation, err error) {
	if r.Kind() == cjson.Null {
		return d, expected(cjson.Object, cjson.Null)
	}
	err = readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "keyids":
			d.KeyIDs, err = readKeyIDs(r)
		case "threshold":
			d.Threshold, err = readThreshold(r)
		case "name":
			var s string
			s, err = readText(r)
			d.Name = RoleName(s)
		case "paths":
			err = readArray(r, func() error {
				if err := room(len(d.Paths), MaxPaths, "paths of one role"); err != nil {
					return err
				}
				p, err := readText(r)
				d.Paths = append(d.Paths, p)
				return err
			})
		default:
			return readUnknown(r, name, "keyids", "threshold", "name", "paths")
		}
		return err
	})
	return d, err
}

// readDelegations reads the member "delegations". check is asked about each
// role as soon as it is read, so that a list of nonsense ends at its first.
func readDelegations(r *cjson.Reader, check func(Delegation) error) (d Delegations, err error) {
	err = readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "keys":
			d.Keys, err = readKeys(r)
			return err
		case "roles":
			return readArray(r, func() error {
				if err := room(len(d.Roles), MaxRoles, "roles"); err != nil {
					return err
				}
				role, err := readDelegation(r)
				if err != nil {
					return err
				}
				d.Roles = append(d.Roles, role)
				return check(role)
			})
		}
		return readUnknown(r, name, "keys", "roles")
	})
	return d, err
}

// readFiles reads the map of a targets, snapshot or timestamp file, of at most
// most names of type N.
func readFiles[N ~string](r *cjson.Reader, most int) (map[N]FileMeta, error) {
	files := make(map[N]FileMeta)
	err := readObject(r, func(name []byte) error {
		if err := room(len(files), most, "files"); err != nil {
			return err
		}
		m, err := readFileMeta(r)
		m.Custom = bytes.Clone(m.Custom) // not to keep the whole file
		files[N(name)] = m
		return err
	})
	return files, err
}

// checkFiles does what readFiles does, but keeps nothing.
func checkFiles(r *cjson.Reader) error {
	return readObject(r, func([]byte) error {
		_, err := readFileMetaWith(r, checkHashes)
		return err
	})
}

func readFileMeta(r *cjson.Reader) (m FileMeta, err error) { return readFileMetaWith(r, readHashes) }

func readFileMetaWith(r *cjson.Reader, hashes func(*cjson.Reader) (Hashes, error)) (m FileMeta, err error) {
	err = readObject(r, func(name []byte) (err error) {
		switch string(name) {
		case "length":
			m.Length, err = readInt(r)
		case "hashes":
			m.Hashes, err = hashes(r)
		case "custom":
			if readNull(r) {
				return nil
			}
			m.Custom, err = r.Skip()
		default:
			return readUnknown(r, name, "length", "hashes", "custom")
		}
		return err
	})
	return m, err
}

func readHashes(r *cjson.Reader) (Hashes, error) {
	if readNull(r) {
		return nil, nil
	}
	hashes := make(Hashes, len(supportedHashes))
	err := readObject(r, func(algorithm []byte) error {
		if err := room(len(hashes), MaxHashes, "hashes of one file"); err != nil {
			return err
		}
		h, err := readBytes(r)
		hashes[string(algorithm)] = h
		return err
	})
	return hashes, err
}

func checkHashes(r *cjson.Reader) (Hashes, error) {
	var buf [128]byte
	n := 0
	return nil, readObject(r, func([]byte) error {
		if err := room(n, MaxHashes, "hashes of one file"); err != nil {
			return err
		}
		n++
		_, err := appendBase64(buf[:0], r)
		return err
	})
}
