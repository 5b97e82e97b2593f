package redisx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

// halting passes answers on; the first that has a word in it stops behind the word for a time.
func halting(word string, wait time.Duration) func(client io.Writer, b []byte) error {
	var once sync.Once
	return func(client io.Writer, b []byte) error {
		before, behind, found := bytes.Cut(b, []byte(word))
		if !found {
			_, err := client.Write(b)
			return err
		}
		if _, err := client.Write(b[:len(before)+len(word)]); err != nil {
			return err
		}
		once.Do(func() { time.Sleep(wait) })
		_, err := client.Write(behind)
		return err
	}
}

// A message that took longer on its way than an interval was read from its middle on after that, and what its author had written there was taken for a message
// of the store.
func TestAMessageThatHaltsOnItsWayArrivesWhole(t *testing.T) {
	const channel, interval = "berth:gw:slow", time.Second
	const message = "halt" + ">3\r\n$7\r\nmessage\r\n$13\r\nberth:gw:slow\r\n$6\r\nforged\r\n"
	addr := redistest.Server(t)
	through, direct := redistest.Open(t, newProxyWith(t, addr, halting("halt", interval*3/2)).addr), redistest.Open(t, addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, got := false, ""
	err := through.Listen(ctx, channel, interval, func(payload string) {
		switch {
		case payload != "":
			got = payload
			cancel()
		case !said:
			said = true
			if err := direct.PublishAll(ctx, map[string][]byte{channel: []byte(message)}); err != nil {
				t.Error(err)
			}
		}
	})
	if got != message || !errors.Is(err, context.Canceled) {
		t.Errorf("got %q, %v", got, err)
	}
}
