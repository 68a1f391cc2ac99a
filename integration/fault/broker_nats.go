//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/freeport"
)

// serverOrder is what a server process is told.
type serverOrder struct {
	Port   int
	Dir    string
	Always bool // every write is synced
}

// runServer is the main function of a server process. It ends with its standard
// input.
func runServer(setting string) error {
	var o serverOrder
	if err := json.Unmarshal([]byte(setting), &o); err != nil {
		return err
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: o.Port, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: o.Dir, SyncAlways: o.Always,
	})
	if err != nil {
		return err
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		return errors.New("the server does not accept connections")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(3)
	return nil
}

// natsBroker is a nats-server in a process of its own.
type natsBroker struct {
	order serverOrder
	port  *freeport.Port
	proc  *process
}

func newNATS(always bool) (*natsBroker, error) {
	dir, err := os.MkdirTemp("", "faultnats")
	if err != nil {
		return nil, err
	}
	b := &natsBroker{order: serverOrder{Dir: dir, Always: always}}
	if b.port, err = freeport.Take(); err == nil {
		b.order.Port = b.port.Number()
		err = b.start()
	}
	if err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

func (b *natsBroker) protocol() string       { return "nats" }
func (b *natsBroker) batches() bool          { return b.order.Always }
func (b *natsBroker) addr() string           { return fmt.Sprintf("127.0.0.1:%d", b.order.Port) }
func (b *natsBroker) url(addr string) string { return "nats://" + addr }

func (b *natsBroker) start() error {
	setting, err := json.Marshal(b.order)
	if err != nil {
		return err
	}
	if b.proc, err = startSelf(serverVar, string(setting), nil); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
		nc, err := nats.Connect(b.url(b.addr()), nats.Timeout(10*time.Second))
		if err == nil {
			nc.Close()
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("nats-server does not answer: %w: %s", err, b.proc.stderr)
		}
	}
}

func (b *natsBroker) kill() {
	if b.proc != nil {
		b.proc.kill()
		b.proc = nil
	}
}

func (b *natsBroker) pause() error     { return b.proc.signal(syscall.SIGSTOP) }
func (b *natsBroker) resume() error    { return b.proc.signal(syscall.SIGCONT) }
func (b *natsBroker) alarm(bool) error { return errors.New("nats-server has no alarms") }

func (b *natsBroker) stop() {
	b.kill()
	_ = os.RemoveAll(b.order.Dir) // a file that stays is in the way of nothing
	if b.port != nil {
		b.port.Release()
	}
}

// with runs do on a connection of its own.
func (b *natsBroker) with(do func(jetstream.JetStream) error) error {
	nc, err := nats.Connect(b.url(b.addr()), nats.Timeout(30*time.Second))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return do(js)
}

func streamName(name string) string { return strings.ToUpper(name) }

func (b *natsBroker) config(name string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: streamName(name), Subjects: []string{name}, Storage: jetstream.FileStorage,
		AllowAtomicPublish: b.order.Always,
	}
}

func (b *natsBroker) create(ctx context.Context, name string, limit int) error {
	return b.with(func(js jetstream.JetStream) error {
		cfg := b.config(name)
		if limit > 0 {
			cfg.MaxMsgs, cfg.Discard = int64(limit), jetstream.DiscardNew
		}
		_, err := js.CreateStream(ctx, cfg)
		return err
	})
}

func (b *natsBroker) unlimit(ctx context.Context, name string) error {
	return b.with(func(js jetstream.JetStream) error {
		_, err := js.UpdateStream(ctx, b.config(name))
		return err
	})
}

func (b *natsBroker) remove(ctx context.Context, name string) error {
	return b.with(func(js jetstream.JetStream) error { return js.DeleteStream(ctx, streamName(name)) })
}

func (b *natsBroker) put(ctx context.Context, name string, body []byte) error {
	return b.with(func(js jetstream.JetStream) error {
		_, err := js.Publish(ctx, name, body, jetstream.WithRetryAttempts(1000), jetstream.WithRetryWait(10*time.Millisecond))
		return err
	})
}

func (b *natsBroker) stored(ctx context.Context, name string) ([]string, error) {
	var names []string
	err := b.with(func(js jetstream.JetStream) error {
		s, err := js.Stream(ctx, streamName(name))
		if err != nil {
			return err
		}
		info, err := s.Info(ctx)
		if err != nil || info.State.Msgs == 0 {
			return err
		}
		c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverAllPolicy})
		if err != nil {
			return err
		}
		for uint64(len(names)) < info.State.Msgs {
			batch, err := c.Fetch(min(1000, int(info.State.Msgs)-len(names)), jetstream.FetchMaxWait(30*time.Second))
			if err != nil {
				return err
			}
			before := len(names)
			for m := range batch.Messages() {
				names = append(names, nameOf(m.Data()))
			}
			if batch.Error() != nil || len(names) == before {
				return fmt.Errorf("read %d of %d messages: %w", len(names), info.State.Msgs, batch.Error())
			}
		}
		return nil
	})
	return names, err
}
