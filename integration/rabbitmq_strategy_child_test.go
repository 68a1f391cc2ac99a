package integration

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/redisstore"
	"github.com/holdfast-go/holdfast/transport"
)

// strategyVar makes the test binary run the app of a strategy instead: its value
// is a strategyChild.
const strategyVar = "HOLDFAST_TEST_STRATEGY"

// strategyExit is how a child ends at its step.
const strategyExit = 42

// strategyChild says what a child process does.
type strategyChild struct {
	Strategy string // a key of strategies
	Addr     string // of RabbitMQ
	Queue    string
	Step     string // at which the process ends, the first time it comes there; none if empty
	Diary    string // the file it writes its lines to
	Redis    string // address
	NATS     string // URL
	Wide     int    // handlers at once, 1 if 0
	Crowd    bool   // Strategy is a key of crowds
}

// strategies are the options of each strategy, and how its queue is made.
var strategies = map[string]func(*strategist) (rabbitmq.QueueConfig, []holdfast.Option){
	"header": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, []holdfast.Option{threeAttempts(), holdfast.CrashLimit(2)}
	},
	"count": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, []holdfast.Option{threeAttempts(), holdfast.CountIn(s.counts())}
	},
	"broker": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue, DeliveryLimit: 2}, []holdfast.Option{holdfast.BrokerRetries(2)}
	},
	"reject": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, []holdfast.Option{holdfast.Ack(holdfast.RejectOnError), holdfast.NoDeadLetter(), holdfast.CrashLimit(2)}
	},
	"compensate": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, []holdfast.Option{holdfast.Ack(holdfast.AckAlways), holdfast.Compensate(s.compensate), holdfast.CrashLimit(2)}
	},
	"within": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue, Arguments: map[string]any{"x-message-ttl": int64(60_000)}},
			[]holdfast.Option{holdfast.Retry{Within: 10 * time.Second, Backoff: holdfast.Constant(2500 * time.Millisecond)}}
	},
}

// crowds are queues on which a message that kills the process waits in a crowd of
// others.
var crowds = map[string]func(*strategist) (rabbitmq.QueueConfig, []holdfast.Option){
	"quorum": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, crowded(holdfast.CrashLimit(3))
	},
	"classic": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue, Type: rabbitmq.Classic}, crowded(holdfast.CrashLimit(3))
	},
	"ordered": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, crowded(holdfast.CrashLimit(3), holdfast.OrderBy(byOneOfFour))
	},
	"reject": func(s *strategist) (rabbitmq.QueueConfig, []holdfast.Option) {
		return rabbitmq.QueueConfig{Name: s.Queue}, []holdfast.Option{holdfast.Ack(holdfast.RejectOnError), holdfast.NoDeadLetter(), holdfast.Prefetch(20), holdfast.CrashLimit(3)}
	},
}

// byOneOfFour puts what kills into sequence with a fourth of the others.
func byOneOfFour(m *transport.Message) string {
	n, _ := strconv.Atoi(m.ID[strings.LastIndexByte(m.ID, '-')+1:]) // 0 for the killer
	return strconv.Itoa(n % 4)
}

func crowded(more ...holdfast.Option) []holdfast.Option {
	return append(more, threeAttempts(), holdfast.Prefetch(20))
}

func threeAttempts() holdfast.Retry {
	return holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(200 * time.Millisecond)}
}

// strategist is the app of a child.
type strategist struct {
	strategyChild
	ctx    context.Context
	diary  *os.File
	buried atomic.Bool // a burial was confirmed
}

// strategyApp handles messages until its step or ctx ends it.
func strategyApp(ctx context.Context, setting string) error {
	s := &strategist{ctx: ctx}
	if err := json.Unmarshal([]byte(setting), &s.strategyChild); err != nil {
		return err
	}
	var err error
	if s.diary, err = os.OpenFile(s.Diary, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	url, err := s.relay()
	if err != nil {
		return err
	}
	rmq, err := rabbitmq.Connect(ctx, url, rabbitmq.WaitForBroker())
	if err != nil {
		return err
	}
	defer rmq.Close(context.WithoutCancel(ctx))
	cfg, opts := s.setup()
	app := holdfast.New(holdfast.Config{Name: "child"})
	holdfast.Handle(app, rmq.Queue(cfg), s.handle, append(opts, holdfast.Concurrency(max(s.Wide, 1)))...)
	return app.Run(ctx)
}

// setup is how the queue is made, and the options of its subscription.
func (s *strategist) setup() (rabbitmq.QueueConfig, []holdfast.Option) {
	if s.Crowd {
		return crowds[s.Strategy](s)
	}
	return strategies[s.Strategy](s)
}

// at ends the process if this is its step: no deferred call, no ack.
func (s *strategist) at(step string) {
	if s.Step == step {
		os.Exit(strategyExit)
	}
}

// note writes a line to the diary. It is there when the process ends.
func (s *strategist) note(format string, args ...any) {
	fmt.Fprintf(s.diary, format+"\n", args...)
}

// handle: "flaky" fails in the first attempt, "bad" fails always, "poison" ends
// the process, "slow" takes its time, all others are handled.
func (s *strategist) handle(ctx context.Context, m *holdfast.Message[string]) error {
	s.note("run %s", m.Body)
	s.at("handler:start")
	switch {
	case m.Body == "poison":
		os.Exit(strategyExit)
	case m.Body == "bad", m.Body == "flaky" && m.Attempt == 1:
		s.at("handler:end")
		return errors.New("it does not work")
	case strings.HasPrefix(m.Body, "slow"):
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.note("done %s", m.Body)
	return nil
}

func (s *strategist) compensate(_ context.Context, m *holdfast.Meta, _ error) error {
	s.at("compensate:start")
	s.note("compensated %s", m.Data())
	s.at("compensate:end")
	return nil
}

// counts opens the store that the child counts in.
func (s *strategist) counts() transport.CountStore {
	if s.Redis != "" {
		return steppedStore{redisstore.New(redis.NewClient(&redis.Options{Addr: s.Redis})), s}
	}
	js, err := jetstream.Connect(s.ctx, s.NATS, jetstream.WithNATS(natstest.Patient()))
	if err == nil {
		var store *jetstream.CountStore
		if store, err = js.CountStore(s.ctx, jetstream.CountStoreConfig{}); err == nil {
			return steppedStore{store, s}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
	return nil
}

// steppedStore is a store with steps before and after its calls.
type steppedStore struct {
	transport.CountStore
	s *strategist
}

func (c steppedStore) Add(ctx context.Context, key transport.CountKey, attempt string, expiry time.Duration) (int, error) {
	c.s.at("count:before")
	n, err := c.CountStore.Add(ctx, key, attempt, expiry)
	c.s.note("counted %d of %s %v", n, key.Message[len(c.s.Queue)+1:], err)
	c.s.at("count:after")
	return n, err
}

func (c steppedStore) Forget(ctx context.Context, key transport.CountKey) error {
	c.s.at("forget:before")
	err := c.CountStore.Forget(ctx, key)
	c.s.at("forget:after")
	return err
}

// Methods of AMQP.
const (
	basicPublish = 60<<16 | 40
	basicAck     = 60<<16 | 80
	basicReject  = 60<<16 | 90
)

// relay stands between the child and the broker, in the child's own process, and
// knows the frames that are steps: what a client library does by itself cannot be
// reached otherwise.
func (s *strategist) relay() (url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() { // it ends with the process
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go s.join(client)
		}
	}()
	return "amqp://guest:guest@" + l.Addr().String(), nil
}

func (s *strategist) join(client net.Conn) {
	defer client.Close()
	broker, err := net.Dial("tcp", s.Addr)
	if err != nil {
		return
	}
	defer broker.Close()
	var pending atomic.Value // the kind of the last publish
	pending.Store("")
	go func() {
		defer client.Close()
		copyFrames(client, broker, func(method uint32, _ []byte) (after string) {
			if method != basicAck {
				return ""
			}
			kind, _ := pending.Load().(string)
			s.at(kind + ":confirmed")
			if kind == "bury" {
				s.buried.Store(true)
			}
			return ""
		}, s.at)
	}()
	if _, err := io.CopyN(broker, client, 8); err != nil { // the protocol header
		return
	}
	copyFrames(broker, client, func(method uint32, args []byte) (after string) {
		switch method {
		case basicPublish:
			kind := publishKind(args)
			pending.Store(kind)
			s.at(kind + ":before")
		case basicAck:
			s.at("ack:before")
			if s.buried.Load() {
				s.at("ack of the buried:before")
			}
			return "ack:sent"
		case basicReject:
			s.at("reject:before")
			return "reject:sent"
		}
		return ""
	}, s.at)
}

// publishKind tells a retry copy from a burial by its routing key.
func publishKind(args []byte) string {
	exchange := int(args[2]) // after a short that is reserved
	key := string(args[4+exchange : 4+exchange+int(args[3+exchange])])
	switch {
	case strings.Contains(key, ".retry."):
		return "copy"
	case strings.HasSuffix(key, ".dead"):
		return "bury"
	}
	return "publish"
}

// copyFrames copies frames of AMQP until an end is gone. see is called with each
// method before it is passed on, and at with what see returned, after.
func copyFrames(to io.Writer, from io.Reader, see func(method uint32, args []byte) string, at func(string)) {
	head := make([]byte, 7)
	for {
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		frame := make([]byte, 7+binary.BigEndian.Uint32(head[3:])+1)
		copy(frame, head)
		if _, err := io.ReadFull(from, frame[7:]); err != nil {
			return
		}
		after := ""
		if frame[0] == 1 {
			after = see(binary.BigEndian.Uint32(frame[7:]), frame[11:])
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
		if after != "" {
			at(after)
		}
	}
}
