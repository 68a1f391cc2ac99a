package memory

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Publish implements transport.Transport. The message is copied into every
// queue bound to its subject; a queue that saw its deduplication key within the
// window keeps the copy it has.
func (b *Broker) Publish(ctx context.Context, to transport.Address, m *transport.Message) error {
	if err := b.validTo(OpPublish, to, m); err != nil {
		return err
	}
	lost, err := b.begin(ctx, OpPublish, to.Name)
	if err != nil {
		return err
	}
	defer b.mu.Unlock()
	if err := b.route(OpPublish, to.Name, m, nil); err != nil {
		return err
	}
	return lost
}

// Request implements transport.Requester. The request is stored as any message
// is; of several answers the first one counts.
func (b *Broker) Request(ctx context.Context, to transport.Address, m *transport.Message) (*transport.Message, error) {
	if err := b.validTo(OpRequest, to, m); err != nil {
		return nil, err
	}
	lost, err := b.begin(ctx, OpRequest, to.Name)
	if err != nil {
		return nil, err
	}
	req := &request{ch: make(chan *transport.Message, 1)}
	err = b.route(OpRequest, to.Name, m, req)
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if lost != nil {
		return nil, lost
	}
	select {
	case answer := <-req.ch:
		return answer, nil
	case <-b.done:
		return nil, closedError(string(OpRequest), to.Name)
	case <-ctx.Done():
		return nil, &transport.Error{
			Op: string(OpRequest), Address: to.Name, Kind: transport.Unknown, Err: ctx.Err(),
			Hint: "the request was taken and no answer came in time",
		}
	}
}

// request is somebody who waits for an answer.
type request struct {
	ch chan *transport.Message // takes one answer; written under Broker.mu
}

func (r *request) answer(m *transport.Message) {
	select {
	case r.ch <- m:
	default: // it has one already
	}
}

// route stores m in every queue that takes subject. b.mu is held.
func (b *Broker) route(op Op, subject string, m *transport.Message, req *request) error {
	var bound []*queue
	for _, q := range b.order {
		if q.takes(subject) {
			bound = append(bound, q)
		}
	}
	if len(bound) == 0 {
		return &transport.Error{
			Op: string(op), Address: subject, Kind: transport.Permanent, Err: transport.ErrUnroutable,
			Hint: "bind a queue to this subject and provision it before publishing",
		}
	}
	stored := b.stamp(m, subject)
	for _, q := range bound {
		// A request is never a duplicate: whoever repeats it waits again.
		if req == nil && q.duplicate(dedupKey(m), stored.Time) {
			continue
		}
		q.store(m, stored, b.seq, req)
	}
	return nil
}

// stamp returns the copy of m that is stored: it shares nothing with m. b.mu is
// held.
func (b *Broker) stamp(m *transport.Message, subject string) *transport.Message {
	b.seq++
	c := clone(m)
	c.DedupID, c.NotBefore, c.TTL, c.Priority = "", time.Time{}, 0, 0
	c.Subject = subject
	c.Time = time.Now()
	c.Position = "memory/" + strconv.FormatUint(b.seq, 10) + "@" + strconv.FormatInt(c.Time.UnixNano(), 10)
	if c.ID == "" {
		c.ID = c.Position
	}
	return c
}

// dedupKey is the key under which a second copy of m is suppressed.
func dedupKey(m *transport.Message) string {
	if m.DedupID != "" {
		return m.DedupID
	}
	return m.ID
}

// clone returns a copy of m that shares nothing with it.
func clone(m *transport.Message) *transport.Message {
	c := *m
	c.Body = bytes.Clone(m.Body)
	if m.Header != nil {
		c.Header = m.Header.Clone()
	}
	return &c
}

// validTo refuses what can never be published to an address.
func (b *Broker) validTo(op Op, to transport.Address, m *transport.Message) error {
	if fault := subjectFault(to.Name, false); fault != "" {
		return transport.Invalid(string(op), to.String(), "the subject %q %s", to.Name, fault)
	}
	if to.Key != "" {
		return transport.Invalid(string(op), to.String(), "a routing key is for RabbitMQ; write the subject as the name")
	}
	return b.valid(op, to.Name, m)
}

// valid refuses a message that can never be stored.
func (b *Broker) valid(op Op, address string, m *transport.Message) error {
	if m == nil {
		return transport.Invalid(string(op), address, "there is no message")
	}
	if m.TTL < 0 {
		return transport.Invalid(string(op), address, "the time to live %v is negative", m.TTL)
	}
	size := len(m.Body)
	for name, values := range m.Header {
		if fault := headerFault(name, values); fault != "" {
			return transport.Invalid(string(op), address, "the header %q %s", name, fault)
		}
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	if size > b.maxSize {
		return &transport.Error{
			Op: string(op), Address: address, Kind: transport.Permanent, Err: transport.ErrTooLarge,
			Hint: strconv.Itoa(size) + " bytes with headers, and the broker takes " + strconv.Itoa(b.maxSize),
		}
	}
	return nil
}

// headerFault says why a header cannot travel, or "".
func headerFault(name string, values []string) string {
	if name == "" || strings.ContainsAny(name, ": \t\r\n") {
		return "has a name that is empty or has a colon, white space or a line break"
	}
	for _, value := range values {
		if strings.ContainsAny(value, "\r\n") {
			return "has a line break in its value"
		}
	}
	return ""
}
