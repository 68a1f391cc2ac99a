package jetstream

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

func TestNumberUnderWayIsTakenOnce(t *testing.T) {
	t.Parallel()
	var f flight
	for i := range uint64(1000) { // the ring grows, with numbers in it
		check.Equal(t, f.add(i+7, "s"+strconv.Itoa(int(i%2))), i)
		if i%3 == 0 {
			taken := uint64(0)
			f.take(i, func(tag uint64, _ string) { taken = tag })
			check.Equal(t, taken, i+7)
			f.take(i, func(uint64, string) { t.Errorf("number %d was taken twice", i) })
		}
	}
	f.take(1000, func(uint64, string) { t.Error("a number nobody has was taken") })
	var tags []uint64
	f.takeAll("s1", func(tag uint64, subject string) {
		check.Equal(t, subject, "s1")
		tags = append(tags, tag)
	})
	var left int
	f.takeAll("s0", func(uint64, string) { left++ })
	check.Equal(t, len(tags), 333)
	check.Equal(t, left, 333)
	check.Equal(t, f.head, f.next)
	for i := 1; i < len(tags); i++ {
		check.Equal(t, tags[i-1] < tags[i], true, "order of", tags[i])
	}
}

func TestReplySubjectIsThatOfItsNumber(t *testing.T) {
	t.Parallel()
	p := &pipeline{prefix: "_INBOX.x."}
	for _, n := range []uint64{0, 1, 63, 64, 65, 200, 3, 1 << 40, 1<<40 + 1, 0} {
		check.Equal(t, p.reply(n), "_INBOX.x."+strconv.FormatUint(n, 36))
	}
}

func TestHeadersAreNotThoseOfTheMessageBefore(t *testing.T) {
	t.Parallel()
	var e headers
	e.encode(&transport.Message{
		ID: "a", DedupID: "b", Key: "k", ContentType: "text/plain", Resent: true, TTL: 1500 * time.Millisecond,
		Header: transport.Header{"X": {"1", "2"}},
	})
	want := nats.Header{
		"Nats-Msg-Id": {"b"}, "Holdfast-Id": {"a"}, "Holdfast-Key": {"k"}, "Content-Type": {"text/plain"},
		"Holdfast-Resent": {"1"}, "Nats-TTL": {"2"}, "X": {"1", "2"},
	}
	check.Equal(t, len(e.h), len(want))
	for name, values := range want {
		check.Equal(t, strings.Join(e.h[name], ","), strings.Join(values, ","), name)
	}
	for _, m := range []transport.Message{
		{ID: "c"},
		{ID: "d"},
		{ID: "e", ContentType: "text/plain"},
		{ID: "f", Key: "k"},
		{ID: "g", Key: "k", ContentType: "x"},
		{},
		{Key: "k"},
		{ID: "h"},
	} {
		h := e.encode(&m)
		want := 0
		for name, value := range map[string]string{"Nats-Msg-Id": m.ID, "Content-Type": m.ContentType, "Holdfast-Key": m.Key} {
			check.Equal(t, h.Get(name), value, name, m.ID)
			if value != "" {
				want++
			}
		}
		check.Equal(t, len(h), want, m.ID)
	}
	e.set("Nats-Batch-Id", "b")
	check.Equal(t, len(e.h), 2)
	check.Equal(t, len(e.encode(&transport.Message{ID: "i"})), 1)
}

func TestConfirmationIsReadByItsForm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		unusual bool
		err     error
	}{
		`{"stream":"ORDERS", "seq":12}`:                       {},
		`{"stream":"ORDERS","seq":12}`:                        {},
		`{"stream":"ORDERS", "domain":"hub", "seq":12}`:       {},
		`{"stream":"ORDERS", "seq":12,"duplicate": true}`:     {unusual: true},
		`{"stream":"ORDERS", "seq":12,"batch":"b","count":3}`: {unusual: true},
		`{"stream":"`:   {err: errBadAnswer},
		`{"fine":true}`: {err: errBadAnswer},
		``:              {err: errBadAnswer},
	} {
		ack, err := parsePubAck([]byte(text))
		check.Equal(t, ack != nil, want.unusual, text)
		check.Equal(t, err, want.err, text)
	}
	_, err := parsePubAck([]byte(`{"error":{"code":429,"err_code":10167,"description":"too many requests"},"stream":"ORDERS","seq":0}`))
	check.Equal(t, isCode(err, codeTooManyRequests), true)
}

func TestTimeToLiveIsNeverShorterThanAsked(t *testing.T) {
	t.Parallel()
	for ttl, want := range map[time.Duration]string{
		time.Nanosecond: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Minute: "5400",
	} {
		check.Equal(t, ttlValue(ttl), want, ttl)
	}
}

func TestRefusalOfAPublishIsToldApart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code natsjs.ErrorCode
		text string
		is   error
		kind transport.Kind
	}{
		{10077, "maximum messages exceeded", transport.ErrFull, transport.Temporary},
		{10077, "maximum bytes exceeded", transport.ErrFull, transport.Temporary},
		{10077, "maximum messages per subject exceeded", transport.ErrFull, transport.Temporary},
		{10077, "message too large", transport.ErrTooLarge, transport.Permanent},
		{10077, "store is closed", nil, transport.Temporary},
		{10047, "insufficient storage resources available", transport.ErrFull, transport.Temporary},
		{10002, "resource limits exceeded for account", transport.ErrFull, transport.Temporary},
		{10167, "too many requests", transport.ErrBusy, transport.Temporary},
		{10054, "message size exceeds maximum allowed", transport.ErrTooLarge, transport.Permanent},
		{10166, "per-message TTL is disabled", transport.ErrUnsupported, transport.Permanent},
		{10109, "invalid operation on sealed stream", nil, transport.Permanent},
	} {
		err := outcome("orders.a", &natsjs.APIError{Code: 503, ErrorCode: c.code, Description: c.text})
		if c.code == 10109 {
			err = outcome("orders.a", &natsjs.APIError{Code: 400, ErrorCode: c.code, Description: c.text})
		}
		check.Equal(t, transport.KindOf(err), c.kind, c.text)
		for _, is := range []error{transport.ErrFull, transport.ErrBusy, transport.ErrTooLarge, transport.ErrUnsupported} {
			check.Equal(t, errors.Is(err, is), is == c.is, c.text, is)
		}
	}
}

func TestCredentialsOfTheURLServeDiscoveredServers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url     string
		servers []string
		want    string
	}{
		{url: "nats://a:4222", want: ""},
		{url: "nats://u:p@a:4222", want: "u:p@"},
		{url: "u:p@a", want: "u:p@"},
		{servers: []string{"tls://token@a", "tls://b"}, want: "token@"},
		{servers: []string{"nats://a", "nats://u:p@b"}, want: ""},
	} {
		check.Equal(t, credentials(nats.Options{Url: c.url, Servers: c.servers}), c.want, c.url, c.servers)
	}
}

// failing is a connection whose first write fails although nothing of it went.
type failing struct {
	net.Conn
	closed bool
}

func (f *failing) Write(b []byte) (int, error) {
	if f.closed {
		return 0, net.ErrClosed
	}
	return 0, errors.New("timeout")
}

func (f *failing) Close() error { f.closed = true; return nil }

func TestNothingFollowsAWriteThatFailed(t *testing.T) {
	t.Parallel()
	f := &failing{}
	g := &guardConn{Conn: f}
	_, err := g.Write([]byte("PUB"))
	check.Equal(t, err != nil, true)
	_, err = g.Write([]byte("PUB"))
	check.Equal(t, errors.Is(err, net.ErrClosed), true)
}
