package rabbitmq

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// queue is a queue as it is to be declared.
type queue struct {
	name string
	args amqp.Table
}

// Arguments of queues.
const (
	argType      = "x-queue-type"
	argTTL       = "x-message-ttl"
	argDLX       = "x-dead-letter-exchange"
	argDLKey     = "x-dead-letter-routing-key"
	argStrategy  = "x-dead-letter-strategy"
	argOverflow  = "x-overflow"
	argLimit     = "x-delivery-limit"
	argSAC       = "x-single-active-consumer"
	argAlternate = "alternate-exchange"
)

func deadName(queue string) string { return queue + ".dead" }

// rung is one queue of the retry ladder: what lies in it falls back into the work
// queue after ttl, or earlier when the message says so.
type rung struct {
	name string
	ttl  time.Duration
}

func rungName(queue string, ttl time.Duration) string {
	return queue + ".retry." + strconv.FormatInt(ttl.Milliseconds(), 10)
}

// ladder returns the rungs for what a subscription wants, rising. There is one
// for each delay of its policy, long enough for the jitter that lengthens it.
// Without delays of a policy they are a second and its powers of ten.
func ladder(queue string, want transport.Want) []rung {
	if !want.Delay && !want.DeadLetter && !want.Redelivery {
		return nil
	}
	var ttls []time.Duration
	for _, d := range want.Delays {
		if d > 0 {
			ttls = append(ttls, stretched(d, want))
		}
	}
	if len(ttls) == 0 {
		for d := time.Second; d < want.MaxDelay && d < maxRung; d *= 10 {
			ttls = append(ttls, d)
		}
		ttls = append(ttls, min(max(want.MaxDelay, time.Second), maxRung))
	}
	for i, d := range ttls {
		ttls[i] = min((d + time.Millisecond - 1).Truncate(time.Millisecond), maxRung)
	}
	slices.Sort(ttls)
	ttls = slices.Compact(ttls)
	rungs := make([]rung, len(ttls))
	for i, d := range ttls {
		rungs[i] = rung{rungName(queue, d), d}
	}
	return rungs
}

// maxRung is the longest delay in one rung; a longer one takes it repeatedly.
const maxRung = 24 * time.Hour

// stretched adds to a delay the most that jitter may add. Want does not tell the
// jitter, but the longest delay with it.
func stretched(d time.Duration, want transport.Want) time.Duration {
	longest := slices.Max(want.Delays)
	ratio := float64(want.MaxDelay) / float64(longest)
	if ratio < 1 || ratio > 2 {
		ratio = 1.2 // MaxDelay is something else
	}
	return time.Duration(math.Ceil(float64(d) * ratio))
}

// step chooses the rung for a delay, and after how long the message leaves it:
// the shortest rung that is long enough, or else the last one in full.
func step(rungs []rung, delay time.Duration) (rung, time.Duration) {
	for _, r := range rungs {
		if r.ttl >= delay {
			return r, max(delay, time.Millisecond)
		}
	}
	last := rungs[len(rungs)-1]
	return last, last.ttl
}

// safely adds what makes a quorum queue dead-letter without losing.
func safely(args amqp.Table, v version) {
	if v.atLeastOnce() {
		args[argStrategy] = "at-least-once"
		args[argOverflow] = "reject-publish"
	}
}

// workQueue is the queue of the source as it is to be declared.
func (s *source) workQueue(v version) queue {
	c := &s.cfg
	args := amqp.Table{argType: string(c.Type)}
	if c.Type != Stream {
		args[argDLX], args[argDLKey] = "", deadName(c.Name)
		if c.DeadLetterExchange != "" {
			args[argDLX] = c.DeadLetterExchange
			delete(args, argDLKey)
			if c.DeadLetterKey != "" {
				args[argDLKey] = c.DeadLetterKey
			}
		}
		if c.SingleActiveConsumer {
			args[argSAC] = true
		}
	}
	if c.Type == Quorum {
		args[argLimit] = int64(c.DeliveryLimit)
		safely(args, v)
	}
	maps.Copy(args, c.Arguments)
	return queue{c.Name, args}
}

// retryQueue is a rung as it is to be declared.
func (s *source) retryQueue(r rung, v version) queue {
	args := amqp.Table{
		argType: string(Quorum), argTTL: r.ttl.Milliseconds(),
		argDLX: "", argDLKey: s.cfg.Name,
	}
	safely(args, v)
	return queue{r.name, args}
}

// deadQueue is where dead letters lie. Looking at one counts as a delivery, so
// there is no limit: before 4.0 by saying nothing, since then by saying so. Of
// two who look at once, the second waits for the first.
func deadQueue(work string, v version) queue {
	args := amqp.Table{argType: string(Quorum), argSAC: true}
	if v.unlimited() {
		args[argLimit] = int64(-1)
	}
	return queue{deadName(work), args}
}

// exchanges are the exchanges of the source, each once, those of Bindings.Kind
// last.
func (s *source) exchanges() []ExchangeConfig {
	all := slices.Clone(s.cfg.Exchanges)
	seen := map[string]bool{}
	for _, e := range all {
		seen[e.Name] = true
	}
	add := func(bindings []Binding) {
		for _, b := range bindings {
			if !seen[b.Exchange] {
				seen[b.Exchange] = true
				all = append(all, ExchangeConfig{Name: b.Exchange, Kind: b.Kind})
			}
		}
	}
	for _, e := range s.cfg.Exchanges {
		add(e.Bindings)
	}
	add(s.cfg.Bindings)
	return all
}

// fleeting tells whether an exchange may go without anybody deleting it.
func (e ExchangeConfig) fleeting() bool { return e.Transient || e.AutoDelete }

// declared are the arguments an exchange is declared with.
func (e ExchangeConfig) declared() amqp.Table {
	args := maps.Clone(e.Args)
	if e.Alternate != "" {
		if args == nil {
			args = amqp.Table{}
		}
		args[argAlternate] = e.Alternate
	}
	return args
}
