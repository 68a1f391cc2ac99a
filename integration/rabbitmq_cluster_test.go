package integration_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// A cluster of three nodes. The node that the program is connected to, which also
// leads its quorum queue, is killed under load: the next URL is tried, another node
// leads, nothing accepted is lost and consuming goes on.
//
// Then the traps of a cluster by name: the only node of a classic queue is down,
// where the broker confirms a publish that it could not store; and most nodes of
// a quorum queue are down, where it answers a publish with nothing at all.
func TestRabbitMQClusterLosesNothingWhenANodeIsKilled(t *testing.T) {
	// Not beside the others: three more nodes would take the machine from them.
	nodes := rabbittest.StartCluster(t, 3)
	// What a dead-letter exchange could not pass on is tried again after so long, by
	// default after three minutes.
	nodes[0].Ctl(t, "eval", "rpc:multicall(application, set_env, [rabbit, dead_letter_worker_publisher_confirm_timeout, 2000]).")
	urls := nodes[0].URL() + ", " + nodes[1].URL() + ", " + nodes[2].URL()
	rmq := rabbitConnect(t, urls, rabbitmq.WithReconnectWait(20*time.Millisecond, 500*time.Millisecond), rabbitmq.WithConfirmTimeout(5*time.Second))
	w := &rabbitWorld{TB: t, b: nodes[0], rmq: rmq, name: "cluster"}
	rx := w.open(w.queue(nil), 50)
	young := time.After(rabbitGrownUp)
	back := rabbitEvents(t, rmq, transport.Reconnected)
	load := startRabbitLoad(w, rx)
	load.run(func() {
		<-young
		nodes[0].Kill()
		if e := rabbitAwait(t, back, "another node is found"); strings.Contains(e.Detail, nodes[0].Addr()) {
			t.Errorf("connected to the node that was killed: %s", e.Detail)
		}
		load.progress()
		// What waits in a retry queue may wait for the node as well: RabbitMQ 3.10
		// may go on asking the leader that the queue behind it had before, and takes
		// that queue for full as long as it does not answer.
		nodes[0].Restart(t)
	})
	w.shut(rx)
	w.b = nodes[0]
	t.Run("trap 60: the node of a classic queue is down", func(t *testing.T) { classicNodeDown(t, w, nodes) })
	t.Run("trap 61: quorum is lost", func(t *testing.T) { quorumLost(t, nodes) })
}

// classicNodeDown: Trap 60. A message for a classic queue whose node is down is never
// reported as stored; what the queue holds is there when the node is back.
func classicNodeDown(t *testing.T, w *rabbitWorld, nodes []*rabbittest.Broker) {
	const name = "classic"
	at := &rabbitWorld{TB: t, b: nodes[2], rmq: w.rmq, name: name}
	if _, err := at.raw().QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": "classic"}); err != nil {
		t.Fatal(err)
	}
	stored := at.publish("stored")
	nodes[2].Kill()
	to, m := rabbitmq.QueueAddress(name), at.message("while it is down")
	var err error
	at.eventually("the publish is refused", func() bool {
		if err = w.rmq.Publish(at.soon(), to, m); err == nil {
			t.Fatal("a publish to a queue whose node is down is reported as stored")
		}
		return errors.Is(err, transport.ErrUnroutable) && transport.KindOf(err) == transport.Temporary
	})
	src := w.rmq.Queue(rabbitmq.QueueConfig{Name: name, Type: rabbitmq.Classic, Declare: rabbitmq.DeclareVerify})
	if _, err := w.rmq.Check(at.soon(), src, transport.Want{Subscription: name, Concurrency: 1}); err == nil ||
		transport.KindOf(err) != transport.Temporary || !strings.Contains(err.Error(), "node that holds the queue is down") {
		t.Errorf("the check says %v", err)
	}
	nodes[2].Restart(t)
	at.eventually("it is stored under its ID", func() bool { return w.rmq.Publish(at.soon(), to, m) == nil })
	rx, err := w.rmq.Open(at.soon(), src, transport.Want{Subscription: name, Concurrency: 2})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for len(got) < 2 {
		got[at.receiveAck(rx)] = true
	}
	if !got[stored.ID] || !got[m.ID] {
		t.Errorf("received %v", got)
	}
	at.shut(rx)
}

// quorumLost: Trap 61. With two of three nodes down a publish ends in doubt when its time
// is over, and never as stored; with one of them back it is stored.
func quorumLost(t *testing.T, nodes []*rabbittest.Broker) {
	// Who is connected to the node that stays has the leader of a new queue there:
	// it has nothing to say then. Of a leader that is down others would hear a no.
	rmq := rabbitConnect(t, nodes[0].URL(), rabbitmq.WithReconnectWait(20*time.Millisecond, 500*time.Millisecond), rabbitmq.WithConfirmTimeout(5*time.Second))
	at := &rabbitWorld{TB: t, b: nodes[0], rmq: rmq, name: "quorum"}
	src := at.queue(nil)
	rx := at.open(src, 10)
	at.publish("before")
	at.receiveAck(rx)
	<-time.After(rabbitGrownUp)
	nodes[1].Kill()
	nodes[2].Kill()
	to, m := rabbitmq.QueueAddress(at.name), at.message("without a quorum")
	doubts := 0
	at.eventually("a publish is in doubt", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		err := rmq.Publish(ctx, to, m)
		switch {
		case err == nil:
			t.Fatal("a publish without a quorum is reported as stored")
		case time.Since(begun) > rabbitPatience/3:
			t.Errorf("the publish took %v", time.Since(begun))
		case transport.KindOf(err) == transport.Unknown:
			doubts++
		}
		return doubts > 0
	})
	nodes[1].Restart(t)
	at.eventually("it is stored", func() bool { return rmq.Publish(at.soon(), to, m) == nil })
	for at.receiveAck(rx) != m.ID {
	}
	at.shut(rx)
	ctx, cancel := context.WithTimeout(t.Context(), rabbitPatience)
	defer cancel()
	if err := rmq.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}
