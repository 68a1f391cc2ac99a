package natsconn

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Verb is what was refused.
type Verb string

// What a server refuses.
const (
	Publish   Verb = "publish to"
	Subscribe Verb = "subscribe to"
	ReplyTo   Verb = "publish with a reply to"
)

// Denial is a permission that the server refused.
type Denial struct {
	Verb    Verb
	Subject string
	Queue   string
}

// Cause returns the denial as an error that is transport.ErrPermission.
func (d Denial) Cause() error {
	return fmt.Errorf("%w: the server refused to %s %q", transport.ErrPermission, d.Verb, d.Subject)
}

// err returns the denial as the error of the operation it concerns.
func (d Denial) err(op string) error {
	return &transport.Error{
		Op:      op,
		Address: d.Subject,
		Kind:    transport.Permanent,
		Hint:    fmt.Sprintf("allow this user to %s %q in the permissions of the server", d.Verb, d.Subject),
		Err:     d.Cause(),
	}
}

// denials remembers what the server refused. The client library reports it to a
// handler, apart from the call that caused it; here the two meet again.
type denials struct {
	seq atomic.Uint64 // grows with every denial

	mu       sync.Mutex // guards the fields below; a leaf: never held across a call
	recent   []denied   // the last of them, oldest first
	last     error      // what the handler saw last, to know how far it got
	note     chan struct{}
	inbox    *Denial // replies cannot reach us, until the next reconnect
	watchers map[*watcher]struct{}
}

type denied struct {
	Denial
	seq uint64
}

// watcher is something that a denial ends: a request that waits for its answer,
// or a subscription.
type watcher struct {
	op       string
	verb     Verb
	inbox    bool // ended as well when replies cannot reach us
	subjects []string
	cancel   context.CancelCauseFunc
}

// recentDenials bounds the memory spent on them. A call looks for its own
// within a round trip.
const recentDenials = 512

func (d *denials) record(err error, inbox string) {
	denial, ok := ParseDenial(err)
	d.mu.Lock()
	d.last = err
	close(d.note)
	d.note = make(chan struct{})
	var hit []*watcher
	if ok {
		hit = d.add(denial, inbox)
	}
	d.mu.Unlock()
	for _, w := range hit {
		w.cancel(denial.err(w.op))
	}
}

// add is called with mu held and returns the calls that the denial ends.
func (d *denials) add(denial Denial, inbox string) []*watcher {
	if len(d.recent) == recentDenials {
		d.recent = append(d.recent[:0], d.recent[recentDenials/2:]...)
	}
	d.recent = append(d.recent, denied{denial, d.seq.Load() + 1})
	d.seq.Add(1)
	ours := denial.Verb != Publish && strings.HasPrefix(denial.Subject, inbox)
	if ours && denial.Verb == Subscribe {
		d.inbox = &denial
	}
	var hit []*watcher
	for w := range d.watchers {
		if ours && w.inbox || denial.Verb == w.verb && w.wants(denial.Subject) {
			hit = append(hit, w)
		}
	}
	return hit
}

func (w *watcher) wants(subject string) bool {
	for _, s := range w.subjects {
		if Matches(s, subject) {
			return true
		}
	}
	return false
}

func (d *denials) forgetInbox() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inbox = nil
}

// Mark returns the point in time that DeniedSince counts from.
func (c *Conn) Mark() uint64 { return c.denials.seq.Load() }

// DeniedSince returns the error of the call op when the server refused verb on
// subject after the mark was taken, and nil otherwise. It is certain only after
// a Flush that began after the call.
func (c *Conn) DeniedSince(mark uint64, op string, verb Verb, subject string) error {
	d := &c.denials
	if d.seq.Load() == mark {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.recent) - 1; i >= 0 && d.recent[i].seq > mark; i-- {
		if r := d.recent[i]; r.Verb == verb && r.Subject == subject {
			return r.err(op)
		}
	}
	return nil
}

// Guard returns a context for a request on one of the subjects, which may hold
// wildcards. It ends when the server refuses the request, or refuses us the
// inbox its answer would come to; context.Cause is then the error to return.
// The caller calls stop when the request is over.
func (c *Conn) Guard(ctx context.Context, subjects ...string) (guarded context.Context, stop context.CancelFunc) {
	return c.denials.watch(ctx, &watcher{op: "request", verb: Publish, inbox: true, subjects: subjects})
}

// GuardSubscription returns a context that ends when the server refuses the
// subscription to subject, now or after a reconnect; context.Cause is then an
// error of op. The caller calls stop when the subscription is over.
func (c *Conn) GuardSubscription(ctx context.Context, op, subject string) (guarded context.Context, stop context.CancelFunc) {
	return c.denials.watch(ctx, &watcher{op: op, verb: Subscribe, subjects: []string{subject}})
}

func (d *denials) watch(ctx context.Context, w *watcher) (guarded context.Context, stop context.CancelFunc) {
	guarded, w.cancel = context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.inbox && d.inbox != nil {
		w.cancel(d.inbox.err(w.op))
	}
	if d.watchers == nil {
		d.watchers = make(map[*watcher]struct{})
	}
	d.watchers[w] = struct{}{}
	return guarded, func() {
		d.mu.Lock()
		delete(d.watchers, w)
		d.mu.Unlock()
		w.cancel(nil)
	}
}

// settle waits until the handler has seen every permission violation that the
// connection has read, so that what is asked of denials afterwards is complete.
//
// The server sends its refusal before the answer to our ping; the client
// library notes the refusal as its last error while reading, and calls the
// handler later on another goroutine, which a handler of the user may hold up.
// When ctx ends first nobody knows what was refused.
func (c *Conn) settle(ctx context.Context) error {
	for {
		note, seen := c.denials.progress()
		last := c.NATS().LastError()
		if seen == last || !errors.Is(last, nats.ErrPermissionViolation) {
			return nil
		}
		select {
		case <-note:
		case <-ctx.Done():
			return fmt.Errorf("the server refused something, and an error handler that has not returned keeps it from being known what: %w", ctx.Err())
		}
	}
}

func (d *denials) progress() (note <-chan struct{}, last error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note, d.last
}

// denialText is how servers word a refusal, in every version so far. The
// client library knows the same words.
var denialText = regexp.MustCompile(`(?i)permissions violation for (publish with reply of|publish to|subscription to) ("(?:[^"\\]|\\.)*")(?: using queue ("(?:[^"\\]|\\.)*"))?`)

// ParseDenial reads a refused permission from what the client library reports.
func ParseDenial(err error) (Denial, bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return Denial{}, false
	}
	m := denialText.FindStringSubmatch(err.Error())
	if m == nil {
		return Denial{}, false
	}
	d := Denial{Subject: unquote(m[2]), Queue: unquote(m[3])}
	switch strings.ToLower(m[1]) {
	case "publish to":
		d.Verb = Publish
	case "subscription to":
		d.Verb = Subscribe
	default:
		d.Verb = ReplyTo
	}
	return d, true
}

func unquote(s string) string {
	if u, err := strconv.Unquote(s); err == nil {
		return u
	}
	return strings.Trim(s, `"`)
}
