package migrations

import (
	"slices"
	"strings"
)

// A table that the stores need. A file of its name creates it.
type table struct {
	name    string
	columns []column
	unique  []string // columns that must be unique together, sorted
	rights  []string // what the programs do with it
}

type column struct{ name, kind string }

// kinds are the types in PostgreSQL by which a column may be kept: first
// upstream's, then those that other tools have made of it.
var kinds = map[string][]string{
	"number": {"int4", "int8"},
	"time":   {"timestamp", "timestamptz"},
	"name":   {"varchar", "text"}, // compared with what is longer than itself: no padding
	"sum":    {"bpchar", "varchar", "text"},
	"bytes":  {"bytea"},
}

// upstreamVersion is what upstream's migration tool records for these tables.
var upstreamVersion = map[Schema]int64{Server: 2, Signer: 1}

// mysqlVersion is the highest number that it records on MySQL, whose migrations are
// counted otherwise. Databases that were moved from there have kept it.
var mysqlVersion = map[Schema]int64{Server: 5, Signer: 2}

// tables are in the order in which they refer to each other; the first is the
// one that tells whether there is a database of this program at all.
var tables = map[Schema][]table{
	Server: {
		{"tuf_files", parse("id:number created_at:time updated_at:time deleted_at:time gun:name role:name version:number data:bytes sha256:sum"),
			[]string{"gun", "role", "version"}, []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
		{"change_category", parse("category:name"), []string{"category"}, []string{"SELECT"}},
		{"changefeed", parse("id:number created_at:time gun:name version:number sha256:sum category:name"),
			[]string{"id"}, []string{"SELECT", "INSERT"}},
	},
	Signer: {
		{"private_keys", parse("id:number created_at:time updated_at:time deleted_at:time key_id:name encryption_alg:name keywrap_alg:name algorithm:name " +
			"passphrase_alias:name public:bytes private:bytes gun:name role:name last_used:time"),
			[]string{"key_id"}, []string{"SELECT", "INSERT", "UPDATE"}},
	},
}

// categories are the rows of change_category, without which nothing can be
// written to the changefeed.
var categories = []string{"deletion", "update"}

func parse(list string) []column {
	var all []column
	for _, f := range strings.Fields(list) {
		name, kind, _ := strings.Cut(f, ":")
		all = append(all, column{name, kind})
	}
	return all
}

func (t table) names() []string {
	var names []string
	for _, c := range t.columns {
		names = append(names, c.name)
	}
	return names
}

// other returns the schema of the other program.
func (s Schema) other() Schema {
	if s == Server {
		return Signer
	}
	return Server
}

// quote writes an identifier of PostgreSQL.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal writes a string constant of PostgreSQL.
func literal(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

func join(list []string) string { return strings.Join(list, ", ") }

// without returns those of list that are not in have.
func without(list, have []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(have, s) })
}
