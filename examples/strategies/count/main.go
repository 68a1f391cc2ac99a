// Command count counts attempts in a store outside of the broker, so that an
// attempt that ends the process counts. Here the store is a key-value bucket on
// NATS JetStream; redisstore.New is one on Redis. See
// docs/strategies/count-in-a-store.md.
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
	"github.com/holdfast-go/holdfast/rabbitmq"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rmq, err := rabbitmq.Connect(ctx, url())
	if err != nil {
		log.Fatal(err)
	}
	defer rmq.Close(context.Background())

	js, err := jetstream.Connect(ctx, natsURL())
	if err != nil {
		log.Fatal(err)
	}
	defer js.Close(context.Background())
	attempts, err := js.CountStore(ctx, jetstream.CountStoreConfig{})
	if err != nil {
		log.Fatal(err)
	}

	app := holdfast.New(holdfast.Config{Name: "count", Logger: slog.Default()})
	orders := rmq.Queue(rabbitmq.QueueConfig{Name: "strategies-count"})
	holdfast.Handle(app, orders, charge,
		holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)},
		holdfast.CountIn(attempts),
	)
	if err := app.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// charge stands for a handler that ends the process with the order "bad": start
// the program four times, and the order is a dead letter without a fourth attempt.
func charge(_ context.Context, m *holdfast.Message[string]) error {
	fmt.Printf("charge %s, attempt %d\n", m.Body, m.Attempt)
	if m.Body == "bad" {
		os.Exit(1)
	}
	return nil
}

func natsURL() string {
	if u := os.Getenv("NATS_URL"); u != "" {
		return u
	}
	return "nats://127.0.0.1:4222"
}

// url is where RabbitMQ is: AMQP_URL, or this machine.
func url() string {
	if u := os.Getenv("AMQP_URL"); u != "" {
		return u
	}
	return "amqp://guest:guest@127.0.0.1:5672/"
}
