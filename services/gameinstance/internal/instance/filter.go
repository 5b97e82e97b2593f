package instance

import (
	"context"
	"slices"
)

// Filter selects instances: all that is set must hold. The zero value selects all.
type Filter struct {
	// States has those that the instance may be in; empty: any.
	States []State
	// Region is where its newest attempt was placed.
	Region string
	// Labels are labels that it has.
	Labels map[string]string
	// PlayerID is a player that it has.
	PlayerID string
	// Build is the build that it wants.
	Build string
}

// Matches reports whether the filter selects the instance. Of its players it looks only at whether there is one of the filter's id.
func (f Filter) Matches(i *Instance) bool {
	if len(f.States) > 0 && !slices.Contains(f.States, i.State) {
		return false
	}
	if f.Region != "" && (i.Attempt() == nil || i.Attempt().Region != f.Region) {
		return false
	}
	for name, value := range f.Labels {
		if has, ok := i.Labels[name]; !ok || has != value {
			return false
		}
	}
	if f.PlayerID != "" {
		if _, ok := i.Players[f.PlayerID]; !ok {
			return false
		}
	}
	return f.Build == "" || f.Build == i.Placement.Build
}

// Empty reports whether the filter selects all.
func (f Filter) Empty() bool {
	return len(f.States) == 0 && f.Region == "" && len(f.Labels) == 0 && f.PlayerID == "" && f.Build == ""
}

// Players returns whom the filter asks after.
func (f Filter) Players() []string {
	if f.PlayerID == "" {
		return nil
	}
	return []string{f.PlayerID}
}

// Query asks for a page of a namespace's instances.
type Query struct {
	Namespace string
	Filter    Filter
	// Limit is how many instances a page has at most.
	Limit int
	// After is where the page begins.
	After Cursor
}

// Pages reads lists. Its errors are *errs.Error.
type Pages interface {
	// Page returns instances newest first, without players and data, and where to go on; the zero Cursor at the end. With a filter a page may be
	// short, or empty, and not be the last.
	Page(ctx context.Context, q Query) (page []*Instance, next Cursor, err error)
}

// Head is an instance without its data, and of its players only those that were asked after, without what is known of them.
type Head struct {
	ID string
	// Instance is nil where there is none.
	Instance *Instance
	// Err says that the record cannot be read.
	Err error
}

// Mark names an instance that changed.
type Mark struct {
	ID string
	// Revision of its last change; 0 if it was deleted.
	Revision int64
}
