// Command prices keeps prices in a key-value bucket, pictures in an object store,
// and handles what changes in both. It needs a NATS server with JetStream;
// `holdfast dev -- go run ./examples/prices` gives it one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/jetstream"
)

// Price is the value of a key such as "tea.green".
type Price struct {
	Cents int `json:"cents"`
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
	prices, err := jetstream.OpenKV[Price](ctx, js, jetstream.BucketConfig{Bucket: "prices"})
	if err != nil {
		return err
	}
	pictures, err := jetstream.OpenObjectStore(ctx, js, jetstream.ObjectStoreConfig{Bucket: "pictures"})
	if err != nil {
		return err
	}
	if err := fill(ctx, prices, pictures); err != nil {
		return err
	}
	app := holdfast.New(holdfast.Config{Name: "prices", Logger: slog.Default()})
	// A durable watch goes on where it stood; OrderByKey keeps the revisions of
	// one key in sequence, retries included.
	holdfast.Handle(app, prices.Watch(jetstream.WatchConfig{Durable: "shop", Start: jetstream.StartLastPerSubject()}),
		showPrice, holdfast.OrderByKey(), holdfast.Concurrency(4))
	holdfast.Handle(app, pictures.Watch(jetstream.ObjectWatchConfig{Durable: "gallery", Start: jetstream.StartAll()}),
		func(ctx context.Context, m *holdfast.Message[jetstream.ObjectInfo]) error {
			return showPicture(ctx, pictures, &m.Body)
		}, holdfast.OrderByKey())
	return app.Run(ctx)
}

// showPrice handles one revision. A deletion has no value.
func showPrice(_ context.Context, m *holdfast.Message[jetstream.Entry[Price]]) error {
	switch e := m.Body; e.Operation {
	case jetstream.OpPut:
		fmt.Printf("%s costs %d cents since revision %d\n", e.Key, e.Value.Cents, e.Revision)
	default:
		fmt.Printf("%s is not sold any more\n", e.Key)
	}
	return nil
}

// showPicture reads the version it is told of. One that was replaced meanwhile is
// told of again.
func showPicture(ctx context.Context, pictures *jetstream.ObjectStore, info *jetstream.ObjectInfo) error {
	if info.Deleted {
		return nil
	}
	r, err := pictures.Open(ctx, info)
	if errors.Is(err, jetstream.ErrObjectReplaced) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // it never fails
	n, err := io.Copy(io.Discard, r)
	if err != nil {
		return err
	}
	fmt.Printf("%s has %d bytes\n", info.Name, n)
	return nil
}

// fill writes what there is to see.
func fill(ctx context.Context, prices *jetstream.KV[Price], pictures *jetstream.ObjectStore) error {
	last, err := prices.Put(ctx, "tea.green", Price{Cents: 250})
	if err != nil {
		return err
	}
	if _, err := prices.Update(ctx, "tea.green", Price{Cents: 260}, last); err != nil {
		return err
	}
	// Somebody who has not seen the change cannot undo it.
	_, err = prices.Update(ctx, "tea.green", Price{Cents: 240}, last)
	if _, conflict := errors.AsType[*jetstream.ConflictError](err); !conflict {
		return fmt.Errorf("a late update: %w", err)
	}
	if _, err := prices.Put(ctx, "coffee", Price{Cents: 300}); err != nil {
		return err
	}
	if err := prices.Delete(ctx, "coffee"); err != nil {
		return err
	}
	_, err = pictures.Put(ctx, jetstream.ObjectMeta{Name: "tea.jpg"}, strings.NewReader(strings.Repeat("tea ", 100_000)))
	return err
}

func url() string {
	if u := os.Getenv("NATS_URL"); u != "" {
		return u
	}
	return "nats://127.0.0.1:4222"
}
