package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/jetstream"
)

// exampleServer starts a server in this process; a program connects to one that
// runs.
func exampleServer(change ...func(*server.Options)) (url string, stop func()) {
	dir, err := os.MkdirTemp("", "holdfast-example-")
	if err != nil {
		panic(err)
	}
	o := &server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir}
	for _, c := range change {
		c(o)
	}
	srv, err := server.NewServer(o)
	if err != nil {
		panic(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		panic("the server does not come up")
	}
	return srv.ClientURL(), func() {
		srv.Shutdown()
		srv.WaitForShutdown()
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
	}
}

// exampleJetStream is a transport on a server of its own.
func exampleJetStream(opts ...jetstream.Option) (ctx context.Context, js *jetstream.Transport, stop func()) {
	url, end := exampleServer()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	js, err := jetstream.Connect(ctx, url, append(opts, jetstream.WithNATS(natstest.Patient()))...)
	if err != nil {
		panic(err)
	}
	return ctx, js, func() {
		if err := js.Close(ctx); err != nil {
			fmt.Println(err)
		}
		cancel()
		end()
	}
}

// exampleRun runs an app until stop is called. A program calls App.Run with a
// context that ends on SIGTERM instead.
func exampleRun(app *holdfast.App) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	for !app.Health().Healthy {
		select {
		case err := <-done:
			panic(err)
		case <-time.After(time.Millisecond):
		}
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			fmt.Println(err)
		}
	}
}

// exampleOrders stores orders 1 to n.
func exampleOrders(ctx context.Context, js *jetstream.Transport, n int) {
	for i := range n {
		exampleOrder(ctx, js, i+1)
	}
}

func exampleOrder(ctx context.Context, js *jetstream.Transport, number int) {
	if err := holdfast.NewPublisher[int](js, jetstream.Subject("orders.placed")).Publish(ctx, number); err != nil {
		fmt.Println(err)
	}
}

// exampleStream makes the stream ORDERS.
func exampleStream(ctx context.Context, js *jetstream.Transport) {
	if _, err := js.JetStream().CreateStream(ctx, natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		fmt.Println(err)
	}
}

// A consumer that is made says where it begins; one that exists goes on where it
// stood.
func Example_jetStreamStarts() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	exampleStream(ctx, js)
	exampleOrders(ctx, js, 3)
	for _, c := range []struct {
		durable string
		start   jetstream.StartPolicy
		until   int
	}{
		{"all", jetstream.StartAll(), 3},
		{"last", jetstream.StartLast(), 3},
		{"second", jetstream.StartSequence(2), 3},
		{"recent", jetstream.StartTime(time.Now().Add(-time.Hour)), 3},
		{"new", jetstream.StartNew(), 4},
		{"all", jetstream.StartAll(), 4}, // it is there: nothing is replayed
	} {
		app := holdfast.New(holdfast.Config{Name: "shop"})
		orders := holdfast.Pull[int](app, js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Durable: c.durable, Start: c.start}))
		end := exampleRun(app)
		if c.durable == "new" {
			exampleOrder(ctx, js, 4)
		}
		var got []int
		for m, err := range orders.All(ctx) {
			if err != nil {
				fmt.Println(err)
				break
			}
			got = append(got, m.Body)
			_ = m.Done(nil)
			if m.Body == c.until {
				break
			}
		}
		fmt.Println(c.durable, got)
		end()
	}
	// Output:
	// all [1 2 3]
	// last [3]
	// second [2 3]
	// recent [1 2 3]
	// new [4]
	// all [4]
}

// An ordered consumer reads a stream from its start whenever the program starts:
// for read models and replays.
func Example_jetStreamOrdered() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	exampleStream(ctx, js)
	exampleOrders(ctx, js, 4)
	for range 2 {
		app := holdfast.New(holdfast.Config{Name: "report"})
		read, sum := make(chan int), 0
		holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
			Stream: "ORDERS", Subjects: []string{"orders.>"}, Start: jetstream.StartAll(), Ordered: true,
		}), func(_ context.Context, m *holdfast.Message[int]) error {
			sum += m.Body
			read <- sum
			return nil
		}, holdfast.Name("report"), holdfast.NoDeadLetter())
		end := exampleRun(app)
		fmt.Println(<-read, <-read, <-read, <-read)
		end()
	}
	// Output:
	// 1 3 6 10
	// 1 3 6 10
}

// A pause keeps a durable consumer from handing out messages, for all who share it.
func Example_jetStreamPause() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	src := js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll()})
	app := holdfast.New(holdfast.Config{Name: "billing"})
	handled := make(chan int, 1)
	holdfast.Handle(app, src, func(_ context.Context, m *holdfast.Message[int]) error { handled <- m.Body; return nil })
	defer exampleRun(app)()

	fmt.Println("paused:", js.Pause(ctx, src, time.Now().Add(time.Hour)))
	exampleOrders(ctx, js, 1)
	fmt.Println("waits:", pendingOf(ctx, js, "billing"))
	fmt.Println("resumed:", js.Resume(ctx, src))
	fmt.Println("handled:", <-handled)
	// Output:
	// paused: <nil>
	// waits: 1
	// resumed: <nil>
	// handled: 1
}

// Of the members of a pinned consumer one gets all messages. When it has not pulled
// for PinnedTTL another takes its place.
func Example_jetStreamPins() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	exampleStream(ctx, js)
	handled := make(chan string)
	member := func(name string) (leave func()) {
		app := holdfast.New(holdfast.Config{Name: name})
		holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{
			Stream: "ORDERS", Durable: "billing", Start: jetstream.StartAll(),
			Consumer: &natsjs.ConsumerConfig{
				PriorityPolicy: natsjs.PriorityPolicyPinned, PriorityGroups: []string{"billing"}, PinnedTTL: 2 * time.Second,
			},
			Priority: jetstream.PriorityConfig{Group: "billing"},
		}), func(_ context.Context, m *holdfast.Message[int]) error {
			handled <- fmt.Sprint(name, " has ", m.Body)
			return nil
		})
		return exampleRun(app)
	}
	leave := member("one")
	exampleOrder(ctx, js, 1)
	fmt.Println(<-handled)
	defer member("two")()
	leave()
	exampleOrder(ctx, js, 2)
	fmt.Println(<-handled)
	// Output:
	// one has 1
	// two has 2
}

// A source says all that is to be known of its stream. What the connected server
// would drop in silence is refused.
func Example_jetStreamStreams() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	for _, cfg := range []natsjs.StreamConfig{
		{
			Name: "ORDERS", Subjects: []string{"orders.>"}, Compression: natsjs.S2Compression, AllowMsgTTL: true,
			SubjectTransform: &natsjs.SubjectTransformConfig{Source: "orders.*", Destination: "orders.eu.{{wildcard(1)}}"},
			RePublish:        &natsjs.RePublish{Source: "orders.>", Destination: "live.orders.>"},
		},
		{Name: "ORDERS_COPY", Mirror: &natsjs.StreamSource{Name: "ORDERS"}},
		{Name: "EVERYTHING", Sources: []*natsjs.StreamSource{{
			Name: "ORDERS", SubjectTransforms: []natsjs.SubjectTransformConfig{{Source: "orders.>", Destination: "all.orders.>"}},
		}}},
	} {
		src := js.Consumer(jetstream.ConsumerConfig{StreamConfig: &cfg, Durable: "audit", Start: jetstream.StartAll()})
		report, err := js.Provision(ctx, src, holdfastWant("audit"))
		fmt.Println(report.Created, err)
	}
	p := holdfast.NewPublisher[string](js, jetstream.Subject("orders.placed"))
	if err := p.Publish(ctx, "tea", holdfast.Expiry(time.Hour)); err != nil {
		fmt.Println(err)
	}
	app := holdfast.New(holdfast.Config{Name: "audit"})
	copied := holdfast.Pull[string](app, js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS_COPY", Durable: "audit"}))
	gathered := holdfast.Pull[string](app, js.Consumer(jetstream.ConsumerConfig{Stream: "EVERYTHING", Durable: "audit"}), holdfast.Name("gathered"))
	defer exampleRun(app)()
	for _, p := range []*holdfast.Puller[string]{copied, gathered} {
		m, err := p.Next(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(m.Subject, m.Body)
		_ = m.Done(nil)
	}
	// Output:
	// [stream ORDERS consumer ORDERS/audit] <nil>
	// [stream ORDERS_COPY consumer ORDERS_COPY/audit] <nil>
	// [stream EVERYTHING consumer EVERYTHING/audit] <nil>
	// orders.eu.placed tea
	// all.orders.eu.placed tea
}

// Where the server syncs every write, publishers send in atomic batches.
func Example_jetStreamAtomicBatches() {
	ctx, js, stop := exampleJetStream(jetstream.AtomicBatches())
	defer stop()
	cfg := natsjs.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, AllowAtomicPublish: true}
	if _, err := js.JetStream().CreateStream(ctx, cfg); err != nil {
		fmt.Println(err)
	}
	p := holdfast.NewPublisher[int](js, jetstream.Subject("orders.placed"))
	for i := range 1000 {
		if _, err := p.PublishAsync(ctx, i); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("flushed:", p.Flush(ctx))
	if _, err := p.Close(ctx); err != nil {
		fmt.Println(err)
	}
	stream, err := js.JetStream().Stream(ctx, "ORDERS")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("stored:", stream.CachedInfo().State.Msgs)
	// Output:
	// flushed: <nil>
	// stored: 1000
}

// A domain selects the JetStream of a leaf node, say, and an API prefix an import
// of another account's.
func Example_jetStreamDomain() {
	url, stop := exampleServer(func(o *server.Options) { o.JetStreamDomain = "hub" })
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, opt := range []jetstream.Option{jetstream.Domain("hub"), jetstream.APIPrefix("$JS.hub.API")} {
		js, err := jetstream.Connect(ctx, url, opt, jetstream.WithNATS(natstest.Patient()))
		if err != nil {
			fmt.Println(err)
			return
		}
		src := js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing", Start: jetstream.StartAll()})
		report, err := js.Provision(ctx, src, holdfastWant("billing"))
		fmt.Println(report.Created, errors.Join(err, js.Close(ctx)))
	}
	// Output:
	// [stream ORDERS consumer ORDERS/billing] <nil>
	// [] <nil>
}
