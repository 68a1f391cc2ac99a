package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Why a supervisor is woken; bits of lane.cause.
const (
	troubleReconnected uint32 = 1 << iota
	troubleConnectionClosed
	troubleStatus // the server answered a pull with something but messages
	troublePull   // a pull could not be sent
	troubleSilent // neither messages nor heartbeats came
	lookAgain     // read the floor now
)

const (
	// floorEvery is how often, in heartbeats, the ack floor is read.
	floorEvery = 3
	// maxRanges of acked sequences make the floor be read early.
	maxRanges = 4096
	reviveMin = 100 * time.Millisecond
	reviveMax = 5 * time.Second
)

// wake makes the supervisor look at the lane.
func (l *lane) wake(cause uint32) {
	l.cause.Or(cause)
	select {
	case l.trouble <- struct{}{}:
	default:
	}
}

// vitals are compared between two heartbeats: when none of them moved although
// messages are asked for, the consumer is silent.
type vitals struct {
	session     *session
	outstanding int64
	pulls       uint64
	heard       uint64
}

func (l *lane) vitals() vitals {
	s := l.cur.Load()
	v := vitals{session: s, pulls: l.pulls.Load(), heard: l.heard.Load()}
	if s != nil {
		v.outstanding = s.outstanding.Load()
	}
	return v
}

// supervise is a goroutine of the receiver: it notices a consumer that went
// silent or away, and brings the lane back. It ends when the receiver is halted.
func (l *lane) supervise() {
	l.rememberStream()
	l.lookBehind()
	ticker := time.NewTicker(pullHeartbeat)
	defer ticker.Stop()
	before, quiet, beats := l.vitals(), 0, 0
	backoff := reviveMin
	for {
		select {
		case <-l.r.halted:
			return
		case <-l.trouble:
			cause := l.cause.Swap(0)
			if cause == lookAgain {
				l.readFloor()
				continue
			}
			backoff = l.revive(cause, backoff)
			before, quiet = l.vitals(), 0
			continue
		case <-ticker.C:
		}
		now := l.vitals()
		if now == before && now.outstanding > 0 {
			quiet++
		} else {
			quiet, backoff = 0, reviveMin
		}
		before = now
		if quiet >= 2 {
			l.wake(troubleSilent)
			continue
		}
		if beats++; beats%floorEvery == 0 || l.acked.size() > maxRanges {
			l.lookBehind()
			l.readFloor()
		}
	}
}

// rememberStream notes which stream this is, to know it from one that is made
// anew under its name.
func (l *lane) rememberStream() {
	info, err := l.r.t.streamInfo(l.r.ctx, l.stream)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.created.IsZero() {
		l.created = info.Created
	}
}

// readFloor asks how far everything is acked, so that a consumer that is lost
// later can be made again from there.
func (l *lane) readFloor() {
	if !l.r.t.nc().IsConnected() {
		return
	}
	info, err := l.r.t.consumerInfo(l.r.ctx, l.stream, l.consumer)
	switch {
	case err == nil && l.sameConsumer(info):
		l.learn(info)
		l.topUp()
	case err == nil, consumerMissing(err), streamMissing(err):
		l.wake(troubleStatus)
	}
}

func (l *lane) sameConsumer(info *natsjs.ConsumerInfo) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return info.Created.Equal(l.made)
}

// revive brings the lane back: it looks the consumer up until there is an
// answer, makes an owned one again when it is gone, and begins a new session.
// It returns how long to pause before the next revival, so that a fault that
// returns at once does not become a hot loop.
func (l *lane) revive(cause uint32, pause time.Duration) time.Duration {
	if cause&troubleConnectionClosed != 0 {
		l.r.halt(seamError("receive", l.address(), l.r.t.notConnected(), false))
		return pause
	}
	if cause == troubleReconnected {
		pause = 0
	}
	if cause == troubleSilent && l.pacing() {
		return pause
	}
	told := false
	for {
		if !l.pause(pause) {
			return pause
		}
		pause = min(max(2*pause, reviveMin), reviveMax)
		err := l.restore()
		if err == nil {
			break
		}
		if transport.KindOf(err) == transport.Permanent && !l.r.isHalted() {
			l.r.emit(transport.Event{Kind: transport.Stalled, Err: err, Detail: "consumer " + l.address()})
			l.r.halt(err)
			return pause
		}
		if !told && l.r.t.nc().IsConnected() {
			told = true
			l.r.emit(transport.Event{Kind: transport.Stalled, Err: err, Detail: "consumer " + l.address()})
		}
	}
	if told {
		l.mu.Lock()
		l.paused = false // what is paused is told again
		l.mu.Unlock()
		l.r.emit(transport.Event{Kind: transport.Flowing, Detail: "consumer " + l.address()})
	}
	return pause
}

// pacing tells whether the consumer is there and silent because it keeps the
// pauses between messages (replay at original speed). The server has chosen a
// pull for the next message already, and it would be lost with a new session.
func (l *lane) pacing() bool {
	l.mu.Lock()
	paced := l.paced
	l.mu.Unlock()
	if !paced {
		return false
	}
	info, err := l.r.t.consumerInfo(l.r.ctx, l.stream, l.consumer)
	return err == nil && l.sameConsumer(info)
}

// pause waits; it ends early after a reconnect and returns false when the
// receiver is halted.
func (l *lane) pause(d time.Duration) bool {
	if d == 0 {
		return !l.r.isHalted()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-l.r.halted:
			return false
		case <-timer.C:
			return true
		case <-l.trouble:
			if l.cause.Swap(0)&troubleReconnected != 0 {
				return true
			}
		}
	}
}

// restore makes sure that the consumer is there and begins a new session.
func (l *lane) restore() error {
	info, err := l.r.t.consumerInfo(l.r.ctx, l.stream, l.consumer)
	if streamMissing(err) || consumerMissing(err) {
		info, err = l.recreate(l.r.ctx)
	}
	if err != nil {
		return seamError("receive", l.address(), err, false)
	}
	if !l.sameConsumer(info) {
		if err := l.renewed(l.r.ctx, info); err != nil {
			return seamError("receive", l.address(), err, false)
		}
	}
	l.returned.learn(info.Config.Metadata, info.AckFloor.Stream)
	l.lookBack(l.r.ctx, info)
	return seamError("receive", l.address(), l.r.t.sendError(l.begin()), false)
}

// renewed takes over a consumer that was made again, by us or by another member.
// What was acked here since the floor it started from comes again and is skipped,
// also where the server never confirmed the ack: the message was handled.
func (l *lane) renewed(ctx context.Context, info *natsjs.ConsumerInfo) error {
	stream, err := l.r.t.streamInfo(ctx, l.stream)
	switch {
	case err == nil:
		l.noticeAnew(stream)
	case errors.Is(err, transport.ErrPermission), errors.Is(err, nats.ErrNoResponders):
		// Whether the stream is another one cannot be known: what was acked may come
		// twice, and is better than what is never handed out.
		l.forgetAcks()
	default:
		return err
	}
	l.acks.each(l.acked.add)
	l.returned.forget()
	l.replayed.Store(l.acked.last())
	l.gaps.again(info)
	l.mu.Lock()
	l.made = info.Created
	l.mu.Unlock()
	return nil
}

// noticeAnew compares the stream with the one that was read so far. Of another one
// nothing was seen, and its sequences are not those that were acked. A stream that
// was not looked at before is another one if it is younger than the consumer that
// was on it.
func (l *lane) noticeAnew(stream *natsjs.StreamInfo) {
	l.mu.Lock()
	known := !l.created.IsZero()
	anew := known && !stream.Created.Equal(l.created) || !known && stream.Created.After(l.made) || stream.State.LastSeq < l.floor
	l.created = stream.Created
	if anew {
		l.floor = 0
	}
	l.mu.Unlock()
	if anew {
		l.forgetAcks()
	}
}

// forgetAcks drops what is known of acks, and those that nobody has confirmed: sent
// again they would settle other messages.
func (l *lane) forgetAcks() {
	l.acks.drop()
	l.acked.clear()
}

// recreate makes the consumer again after everything that is known to be acked.
// A stream that came back empty or anew is read from its start: nothing of it
// was seen.
func (l *lane) recreate(ctx context.Context) (*natsjs.ConsumerInfo, error) {
	if l.r.mode(l) == ModeVerify {
		return nil, &transport.Error{
			Op: "receive", Address: l.address(), Kind: transport.Permanent, Err: fmt.Errorf("the consumer is gone: %w", transport.ErrNotFound),
			Hint: "the source is in verify mode: make the consumer again, or " + letMake,
		}
	}
	stream, err := l.ensureStream(ctx)
	if err != nil {
		return nil, err
	}
	l.noticeAnew(stream)
	l.mu.Lock()
	floor := l.floor
	l.mu.Unlock()
	cfg := l.config()
	cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = natsjs.DeliverByStartSequencePolicy, floor+1, nil
	if l.park { // what is done with is gone, and a work queue takes no other start
		cfg.DeliverPolicy, cfg.OptStartSeq = natsjs.DeliverAllPolicy, 0
	}
	info, err := l.r.t.putConsumer(ctx, l.stream, actionCreate, cfg)
	if isCode(err, natsjs.JSErrCodeConsumerExists, natsjs.JSErrCodeConsumerAlreadyExists, natsjs.JSErrCodeConsumerNameExists) {
		return l.r.t.consumerInfo(ctx, l.stream, l.consumer)
	}
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.floor = floor
	l.mu.Unlock()
	l.r.emit(transport.Event{
		Kind:   transport.Recreated,
		Detail: fmt.Sprintf("consumer %s was gone and was made again from sequence %d", l.address(), floor+1),
	})
	return info, nil
}

// ensureStream returns the lane's stream, making it when it is missing.
func (l *lane) ensureStream(ctx context.Context) (*natsjs.StreamInfo, error) {
	info, err := l.r.t.streamInfo(ctx, l.stream)
	if !streamMissing(err) {
		return info, err
	}
	cfg := l.r.src.streamConfig()
	switch {
	case l.redrive:
		cfg = l.r.t.redriveConfig()
	case l.park:
		cfg = l.r.t.parkConfig()
	}
	return l.r.t.createStream(ctx, cfg)
}

// config is the consumer as it was asked for.
func (l *lane) config() natsjs.ConsumerConfig {
	switch {
	case l.redrive:
		return l.r.t.redriveConsumer(l.r.want)
	case l.park:
		return l.r.src.parkConsumer()
	}
	return l.r.src.consumerConfig(l.consumer)
}

// mode says what may be made again on behalf of a lane.
func (r *receiver) mode(l *lane) Mode {
	switch {
	case l.redrive:
		return r.t.set.dead.Mode
	case l.park:
		return r.t.set.park.Mode
	}
	return r.src.cfg.Mode
}

func (r *receiver) emit(e transport.Event) {
	e.Subscription = r.want.Subscription
	r.t.conn.Emit(e)
}
