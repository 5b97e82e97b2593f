package fleet

// Empty is for tests: one pass without waiting for its time.
var Empty = (*Fleet).empty

// Refresh is for tests: as Run does each second.
var Refresh = (*Fleet).refresh
