package wsserver

import (
	"time"

	"github.com/coder/websocket"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/codec"
)

// outbox holds the frames that wait to be written to one socket. It is bounded by Limits.MaxQueue and MaxQueueBytes; when it overflows, the connection is
// closed with SLOW_CONSUMER: its server resumes, gets its notifications from the mailboxes and repeats requests without an answer.
type outbox struct {
	frames  [][]byte
	spare   [][]byte  // memory for frames, of at most keptFrames
	count   int       // of frames that are not written yet, those of the batch that is being written included
	bytes   int       // of the same
	writing bool      // a goroutine writes
	since   time.Time // when the batch that is being written was taken
}

func (o *outbox) add(frame []byte) {
	o.frames = append(o.frames, frame)
	o.count++
	o.bytes += len(frame)
}

// full reports whether a further frame of a size would be too much. One frame always has room.
func (o *outbox) full(size int, l Limits) bool {
	return o.count >= l.MaxQueue || (o.count > 0 && o.bytes+size > l.MaxQueueBytes)
}

// crowded reports whether what can wait elsewhere should.
func (o *outbox) crowded(l Limits) bool {
	return o.count >= l.MaxQueue/2 || o.bytes >= l.MaxQueueBytes/2
}

// keptFrames is the length of a queue whose memory is kept while nothing is queued. An idle connection should hold little.
const keptFrames = 8

// take takes all frames out, to be written.
func (o *outbox) take() [][]byte {
	batch := o.frames
	o.frames, o.spare, o.since = o.spare, nil, time.Now()
	return batch
}

// written accounts for a batch that was taken.
func (o *outbox) written(batch [][]byte) {
	o.count -= len(batch)
	for _, f := range batch {
		o.bytes -= len(f)
	}
	if cap(batch) <= keptFrames {
		clear(batch)
		o.spare = batch[:0]
	}
}

// drop forgets the frames that are not being written.
func (o *outbox) drop() { o.written(o.take()) }

// send queues a frame. The caller holds mu.
func (c *conn) send(f *linkv1.Frame) {
	if c.over || c.closing != 0 {
		return
	}
	if raw := c.encode(f); raw != nil {
		c.queue(raw)
	}
}

// encode returns a frame as it is written. One that cannot be costs the connection; then it is nil. The caller holds mu.
func (c *conn) encode(f *linkv1.Frame) []byte {
	raw, err := c.codec.Encode(f)
	if err != nil {
		c.srv.cfg.Log.Error("a frame could not be encoded", append(identity(c.pair.Server()), "error", err)...)
		c.close(linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE, "internal error; connect again")
		return nil
	}
	return raw
}

// queue queues an encoded frame. The caller holds mu.
func (c *conn) queue(raw []byte) {
	if c.over || c.closing != 0 {
		return
	}
	if c.out.full(len(raw), c.srv.cfg.Limits) {
		c.close(linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER, "the connection is read too slowly; resume and read faster")
		return
	}
	c.out.add(raw)
	c.startWriter()
}

// startWriter makes a goroutine write what is queued, unless one does. The caller holds mu. An idle connection has no writer: its stack would cost more
// than starting it does.
func (c *conn) startWriter() {
	if !c.out.writing && !c.over {
		c.out.writing = true
		c.others.Go(c.writer)
	}
}

// write writes until nothing is queued. After Goodbye it closes the connection.
func (c *conn) write() {
	var written [][]byte
	for {
		c.mu.Lock()
		c.out.written(written)
		batch := c.out.take()
		if len(batch) == 0 {
			c.resume()
			c.out.writing = false
			closing := c.closing
			c.mu.Unlock()
			if closing != 0 {
				_ = c.ws.Close(websocket.StatusCode(closing), codeName(closing)) // bounded by kill
			}
			return
		}
		c.mu.Unlock()
		if err := c.raw.writeMessages(frameType(c.codec), batch); err != nil {
			c.Kill() // ends the reader, which winds up
		}
		written = batch
	}
}

// messageType is the type of WebSocket messages that frames are.
func messageType(c codec.Codec) websocket.MessageType {
	if c.Text() {
		return websocket.MessageText
	}
	return websocket.MessageBinary
}

// frameType is the first byte of their frames.
func frameType(c codec.Codec) byte {
	if c.Text() {
		return textFrame
	}
	return binaryFrame
}
