package wsserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

func TestCloseCodesSayWhetherToComeBack(t *testing.T) {
	back := map[linkv1.CloseCode]bool{
		linkv1.CloseCode_CLOSE_CODE_GOING_AWAY: true, linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER: true,
		linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE: true, linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT: true,
	}
	for n, name := range linkv1.CloseCode_name {
		code := linkv1.CloseCode(n)
		if got := goodbyeFrame(code, "").GetGoodbye().GetReconnect(); got != back[code] {
			t.Errorf("%s: reconnect %v", name, got)
		}
	}
}

func TestTheDocumentSaysTheSameOfEveryCloseCode(t *testing.T) {
	raw, err := os.ReadFile("../../../../docs/link-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| (4\\d{3}) \\| `([A-Z_]+)` \\|.*\\| (yes|after|no) \\|$").FindAllStringSubmatch(string(raw), -1) {
		said[m[2]] = m[1] + " " + m[3]
	}
	for n, name := range linkv1.CloseCode_name {
		code := linkv1.CloseCode(n)
		want := fmt.Sprintf("%d no", n)
		if reconnect(code) {
			want = fmt.Sprintf("%d yes", n)
		}
		if code == linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE { // yes, with a pause
			want = fmt.Sprintf("%d after", n)
		}
		if code != 0 && said[codeName(code)] != want {
			t.Errorf("%s: the document says %q, and the code %q", name, said[codeName(code)], want)
		}
	}
	if len(said) != len(linkv1.CloseCode_name)-1 {
		t.Errorf("the document has %d codes", len(said))
	}
}

func TestAnErrorsCauseStaysHere(t *testing.T) {
	e := linkError(errs.Wrap(errors.New("secret"), errs.StoreUnavailable, "away").Retry(2 * time.Second))
	if e.GetCode() != 14 || e.GetReason() != "STORE_UNAVAILABLE" || e.GetMessage() != "away" || e.GetRetryAfter().AsDuration() != 2*time.Second {
		t.Errorf("%v", e)
	}
	if e := linkError(errors.New("secret")); e.GetCode() != 13 || e.GetReason() != "INTERNAL" || e.GetMessage() != "internal error" {
		t.Errorf("%v", e)
	}
}

// countingConn counts writes to the kernel.
type countingConn struct {
	net.Conn
	writes int
	got    bytes.Buffer
	err    error
}

func (c *countingConn) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	c.writes++
	return c.got.Write(p)
}

func TestABatchIsOneWrite(t *testing.T) {
	under := new(countingConn)
	c := &frameConn{Conn: under, buffers: new(sync.Pool)}
	batch := slices.Repeat([][]byte{bytes.Repeat([]byte{7}, 100)}, 100)
	if err := c.writeMessages(binaryFrame, batch); err != nil || under.writes != 1 {
		t.Errorf("%d writes, %v", under.writes, err)
	}
	under.err = io.ErrClosedPipe
	if err := c.writeMessages(binaryFrame, batch); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write that fails: %v", err)
	}
}

// The frames that are written past the library are those that it reads, of every size at which their header changes, and pings between them.
func TestFramesAreReadByTheLibrary(t *testing.T) {
	sizes := []int{0, 1, 125, 126, gatherLimit - 10, gatherLimit, gatherLimit + 1, 1<<16 - 1, 1 << 16, 1 << 17, 3}
	pinged := make(chan struct{}, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hj := &hijacker{ResponseWriter: w, buffers: new(sync.Pool)}
		ws, err := websocket.Accept(hj, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		var batch [][]byte
		for n, size := range sizes {
			batch = append(batch, bytes.Repeat([]byte{byte(n)}, size))
		}
		for _, typ := range []byte{binaryFrame, textFrame} {
			if err := errors.Join(hj.conn.writeMessages(typ, batch), hj.conn.ping()); err != nil {
				t.Error(err)
			}
		}
		_ = ws.Close(websocket.StatusNormalClosure, "")
		if err := hj.conn.writeMessages(binaryFrame, batch); !errors.Is(err, errClosing) {
			t.Errorf("after the close frame: %v", err)
		}
		if err := hj.conn.ping(); !errors.Is(err, errClosing) {
			t.Errorf("after the close frame: %v", err)
		}
	}))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{OnPingReceived: func(context.Context, []byte) bool { pinged <- struct{}{}; return true }})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	for _, want := range []websocket.MessageType{websocket.MessageBinary, websocket.MessageText} {
		for n, size := range sizes {
			typ, got, err := ws.Read(ctx)
			if err != nil || typ != want || !bytes.Equal(got, bytes.Repeat([]byte{byte(n)}, size)) {
				t.Fatalf("%v message of %d bytes: %v of %d, %v", want, size, typ, len(got), err)
			}
		}
	}
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the end: %v", err)
	}
	<-pinged
}

// What a peer sends together with its upgrade request, without waiting for the answer, is not lost with net/http's buffer.
func TestEarlyBytesSurviveTheHijack(t *testing.T) {
	for _, size := range []int{0, 10, 600, 3000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			early := bytes.Repeat([]byte("e"), size)
			got := make(chan []byte, 1)
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := (&hijacker{ResponseWriter: w}).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				// As the library does it: it takes what is buffered, and goes on with the connection.
				buffered, _ := rw.Peek(rw.Reader.Buffered())
				rest := bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(buffered)), conn))
				all := make([]byte, size+3)
				_, err = io.ReadFull(rest, all)
				if err != nil {
					t.Error(err)
				}
				got <- all
			})}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go func() { defer close(served); _ = srv.Serve(ln) }()
			t.Cleanup(func() { _ = srv.Close(); <-served })
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(append([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), early...)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("end")); err != nil {
				t.Fatal(err)
			}
			select {
			case all := <-got:
				if !bytes.Equal(all, append(early, "end"...)) {
					t.Errorf("%d bytes: %.20q…", len(all), all)
				}
			case <-ctx.Done():
				t.Fatal("nothing arrived")
			}
		})
	}
}
