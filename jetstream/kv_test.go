package jetstream

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

func TestKeysAreWhatTheServerTakes(t *testing.T) {
	t.Parallel()
	for key, ok := range map[string]bool{
		"a": true, "a.b": true, "-/_=.9Z": true, strings.Repeat("k", maxKey): true,
		"": false, ".a": false, "a.": false, "a..b": false, "a b": false, "a*": false, "ü": false, strings.Repeat("k", maxKey+1): false,
	} {
		if fault := keyFault(key, ""); (fault == "") != ok {
			t.Errorf("%.20q: %s", key, fault)
		}
	}
	if fault := keyFault("a.*.>", "*>"); fault != "" {
		t.Errorf("a pattern: %s", fault)
	}
}

func TestOperationsOfEntriesAndOfTheirCopies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		header  transport.Header
		op      Operation
		expired bool
	}{
		{"a value", nil, OpPut, false},
		{"a value with headers", transport.Header{"X": {"y"}}, OpPut, false},
		{"deleted", transport.Header{"KV-Operation": {"DEL"}}, OpDelete, false},
		{"purged", transport.Header{"KV-Operation": {"PURGE"}}, OpPurge, false},
		{"expired", transport.Header{"Nats-Marker-Reason": {"MaxAge"}}, OpPurge, true},
		{"purged by the server", transport.Header{"Nats-Marker-Reason": {"Purge"}}, OpPurge, false},
		{"removed by the server", transport.Header{"Nats-Marker-Reason": {"Remove"}}, OpDelete, false},
	} {
		if op, expired := operationOf(c.header); op != c.op || expired != c.expired {
			t.Errorf("%s: %s, %v", c.name, op, expired)
		}
		if c.header.Get("Nats-Marker-Reason") == "" {
			continue
		}
		copied := markedHeader(c.header)
		copied.Del("Nats-Marker-Reason") // as a dead letter drops it
		if op, expired := operationOf(copied); op != c.op || expired != c.expired {
			t.Errorf("a copy of what was %s: %s, %v", c.name, op, expired)
		}
	}
}

func TestEntriesAreFilledFromMessagesOfAWatch(t *testing.T) {
	t.Parallel()
	at := time.Unix(7, 0)
	var e Entry[string]
	decode, err := e.Fill(&transport.Message{Subject: "$KV.prices.tea.green", Position: "KV_prices:42:7000", Time: at})
	if err != nil || !decode || e.Bucket != "prices" || e.Key != "tea.green" || e.Revision != 42 || !e.Time.Equal(at) {
		t.Errorf("%+v, %v, %v", e, decode, err)
	}
	if decode, err := e.Fill(&transport.Message{Subject: "$KV.b.k", Header: transport.Header{"KV-Operation": {"DEL"}}}); decode || err != nil || e.Operation != OpDelete {
		t.Errorf("a deletion: %+v, %v, %v", e, decode, err)
	}
	for _, subject := range []string{"orders.placed", "$KV.", "$KV.b", "$KV..k", "$KV.b."} {
		if _, err := e.Fill(&transport.Message{Subject: subject}); err == nil {
			t.Errorf("%s is taken for a key", subject)
		}
	}
}

func TestPendingIsReadFromBothForms(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]uint64{
		"$JS.ACK.S.C.1.2.3.4.77":               77,
		"$JS.ACK.dom.acc.S.C.1.2.3.4.78":       78,
		"$JS.ACK.dom.acc.S.C.1.2.3.4.79.token": 79,
	} {
		if got, ok := pendingIn(reply); got != want || !ok {
			t.Errorf("%s: %d, %v", reply, got, ok)
		}
	}
	if _, ok := pendingIn("_INBOX.x"); ok {
		t.Error("an inbox has something pending")
	}
}

func TestPlainConfirmationsAreReadWithoutDecoding(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]uint64{
		`{"stream":"KV_a","seq":17}`:                    17,
		`{"stream":"KV_a", "seq": 18,"duplicate":true}`: 18,
		`{"stream":"KV_a","domain":"d","seq":19}`:       19,
	} {
		if got, ok := plainAck([]byte(data)); !ok || got != want {
			t.Errorf("%s: %d, %v", data, got, ok)
		}
	}
	for _, data := range []string{``, `{}`, `{"stream":"a"}`, `{"error":{"code":503},"stream":"a","seq":0}`, `{"stream":"a","error":{"code":1},"seq":3}`, `{"type":"x","seq":3}`} {
		if got, ok := plainAck([]byte(data)); ok {
			t.Errorf("%s: %d", data, got)
		}
	}
}

// gap feeds deliveries to gaps: sequence of the stream, number in the consumer,
// and how often it was delivered.
func gap(g *gaps, seq, order uint64, times string) {
	g.saw(&delivery{seq: seq, order: order, raw: &nats.Msg{Reply: "$JS.ACK.KV_a.c." + times + ".1.1.1.0"}})
}

func TestGapsAreCountedOnceInAnyOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		feed func(g *gaps)
		want int
	}{
		"nothing is missing":            {func(g *gaps) { gap(g, 11, 1, "1"); gap(g, 12, 2, "1") }, 0},
		"three are missing":             {func(g *gaps) { gap(g, 11, 1, "1"); gap(g, 15, 2, "1") }, 3},
		"missing from the start":        {func(g *gaps) { gap(g, 14, 1, "1") }, 3},
		"workers overtake each other":   {func(g *gaps) { gap(g, 16, 3, "1"); gap(g, 12, 2, "1"); gap(g, 11, 1, "1"); gap(g, 17, 4, "1") }, 3},
		"another member had some":       {func(g *gaps) { gap(g, 11, 1, "1"); gap(g, 14, 4, "1") }, 0},
		"a redelivery between them":     {func(g *gaps) { gap(g, 11, 1, "1"); gap(g, 11, 2, "2"); gap(g, 15, 3, "1") }, 3},
		"what was gone before it began": {func(g *gaps) { g.from = 20; gap(g, 15, 1, "1"); gap(g, 25, 2, "1"); gap(g, 28, 3, "1") }, 2},
	} {
		g := &gaps{all: true, seq: 10, high: 10}
		c.feed(g)
		if g.missed != c.want {
			t.Errorf("%s: counted %d and not %d", name, g.missed, c.want)
		}
	}
	some := &gaps{seq: 10, high: 10}
	gap(some, 20, 1, "1")
	if some.missed != 0 {
		t.Error("what a watch of some keys skips is taken for missing")
	}
	var none *gaps
	gap(none, 1, 1, "1")
}

// priced and named are validators by value and by pointer.
type priced int

func (p priced) Validate() error {
	if p < 0 {
		return errNegative
	}
	return nil
}

type named struct{ name string }

func (n *named) Validate() error {
	if n.name == "" {
		return errNegative
	}
	return nil
}

var errNegative = errors.New("negative")

func TestTheValueOfAnEntryIsValidatedWhateverItsType(t *testing.T) {
	t.Parallel()
	type validator interface{ Validate() error }
	check.ErrorIs(t, (&Entry[priced]{Value: -1}).Validate(), errNegative)
	check.NoError(t, (&Entry[priced]{Value: 1}).Validate())
	check.ErrorIs(t, (&Entry[named]{}).Validate(), errNegative)
	check.ErrorIs(t, (&Entry[*named]{Value: &named{}}).Validate(), errNegative)
	check.ErrorIs(t, (&Entry[validator]{Value: priced(-1)}).Validate(), errNegative)
	check.NoError(t, (&Entry[validator]{}).Validate())
	check.NoError(t, (&Entry[priced]{Value: -1, Operation: OpDelete}).Validate(), "there is no value")
}

func TestValidatingAnEntryOfBytesCopiesNothing(t *testing.T) { // not in parallel: allocations are counted
	e := &Entry[[]byte]{Value: []byte("any")}
	check.Equal(t, testing.AllocsPerRun(100, func() { _ = e.Validate() }), 0)
}
