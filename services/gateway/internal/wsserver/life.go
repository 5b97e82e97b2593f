package wsserver

import (
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// alive returns an error unless the life of the gateway in which the connection's session was opened is known to go on. A gateway that was cut off, or paused
// for longer than its lease, may have been given up by others: until it knows better it takes nothing, and when it was, the connection is closed.
func (c *conn) alive(life string) error {
	current, err := c.srv.cfg.Gateway()
	if err != nil {
		return err
	}
	if current != life {
		return errs.New(errs.ServiceUnavailable, "the gateway lost its lease, and closes this connection; send the request again over the next one").Retry(time.Second)
	}
	return nil
}
