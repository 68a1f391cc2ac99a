package sender

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfast-go/holdfast/transport"
)

// serially makes pipelines of a transport that has none: one publish after the
// other.
type serially struct{ t transport.Transport }

func (o serially) OpenPipeline(_ context.Context, report func(uint64, error)) (transport.Pipeline, error) {
	p := &serial{t: o.t, report: report, wake: make(chan struct{}, 1), done: make(chan struct{})}
	// It lives until End, not as long as the call.
	p.life, p.end = context.WithCancel(context.Background())
	go p.run() // awaited by End
	return p, nil
}

// serial is a transport.Pipeline.
type serial struct {
	t      transport.Transport
	report func(uint64, error)
	life   context.Context
	end    context.CancelFunc
	wake   chan struct{}
	done   chan struct{}

	mu   sync.Mutex
	todo []sending
	err  error
}

type sending struct {
	to  transport.Address
	m   *transport.Message
	tag uint64
}

func (p *serial) Send(to transport.Address, m *transport.Message, tag uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.todo = append(p.todo, sending{to, m, tag})
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

func (p *serial) run() {
	defer close(p.done)
	for {
		p.mu.Lock()
		todo := p.todo
		p.todo = nil
		p.mu.Unlock()
		for _, s := range todo {
			err := p.t.Publish(p.life, s.to, s.m)
			if p.life.Err() != nil {
				return // what it says may be about that
			}
			p.report(s.tag, err)
			if err != nil && transport.KindOf(err) != transport.Permanent && !errors.Is(err, transport.ErrFull) {
				p.fail(err) // nothing may overtake what is sent again
				return
			}
		}
		if len(todo) > 0 {
			continue
		}
		select {
		case <-p.wake:
		case <-p.life.Done():
			return
		}
	}
}

func (p *serial) Flush() error          { return nil }
func (p *serial) Done() <-chan struct{} { return p.done }
func (p *serial) Waiting() error        { return nil }

func (p *serial) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *serial) End(bool) {
	p.fail(&transport.Error{Op: "publish", Kind: transport.Temporary, Err: transport.ErrClosed})
	p.end()
	<-p.done
}

func (p *serial) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}
