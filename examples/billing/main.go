// Command billing charges for orders: the program of the README, whole. It needs
// a NATS server with JetStream; `holdfast dev -- go run ./examples/billing` gives
// it one.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
)

// OrderPlaced is what the shop publishes.
type OrderPlaced struct {
	Order string `json:"order"`
	Cents int    `json:"cents"`
}

// Validate refuses what can never be charged: such an order is a dead letter at
// once, with its bytes.
func (o OrderPlaced) Validate() error {
	if o.Cents <= 0 {
		return fmt.Errorf("order %s: %d cents cannot be charged", o.Order, o.Cents)
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	js, err := jetstream.Connect(ctx, url())
	if err != nil {
		log.Fatal(err)
	}
	defer js.Close(context.Background())

	app := holdfast.New(holdfast.Config{Name: "billing", Logger: slog.Default()})
	orders := js.Consumer(jetstream.ConsumerConfig{
		Stream: "ORDERS", Subjects: []string{"orders.placed"}, Durable: "billing", Start: jetstream.StartAll(),
	})
	holdfast.Handle(app, orders, func(ctx context.Context, m *holdfast.Message[OrderPlaced]) error {
		return charge(ctx, m.Body, m.ID) // nil: ack. An error: the policy decides.
	}, holdfast.Retry{Attempts: 6, Immediate: 1, Backoff: holdfast.Exponential(time.Second, time.Minute)})

	if err := app.Run(ctx); err != nil { // checks every contract first; returns after a clean drain
		log.Fatal(err)
	}
}

// charge stands for a payment provider that takes an idempotency key: a message
// may be handled twice, and is charged once.
func charge(_ context.Context, o OrderPlaced, key string) error {
	if o.Order == "stolen-card" {
		return holdfast.Permanent(errors.New("the card is stolen"))
	}
	fmt.Printf("charged %s %d cents under %s\n", o.Order, o.Cents, key)
	return nil
}

func url() string {
	if u := os.Getenv("NATS_URL"); u != "" {
		return u
	}
	return "nats://127.0.0.1:4222"
}
