package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// holdfastWant is what a subscription of this name asks of its source, for an
// example that provisions without one.
func holdfastWant(name string) transport.Want {
	return transport.Want{Subscription: name, Concurrency: 1}
}

// pendingOf is how many messages a consumer of ORDERS still has to hand out.
func pendingOf(ctx context.Context, js *jetstream.Transport, durable string) uint64 {
	c, err := js.JetStream().Consumer(ctx, "ORDERS", durable)
	if err != nil {
		fmt.Println(err)
		return 0
	}
	return c.CachedInfo().NumPending
}

// Cents is a price.
type Cents struct {
	Cents int `json:"cents"`
}

// A bucket has values of one type. Create and Update decide who was first.
func Example_keyValue() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	prices, err := jetstream.OpenKV[Cents](ctx, js, jetstream.BucketConfig{Bucket: "prices"})
	if err != nil {
		fmt.Println(err)
		return
	}
	first, err := prices.Create(ctx, "tea", Cents{250})
	fmt.Println("created:", first, err)
	_, err = prices.Update(ctx, "tea", Cents{260}, first)
	fmt.Println("updated:", err)
	_, err = prices.Update(ctx, "tea", Cents{270}, first)
	var conflict *jetstream.ConflictError
	fmt.Println("a conflict:", errors.As(err, &conflict))
	tea, err := prices.Get(ctx, "tea")
	fmt.Println(tea.Key, tea.Value.Cents, tea.Revision, err)
	_, err = prices.Get(ctx, "milk")
	fmt.Println("not there:", errors.Is(err, transport.ErrNotFound))
	// Output:
	// created: 1 <nil>
	// updated: <nil>
	// a conflict: true
	// tea 260 2 <nil>
	// not there: true
}

// A watch of a bucket is a subscription, with the whole policy.
func Example_keyValueWatch() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	prices, err := jetstream.OpenKV[Cents](ctx, js, jetstream.BucketConfig{Bucket: "prices"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = prices.Put(ctx, "tea.green", Cents{250})
	_, _ = prices.Put(ctx, "salt", Cents{90})

	app := holdfast.New(holdfast.Config{Name: "shop"})
	seen := make(chan string)
	holdfast.Handle(app, prices.Watch(jetstream.WatchConfig{Keys: []string{"tea.>"}, Durable: "shop", Start: jetstream.StartLastPerSubject()}),
		func(_ context.Context, m *holdfast.Message[jetstream.Entry[Cents]]) error {
			seen <- fmt.Sprint(m.Body.Key, " ", m.Body.Operation, " ", m.Body.Value.Cents)
			return nil
		}, holdfast.OrderByKey())
	defer exampleRun(app)()
	fmt.Println(<-seen)
	_, _ = prices.Put(ctx, "tea.black", Cents{240})
	fmt.Println(<-seen)
	_ = prices.Delete(ctx, "tea.green")
	fmt.Println(<-seen)
	// Output:
	// tea.green put 250
	// tea.black put 240
	// tea.green delete 0
}

// Objects of any size are written and read as streams. A reader that comes to
// io.EOF has all bytes, and their digest is right.
func Example_objectStore() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	photos, err := jetstream.OpenObjectStore(ctx, js, jetstream.ObjectStoreConfig{Bucket: "photos"})
	if err != nil {
		fmt.Println(err)
		return
	}
	app := holdfast.New(holdfast.Config{Name: "thumbnails"})
	seen := make(chan string)
	holdfast.Handle(app, photos.Watch(jetstream.ObjectWatchConfig{Durable: "thumbnails", Start: jetstream.StartNew()}),
		func(ctx context.Context, m *holdfast.Message[jetstream.ObjectInfo]) error {
			r, err := photos.Open(ctx, &m.Body) // that very version
			if err != nil {
				return err
			}
			defer r.Close()
			n, err := io.Copy(io.Discard, r)
			if err == nil {
				seen <- fmt.Sprint(m.Body.Name, " has ", n, " bytes")
			}
			return err
		})
	defer exampleRun(app)()
	_, err = photos.Put(ctx, jetstream.ObjectMeta{Name: "tea/leaf.jpg", Metadata: map[string]string{"by": "ann"}}, strings.NewReader(strings.Repeat("x", 300_000)))
	fmt.Println("put:", err)
	fmt.Println(<-seen)
	for info, err := range photos.List(ctx) {
		fmt.Println(info.Name, info.Metadata["by"], info.Chunks, "chunks", err)
	}
	// Output:
	// put: <nil>
	// tea/leaf.jpg has 300000 bytes
	// tea/leaf.jpg ann 3 chunks <nil>
}

// A stream can keep messages back until they are due, and send one again and again.
func Example_jetStreamSchedules() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	app := holdfast.New(holdfast.Config{Name: "shop"})
	handled := make(chan string, 10)
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "shop", Start: jetstream.StartAll()}),
		func(_ context.Context, m *holdfast.Message[string]) error { handled <- m.Body; return nil })
	defer exampleRun(app)()
	fmt.Println("enabled:", js.EnableSchedules(ctx, "ORDERS"))

	to := jetstream.Subject("orders.reminders")
	p := holdfast.NewPublisher[string](js, to)
	began := time.Now()
	fmt.Println("kept:", p.Publish(ctx, "drink your tea", holdfast.ID("tea-7"), holdfast.After(time.Second)))
	fmt.Println("kept:", p.Publish(ctx, "too late", holdfast.ID("tea-8"), holdfast.At(time.Now().Add(time.Hour))))
	fmt.Println("cancelled:", js.CancelScheduled(ctx, to, "tea-8"))
	fmt.Println(<-handled, time.Since(began) >= time.Second)

	err := js.Recur(ctx, to, jetstream.Recurrence{Spec: "@every 1s"}, &transport.Message{ID: "stretch", Body: []byte("stretch")})
	fmt.Println("recurs:", err)
	fmt.Println(<-handled)
	fmt.Println(<-handled)
	fmt.Println("cancelled:", js.CancelScheduled(ctx, to, "stretch"))
	// Output:
	// enabled: <nil>
	// kept: <nil>
	// kept: <nil>
	// cancelled: <nil>
	// drink your tea true
	// recurs: <nil>
	// stretch
	// stretch
	// cancelled: <nil>
}

// The client library's own objects are always in reach, beside the subscriptions.
func Example_natsNative() {
	ctx, js, stop := exampleJetStream()
	defer stop()
	fmt.Println("connected:", js.Conn().IsConnected())
	exampleStream(ctx, js)
	exampleOrders(ctx, js, 1)
	app := holdfast.New(holdfast.Config{Name: "shop"})
	raw := make(chan *nats.Msg, 1)
	holdfast.Handle(app, js.Consumer(jetstream.ConsumerConfig{Stream: "ORDERS", Durable: "shop", Start: jetstream.StartAll()}),
		func(_ context.Context, m *holdfast.Message[int]) error { raw <- m.Raw().(*nats.Msg); return nil })
	defer exampleRun(app)()
	fmt.Println("message:", (<-raw).Subject)
	stream, err := js.JetStream().Stream(ctx, "ORDERS")
	fmt.Println("stream:", stream.CachedInfo().State.LastSeq, err)
	kv, err := jetstream.OpenKV[string](ctx, js, jetstream.BucketConfig{Bucket: "words"})
	if err != nil {
		fmt.Println(err)
		return
	}
	native, err := kv.Native(ctx)
	fmt.Println("bucket:", native.Bucket(), err)
	// Output:
	// connected: true
	// message: orders.placed
	// stream: 1 <nil>
	// bucket: words <nil>
}
