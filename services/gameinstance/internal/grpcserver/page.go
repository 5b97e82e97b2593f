package grpcserver

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// pageToken names the place after an instance in the list.
func pageToken(c instance.Cursor) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d/%s", c.CreateTime.UnixMicro(), c.ID))
}

func parsePageToken(token string) (instance.Cursor, error) {
	if token == "" {
		return instance.Cursor{}, nil
	}
	invalid := errs.New(errs.ValidationFailed, "page_token: not one of ours; take next_page_token as it is, or leave it empty")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return instance.Cursor{}, invalid
	}
	var us int64
	created, id, ok := strings.Cut(string(raw), "/")
	if _, err := fmt.Sscan(created, &us); err != nil || !ok || us <= 0 || uuid.Validate(id) != nil {
		return instance.Cursor{}, invalid
	}
	return instance.Cursor{CreateTime: time.UnixMicro(us), ID: id}, nil
}
