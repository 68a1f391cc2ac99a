package holdfast

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/spool"
	"github.com/holdfast-go/holdfast/transport"
)

// Err says why nothing can be published at all, such as a spool that cannot be
// opened, or nil.
func (p *Publisher[T]) Err() error { return p.core.err }

// Unpublished is a message without an outcome when its publisher was closed. It
// is encoded and complete: publish it again, under the same ID, with a publisher
// of []byte.
type Unpublished struct {
	ID          string
	To          transport.Address
	Key         string
	ContentType string
	Header      map[string][]string
	Body        []byte
	// Uncertain: a copy of it may be stored; it was sent and not confirmed.
	Uncertain bool
}

// Close takes no more messages, waits until all that are pending have their
// outcome or ctx ends, and hands back those that have none then, oldest first;
// their calls and futures are told so as well. The error says that there are some.
// With a Spool there are none: what is left stays on disk for the next start.
// It is idempotent. The transport is not closed.
func (p *Publisher[T]) Close(ctx context.Context) ([]Unpublished, error) {
	return p.core.close(ctx)
}

func (p *publishing) close(ctx context.Context) ([]Unpublished, error) {
	if p.err != nil {
		return nil, nil
	}
	if p.spool != nil {
		return nil, p.spool.drain(ctx)
	}
	items := p.send.Close(ctx)
	if len(items) == 0 {
		return nil, nil
	}
	left := make([]Unpublished, len(items))
	for i, it := range items {
		m := it.M
		left[i] = Unpublished{
			ID: m.ID, To: it.To, Key: m.Key, ContentType: m.ContentType,
			Header: maps.Clone(m.Header), Body: m.Body, Uncertain: it.Again,
		}
	}
	return left, &transport.Error{
		Op: "close publisher", Kind: transport.Unknown, Err: errors.Join(fmt.Errorf("%d messages have no outcome", len(left)), context.Cause(ctx)),
		Hint: "they are handed back: keep them, and publish them again under the same IDs",
	}
}

// Flush waits until everything that was published before has its outcome, or ctx
// ends. With a Spool it waits until the broker has all that is on disk.
func (p *Publisher[T]) Flush(ctx context.Context) error { return p.core.flush(ctx) }

func (p *publishing) flush(ctx context.Context) error {
	var err error
	switch {
	case p.err != nil:
		return p.err
	case p.spool != nil:
		err = p.spool.flush(ctx)
	default:
		err = p.send.Flush(ctx)
	}
	if err != nil {
		return &transport.Error{Op: "flush publisher", Address: p.address, Kind: transport.Temporary, Err: errors.Join(err, p.send.Stats().Err)}
	}
	return nil
}

// Stats returns what the publisher has under way and has done since it was made.
func (p *Publisher[T]) Stats() observe.Publisher { return p.core.stats(p.core.send.Stats()) }

func (p *publishing) stats(st sender.Stats) observe.Publisher {
	out := observe.Publisher{
		Address: p.address, Pending: st.Pending, Bytes: st.Bytes, Oldest: st.Oldest,
		Confirmed: st.Confirmed, Refused: st.Refused, Resent: st.Resent, Connections: st.Pipelines, Err: st.Err,
	}
	if p.spool != nil {
		out.Spool = p.spool.stats()
	}
	return out
}

// watch tells the observers what is under way.
func (p *publishing) watch(st sender.Stats) {
	e := observe.Event{Kind: observe.PublisherNews, Time: time.Now(), Publisher: p.stats(st), Err: st.Err}
	for _, obs := range p.observers {
		obs.Observe(e)
	}
}

// Recovered says what a Spool found when it was opened: how much was left, what
// was torn or damaged and where that is kept. It is zero without a spool.
func (p *Publisher[T]) Recovered() spool.Recovery {
	if p.core.spool == nil {
		return spool.Recovery{}
	}
	return p.core.spool.found
}
