package gamelift

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/gamelift"
	"github.com/aws/smithy-go/encoding/cbor"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// maxAnswer is how much of an answer is read; a larger one is none.
const maxAnswer = 8 << 20

// plainBodies hides that a request's body can write itself. The SDK closes a body as soon as an answer begins. net/http may be about to look whether there is more
// of it: it takes what a closed one that writes itself says, io.EOF, for a failure, and closes the connection before the answer is read. An answer that breaks off
// fails with a brokenAnswer.
type plainBodies struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t plainBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context()) // the caller's is not to be changed
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	resp, err := t.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = &answerBody{ReadCloser: resp.Body}
	}
	return resp, err
}

// brokenAnswer is why an answer that began did not come whole.
type brokenAnswer struct{ error }

func (e brokenAnswer) Unwrap() error { return e.error }

// answerBody is the body of an answer. The SDK reads it to its end, however long it is.
type answerBody struct {
	io.ReadCloser
	read int64
}

// Read implements io.Reader.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	switch {
	case b.read > maxAnswer:
		err = brokenAnswer{fmt.Errorf("its answer has more than %d bytes", maxAnswer)}
	case err != nil && err != io.EOF: //nolint:errorlint // a reader returns it as it is
		err = brokenAnswer{err}
	}
	return n, err
}

// copyBody is an option of a call that copies the body of its answer.
func copyBody(to io.Writer) func(*gamelift.Options) {
	tee := middleware.DeserializeMiddlewareFunc("CopyBody", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		if resp, ok := out.RawResponse.(*smithyhttp.Response); ok && err == nil {
			resp.Body = struct {
				io.Reader
				io.Closer
			}{io.TeeReader(resp.Body, to), resp.Body}
		}
		return out, metadata, err
	})
	return func(o *gamelift.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error { return stack.Deserialize.Add(tee, middleware.After) })
	}
}

// hasList reports whether the body of an answer has a list of that name, were it empty: the SDK makes the same of an empty one and of none.
func hasList(body []byte, name string) bool {
	answer, err := cbor.Decode(body)
	members, isMap := answer.(cbor.Map)
	_, isList := members[name].(cbor.List)
	return err == nil && isMap && isList
}
