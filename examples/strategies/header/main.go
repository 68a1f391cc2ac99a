// Command header retries with the count in a header of a copy: what holdfast
// does unless it is told otherwise. See docs/strategies/count-in-a-header.md.
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

	app := holdfast.New(holdfast.Config{Name: "header", Logger: slog.Default()})
	orders := rmq.Queue(rabbitmq.QueueConfig{Name: "strategies-header"})
	holdfast.Handle(app, orders, charge,
		holdfast.Retry{Attempts: 3, Backoff: holdfast.Constant(time.Second)},
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
