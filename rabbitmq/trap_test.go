package rabbitmq

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// Trap 64: what a server of 4.x would end the channel for is refused before it is
// sent, unless somebody says that this broker takes more.
func TestTheLimitOfTheServerVersionIsKept(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version version
		own     int
		want    int
	}{
		{version{3, 10}, 0, 128 << 20},
		{version{3, 13}, 0, 128 << 20},
		{version{4, 0}, 0, 16 << 20},
		{version{4, 3}, 0, 16 << 20},
		{version{4, 3}, 64 << 20, 64 << 20},
		{version{4, 3}, 1 << 20, 1 << 20},
	} {
		tr := &Transport{set: defaultSettings()}
		tr.set.maxSize = c.own
		l := tr.limits(&session{conn: &amqp.Connection{}, version: c.version})
		fits, large := amqp.Publishing{Body: make([]byte, c.want)}, amqp.Publishing{Body: make([]byte, c.want+1)}
		if err := l.check("publish", QueueAddress("q"), &fits); err != nil {
			t.Errorf("%v: %d bytes: %v", c.version, c.want, err)
		}
		if err := l.check("publish", QueueAddress("q"), &large); transport.KindOf(err) != transport.Permanent || err == nil {
			t.Errorf("%v: %d bytes: %v", c.version, c.want+1, err)
		}
	}
}

// Trap 69: a consumer that is cancelled is a fault that is told, once, and its
// channel is not gone: what it gave can still be settled.
func TestACancelledConsumerIsAFaultOfItsOwn(t *testing.T) {
	t.Parallel()
	l := &lane{closes: make(chan *amqp.Error, 1), cancels: make(chan string, 1)}
	l.cancels <- "tag"
	gone, why := l.wait(t.Context())
	if gone || why != errCancelled {
		t.Errorf("after a cancel the channel is gone: %v, because %v", gone, why)
	}
	tr := &Transport{}
	var told []transport.Event
	tr.Observe(func(e transport.Event) { told = append(told, e) })
	src, _ := tr.Queue(QueueConfig{Name: "q"}).(*source)
	r := &receiver{t: tr, src: src, want: transport.Want{Subscription: "s"}}
	if !r.tell(why, false) || !r.tell(why, true) {
		t.Error("it is not told")
	}
	if len(told) != 1 || told[0].Kind != transport.Stalled || told[0].Subscription != "s" {
		t.Errorf("the events are %+v", told)
	}
	l.closes <- &amqp.Error{Code: amqp.PreconditionFailed, Reason: "delivery acknowledgement on channel 1 timed out", Server: true}
	if gone, why := l.wait(t.Context()); !gone || why == nil {
		t.Errorf("after an exception the channel is gone: %v, because %v", gone, why)
	}
}

// Trap 89: a version of the client library that empties the login of a connection
// that is lost is not used.
func TestTheClientLibraryKeepsTheLogin(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`github\.com/rabbitmq/amqp091-go v(\d+)\.(\d+)\.`).FindSubmatch(mod)
	if found == nil {
		t.Fatal("the client library is not required")
	}
	major, _ := strconv.Atoi(string(found[1]))
	minor, _ := strconv.Atoi(string(found[2]))
	if major != 1 || minor < 15 {
		t.Errorf("v%d.%d is required, and v1.15 is the first that logs in again", major, minor)
	}
}
