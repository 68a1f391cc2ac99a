package natstest

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Fill stores the n messages that message(0) to message(n-1) return, several
// hundred in flight, and ends the test unless the server confirmed each one.
func Fill(tb testing.TB, js jetstream.JetStream, n int, message func(i int) *nats.Msg) {
	tb.Helper()
	const window, patience = 500, time.Minute
	flight := make([]jetstream.PubAckFuture, 0, window)
	for i := range n {
		// The client gives up after 200 ms at its own limit, which a busy machine
		// makes it reach.
		f, err := js.PublishMsgAsync(message(i), jetstream.WithStallWait(patience))
		if err != nil {
			tb.Fatalf("natstest: publish message %d: %v", i, err)
		}
		if flight = append(flight, f); len(flight) < window && i != n-1 {
			continue
		}
		if err := confirmed(flight, patience); err != nil {
			tb.Fatalf("natstest: after message %d: %v", i, err)
		}
		flight = flight[:0]
	}
}

// confirmed waits until the server has stored all of these.
func confirmed(flight []jetstream.PubAckFuture, patience time.Duration) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for _, f := range flight {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-late.C:
			return fmt.Errorf("no confirmation within %v", patience)
		}
	}
	return nil
}
