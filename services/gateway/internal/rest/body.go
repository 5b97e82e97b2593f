package rest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
)

const (
	// maxBody leaves room around 1 MiB of a game's data, in JSON.
	maxBody = 2 << 20
	// bodyTimeout bounds how long a body may take to arrive.
	bodyTimeout = 30 * time.Second
)

// passedHeaders are the request headers that handlers see. What is not here cannot be smuggled into a call's metadata.
func passedHeaders() [5]string {
	return [...]string{"Authorization", "Berth-Social-Token", "Traceparent", "Content-Type", "Accept"}
}

// guard hands on requests with a whole body of bounded size, and with only the headers that handlers may see.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r)
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			writeError(w, http.StatusRequestEntityTooLarge, rpc.Status(errs.New(errs.LimitExceeded, "body: at most %d bytes are allowed", maxBody)))
			return
		case err != nil:
			fail(w, errs.Wrap(err, errs.Malformed, "body: it did not arrive whole"))
			return
		}
		headers := make(http.Header)
		for _, key := range passedHeaders() {
			if values := r.Header.Values(key); len(values) > 0 {
				headers[key] = values
			}
		}
		clean := r.WithContext(r.Context()) // a shallow copy
		clean.Header, clean.Body = headers, io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, clean)
	})
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // a writer that cannot has no slow peer either
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
}
