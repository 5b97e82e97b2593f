package wsserver

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
)

// socketBuffer is the size of the two buffers that an idle connection keeps. Reads and writes of more go around them.
const socketBuffer = 512

// hijacker is a ResponseWriter whose Hijack gives small buffers, so that an idle connection does not hold the 8 KiB of net/http's, and a connection
// whose writes can be gathered.
type hijacker struct {
	http.ResponseWriter
	buffers *sync.Pool     // of *bytes.Buffer, for the connection
	conn    *gatheringConn // set by Hijack
}

// Unwrap lets http.ResponseController reach the writer.
func (h *hijacker) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &gatheringConn{Conn: conn, buffers: h.buffers}
	var source io.Reader = h.conn
	early, err := rw.Peek(rw.Reader.Buffered()) // from a peer that did not wait for the answer to its upgrade
	if err != nil {
		return nil, nil, err
	}
	if len(early) > 0 {
		source = io.MultiReader(bytes.NewReader(bytes.Clone(early)), h.conn)
	}
	r := bufio.NewReaderSize(source, max(socketBuffer, len(early)))
	_, _ = r.Peek(len(early)) // it must lie in this reader's own buffer: from there the library takes it
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriterSize(h.conn, socketBuffer)), nil
}

// gatherLimit is how much is gathered before it is written.
const gatherLimit = 32 << 10

// gatheringConn is a connection on which the frames of one batch become one write to the kernel.
type gatheringConn struct {
	net.Conn
	buffers *sync.Pool // of *bytes.Buffer

	mu  sync.Mutex
	buf *bytes.Buffer // non-nil between gather and flush
}

// gather makes writes wait for flush.
func (c *gatheringConn) gather() {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf, ok := c.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	c.buf = buf
}

// flush writes what was gathered, and later writes go out at once again.
func (c *gatheringConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	buf := c.buf
	c.buf = nil
	_, err := c.Conn.Write(buf.Bytes())
	buf.Reset()
	c.buffers.Put(buf)
	return err
}

// Write implements net.Conn.
func (c *gatheringConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		return c.Conn.Write(p)
	}
	if c.buf.Len() > 0 && c.buf.Len()+len(p) > gatherLimit {
		_, err := c.Conn.Write(c.buf.Bytes())
		c.buf.Reset()
		if err != nil {
			return 0, err
		}
	}
	if len(p) > gatherLimit {
		return c.Conn.Write(p)
	}
	return c.buf.Write(p)
}
