package holdfast

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/spool"
	"github.com/holdfast-go/holdfast/transport"
)

// Spool puts a log on disk before the broker: a publish returns as soon as the
// message is synced to dir, also while the broker is away, and a goroutine of the
// publisher sends what is there, in order. A restart sends what is left, after a
// kill or a power loss too; what was under way then is marked as a possible
// duplicate and keeps its ID.
//
// dir belongs to one publisher at a time: it is made if it is missing, and
// locked. A message that the broker refuses for good is set aside in it with the
// reason, and does not hold up the others: see `holdfast spool`. A queue that is
// full is waited for. SpoolLimit bounds its size.
func Spool(dir string) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.spoolConfig().dir = dir })
}

// SpoolLimit bounds the bytes a spool takes on disk. A publish beyond it is
// refused with an error for which OutcomeOf says Refused. The default is 1 GiB,
// for zero too.
func SpoolLimit(bytes int64) PublisherOption {
	return publisherOptionFunc(func(p *publisherConfig) { p.spoolConfig().opts.MaxBytes = bytes })
}

type spoolConfig struct {
	dir  string
	opts spool.Options
}

func (p *publisherConfig) spoolConfig() *spoolConfig {
	if p.spool == nil {
		p.spool = &spoolConfig{}
	}
	return p.spool
}

// spooling is the disk log of a publisher and the goroutines that empty it.
type spooling struct {
	p   *publishing
	log *spool.Log
	dir string

	found   spool.Recovery
	life    context.Context
	end     context.CancelFunc
	sending context.Context // ends when nothing more goes to the broker
	halt    context.CancelFunc
	working sync.WaitGroup

	wake   chan struct{} // something is to be set aside
	drafts sync.Pool     // of *draft

	mu     sync.Mutex // guards what follows
	aside  []unwanted // to be set aside
	unread error      // why the log could not be read at the last try
	unset  error      // why a record could not be set aside at the last try
}

// unwanted is a record that the broker does not take.
type unwanted struct {
	seq    uint64
	reason string
}

// openSpool opens the log of p and begins to send what is in it.
func openSpool(p *publishing, cfg *spoolConfig) error {
	if cfg.dir == "" {
		return transport.Invalid("open spool", "", "Spool needs a directory")
	}
	// It lives until Close, not as long as a call.
	life, end := context.WithCancel(context.Background())
	opts := cfg.opts
	opts.Patience = p.timeout
	log, found, err := spool.Open(life, cfg.dir, opts)
	if err != nil {
		end()
		return spoolError("open spool", cfg.dir, err)
	}
	s := &spooling{p: p, log: log, dir: cfg.dir, found: found, life: life, end: end, wake: make(chan struct{}, 1)}
	s.sending, s.halt = context.WithCancel(life)
	p.spool = s // before anything is sent
	s.working.Go(s.forward)
	s.working.Go(s.setAside)
	return nil
}

// publish writes messages to disk, all or none.
func (s *spooling) publish(ctx context.Context, messages ...*outgoing) error {
	started := s.p.clock()
	d := s.draft(messages)
	_, err := s.log.Append(ctx, d.records...)
	s.drafts.Put(d)
	if err != nil {
		err = spoolError("publish", s.p.address, err)
	}
	for _, o := range messages {
		s.p.tell(o, started, 1, err)
	}
	return err
}

// draft holds messages as records while they are written. Drafts are reused: the
// log keeps nothing of them.
type draft struct {
	buf     []byte
	ends    []int
	records [][]byte // of buf
}

// largestDraft is how many bytes a draft may hold on to.
const largestDraft = 64 << 10

func (s *spooling) draft(messages []*outgoing) *draft {
	d, ok := s.drafts.Get().(*draft)
	if !ok || cap(d.buf) > largestDraft {
		d = &draft{}
	}
	d.buf, d.ends, d.records = d.buf[:0], d.ends[:0], d.records[:0]
	for _, o := range messages {
		d.buf = sender.AppendRecord(d.buf, o.to, &o.m)
		d.ends = append(d.ends, len(d.buf))
	}
	begin := 0
	for _, end := range d.ends {
		d.records = append(d.records, d.buf[begin:end])
		begin = end
	}
	return d
}

// forward hands what is on disk to the sender, in order. What was there when the
// spool was opened may have been sent before.
func (s *spooling) forward() {
	before := s.found.Pending
	for {
		r, err := s.log.Next(s.sending)
		if s.sending.Err() != nil || errors.Is(err, spool.ErrClosed) {
			return
		}
		s.note(&s.unread, err)
		if err != nil {
			pause(s.sending, time.Second)
			continue
		}
		before--
		to, m, err := sender.Decode(r.Data)
		if err != nil {
			s.refuse(r.Seq, err.Error())
			continue
		}
		it := sender.Item{To: to, M: m, Then: &forwarded{s, r.Seq}, Again: before >= 0}
		if _, err := s.p.send.Send(s.sending, it); err != nil {
			return // the publisher or its transport is closed: the rest stays on disk
		}
	}
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// forwarded is told what became of a record.
type forwarded struct {
	s   *spooling
	seq uint64
}

// Complete implements sender.Completer.
func (f *forwarded) Complete(_ int, err error) {
	switch {
	case err == nil:
		_ = f.s.log.Done(f.seq) // it fails when the log is closed: the next publisher sends it again
	case sender.Unsent(err):
		f.s.halt() // it stays on disk, for the next publisher that opens it
	default:
		f.s.refuse(f.seq, err.Error())
	}
}

// refuse notes a record to be set aside, which takes a sync of the disk.
func (s *spooling) refuse(seq uint64, reason string) {
	s.mu.Lock()
	s.aside = append(s.aside, unwanted{seq, reason})
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// setAside sets aside what the broker refused, and tries again what the disk does
// not take. What is left at the end stays pending, and is sent and refused again
// after a restart.
func (s *spooling) setAside() {
	for s.life.Err() == nil {
		s.mu.Lock()
		todo := s.aside
		s.aside = nil
		s.mu.Unlock()
		var failed error
		for _, r := range todo {
			err := s.log.SetAside(s.life, r.seq, r.reason)
			if err != nil && !errors.Is(err, spool.ErrDone) {
				failed = err
				s.refuse(r.seq, r.reason)
			}
		}
		if s.life.Err() != nil {
			return
		}
		s.note(&s.unset, failed)
		if failed != nil {
			pause(s.life, time.Second)
			continue
		}
		select {
		case <-s.wake:
		case <-s.life.Done():
		}
	}
}

// note notes how something of the log went at the last try.
func (s *spooling) note(last *error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*last = err
}

// drain waits until what is at the broker has its outcome, or ctx ends, and
// closes the log. The rest stays on disk.
func (s *spooling) drain(ctx context.Context) error {
	s.halt()
	s.p.send.Close(ctx)
	s.end()
	s.working.Wait()
	// The end of ctx ends the waiting for the broker. The disk is asked to keep
	// what it has, whatever that says, and a disk that hangs is not waited for.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diskGrace)
	defer cancel()
	return spoolError("close spool", s.dir, s.log.Close(ctx))
}

// diskGrace bounds the last writes to a spool.
const diskGrace = 5 * time.Second

// flush waits until nothing is pending on disk, or ctx ends.
func (s *spooling) flush(ctx context.Context) error {
	for s.log.Status().Pending > 0 {
		if !pause(ctx, flushPoll) {
			return context.Cause(ctx)
		}
		if s.sending.Err() != nil {
			return transport.ErrClosed
		}
	}
	return nil
}

// flushPoll is how often a flush looks at the spool.
const flushPoll = 5 * time.Millisecond

// stats adds what is on disk.
func (s *spooling) stats() observe.Spool {
	st := s.log.Status()
	out := observe.Spool{Pending: st.Pending, Bytes: st.Bytes, Limit: st.MaxBytes, SetAside: st.SetAside, Quarantined: st.Quarantined}
	if !st.Oldest.IsZero() {
		out.Oldest = time.Since(st.Oldest)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Err = errors.Join(st.Broken, st.MarksBroken, s.unread, s.unset)
	return out
}

// spoolError is an error of the spool in the words of the seam.
func spoolError(op, address string, err error) error {
	if err == nil {
		return nil
	}
	e := &transport.Error{Op: op, Address: address, Kind: transport.Temporary, Err: err}
	switch {
	case errors.Is(err, spool.ErrUnknown):
		e.Kind = transport.Unknown
	case errors.Is(err, spool.ErrFull):
		e.Err = errors.Join(transport.ErrFull, err)
		e.Hint = "the broker is away or takes less than is published: give the spool more room (SpoolLimit), or publish less"
	case errors.Is(err, spool.ErrTooLarge):
		e.Kind, e.Err = transport.Permanent, errors.Join(transport.ErrTooLarge, err)
	case errors.Is(err, spool.ErrClosed):
		e.Kind, e.Err = transport.Permanent, errors.Join(transport.ErrClosed, err)
	case errors.Is(err, spool.ErrLocked):
		e.Hint = "one publisher at a time: give every publisher a directory of its own"
	}
	return e
}
