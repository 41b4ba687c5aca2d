package storage

import (
	"time"

	"countersign/tuf"
)

// What follows is the tables as they are, whatever is wrong with them, for the
// operator's tools: archives keep it and fsck reads it. The programs do not.

// A FileInfo is a row of tuf_files without its bytes.
type FileInfo struct {
	ID      int64
	Role    tuf.RoleName
	Version tuf.Version
	SHA256  string    // the column as it is, without padding; "" for null
	Size    int64     // bytes of Data
	Created time.Time // UTC; zero: null
	Updated time.Time // the same
	Deleted time.Time // zero: a live row
}

// A FileRow is a row of tuf_files.
type FileRow struct {
	FileInfo
	Data []byte
}

// A KeyRow is a row of private_keys.
type KeyRow struct {
	Key
	RowID   int64
	Updated time.Time // zero: null
	Deleted time.Time // zero: a live row
}
