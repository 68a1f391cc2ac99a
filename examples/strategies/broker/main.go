// Command broker leaves retries to a quorum queue and its delivery limit. See
// docs/strategies/broker-retries.md.
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

	"github.com/holdfast-go/holdfast"
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

	app := holdfast.New(holdfast.Config{Name: "broker", Logger: slog.Default()})
	orders := rmq.Queue(rabbitmq.QueueConfig{Name: "strategies-broker", DeliveryLimit: 3})
	holdfast.Handle(app, orders, charge,
		holdfast.BrokerRetries(3),
	)
	if err := app.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// charge stands for a payment provider that does not know the order "bad".
func charge(_ context.Context, m *holdfast.Message[string]) error {
	fmt.Printf("charge %s, attempt %d\n", m.Body, m.Attempt)
	if m.Body == "bad" {
		return errors.New("there is no such order")
	}
	return nil
}

// url is where RabbitMQ is: AMQP_URL, or this machine.
func url() string {
	if u := os.Getenv("AMQP_URL"); u != "" {
		return u
	}
	return "amqp://guest:guest@127.0.0.1:5672/"
}
