package admin

// A Class names a kind of finding. Scripts may rely on it.
type Class string

// Faults of a row.
const (
	ClassEmpty     Class = "empty"
	ClassBytes     Class = "bytes"
	ClassChecksum  Class = "checksum"
	ClassMalformed Class = "malformed"
	ClassVersion   Class = "version"
	ClassRole      Class = "role"
	ClassGUN       Class = "gun"
	ClassForeign   Class = "foreign"
	ClassUnsigned  Class = "unsigned"
	ClassSignature Class = "signature"
)

// Faults of the current generation, and of the roots that lead to it.
const (
	ClassMissing     Class = "missing"
	ClassHidden      Class = "hidden"
	ClassMismatch    Class = "mismatch"
	ClassRootHole    Class = "root-hole"
	ClassRootChain   Class = "root-chain"
	ClassNoTimestamp Class = "no-timestamp"
	ClassRolledBack  Class = "rolled-back"
	ClassStrayName   Class = "stray-name"
)

// Faults of the changefeed, and of the two databases together.
const (
	ClassFeedMissing Class = "feed-missing"
	ClassFeedSum     Class = "feed-sha256"
	ClassFeedVersion Class = "feed-version"
	ClassFeedOrder   Class = "feed-order"
	ClassFeedDeleted Class = "feed-deleted"
	ClassPurgeOpen   Class = "purge-open"
)

// Notes.
const (
	ClassExpired      Class = "expired"
	ClassSoftDeleted  Class = "soft-deleted"
	ClassDebris       Class = "debris"
	ClassUnread       Class = "unread"
	ClassOldMissing   Class = "old-missing"
	ClassOldMismatch  Class = "old-mismatch"
	ClassTimestampGap Class = "timestamp-gap"
	ClassFeedTwice    Class = "feed-twice"
	ClassFeedOrphan   Class = "feed-orphan"
	ClassGone         Class = "gone"
	ClassKeyDoomed    Class = "key-doomed"
	ClassUnsettled    Class = "unsettled"
)

const (
	restoreRow  = "restore this row from a backup or an archive, byte for byte"
	mendColumn  = "set the column right (the text says to what); the file itself is as it was signed"
	askOwner    = "restore what was there from a backup; if nothing has it, the owner publishes this role anew"
	nobodyReads = "nothing need be done: no client asks for it"
)

// classes say which classes are faults, and what to do about each.
var classes = map[Class]struct {
	fault bool
	do    string
}{
	ClassEmpty:     {true, restoreRow},
	ClassBytes:     {true, restoreRow},
	ClassChecksum:  {true, mendColumn},
	ClassMalformed: {true, restoreRow},
	ClassVersion:   {true, mendColumn},
	ClassRole:      {true, mendColumn},
	ClassGUN:       {true, "give the rows their repository back; a repository cannot be renamed without its root key"},
	ClassForeign:   {true, "find out who put it here; " + restoreRow + ", or remove it if it was never part of this repository"},
	ClassUnsigned:  {true, "find out who put it here; " + restoreRow},
	ClassSignature: {true, "find out who put it here; " + restoreRow},

	ClassMissing:     {true, askOwner},
	ClassHidden:      {true, "update tuf_files set deleted_at = null where id = the row's"},
	ClassMismatch:    {true, askOwner},
	ClassRootHole:    {true, "restore that root from a backup: clients that know an older one get no further"},
	ClassRootChain:   {true, "restore the roots from a backup: clients that know the older one refuse the newer"},
	ClassNoTimestamp: {true, "restore the newest timestamp from a backup; or purge the repository, and its owner publishes anew"},
	ClassRolledBack:  {true, "restore the newer generation from a backup; otherwise clients that saw it refuse this one until it has been published to often enough"},
	ClassStrayName:   {true, "the owner publishes a snapshot without it (any publish does, if the server makes the snapshot)"},

	ClassFeedMissing: {true, "add the entry (insert into changefeed), with the time of the row: who mirrors by the feed has missed this version"},
	ClassFeedSum:     {true, "set the entry's sha256 to that of the row"},
	ClassFeedVersion: {true, "set the entry's version to that of the row"},
	ClassFeedOrder:   {true, "nothing mends what readers of the feed have read; look for who has changed it"},
	ClassFeedDeleted: {true, "add an entry for the newest timestamp: who mirrors by the feed has removed the repository"},
	ClassPurgeOpen:   {true, "trust-admin purge resume"},

	ClassExpired:      {false, "timestamps, and snapshots that the server signs, are renewed by it; all else by its owner, see trust-admin expiry"},
	ClassSoftDeleted:  {false, "nothing need be done: nobody reads it, but it holds its version"},
	ClassDebris:       {false, "the next first publish removes it"},
	ClassUnread:       {false, nobodyReads},
	ClassOldMissing:   {false, nobodyReads + " that knows the current generation"},
	ClassOldMismatch:  {false, nobodyReads + " that knows the current generation"},
	ClassTimestampGap: {false, nobodyReads},
	ClassFeedTwice:    {false, "nothing need be done: who mirrors by the feed does the same once more"},
	ClassFeedOrphan:   {false, "nothing need be done: upstream's server leaves such entries when two renew at once"},
	ClassGone:         {false, "nothing need be done; who mirrors by the feed does not know. trust-admin keys orphans finds its keys"},
	ClassKeyDoomed:    {false, "a running trust-server has the signer delete it; trust-admin purge does, too"},
	ClassUnsettled:    {false, "check it again when less is published"},
}
