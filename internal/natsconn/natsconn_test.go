package natsconn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

func TestRedactHidesEveryCredential(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"nats://127.0.0.1:4222":                  "nats://127.0.0.1:4222",
		"nats://bob:secret@127.0.0.1:4222":       "nats://xxxxx@127.0.0.1:4222",
		"nats://token@127.0.0.1:4222":            "nats://xxxxx@127.0.0.1:4222",
		"bob:secret@127.0.0.1":                   "xxxxx@127.0.0.1",
		"nats://bob:p@ss%zz@h:4222":              "nats://xxxxx@h:4222",
		"nats://a:b@one:1, nats://c@two:2,three": "nats://xxxxx@one:1,nats://xxxxx@two:2,three",
		"tls://two:2?token=secret":               "tls://two:2",
		"nats://bob:secret@h:4222/?a=b#c":        "nats://xxxxx@h:4222/",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDialErrorNamesTheServerWithoutCredentials(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"nats://bob:secret@127.0.0.1:1", "nats://bob:secret%zz@127.0.0.1:1"} {
		_, err := Dial(t.Context(), url, Config{})
		if err == nil {
			t.Fatalf("Dial(%s) connected to nothing", url)
		}
		if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "xxxxx@127.0.0.1:1") {
			t.Errorf("the error is %q", err)
		}
	}
}

func TestDialWaitsForTheServerUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, "nats://127.0.0.1:1", Config{Wait: true})
	if !errors.Is(err, context.DeadlineExceeded) || transport.KindOf(err) != transport.Temporary {
		t.Errorf("the error is %v", err)
	}
}

func TestDialRefusesOptionsThatBreakPromises(t *testing.T) {
	t.Parallel()
	for _, opt := range []nats.Option{nats.ReconnectBufSize(1 << 20), nats.RetryOnFailedConnect(true)} {
		_, err := Dial(t.Context(), "nats://127.0.0.1:1", Config{Options: []nats.Option{opt}, Wait: true})
		if !errors.Is(err, transport.ErrInvalid) || transport.KindOf(err) != transport.Permanent {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestDialRefusesAnEmptyURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", " ", ","} {
		_, err := Dial(t.Context(), url, Config{Wait: true})
		if !errors.Is(err, transport.ErrInvalid) || transport.KindOf(err) != transport.Permanent || !strings.Contains(err.Error(), "URL of the server is empty") {
			t.Errorf("%q: the error is %v", url, err)
		}
	}
	servers := func(o *nats.Options) error { o.Servers = []string{"nats://127.0.0.1:1"}; return nil }
	if _, err := Dial(t.Context(), "", Config{Options: []nats.Option{servers}}); err == nil || errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a server that an option names: %v", err)
	}
}

func TestTheAccountsOfTwoConnectionsAreComparedByTheirUsers(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"bob": true, "eve": false} {
		a, b := &nats.Conn{Opts: nats.Options{User: "bob"}}, &nats.Conn{Opts: nats.Options{User: name}}
		if got := userOf(a) == userOf(b); got != same {
			t.Errorf("bob and %s are the same: %v", name, got)
		}
		if together, _ := Together(a, b); together {
			t.Error("two connections to nowhere lead to one server")
		}
	}
}

func TestSubjectsThatCannotBePublishedToAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a.*", "a.>", "a b", "a\tb", "a\r\nPUB b", "a\x00", strings.Repeat("a", MaxSubject+1)} {
		if err := CheckSubject("publish", s); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("CheckSubject(%q) = %v", s, err)
		}
	}
	for _, s := range []string{"a", "a.b.c", "a-b_c.$d", "\u00e4.b"} {
		if err := CheckSubject("publish", s); err != nil {
			t.Errorf("CheckSubject(%q) = %v", s, err)
		}
	}
	for s, ok := range map[string]bool{"a.*": true, ">": true, "a.>": true, "a.>.b": false, "a..*": false} {
		if err := CheckFilter("subscribe", s); (err == nil) != ok {
			t.Errorf("CheckFilter(%q) = %v", s, err)
		}
	}
}

func TestHeadersThatWouldNotArriveAreRefused(t *testing.T) {
	t.Parallel()
	body := []byte("x")
	for _, h := range []transport.Header{
		{"": {"v"}},
		{"a b": {"v"}},
		{"a:b": {"v"}},
		{"a\r\nb": {"v"}},
		{"\u00e4": {"v"}},
		{"a": {" v"}},
		{"a": {"v\t"}},
		{"a": {"v\nw"}},
		{"a": {"ok", "\r"}},
	} {
		if err := CheckMessage("publish", "s", h, body); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("CheckMessage(%q) = %v", h, err)
		}
	}
	fine := transport.Header{"X-A": {"", "v w", "\xff\xfe"}, "Status": {"200"}}
	if err := CheckMessage("publish", "s", fine, body); err != nil {
		t.Error(err)
	}
	if err := CheckMessage("publish", "s", fine, nil); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a Status header on an empty body: %v", err)
	}
}

func TestAFilterMatchesWhatItSelects(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.b", "a.b.c", false},
		{"a.*", "a.b", true},
		{"a.b", "a.*", false},
		{"a.*", "a.*", true},
		{"a.>", "a.b.c", true},
		{"a.>", "a", false},
		{"a.*", "a.>", false},
		{"a.>", "a.*", true},
		{">", "a", true},
	} {
		if got := Matches(c.filter, c.subject); got != c.want {
			t.Errorf("Matches(%q, %q) = %v", c.filter, c.subject, got)
		}
	}
}

func violation(text string) error { return fmt.Errorf("%w: %s", nats.ErrPermissionViolation, text) }

func TestARefusalIsUnderstood(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Denial{
		`Permissions Violation for Publish to "a.b"`:                         {Verb: Publish, Subject: "a.b"},
		`Permissions Violation for Publish with Reply of "_INBOX.x.y"`:       {Verb: ReplyTo, Subject: "_INBOX.x.y"},
		`Permissions Violation for Subscription to "a.>" using queue "g"`:    {Verb: Subscribe, Subject: "a.>", Queue: "g"},
		`Permissions Violation for Subscription to "a\"b" (sid "4")`:         {Verb: Subscribe, Subject: `a"b`},
		`Permissions Violation for Subscription to "a.b.c", too many tokens`: {Verb: Subscribe, Subject: "a.b.c"},
	} {
		if got, ok := ParseDenial(violation(text)); !ok || got != want {
			t.Errorf("ParseDenial(%s) = %+v, %v", text, got, ok)
		}
	}
	if _, ok := ParseDenial(nats.ErrSlowConsumer); ok {
		t.Error("a slow consumer is no refusal")
	}
}

func TestADenialReachesTheCallThatCausedIt(t *testing.T) {
	t.Parallel()
	c := newConn(t.Context())
	mark := c.Mark()
	c.denials.record(violation(`Permissions Violation for Publish to "a.b"`), "_INBOX.")
	if err := c.DeniedSince(mark, "publish", Publish, "a.b"); !errors.Is(err, transport.ErrPermission) || !strings.Contains(err.Error(), "a.b") {
		t.Errorf("the error is %v", err)
	}
	if err := c.DeniedSince(mark, "publish", Publish, "a.c"); err != nil {
		t.Errorf("another subject was refused: %v", err)
	}
	if err := c.DeniedSince(c.Mark(), "publish", Publish, "a.b"); err != nil {
		t.Errorf("a later call was refused: %v", err)
	}
	for range 3 * recentDenials {
		c.denials.record(violation(`Permissions Violation for Publish to "x"`), "_INBOX.")
	}
	if n := len(c.denials.recent); n > recentDenials {
		t.Errorf("%d denials are kept", n)
	}
}

func TestARefusedInboxEndsRequestsUntilTheNextReconnect(t *testing.T) {
	t.Parallel()
	c := newConn(t.Context())
	waiting, stop := c.Guard(t.Context(), "svc.*")
	defer stop()
	c.denials.record(violation(`Permissions Violation for Subscription to "_INBOX.abc.*"`), "_INBOX.")
	if err := context.Cause(waiting); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("the waiting request ends with %v", err)
	}
	later, stopLater := c.Guard(t.Context(), "other")
	defer stopLater()
	if err := context.Cause(later); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("a later request begins with %v", err)
	}
	c.denials.forgetInbox()
	after, stopAfter := c.Guard(t.Context(), "svc.a")
	defer stopAfter()
	c.denials.record(violation(`Permissions Violation for Publish to "svc.b"`), "_INBOX.")
	if err := after.Err(); err != nil {
		t.Errorf("a request was ended for another subject: %v", context.Cause(after))
	}
	c.denials.record(violation(`Permissions Violation for Publish to "svc.a"`), "_INBOX.")
	if err := context.Cause(after); !errors.Is(err, transport.ErrPermission) {
		t.Errorf("the request ends with %v", err)
	}
}

func TestObserversAreCalledUntilTheyStop(t *testing.T) {
	t.Parallel()
	c := newConn(t.Context())
	var n atomic.Int32
	stop := c.Observe(func(transport.Event) { n.Add(1) })
	c.Emit(transport.Event{Kind: transport.Dropped})
	stop()
	c.Emit(transport.Event{Kind: transport.Dropped})
	if n.Load() != 1 {
		t.Errorf("%d events", n.Load())
	}
}

func TestManyFlushesShareRoundTrips(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newConn(t.Context())
		var trips atomic.Int32
		trip := func(context.Context) error {
			trips.Add(1)
			<-time.After(time.Second)
			return nil
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := c.flusher.flush(t.Context(), trip); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := trips.Load(); n > 2 {
			t.Errorf("%d round trips for 100 flushes at once", n)
		}
	})
}

func TestAFlushGivenUpByOneIsFinishedByAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newConn(t.Context())
		hang := errors.New("hang")
		var trips atomic.Int32
		trip := func(ctx context.Context) error {
			if trips.Add(1) > 1 {
				return nil
			}
			<-ctx.Done()
			return hang
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := c.flusher.flush(short, trip); err == nil {
				t.Error("the flush that hung succeeded")
			}
		})
		synctest.Wait()
		for range 3 {
			wg.Go(func() {
				if err := c.flusher.flush(t.Context(), trip); err != nil {
					t.Errorf("a flush failed for the context of another: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

// An option whose value comes from a variable that is not set would be ignored,
// and the connection made as nobody.
func TestOptionsWithNothingInThemAreRefused(t *testing.T) {
	t.Parallel()
	var cfg Config
	cfg.Given("WithToken", "")
	cfg.Given("WithUser", "bob", "")
	cfg.Given("WithCA")
	_, err := Dial(t.Context(), "nats://127.0.0.1:1", cfg)
	if !errors.Is(err, transport.ErrInvalid) || !strings.Contains(err.Error(), "WithToken and WithCA") {
		t.Errorf("dial: %v", err)
	}
	if transport.KindOf(err) != transport.Permanent {
		t.Errorf("it is %v", transport.KindOf(err))
	}
}
