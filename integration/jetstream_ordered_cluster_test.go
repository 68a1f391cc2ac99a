package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// TestOrderedInAClusterHasNeitherGapsNorReplays: three replicas, a writer, and an
// ordered consumer; the leader of the stream and the node of the consumer are
// killed in turn.
func TestOrderedInAClusterHasNeitherGapsNorReplays(t *testing.T) {
	t.Parallel()
	c := newNATSCluster(t)
	js := c.dial()
	src := js.Consumer(jetstream.ConsumerConfig{
		StreamConfig: &natsjs.StreamConfig{Name: "LOG", Subjects: []string{"log"}, Replicas: 3}, Start: jetstream.StartAll(), Ordered: true,
	})
	want := transport.Want{Subscription: "model", Concurrency: 1, Prefetch: 63}
	var rx transport.Receiver
	eventually(t, time.Minute, "the ordered consumer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := js.Provision(ctx, src, want); err != nil {
			return false
		}
		var err error
		rx, err = js.Open(ctx, src, want)
		return err == nil
	})
	t.Cleanup(func() { _ = rx.Close(context.Background()) })
	writing, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	written := 0
	wg.Go(func() {
		for ; writing.Err() == nil; written++ {
			body := fmt.Sprint(written)
			for { // until it is confirmed, under one ID
				err := js.Publish(context.WithoutCancel(writing), transport.Address{Name: "log"}, &transport.Message{ID: body, Body: []byte(body)})
				if err == nil {
					break
				}
				select {
				case <-t.Context().Done():
					t.Errorf("publish: %v", err)
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
	})
	read := 0
	next := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), busy*time.Minute)
		defer cancel()
		d, err := rx.Receive(ctx)
		if err != nil {
			t.Fatalf("message %d: %v", read, err)
		}
		if got := string(d.Message().Body); got != fmt.Sprint(read) {
			t.Fatalf("message %d is %s", read, got)
		}
		read++
		if err := d.Ack(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 4 {
		for range 300 {
			next()
		}
		victim := c.leader(js.JetStream(), "LOG")
		if round%2 == 1 {
			victim = c.nodeOfConsumer(js.JetStream(), "LOG", victim)
		}
		c.kill(victim)
		for range 300 {
			next()
		}
		c.start(victim)
	}
	done()
	wg.Wait()
	for read < written {
		next()
	}
	t.Logf("%d messages", read)
}

// nodeOfConsumer returns the node of the only consumer of a stream, or otherwise
// when that cannot be said in this moment.
func (c *natsCluster) nodeOfConsumer(js natsjs.JetStream, stream string, otherwise int) int {
	ctx, cancel := context.WithTimeout(c.Context(), 20*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return otherwise
	}
	node := otherwise
	for info := range s.ListConsumers(ctx).Info() {
		if info.Cluster != nil {
			_, _ = fmt.Sscanf(info.Cluster.Leader, "n%d", &node) // it stays otherwise
		}
	}
	return node
}
