package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// pika makes sure that Debian's client for Python is there, once a process.
var pika = sync.OnceValue(func() error {
	if exec.Command("/usr/bin/python3", "-c", "import pika").Run() == nil {
		return nil
	}
	install := exec.Command("apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", "python3-pika")
	install.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("this test needs python3-pika, and it is neither installed nor installable: apt-get install python3-pika: %w: %s", err, out)
	}
	return nil
})

// The client for Python reads what we publish, whole, and what it publishes with
// headers of several types comes to our handler, is retried and stays what it was.
func TestRabbitMQPikaPublishesAndConsumesBesideUs(t *testing.T) {
	t.Parallel()
	if err := pika(); err != nil {
		t.Fatal(err)
	}
	const count = 20
	w := newRabbitWorld(t, rabbittest.Shared(t))
	rx := w.open(w.queue(nil), 5)
	if _, err := w.raw().QueueDeclare(w.name+".theirs", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		m := w.message(fmt.Sprint("from us ", i))
		m.Header = transport.Header{"Tenant": {"blue"}}
		if err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name+".theirs"), m); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/bin/python3", "foreign/pika_client.py", w.b.URL()+"/%2F", w.name, fmt.Sprint(count)).CombinedOutput()
	if err != nil {
		t.Fatalf("pika: %v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var first struct {
		ID, Body, Tenant string
		Mode             int
	}
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || len(lines) != count || first.ID != w.name+"-1" || first.Body != "from us 0" || first.Mode != 2 || first.Tenant != "blue" {
		t.Errorf("pika read %d messages, the first is %+v: %v", len(lines), first, err)
	}
	handled := map[string]int{}
	for len(handled) < count {
		d := w.receive(rx)
		m := d.Message()
		handled[m.ID]++
		if m.Header.Get("deep") != `{"list":[1,"two",null,true]}` || m.Header.Get("big") != "1099511627776" || !strings.HasPrefix(string(m.Body), "from pika ") {
			t.Errorf("%s has %v, %q", m.ID, m.Header, m.Body)
		}
		if m.ID == "pika-3" && d.Deliveries() == 1 {
			delete(handled, m.ID)
			if err := d.Nack(w.soon(), 300*time.Millisecond); err != nil { // a copy, through the ladder
				t.Fatal(err)
			}
			continue
		}
		raw, ok := d.(transport.Native).Native().(amqp.Delivery)
		if deep, is := raw.Headers["deep"].(amqp.Table); !ok || !is || deep["list"].([]any)[2] != nil {
			t.Errorf("%s: the headers are %#v", m.ID, raw.Headers)
		}
		w.ack(d)
	}
}

// The permission to publish is taken away from a connection that lives: what is
// published says so, the consumer goes on, and all is well once it is given back.
func TestRabbitMQPermissionIsRevokedWhileConsumingAndPublishing(t *testing.T) {
	t.Parallel()
	b := rabbittest.Start(t, "")
	w := newRabbitWorld(t, b)
	rx := w.open(w.queue(nil), 1)
	for i := range 5 {
		w.publish(fmt.Sprint("before ", i))
	}
	held := w.receive(rx)
	b.Ctl(t, "set_permissions", "guest", ".*", "nothing", ".*")
	w.eventually("a publish says that it is forbidden", func() bool {
		// The broker remembers a permission for as long as a channel is busy.
		<-time.After(2 * time.Second)
		err := w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("forbidden?"))
		return errors.Is(err, transport.ErrPermission) && transport.KindOf(err) == transport.Permanent && strings.Contains(err.Error(), "set_permissions")
	})
	w.ack(held)
	for range 4 { // the consumer is not disturbed
		w.receiveAck(rx)
	}
	b.Ctl(t, "set_permissions", "guest", ".*", ".*", ".*")
	m := w.message("after")
	w.eventually("publishing works again", func() bool { return w.rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), m) == nil })
	for w.receiveAck(rx) != m.ID {
	}
	// The same for the permission to consume: the broker asks when a consumer comes.
	stalled, flowing := rabbitEvents(t, w.rmq, transport.Stalled), rabbitEvents(t, w.rmq, transport.Flowing)
	b.Ctl(t, "set_permissions", "guest", ".*", ".*", "nothing")
	w.proxy.Cut()
	if e := rabbitAwait(t, stalled, "the receiver says that it may not consume"); !errors.Is(e.Err, transport.ErrPermission) {
		t.Errorf("the event is %+v", e)
	}
	m = w.publish("while it may not consume")
	b.Ctl(t, "set_permissions", "guest", ".*", ".*", ".*")
	rabbitAwait(t, flowing, "the receiver works again")
	for w.receiveAck(rx) != m.ID {
	}
}

// A check finds that the dead-letter exchange routes nowhere, before anything is
// made, and leaves nothing behind where it routes. Trap 82: before the start.
func TestRabbitMQCheckFindsADeadLetterExchangeThatRoutesNowhere(t *testing.T) {
	t.Parallel()
	w := newRabbitWorld(t, rabbittest.Shared(t))
	dlx, ch := w.name+".dlx", w.raw()
	want := transport.Want{Subscription: w.name, Concurrency: 1, Redelivery: true, Reject: true}
	check := func(exchanges ...rabbitmq.ExchangeConfig) []transport.Finding {
		t.Helper()
		found, err := w.rmq.Check(w.soon(), w.rmq.Queue(rabbitmq.QueueConfig{
			Name: w.name, DeadLetterExchange: dlx, DeadLetterKey: "dead", Exchanges: exchanges,
		}), want)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	own := rabbitmq.ExchangeConfig{Name: dlx, Kind: "direct"}
	if found := check(own); !hasCode(found, transport.CodeDLXNowhere, transport.LevelWarning) {
		t.Errorf("an exchange that will be declared with nothing behind it: %v", found)
	}
	if err := ch.ExchangeDeclare(dlx, "direct", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if found := check(); !hasCode(found, transport.CodeDLXNowhere, transport.LevelWarning) {
		t.Errorf("an exchange that is there with nothing behind it: %v", found)
	}
	if _, err := ch.QueueDeclare(w.name+".grave", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(w.name+".grave", "dead", dlx, false, nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if found := check(); hasCode(found, transport.CodeDLXNowhere, transport.LevelWarning) {
			t.Errorf("with a queue behind it: %v", found)
		}
	}
	if n := w.depth(ch, w.name+".grave"); n != 0 {
		t.Errorf("%d messages of the check are left", n)
	}
}
