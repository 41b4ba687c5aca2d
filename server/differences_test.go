package server_test

// The lists of answers that are not upstream's, on purpose. Beyond them, every
// answer of ours has a Content-Length, an X-Request-Id and X-Content-Type-Options,
// metadata has an ETag, and Last-Modified ends in GMT.

const (
	whyNull   = "an empty page is [] on every database; upstream's memory backend says null"
	whyPanic  = "upstream panics, and closes the connection without an answer"
	whyStrict = "what stands behind the JSON value, or twice in it, is refused before it is looked at"
)

var pathDifferences = []difference{
	{`(GET|POST|PUT|DELETE) .*%0A.*`, "404", "404 METADATA_NOT_FOUND",
		"a path with a line break fits none of upstream's routes, not even the one for what is not found; the answer is a 404 all the same"},
	{`HEAD .*%0A.*`, "404", "404", "as for GET; a different Content-Type"},
	{`PATCH .*%0A.*`, "404", "405", "a method that no route has is answered alike on every path"},
	{`GET .*/99999999999999999999\.root\.json`, "404 METADATA_NOT_FOUND", "404 METADATA_NOT_FOUND",
		"a version beyond 64 bits is a version that does not exist; upstream describes its parser's error"},
}

var prefixDifferences = []difference{
	{`GET /v2/a/b/_trust/changefeed\?records=1`, "200", "200", whyNull},
}

var uploadDifferences = []difference{
	{`upload: (empty body|cut behind a file|other boundary|no multipart|empty boundary|boundary too long)`, "connection closed", "400 MALFORMED_UPLOAD", whyPanic},
	{`upload: cut in a (file|header)`, "400 INVALID_UPDATE", "400 MALFORMED_UPLOAD",
		"a body that ends in the header of a file is refused; upstream takes the files before it for the whole upload"},
	{`upload: gzip`, "400 INVALID_ROLE", "400 MALFORMED_UPLOAD", "a compressed body is refused as such; upstream takes it as it stands, and panics if it is compressed indeed"},
	{`upload: NUL`, "400 INVALID_ROLE", "400 MALFORMED_UPLOAD", "a header with a NUL is no header"},
	{`upload: (garbage behind|unbalanced|duplicate members)`, "400 INVALID_UPDATE", "400 MALFORMED_JSON", whyStrict},
}

var lifeDifferences = []difference{
	{`.*: changes of .* records=-1`, "connection closed", "200", whyPanic + ": its memory backend, if records is negative and change_id missing"},
	{`published: changes of .* records=[015]&change_id=(1|99)`, "200", "200", whyNull},
	{`(later|deleted): changes of .* records=5&change_id=99`, "200", "200", whyNull},
	{`deleted: changes of (registry.*/)? records=(10|0&change_id=1)`, "200", "200",
		"a deletion has a SHA256 of 64 spaces on every database, as upstream has it on PostgreSQL; its memory backend has an empty one"},
	{`hash of another role`, "200", "404 METADATA_NOT_FOUND", "a file is served only under its own GUN and role; upstream's memory backend, and its cache before every backend, do not look at the role"},
	{`conditional`, "200", "304", "metadata has an ETag, and If-None-Match is honoured"},
	{`GET .*/99999999999999999999\.root\.json`, "404 METADATA_NOT_FOUND", "404 METADATA_NOT_FOUND",
		"a version beyond 64 bits is a version that does not exist; upstream describes its parser's error"},
}
