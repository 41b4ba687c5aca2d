package keydb

// UnusedQuery is the look-up before every new key, for its plan.
const UnusedQuery = unusedQuery
