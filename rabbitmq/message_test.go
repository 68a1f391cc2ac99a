package rabbitmq

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

// every value of AMQP, nested.
func everyValue() amqp.Table {
	return amqp.Table{
		"bool": true, "int8": int8(-8), "uint8": uint8(8), "int16": int16(-16), "uint16": uint16(16),
		"int32": int32(-32), "uint32": uint32(32), "int64": int64(math.MinInt64), "float32": float32(1.5),
		"float64": math.Inf(-1), "decimal": amqp.Decimal{Scale: 2, Value: 314}, "time": time.Unix(1_700_000_000, 0),
		"bytes": []byte{0, 0xff}, "nil": nil, "text": "caf\xe9", "empty": []any{}, "single": []any{"one"},
		"list":  []any{"a", "b"},
		"mixed": []any{"a", int64(1), amqp.Table{"deep": []any{nil, true}}},
		"table": amqp.Table{"b": []byte("b"), "t": amqp.Table{}},
	}
}

// TestEveryHeaderTypeSurvivesTheSeam takes headers through a message of the seam,
// as a dead letter and a redrive do.
func TestEveryHeaderTypeSurvivesTheSeam(t *testing.T) {
	t.Parallel()
	raw := amqp.Delivery{
		Headers: everyValue(), ContentType: "a/b", ContentEncoding: "gzip", CorrelationId: "c", ReplyTo: "r",
		Expiration: "5000", MessageId: "m", Type: "t", UserId: "u", AppId: "app", Priority: 7, Body: []byte("body"),
		Timestamp: time.Unix(1_700_000_000, 0),
	}
	var m transport.Message
	decode(&raw, &m)
	p, err := encode(&m, "copy-1", true)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range everyValue() {
		if got := p.Headers[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("header %q is %#v, was %#v", name, got, want)
		}
	}
	if p.ContentType != "a/b" || p.ContentEncoding != "gzip" || p.CorrelationId != "c" || p.ReplyTo != "r" || p.MessageId != "m" ||
		p.Type != "t" || p.AppId != "app" || p.Priority != 7 || string(p.Body) != "body" || p.DeliveryMode != amqp.Persistent {
		t.Errorf("properties of the copy: %+v", p)
	}
	if p.Expiration != "" || p.UserId != "" {
		t.Errorf("a copy expires (%q) or claims a user (%q)", p.Expiration, p.UserId)
	}
	var again transport.Message
	decode(&amqp.Delivery{Headers: p.Headers, Expiration: p.Expiration}, &again)
	if again.Header.Get(Expiration) != "5000" || again.Header.Get(UserID) != "u" {
		t.Errorf("the copy shows the expiration %q and the user %q", again.Header.Get(Expiration), again.Header.Get(UserID))
	}
}

func TestAHeaderThatWasEditedIsText(t *testing.T) {
	t.Parallel()
	var m transport.Message
	decode(&amqp.Delivery{Headers: amqp.Table{"n": int64(5), "kept": int64(6)}}, &m)
	m.Header.Set("n", "7")
	p, err := encode(&m, "copy-1", false)
	if err != nil || p.Headers["n"] != "7" || p.Headers["kept"] != int64(6) {
		t.Errorf("headers %v (%v)", p.Headers, err)
	}
}

// TestACopyLeavesTheBrokersRecordsBehind: what the broker acts upon or takes for
// its own does not travel on a retry. Trap 75.
func TestACopyLeavesTheBrokersRecordsBehind(t *testing.T) {
	t.Parallel()
	headers := everyValue()
	for _, name := range []string{"x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "x-acquired-count", "x-opt-x"} {
		headers[name] = "the broker's"
	}
	headers["CC"] = []any{"elsewhere"}
	headers["x-mine"] = "the user's"
	r := &receiver{t: &Transport{prefix: "p-"}}
	d := newDelivery(&lane{r: r}, amqp.Delivery{
		Headers: headers, MessageId: "m", RoutingKey: "orders.placed", Exchange: "orders", Expiration: "9", UserId: "u", DeliveryMode: 1,
	})
	p := d.again("copy-2", 3)
	for name, want := range everyValue() {
		if !reflect.DeepEqual(p.Headers[name], want) {
			t.Errorf("header %q is %#v, was %#v", name, p.Headers[name], want)
		}
	}
	for name := range p.Headers {
		if wire.BrokerOwned(name) || name == "CC" {
			t.Errorf("the copy carries %q", name)
		}
	}
	if p.Headers["x-mine"] != "the user's" || p.Expiration != "" || p.UserId != "" || p.DeliveryMode != amqp.Persistent {
		t.Errorf("the copy is %+v", p)
	}
	back := newDelivery(&lane{r: r}, amqp.Delivery{Headers: p.Headers, MessageId: p.MessageId, RoutingKey: "q"})
	if back.msg.Subject != "orders.placed" || back.Deliveries() != 4 || back.msg.Position == "" || back.msg.Header.Get("CC") != text([]any{"elsewhere"}) {
		t.Errorf("the copy comes back as %+v, delivery %d", back.msg, back.Deliveries())
	}
	if third := newDelivery(&lane{r: r}, amqp.Delivery{Headers: back.again("copy-3", 4).Headers, MessageId: "m"}); third.msg.Position != back.msg.Position {
		t.Errorf("the position was %q and is %q", back.msg.Position, third.msg.Position)
	}
}

func TestAMessageWithoutAnIDIsNamedByItsContent(t *testing.T) {
	t.Parallel()
	id := func(d amqp.Delivery) string {
		var m transport.Message
		decode(&d, &m)
		return m.ID
	}
	one := amqp.Delivery{Body: []byte("a"), RoutingKey: "k", Headers: amqp.Table{"h": "1", "x-delivery-count": int64(0)}}
	same := amqp.Delivery{Body: []byte("a"), RoutingKey: "k", Headers: amqp.Table{"h": "1", "x-delivery-count": int64(4)}, Redelivered: true}
	other := amqp.Delivery{Body: []byte("b"), RoutingKey: "k", Headers: amqp.Table{"h": "1"}}
	if id(one) != id(same) || id(one) == id(other) || !strings.HasPrefix(id(one), "content-") {
		t.Errorf("%q, %q, %q", id(one), id(same), id(other))
	}
}

// Trap 65.
func TestWhatWouldEndTheChannelIsRefusedBefore(t *testing.T) {
	t.Parallel()
	tr := &Transport{set: defaultSettings()}
	tr.publishing = newLink(tr, "publish", nil)
	nested := any("bottom")
	for range 100 {
		nested = []any{nested}
	}
	for name, msg := range map[string]amqp.Publishing{
		"an expiration with a unit":    {Expiration: "5s"},
		"a negative expiration":        {Expiration: "-1"},
		"a long property":              {CorrelationId: strings.Repeat("c", 256)},
		"a long header name":           {Headers: amqp.Table{strings.Repeat("h", 256): "v"}},
		"a type that AMQP has not":     {Headers: amqp.Table{"h": uint(1)}},
		"such a type deep in a list":   {Headers: amqp.Table{"h": []any{amqp.Table{"d": map[string]string{}}}}},
		"lists nested a hundred deep":  {Headers: amqp.Table{"h": nested}},
		"headers larger than a frame":  {Headers: amqp.Table{"h": strings.Repeat("v", 130<<10)}},
		"a body larger than it can be": {Body: make([]byte, 128<<20+1)},
	} {
		if err := tr.checkPublishing("publish", QueueAddress("a"), &msg); err == nil || transport.KindOf(err) != transport.Permanent {
			t.Errorf("%s: %v", name, err)
		}
	}
	fine := amqp.Publishing{Expiration: "5000", Headers: everyValue()}
	fine.Headers["large"] = strings.Repeat("v", 60_000)
	if err := tr.checkPublishing("publish", QueueAddress("a"), &fine); err != nil {
		t.Errorf("what AMQP takes is refused: %v", err)
	}
}

func FuzzTypedHeader(f *testing.F) {
	f.Add(typedHeader(everyValue()))
	f.Add(`{"a":["A",[["A",[["S","eA=="]]]]]}`)
	f.Add(`{"a":["T","x"],"b":["l",5],"c":["?","" ],"d":7}`)
	f.Fuzz(func(t *testing.T, s string) {
		for name, v := range parseTyped(s) {
			if _, err := tableSize(amqp.Table{"h": v}, 0); err != nil && !strings.Contains(err.Error(), "bytes") && !strings.Contains(err.Error(), "nested") {
				t.Errorf("%q holds what AMQP has not: %v", name, err)
			}
			_ = text(v)
		}
	})
}

// FuzzDecode: whatever others write into the headers, a delivery is decoded, and
// its copies can be sent.
func FuzzDecode(f *testing.F) {
	f.Add(typedHeader(everyValue()), "id", "key")
	f.Add(`{"Holdfast-Deliveries":["l","-9223372036854775808"],"Holdfast-Due":["l","9223372036854775807"],"Holdfast-Copy":["l","1"]}`, "", "")
	f.Add(`{"x-death":["A",[["F",{"count":["S","LTE="],"time":["l","5"],"routing-keys":["A",[["l","1"]]]}]]],"x-delivery-count":["S","eA=="]}`, "", "k")
	f.Add(`{"Holdfast-Dead-Key":["S","YS5iLmM="],"Holdfast-Saved-CC":["A",[]],"Amqp-Priority":["S","OTk5"]}`, "i", "k")
	tr := &Transport{prefix: "p-", set: defaultSettings()}
	tr.publishing = newLink(tr, "publish", nil)
	f.Fuzz(func(t *testing.T, headers, id, key string) {
		table := amqp.Table(parseTyped(headers))
		raw := amqp.Delivery{Headers: table, MessageId: id, RoutingKey: key, Redelivered: true}
		d := newDelivery(&lane{r: &receiver{t: tr}}, raw)
		if d.Deliveries() < 1 || d.msg.ID == "" {
			t.Fatalf("delivery %d of %q", d.Deliveries(), d.msg.ID)
		}
		copied := d.again("copy", d.Deliveries())
		for name := range copied.Headers {
			if wire.BrokerOwned(name) {
				t.Fatalf("the copy carries %q", name)
			}
		}
		_ = tr.checkPublishing("nack", QueueAddress("q"), &copied)
		if p, err := encode(&d.msg, "copy", true); err == nil {
			_ = tr.checkPublishing("bury", QueueAddress("q"), &p)
		}
		reading := &pass{queue: "q", subscription: "s", alike: map[string]int{}}
		for range 2 { // the second looks like the first
			if reading.decode(&raw).Message == nil {
				t.Fatal("a letter without a message")
			}
		}
	})
}

// A null inside a table or a list is null in its text, and not an empty string.
func TestANullInATableIsShownAsNull(t *testing.T) {
	t.Parallel()
	if got := text(amqp.Table{"deep": []any{nil, ""}, "none": nil}); got != `{"deep":[null,""],"none":null}` {
		t.Errorf("it is shown as %s", got)
	}
}
