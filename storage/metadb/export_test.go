package metadb

import "countersign/storage/sqldb"

// NewestQuery is the query behind every current read, for its plan.
var NewestQuery = newestQuery[sqldb.Postgres]
