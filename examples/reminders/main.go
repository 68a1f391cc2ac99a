// Command reminders publishes messages that are sent later, takes one of them
// back, has one sent again and again, and handles what comes. It needs a NATS
// server of version 2.14 or later with JetStream;
// `holdfast dev -- go run ./examples/reminders` gives it one.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	js, err := jetstream.Connect(ctx, url(), jetstream.Parking(jetstream.ParkConfig{After: time.Minute}))
	if err != nil {
		log.Fatal(err)
	}
	defer js.Close(context.Background())
	if err := run(ctx, js); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, js *jetstream.Transport) error {
	bell := js.Consumer(jetstream.ConsumerConfig{
		Stream: "REMINDERS", Subjects: []string{"reminders.>"}, Durable: "bell", Start: jetstream.StartAll(),
	})
	// The stream must be there before anything can wait in it.
	if _, err := js.Provision(ctx, bell, transport.Want{Subscription: "bell", Concurrency: 1}); err != nil {
		return err
	}
	if err := js.EnableSchedules(ctx, "REMINDERS"); err != nil {
		return err
	}
	if err := plan(ctx, js); err != nil {
		return err
	}
	app := holdfast.New(holdfast.Config{Name: "reminders", Logger: slog.Default()})
	holdfast.Handle(app, bell, func(_ context.Context, m *holdfast.Message[string]) error {
		fmt.Println(m.Body)
		return nil
	},
		// A retry may wait for an hour: it is parked, and in nobody's way.
		holdfast.Retry{Attempts: 5, Backoff: holdfast.Exponential(time.Second, time.Hour)})
	return app.Run(ctx)
}

// plan publishes what is to be sent later.
func plan(ctx context.Context, js *jetstream.Transport) error {
	bell := jetstream.Subject("reminders.bell")
	p := holdfast.NewPublisher[string](js, bell)
	for id, after := range map[string]time.Duration{"tea is ready": 2 * time.Second, "leave the house": time.Hour} {
		if err := p.Publish(ctx, id, holdfast.After(after), holdfast.ID(id)); err != nil {
			return err
		}
	}
	// It rains.
	if err := js.CancelScheduled(ctx, bell, "leave the house"); err != nil {
		return err
	}
	return js.Recur(ctx, jetstream.Subject("reminders.clock"), jetstream.Recurrence{Spec: "@every 1s"},
		&transport.Message{ID: "clock", Body: []byte("tick"), ContentType: "text/plain; charset=utf-8"})
}

func url() string {
	if u := os.Getenv("NATS_URL"); u != "" {
		return u
	}
	return "nats://127.0.0.1:4222"
}
