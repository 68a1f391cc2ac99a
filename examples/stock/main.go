// Command stock keeps a stream of what goes in and out of a warehouse. It
// configures the stream in full, mirrors it, builds a read model from it with
// every start, and pauses the work on it. It needs a NATS server of version 2.11
// with JetStream; `holdfast dev -- go run ./examples/stock` gives it one.
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

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/observe"
)

// Moved says that pieces came in or, below zero, went out.
type Moved struct {
	Item   string `json:"item"`
	Pieces int    `json:"pieces"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	js, err := jetstream.Connect(ctx, url())
	if err != nil {
		log.Fatal(err)
	}
	defer js.Close(context.Background())
	if err := run(ctx, js); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, js *jetstream.Transport) error {
	app := holdfast.New(holdfast.Config{Name: "stock", Logger: slog.Default()})
	orders := reordering(js)
	sub := holdfast.Handle(app, orders, reorder)
	holdfast.Handle(app, history(js), show("read"), holdfast.Name("model"), holdfast.NoDeadLetter())
	holdfast.Handle(app, mirror(js), show("mirrored"))
	ended := make(chan error, 1)
	go func() { ended <- app.Run(ctx) }() // ends with ctx, and is waited for
	for sub.Health().State != observe.StateRunning {
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := fill(ctx, js, orders); err != nil {
		log.Print(err)
	}
	return <-ended
}

// reordering is a durable on the stream, with the stream and the consumer in full.
// What the server would drop of it is refused at start.
func reordering(js *jetstream.Transport) holdfast.Source {
	return js.Consumer(jetstream.ConsumerConfig{
		Durable:  "reordering",
		Subjects: []string{"stock.*.out"},
		Start:    jetstream.StartLastPerSubject(),
		StreamConfig: &natsjs.StreamConfig{
			Name: "STOCK", Subjects: []string{"stock.>"}, Compression: natsjs.S2Compression, AllowDirect: true,
			RePublish: &natsjs.RePublish{Source: "stock.>", Destination: "live.stock.>"},
		},
		Consumer: &natsjs.ConsumerConfig{Description: "orders what runs out", SampleFrequency: "10%"},
	})
}

// history is the whole stream in order, with every start of the program.
func history(js *jetstream.Transport) holdfast.Source {
	return js.Consumer(jetstream.ConsumerConfig{Stream: "STOCK", Subjects: []string{"stock.>"}, Start: jetstream.StartAll(), Ordered: true})
}

func mirror(js *jetstream.Transport) holdfast.Source {
	return js.Consumer(jetstream.ConsumerConfig{
		Durable: "archive", Start: jetstream.StartAll(),
		StreamConfig: &natsjs.StreamConfig{Name: "STOCK_COPY", Mirror: &natsjs.StreamSource{Name: "STOCK"}},
	})
}

func reorder(_ context.Context, m *holdfast.Message[Moved]) error {
	fmt.Printf("%d of %s went out\n", -m.Body.Pieces, m.Body.Item)
	return nil
}

// show sums up what it sees.
func show(how string) func(context.Context, *holdfast.Message[Moved]) error {
	left := map[string]int{}
	return func(_ context.Context, m *holdfast.Message[Moved]) error {
		left[m.Body.Item] += m.Body.Pieces
		fmt.Printf("%s: %d of %s\n", how, left[m.Body.Item], m.Body.Item)
		return nil
	}
}

// fill moves some pieces while the durable is paused.
func fill(ctx context.Context, js *jetstream.Transport, orders holdfast.Source) error {
	if err := js.Pause(ctx, orders, time.Now().Add(time.Minute)); err != nil {
		return err
	}
	in := holdfast.NewPublisher[Moved](js, jetstream.Subject("stock.tea.in"))
	if err := in.Publish(ctx, Moved{"tea", 20}); err != nil {
		return err
	}
	// The client library's own objects are in reach, beside the subscriptions.
	if _, err := js.JetStream().Publish(ctx, "stock.tea.out", []byte(`{"item":"tea","pieces":-3}`)); err != nil {
		return err
	}
	fmt.Println("paused")
	return js.Resume(ctx, orders)
}

func url() string {
	if u := os.Getenv("NATS_URL"); u != "" {
		return u
	}
	return "nats://127.0.0.1:4222"
}
