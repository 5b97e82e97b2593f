package wsserver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
)

// The sizes of the two buffers that an idle connection keeps. Reads of more go around the one; into the other the library writes control frames, of at most 127
// bytes, and nothing else.
const (
	readBuffer  = 512
	writeBuffer = 128
)

// hijacker is a ResponseWriter whose Hijack gives small buffers, so that an idle connection does not hold the 8 KiB of net/http's, and a connection
// onto which whole batches of frames can be written.
type hijacker struct {
	http.ResponseWriter
	buffers *sync.Pool // of *[]byte, for the connection
	conn    *frameConn // set by Hijack
}

// Unwrap lets http.ResponseController reach the writer.
func (h *hijacker) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &frameConn{Conn: conn, buffers: h.buffers}
	var source io.Reader = h.conn
	early, err := rw.Peek(rw.Reader.Buffered()) // from a peer that did not wait for the answer to its upgrade
	if err != nil {
		return nil, nil, err
	}
	if len(early) > 0 {
		source = io.MultiReader(bytes.NewReader(bytes.Clone(early)), h.conn)
	}
	r := bufio.NewReaderSize(source, max(readBuffer, len(early)))
	_, _ = r.Peek(len(early)) // it must lie in this reader's own buffer: from there the library takes it
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriterSize(h.conn, writeBuffer)), nil
}

// gatherLimit is how much is gathered before it is written.
const gatherLimit = 32 << 10

// The first byte of a WebSocket frame that is a whole message.
const (
	textFrame   = 0x81
	binaryFrame = 0x82
	closeFrame  = 0x88
	pingFrame   = 0x89
)

// maxFrameHeader is the size of the longest header of a frame that is not masked.
const maxFrameHeader = 10

// errClosing means that a close frame was written; nothing may follow it.
var errClosing = errors.New("a close frame was written")

// frameConn is a connection on which the frames of one batch become one write to the kernel. They go past the library, whose locks, which end with contexts,
// cost more than a small frame does. What the library still writes are control frames. Each of them is smaller than the library's buffer and so one Write: it
// stands between two frames, and never within one.
type frameConn struct {
	net.Conn
	buffers *sync.Pool // of *[]byte

	mu      sync.Mutex
	closing bool // a close frame was written
}

// Write implements net.Conn.
func (c *frameConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = c.closing || len(p) > 0 && p[0] == closeFrame
	return c.Conn.Write(p)
}

// ping writes a ping.
func (c *frameConn) ping() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return errClosing
	}
	_, err := c.Conn.Write([]byte{pingFrame, 0})
	return err
}

// writeMessages writes messages, all of one type, with as few calls of the kernel as possible.
func (c *frameConn) writeMessages(frameType byte, batch [][]byte) (err error) {
	buf, ok := c.buffers.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	defer c.buffers.Put(buf)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return errClosing
	}
	gathered := (*buf)[:0]
	flush := func() {
		if err == nil {
			_, err = c.Conn.Write(gathered)
		}
		gathered = gathered[:0]
	}
	for _, m := range batch {
		if len(gathered) > 0 && len(gathered)+maxFrameHeader+len(m) > gatherLimit {
			flush()
		}
		gathered = appendFrameHeader(gathered, frameType, len(m))
		if len(m) <= gatherLimit {
			gathered = append(gathered, m...)
			continue
		}
		flush()
		if err == nil {
			_, err = c.Conn.Write(m)
		}
	}
	if len(gathered) > 0 {
		flush()
	}
	*buf = gathered
	return err
}

// appendFrameHeader appends the header of a message of a size, as a server sends it: in one frame, not masked.
func appendFrameHeader(b []byte, frameType byte, size int) []byte {
	switch b = append(b, frameType); {
	case size <= 125:
		return append(b, byte(size))
	case size <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(size))
	}
}
