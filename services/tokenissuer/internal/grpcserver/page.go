package grpcserver

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/berth-dev/berth/services/tokenissuer/internal/caller"
)

const defaultPageSize = 50

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPageSize
	}
	return int(asked)
}

// revocationList names the list of a namespace's revocations.
type revocationList struct{ RevocationsOf string }

// keyList names the list of the API keys that an admin may manage: those of the namespaces that the admin is limited to.
func keyList(by caller.Admin) any {
	namespaces := slices.Clone(by.Namespaces)
	slices.Sort(namespaces)
	return struct{ APIKeysOf []string }{namespaces}
}

// tokenOf names the place below a version in a list of revocations; "" for the end.
func (s *Server) tokenOf(list revocationList, below int64) (string, error) {
	if below == 0 {
		return "", nil
	}
	return s.pages.Token(list, strconv.FormatInt(below, 36))
}

// belowOf returns the version that a token of the list names; 0 for the beginning.
func (s *Server) belowOf(list revocationList, token string) (int64, error) {
	place, err := s.pages.Place(list, token)
	if err != nil || place == "" {
		return 0, err
	}
	below, err := strconv.ParseInt(place, 36, 64)
	if err != nil {
		return 0, fmt.Errorf("a place in the list of revocations: %w", err)
	}
	return below, nil
}
