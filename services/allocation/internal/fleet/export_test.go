package fleet

// Empty is for tests: one pass without waiting for its time.
var Empty = (*Fleet).empty
