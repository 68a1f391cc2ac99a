package transporttest_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// pipe is a pipeline with some of its methods replaced.
type pipe struct {
	transport.Pipeline
	report func(uint64, error) // to whom the pipeline reports
	tell   func(uint64, error) // what is done with an outcome; nil is report
	send   func(transport.Address, *transport.Message, uint64) error
	flush  func() error
	done   func() <-chan struct{}
	why    func() error
	end    func(bool)
}

func (p *pipe) Send(to transport.Address, m *transport.Message, tag uint64) error {
	if p.send != nil {
		return p.send(to, m, tag)
	}
	return p.Pipeline.Send(to, m, tag)
}

func (p *pipe) Flush() error {
	if p.flush != nil {
		return p.flush()
	}
	return p.Pipeline.Flush()
}

func (p *pipe) Done() <-chan struct{} {
	if p.done != nil {
		return p.done()
	}
	return p.Pipeline.Done()
}

func (p *pipe) Err() error {
	if p.why != nil {
		return p.why()
	}
	return p.Pipeline.Err()
}

func (p *pipe) End(stuck bool) {
	if p.end != nil {
		p.end(stuck)
		return
	}
	p.Pipeline.End(stuck)
}

// onPipelines breaks every pipeline in one way.
func onPipelines(change func(*pipe)) func(*wrapped) {
	return func(w *wrapped) {
		w.onPipeline = func(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
			p := &pipe{report: report, tell: report}
			inner, err := w.Broker.OpenPipeline(ctx, func(tag uint64, err error) { p.tell(tag, err) })
			if err != nil {
				return nil, err
			}
			p.Pipeline = inner
			change(p)
			return p, nil
		}
	}
}

// onSent changes a copy of every message that is sent through a pipeline.
func onSent(change func(*transport.Message)) func(*wrapped) {
	return onPipelines(func(p *pipe) {
		p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
			c := *m
			c.Header = m.Header.Clone()
			change(&c)
			return p.Pipeline.Send(to, &c, tag)
		}
	})
}

// everyTenth does otherwise with each tenth message.
func everyTenth(otherwise func(p *pipe, to transport.Address, m *transport.Message, tag uint64) error) func(*wrapped) {
	return onPipelines(func(p *pipe) {
		n := 0
		p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
			if n++; n%10 == 0 {
				return otherwise(p, to, m, tag)
			}
			return p.Pipeline.Send(to, m, tag)
		}
	})
}

// lying reports each tenth message as stored and does not send it.
func lying(p *pipe) {
	var mu sync.Mutex
	n := 0
	p.tell = func(tag uint64, err error) {
		mu.Lock()
		defer mu.Unlock()
		p.report(tag, err)
	}
	p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
		if n++; n%10 == 0 {
			go p.tell(tag, nil)
			return nil
		}
		return p.Pipeline.Send(to, m, tag)
	}
}

// telling does otherwise with every outcome.
func telling(otherwise func(p *pipe, tag uint64, err error)) func(*wrapped) {
	return onPipelines(func(p *pipe) {
		p.tell = func(tag uint64, err error) { otherwise(p, tag, err) }
	})
}

// deferring reports one outcome a millisecond, whether or not the pipeline has
// ended.
func deferring(p *pipe) {
	var told time.Duration
	p.tell = func(tag uint64, err error) {
		told += time.Millisecond
		time.AfterFunc(told, func() { p.report(tag, err) })
	}
}

// gathering holds what is sent until Flush is told, which it is not.
func gathering(p *pipe) {
	p.send = func(transport.Address, *transport.Message, uint64) error { return nil }
	p.flush = func() error { return nil }
}

// swapped sends every second message before the first of its pair.
func swapped(p *pipe) {
	var held func() error
	release := func() error {
		if held == nil {
			return nil
		}
		defer func() { held = nil }()
		return held()
	}
	p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
		if held == nil {
			held = func() error { return p.Pipeline.Send(to, m, tag) }
			return nil
		}
		return errors.Join(p.Pipeline.Send(to, m, tag), release())
	}
	p.flush = func() error { return errors.Join(release(), p.Pipeline.Flush()) }
}

// waiting makes Send wait for the outcome.
func waiting(p *pipe) {
	outcome := make(chan struct{}, 1000)
	p.tell = func(tag uint64, err error) {
		p.report(tag, err)
		outcome <- struct{}{}
	}
	p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
		err := p.Pipeline.Send(to, m, tag)
		if err == nil {
			<-outcome
		}
		return err
	}
}

func brokenPipelining() []breakage {
	return slices.Concat(brokenOutcomes(), brokenOrder(), brokenEnds(), brokenConnections())
}

func brokenOutcomes() []breakage {
	const one = "PipelinedMessageHasOneOutcome"
	return []breakage{
		{one, "two outcomes", telling(func(p *pipe, tag uint64, err error) { p.report(tag, err); p.report(tag, err) })},
		{one, "none for some", everyTenth(func(*pipe, transport.Address, *transport.Message, uint64) error { return nil })},
		{one, "stored ones are missing", onPipelines(lying)},
		{one, "good ones are refused", everyTenth(func(p *pipe, _ transport.Address, m *transport.Message, tag uint64) error {
			return p.Pipeline.Send(transport.Address{Name: "nowhere"}, m, tag)
		})},
		{one, "under another tag", telling(func(p *pipe, tag uint64, err error) { p.report(tag+1, err) })},
		{one, "two at once", telling(func(p *pipe, tag uint64, err error) { go p.report(tag, err) })},
		{one, "from within Send", onPipelines(func(p *pipe) {
			p.tell = func(uint64, error) {}
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				err := p.Pipeline.Send(to, m, tag)
				if err == nil {
					p.report(tag, nil)
				}
				return err
			}
		})},
		{one, "nothing is flushed", onPipelines(gathering)},
		{one, "Err is set from the start", onPipelines(func(p *pipe) { p.why = func() error { return errors.New("fine") } })},
		{one, "Done is closed from the start", onPipelines(func(p *pipe) {
			closed := make(chan struct{})
			close(closed)
			p.done = func() <-chan struct{} { return closed }
		})},
		{"PipelinedMessageArrivesWhole", "headers are lost", onSent(func(m *transport.Message) { m.Header = nil })},
		{"PipelinedMessageArrivesWhole", "the key is lost", onSent(func(m *transport.Message) { m.Key = "" })},
		{"PipelinedMessageArrivesWhole", "the ID is lost", onSent(func(m *transport.Message) { m.ID = "" })},
		{"PipelinedMessageArrivesWhole", "it is reported before it is read", onPipelines(hasty)},
	}
}

// hasty reports a message as stored and reads it later.
func hasty(p *pipe) {
	p.tell = func(uint64, error) {}
	p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
		go func() {
			p.report(tag, nil)
			<-time.After(time.Millisecond)
			_ = p.Pipeline.Send(to, m, tag) // whatever comes of it
		}()
		return nil
	}
}

// lenient reports what is refused for good as something to be sent again.
func lenient(p *pipe) {
	var mu sync.Mutex
	p.tell = func(tag uint64, err error) {
		mu.Lock()
		defer mu.Unlock()
		p.report(tag, err)
	}
	p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
		if err := p.Pipeline.Send(to, m, tag); err != nil {
			go p.tell(tag, &transport.Error{Op: "publish", Kind: transport.Temporary, Err: err})
		}
		return nil
	}
}

func brokenOrder() []breakage {
	const other = "RefusedMessageCostsNoOtherOfItsPipeline"
	return []breakage{
		{"PipelinedMessagesArriveInOrder", "pairs are swapped", onPipelines(swapped)},
		{other, "nothing after it has an outcome", onPipelines(func(p *pipe) {
			refused := false
			p.tell = func(tag uint64, err error) {
				if !refused {
					p.report(tag, err)
				}
				refused = refused || err != nil
			}
		})},
		{other, "Send ends the pipeline", onPipelines(func(p *pipe) {
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				err := p.Pipeline.Send(to, m, tag)
				if err != nil {
					p.Pipeline.End(false)
				}
				return err
			}
		})},
		{other, "it is reported as stored", telling(func(p *pipe, tag uint64, _ error) { p.report(tag, nil) })},
		{other, "Send says that the pipeline is over", onPipelines(func(p *pipe) {
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				if err := p.Pipeline.Send(to, m, tag); err != nil {
					return &transport.Error{Op: "publish", Kind: transport.Temporary, Err: err}
				}
				return nil
			}
		})},
		{other, "it may be sent again", onPipelines(lenient)},
		{other, "it is reported as well", onPipelines(func(p *pipe) {
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				err := p.Pipeline.Send(to, m, tag)
				if err != nil {
					go p.report(tag, err)
				}
				return err
			}
		})},
		{other, "the next one is refused too", onPipelines(func(p *pipe) {
			refused := false
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				if refused {
					to.Name = "nowhere"
				}
				err := p.Pipeline.Send(to, m, tag)
				refused = err != nil
				return err
			}
		})},
		{"SendDoesNotWaitForTheBroker", "it does", onPipelines(waiting)},
	}
}

func brokenEnds() []breakage {
	const ended = "EndedPipelineReportsNothing"
	return []breakage{
		{ended, "outcomes come later", onPipelines(deferring)},
		{ended, "Done stays open", onPipelines(func(p *pipe) {
			open := make(chan struct{})
			p.done = func() <-chan struct{} { return open }
		})},
		{ended, "Err stays nil", onPipelines(func(p *pipe) { p.why = func() error { return nil } })},
		{ended, "a second End waits for ever", func(w *wrapped) {
			onPipelines(func(p *pipe) {
				var begun atomic.Bool
				p.end = func(stuck bool) {
					if begun.Swap(true) {
						<-w.ended
					}
					p.Pipeline.End(stuck)
				}
			})(w)
		}},
		{ended, "Send takes more", onPipelines(func(p *pipe) {
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				_ = p.Pipeline.Send(to, m, tag)
				return nil
			}
		})},
		{ended, "Send blames the message", onPipelines(func(p *pipe) {
			p.send = func(to transport.Address, m *transport.Message, tag uint64) error {
				if p.Pipeline.Send(to, m, tag) == nil {
					return nil
				}
				return &transport.Error{Op: "publish", Kind: transport.Permanent, Err: transport.ErrClosed}
			}
		})},
		{ended, "what was stored is missing", onPipelines(lying)},
		{"StuckPipelineIsReplaced", "its end does not come", onPipelines(func(p *pipe) {
			p.end = func(stuck bool) {
				if !stuck {
					p.Pipeline.End(stuck)
				}
			}
		})},
		{"StuckPipelineIsReplaced", "there is no other", func(w *wrapped) {
			var opened atomic.Bool
			w.onPipeline = func(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
				if opened.Swap(true) {
					return nil, &transport.Error{Op: "open pipeline", Kind: transport.Temporary, Err: errors.New("one is enough")}
				}
				return w.Broker.OpenPipeline(ctx, report)
			}
		}},
		{"ClosedTransportEndsItsPipelines", "they go on", func(w *wrapped) { w.onClose = func() error { return nil } }},
		{"ClosedTransportEndsItsPipelines", "another can be opened", func(w *wrapped) {
			var last transport.Pipeline
			w.onPipeline = func(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
				p, err := w.Broker.OpenPipeline(ctx, report)
				if err != nil {
					return last, nil
				}
				last = p
				return p, nil
			}
		}},
	}
}

func brokenConnections() []breakage {
	const left = "BrokenPipelineEndsAndLosesNothingStored"
	next := numbered()
	return []breakage{
		{"OpenPipelineHonoursContext", "it is ignored", func(w *wrapped) {
			w.onPipeline = func(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
				return w.Broker.OpenPipeline(context.WithoutCancel(ctx), report)
			}
		}},
		{"OpenPipelineHonoursContext", "it ends the pipeline too", func(w *wrapped) {
			w.onPipeline = func(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
				p, err := w.Broker.OpenPipeline(ctx, report)
				if err == nil {
					context.AfterFunc(ctx, func() { p.End(false) })
				}
				return p, err
			}
		}},
		{"PipelinesAreIndependent", "the end of one ends all", func(w *wrapped) {
			onPipelines(func(p *pipe) {
				p.end = func(bool) { w.BreakPipelines(0) }
			})(w)
		}},
		{"PipelinesAreIndependent", "the last one hears of all", func(w *wrapped) {
			var mu sync.Mutex
			var last func(uint64, error)
			w.onPipeline = func(ctx context.Context, report func(uint64, error)) (transport.Pipeline, error) {
				mu.Lock()
				last = report
				mu.Unlock()
				return w.Broker.OpenPipeline(ctx, func(tag uint64, err error) {
					mu.Lock()
					defer mu.Unlock()
					last(tag, err)
				})
			}
		}},
		{"PipelinesShareDeduplication", "each has its own", onSent(func(m *transport.Message) { m.DedupID = next() })},
		{left, "it goes on", func(w *wrapped) { w.onRestart = func() {} }},
		{left, "the next one cannot be opened", func(w *wrapped) { w.onRestart = func() { w.Disconnect(nil) } }},
		{left, "what was stored is missing", onPipelines(lying)},
		{left, "later messages overtake", onPipelines(swapped)},
		{left, "Err stays nil", onPipelines(func(p *pipe) { p.why = func() error { return nil } })},
	}
}

func brokenPrescribing() []breakage {
	const kept, dropped, first = "ScheduledMessageIsKeptBackOrRefused", "ExpiredMessageIsDroppedOrRefused", "HigherPriorityGoesFirstOrIsRefused"
	now := func(m *transport.Message) { m.NotBefore = time.Time{} }
	forever := func(m *transport.Message) { m.TTL = 0 }
	brief := func(m *transport.Message) { m.TTL = min(m.TTL, time.Second) }
	equal := func(m *transport.Message) { m.Priority = 0 }
	never := func(m *transport.Message) {
		if !m.NotBefore.IsZero() {
			m.NotBefore = m.NotBefore.Add(24 * time.Hour)
		}
	}
	silent := func(m *transport.Message) { m.Resent = false }
	return []breakage{
		{"ResentIsToldToTheReceiver", "not by Publish", onPublished(silent)},
		{"ResentIsToldToTheReceiver", "not by a pipeline", onSent(silent)},
		{"ResentIsToldToTheReceiver", "always", onMessages(func(m *transport.Message) { m.Resent = true })},
		{kept, "Publish sends it at once", onPublished(now)},
		{kept, "a pipeline sends it at once", onSent(now)},
		{kept, "it never comes", onPublished(never)},
		{kept, "it works although it is denied", func(w *wrapped) { w.caps.Schedules = false }},
		{dropped, "Publish keeps it", onPublished(forever)},
		{dropped, "a pipeline keeps it", onSent(forever)},
		{dropped, "too soon", onPublished(brief)},
		{dropped, "it works although it is denied", func(w *wrapped) { w.caps.Expires = false }},
		{first, "not by Publish", onPublished(equal)},
		{first, "not by a pipeline", onSent(equal)},
		{first, "it works although it is denied", func(w *wrapped) { w.caps.Priorities = false }},
	}
}
