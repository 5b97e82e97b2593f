package rest

import (
	"net/http"
	"path"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"

	"github.com/berth-dev/berth/services/gateway/internal/door"
)

// answer is a ResponseWriter that notes with which reason a request was refused.
type answer struct {
	http.ResponseWriter
	reason errs.Reason
}

// Unwrap lets http.ResponseController reach the writer.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// noteRefusal notes the status of an error that is being written.
func noteRefusal(w http.ResponseWriter, st *status.Status) {
	if a, ok := w.(*answer); ok {
		a.reason = errs.ReasonOf(rpc.FromStatus(st.Err()))
	}
}

// admitted asks the door about each request before next sees it, and tells it which were refused.
func admitted(d *door.Door, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.Call(r.Host, r.RemoteAddr, r.Header.Values("Authorization")); err != nil {
			fail(w, err)
			return
		}
		a := &answer{ResponseWriter: w}
		next.ServeHTTP(a, r)
		d.Refused(r.RemoteAddr, a.reason)
	})
}

// canonical answers what http.ServeMux would answer in a form of its own: paths that are none, and those that it would redirect to another spelling.
func canonical(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		escaped := r.URL.EscapedPath()
		if clean := path.Clean(escaped); r.RequestURI == "*" || !strings.HasPrefix(escaped, "/") || clean != escaped && clean+"/" != escaped {
			unknownPath(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// plain is a handler of what is the same for everybody. It takes no query, as every other call takes none that it does not read: a token there would end up
// in logs.
func plain(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkQuery(r.URL, nil); err != nil {
			fail(w, err)
			return
		}
		next(w, r)
	})
}
