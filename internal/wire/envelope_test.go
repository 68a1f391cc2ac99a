package wire_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/transport"
)

var update = flag.Bool("update", false, "rewrite golden files")

func stored() *transport.Message {
	return &transport.Message{
		ID:          "01JABC",
		Subject:     "orders.placed",
		Key:         "customer 7",
		ContentType: "application/json",
		Header: transport.Header{
			"Tenant":                     {"acme", "Acme", ""},
			"traceparent":                {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			"Nats-Msg-Id":                {"01JABC"},
			"nats-rollup":                {"all"},
			"X-Death":                    {"forged"},
			wire.Cause:                   {"01JAAA"},
			"holdfast-dead-id":           {"stale"},
			"Holdfast-Dead-Stack":        {"stale"},
			"Holdfast-Something-Unheard": {"stale"},
		},
		Body:     []byte(`{"qty":-3}`),
		Time:     time.Date(2026, 2, 3, 4, 5, 6, 700, time.FixedZone("", 3600)),
		Position: "ORDERS/41@1770087906000000700",
	}
}

func failed() wire.Envelope {
	return wire.Envelope{
		Subscription: "billing",
		Source:       "jetstream stream ORDERS, durable billing",
		Reason:       "attempts-exhausted",
		Class:        "panic",
		ErrorText:    "qty must be positive, got -3\nsee §4, 100% sure ",
		ErrorType:    "*orders.QtyError",
		ErrorChain:   []string{"*fmt.wrapError", "orders.Pair[int,string]"},
		Stack:        "goroutine 7 [running]:\nmain.charge(0x1)\n\t/app/charge.go:12 +0x1d\n",
		Stage:        wire.StageHandle,
		Attempts:     6,
		Deliveries:   7,
		FirstFailed:  time.Date(2026, 2, 3, 3, 5, 7, 0, time.UTC),
		Failed:       time.Date(2026, 2, 3, 3, 9, 7, 123456789, time.UTC),
		Host:         "node-1",
		App:          "billing 1.4.2",
	}
}

func TestEnvelopeHeadersAreAsPublished(t *testing.T) {
	t.Parallel()
	dead := wire.BuryMessage(stored(), failed())
	e, ok := wire.Decode(dead)
	if !ok {
		t.Fatal("no envelope")
	}
	again := wire.RedriveMessage(dead, e)
	golden(t, "buried.txt", render(dead))
	golden(t, "redriven.txt", render(again))
}

func TestDecodeGivesBackWhatWasEncoded(t *testing.T) {
	t.Parallel()
	orig := stored()
	want := wire.Complete(orig, failed())
	got, ok := wire.Decode(wire.BuryMessage(orig, failed()))
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded (%v)\n%+v\nwant\n%+v", ok, got, want)
	}
	if got.DeadKey() != (transport.DeadKey{Subscription: "billing", Fingerprint: want.Fingerprint, ID: want.DeadID}) {
		t.Errorf("filed under %+v", got.DeadKey())
	}
}

func TestBuryTouchesNothingOfTheOriginal(t *testing.T) {
	t.Parallel()
	orig, before := stored(), stored()
	dead := wire.BuryMessage(orig, failed())
	dead.Header["Tenant"][0] = "changed"
	if !reflect.DeepEqual(orig, before) {
		t.Errorf("the original is now %+v", orig)
	}
	if &dead.Body[0] != &orig.Body[0] {
		t.Error("the body was copied")
	}
}

func TestEnvelopeKeepsItsBudgetAndSaysWhatWasCut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*wire.Envelope)
		budget int
		cut    []string
	}{
		{"fits", func(*wire.Envelope) {}, wire.Budget, nil},
		{"long text", func(e *wire.Envelope) { e.ErrorText = strings.Repeat("x", 2000) }, wire.Budget, []string{"error"}},
		{"long chain", func(e *wire.Envelope) { e.ErrorChain = slices.Repeat([]string{"*a.B"}, 40) }, wire.Budget, []string{"error-chain"}},
		{"chain goes first", func(e *wire.Envelope) {
			e.Stack = strings.Repeat("\x01", wire.MaxStack)
			e.ErrorChain = slices.Repeat([]string{strings.Repeat("t", 250)}, 16)
		}, wire.Budget, []string{"error-chain"}},
		{"then the stack", func(e *wire.Envelope) {
			e.Stack = strings.Repeat("\x01", wire.MaxStack)
			e.ErrorText = strings.Repeat("é", 512)
		}, 12 << 10, []string{"error-chain", "stack"}},
		{"then the text", func(e *wire.Envelope) { e.ErrorText = strings.Repeat("é", 100) }, 1100, []string{"error-chain", "stack", "error"}},
		{"then the rest", func(*wire.Envelope) {}, 1, []string{"error-chain", "stack", "error", "error-type", "source", "app", "host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := failed()
			tt.change(&e)
			dead := wire.BuryMessageWithin(stored(), e, tt.budget)
			if n := ours(dead.Header); n > tt.budget && tt.budget > 1 {
				t.Errorf("%d bytes, budget %d", n, tt.budget)
			}
			got, ok := wire.Decode(dead)
			if !ok || !slices.Equal(got.Truncated, tt.cut) {
				t.Errorf("decoded %v, cut %q, want %q", ok, got.Truncated, tt.cut)
			}
			if got.Subscription == "" || got.Subject == "" || got.Reason == "" || got.DeadID == "" {
				t.Errorf("lost what is needed to redrive: %+v", got)
			}
		})
	}
}

func TestCutTextIsValidAndAPrefix(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("größe ", 300)
	for budget := 1200; budget < 3000; budget += 13 {
		e, _ := wire.Decode(wire.BuryMessageWithin(stored(), wire.Envelope{Subscription: "s", ErrorText: text}, budget))
		if !strings.HasPrefix(text, e.ErrorText) {
			t.Fatalf("budget %d: %q is no prefix", budget, e.ErrorText)
		}
	}
}

func TestBuryAndRedriveForEverGivesBackTheMessage(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		orig := randomMessage(rng)
		first := randomEnvelope(rng)
		m, size := orig, 0
		for cycle := range 5 {
			dead := wire.BuryMessage(m, first)
			e, ok := wire.Decode(dead)
			if !ok {
				t.Fatalf("seed %d cycle %d: no envelope", seed, cycle)
			}
			if n := ours(dead.Header); n > wire.Budget {
				t.Fatalf("seed %d cycle %d: %d bytes", seed, cycle, n)
			} else if size != 0 && n > size {
				t.Fatalf("seed %d cycle %d: grew from %d to %d", seed, cycle, size, n)
			} else {
				size = n
			}
			m = receive(wire.RedriveMessage(dead, e), cycle)
			sameMessage(t, m, orig)
			origin := wire.OriginOf(m)
			want := wire.OriginOf(orig)
			want.Redrives = cycle + 1
			if origin != want {
				t.Fatalf("seed %d cycle %d: origin %+v, want %+v", seed, cycle, origin, want)
			}
		}
	}
}

// receive is what a broker makes of a published message.
func receive(m *transport.Message, n int) *transport.Message {
	c := *m
	c.Header = m.Header.Clone()
	c.Header.Set("Nats-Msg-Id", m.DedupID)
	c.DedupID = ""
	c.Subject = wire.OriginOf(m).Subject
	c.Position = fmt.Sprintf("REDRIVE/%d", n)
	c.Time = time.Unix(1<<31, 0)
	return &c
}

func sameMessage(t *testing.T, got, want *transport.Message) {
	t.Helper()
	if got.ID != want.ID || got.Key != want.Key || got.ContentType != want.ContentType || !bytes.Equal(got.Body, want.Body) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if g, w := wire.UserHeader(got.Header), wire.UserHeader(want.Header); !reflect.DeepEqual(g, w) {
		t.Fatalf("headers %q, want %q", g, w)
	}
}

func randomMessage(rng *rand.Rand) *transport.Message {
	h := transport.Header{}
	for range rng.IntN(6) {
		for range 1 + rng.IntN(3) {
			h.Add("U"+randomText(rng, 20), randomText(rng, 3000))
		}
	}
	return &transport.Message{
		ID: "id" + randomText(rng, 10), Key: randomText(rng, 10), ContentType: randomText(rng, 10),
		Subject: "s" + randomText(rng, 300), Position: "p" + randomText(rng, 100),
		Time: time.Unix(rng.Int64N(1<<31), rng.Int64N(1e9)).UTC(), Header: h, Body: []byte(randomText(rng, 100)),
	}
}

func randomEnvelope(rng *rand.Rand) wire.Envelope {
	e := wire.Envelope{
		Subscription: "s" + randomText(rng, 400), Source: randomText(rng, 3000), Reason: randomText(rng, 20),
		Class: randomText(rng, 20), ErrorText: randomText(rng, 5000), ErrorType: randomText(rng, 500),
		Stack: randomText(rng, 9000), Host: randomText(rng, 500), App: randomText(rng, 500),
		Attempts: rng.Int(), Deliveries: -rng.Int(),
	}
	for range rng.IntN(30) {
		e.ErrorChain = append(e.ErrorChain, randomText(rng, 500))
	}
	return e
}

func randomText(rng *rand.Rand, limit int) string {
	b := make([]byte, rng.IntN(limit))
	kind := rng.IntN(3)
	for i := range b {
		switch kind {
		case 0:
			b[i] = byte(rng.Uint32())
		case 1:
			b[i] = " ,%a\xc3\xa9"[rng.IntN(6)]
		default:
			b[i] = byte('a' + rng.IntN(26))
		}
	}
	return string(b)
}

func TestRedriveOfOneLetterHasOneDedupID(t *testing.T) {
	t.Parallel()
	dead := wire.BuryMessage(stored(), failed())
	e, _ := wire.Decode(dead)
	one, two := wire.RedriveMessage(dead, e), wire.RedriveMessage(dead, e)
	if one.DedupID != two.DedupID || one.DedupID == dead.DedupID {
		t.Errorf("redriven under %q and %q, buried under %q", one.DedupID, two.DedupID, dead.DedupID)
	}
	later := wire.BuryMessage(receive(one, 1), failed())
	e, _ = wire.Decode(later)
	if later.DedupID == dead.DedupID {
		t.Error("the second burial has the dead ID of the first")
	}
	if wire.RedriveMessage(later, e).DedupID == one.DedupID {
		t.Error("the second redrive would be suppressed")
	}
}

func TestDeadIDNamesOneFailureOfOneStoredMessage(t *testing.T) {
	t.Parallel()
	base := wire.DeadID("sub", "id", "pos", nil, 0)
	if base != wire.DeadID("sub", "id", "pos", []byte("body does not matter"), 0) {
		t.Error("the body matters beside a position")
	}
	if len(base) != 26 || strings.Trim(base, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		t.Errorf("odd dead ID %q", base)
	}
	seen := map[string]string{base: "base"}
	for name, id := range map[string]string{
		"subscription":   wire.DeadID("sub2", "id", "pos", nil, 0),
		"id":             wire.DeadID("sub", "id2", "pos", nil, 0),
		"position":       wire.DeadID("sub", "id", "pos2", nil, 0),
		"redrives":       wire.DeadID("sub", "id", "pos", nil, 1),
		"border":         wire.DeadID("sub", "idp", "os", nil, 0),
		"body":           wire.DeadID("sub", "id", "", []byte("a"), 0),
		"other body":     wire.DeadID("sub", "id", "", []byte("b"), 0),
		"empty position": wire.DeadID("sub", "id", "", nil, 0),
	} {
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have one dead ID", name, other)
		}
		seen[id] = name
	}
}

func TestFingerprintFollowsTheCause(t *testing.T) {
	t.Parallel()
	base := wire.Fingerprint("s", "transient", "*T", "qty must be positive, got -3", "")
	if len(base) != 12 {
		t.Errorf("odd fingerprint %q", base)
	}
	if base != wire.Fingerprint("s", "transient", "*T", "qty must be positive, got 12", "") {
		t.Error("another number is another group")
	}
	for _, other := range []string{
		wire.Fingerprint("s2", "transient", "*T", "qty must be positive, got -3", ""),
		wire.Fingerprint("s", "permanent", "*T", "qty must be positive, got -3", ""),
		wire.Fingerprint("s", "transient", "*U", "qty must be positive, got -3", ""),
		wire.Fingerprint("s", "transient", "*T", "price must be positive, got -3", ""),
		wire.Fingerprint("s", "transient", "*T", "qty must be positive, got -3", "main.f"),
	} {
		if other == base {
			t.Error("two causes share a group")
		}
	}
	long := strings.Repeat("word ", 1000)
	e, _ := wire.Decode(wire.BuryMessage(stored(), wire.Envelope{Subscription: "s", ErrorText: long}))
	if e.Fingerprint != wire.Fingerprint("s", "", "", e.ErrorText, "") {
		t.Error("the group cannot be computed from what was stored")
	}
}

func TestEscapeIsASCIIAndReversible(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "plain", " a b ", "100%", "%41", "größe\r\n\x00\xff", " ", "%", "a%2"} {
		out := wire.Escape(s)
		if strings.ContainsFunc(out, func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(out) != out {
			t.Errorf("Escape(%q) = %q", s, out)
		}
		if back := wire.Unescape(out); back != s {
			t.Errorf("%q came back as %q", s, back)
		}
	}
	for in, want := range map[string]string{"%": "%", "%4": "%4", "%zz": "%zz", "%e9": "\xe9", "a%%41": "a%A"} {
		if got := wire.Unescape(in); got != want {
			t.Errorf("Unescape(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDecodeTakesAnything(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*transport.Message{
		"no header": {},
		"nil value": {Header: transport.Header{wire.DeadVersion: nil}},
		"bad numbers": {Header: transport.Header{
			wire.DeadVersion: {"1"}, wire.DeadAttempts: {"-5"}, wire.Redrives: {"99999999999999999999"}, wire.DeadBodySize: {"1e3"},
		}},
		"bad times":  {Header: transport.Header{wire.DeadVersion: {"1"}, wire.DeadFailed: {"yesterday"}, wire.Time: {"2026-13-01T00:00:00Z"}}},
		"no dead id": {Header: transport.Header{wire.DeadVersion: {"1"}, wire.DeadSubscription: {"s"}}},
	} {
		e, ok := wire.Decode(m)
		if ok {
			t.Errorf("%s: taken for an envelope", name)
		}
		if e.Attempts != 0 || e.Redrives != 0 || e.BodySize != 0 || !e.Failed.IsZero() || !e.Time.IsZero() {
			t.Errorf("%s: decoded %+v", name, e)
		}
	}
	e, ok := wire.Decode(&transport.Message{Header: transport.Header{
		wire.DeadVersion: {"7"}, wire.DeadLetterID: {"first", "second"}, wire.DeadSubscription: {"s"},
	}})
	if !ok || e.DeadID != "first" {
		t.Errorf("a later version with a repeated ID: %v %+v", ok, e)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("1", "id", "sub", "3", "2026-02-03T03:05:07Z", "a,b%2C", "text%0A", "s")
	f.Add("-1", "", "%", "99999999999999999999", "x", ",,,", "\xff\xfe", "")
	f.Add("2", "%zz", "s\r\n", "-1", "9999-12-31T23:59:59.999999999+14:00", "error,stack,nonsense", "%", " %20")
	f.Fuzz(func(t *testing.T, version, id, sub, number, when, list, text, subject string) {
		m := &transport.Message{ID: id, Header: transport.Header{
			wire.DeadVersion: {version}, wire.DeadLetterID: {id, text}, wire.DeadSubscription: {sub},
			wire.DeadAttempts: {number}, wire.Redrives: {number}, wire.DeadBodySize: {number},
			wire.DeadFailed: {when}, wire.Time: {when}, wire.DeadErrorChain: {list}, wire.DeadTruncated: {list},
			wire.DeadError: {text}, wire.DeadStack: {text}, wire.Subject: {subject}, text: {text},
		}}
		e, ok := wire.Decode(m)
		if e.Attempts < 0 || e.Redrives < 0 || e.BodySize < 0 {
			t.Fatalf("negative: %+v", e)
		}
		h := wire.Encode(e)
		back, _ := wire.Decode(&transport.Message{ID: id, Header: h})
		if ok {
			e.Version = wire.EnvelopeVersion
			if ours(h) < wire.Budget && len(e.Truncated) == 0 && !reflect.DeepEqual(back, e) {
				t.Fatalf("decoded %+v, and after encoding %+v", e, back)
			}
		}
		if ours(h) > wire.Budget {
			t.Fatalf("%d bytes", ours(h))
		}
		again := wire.RedriveMessage(m, e)
		if !reflect.DeepEqual(wire.UserHeader(again.Header), wire.UserHeader(m.Header)) {
			t.Fatalf("user headers %q, want %q", again.Header, m.Header)
		}
	})
}

// ours is how many bytes the headers of holdfast take.
func ours(h transport.Header) int {
	n := 0
	for name, values := range h {
		if strings.HasPrefix(name, wire.Prefix) && name != wire.Cause {
			for _, value := range values {
				n += len(name) + len(value) + 4
			}
		}
	}
	return n
}

func render(m *transport.Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "id: %s\ndedup: %s\nkey: %s\ncontent-type: %s\n----\n", m.ID, m.DedupID, m.Key, m.ContentType)
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		for _, value := range m.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintf(&b, "----\n%s\n", m.Body)
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", path, got, want)
	}
}
