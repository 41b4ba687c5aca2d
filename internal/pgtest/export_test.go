package pgtest

// Programs is where the clusters of this process take their programs from.
var Programs = programs
