package allocator

import (
	"errors"
	"fmt"
)

// UnreadableError says that allocations are stored and cannot be read. What comes with it holds for all others.
type UnreadableError struct {
	// IDs are the allocations, and what is wrong with the record of each.
	IDs map[string]error
}

// Error implements error. It names one of them.
func (e *UnreadableError) Error() string {
	for id, err := range e.IDs {
		return fmt.Sprintf("the records of %d allocations cannot be read, such as that of %s: %v", len(e.IDs), id, err)
	}
	return "records of allocations cannot be read"
}

// Unreadable returns what cannot be read, for whoever passes it over, or the error, if it is another one.
func Unreadable(err error) (map[string]error, error) {
	var some *UnreadableError
	if errors.As(err, &some) {
		return some.IDs, nil
	}
	return nil, err
}
