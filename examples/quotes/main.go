// Command quotes answers what things cost, as a service that is found with
// `nats micro ls`: the program of docs/nats, whole. It connects with credentials
// and certificates when the environment names their files.
package main

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/natscore"
)

// Ask is a request, and Quote the answer to it.
type (
	Ask struct {
		Item string `json:"item"`
	}
	Quote struct {
		Item  string `json:"item"`
		Cents int    `json:"cents"`
	}
)

// Validate refuses what can never be answered: whoever asked gets an error with
// the code bad-request.
func (a Ask) Validate() error {
	if a.Item == "" {
		return errors.New("name an item")
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	core, err := natscore.Connect(ctx, os.Getenv("NATS_URL"), options()...)
	if err != nil {
		log.Fatal(err)
	}
	defer core.Close(context.Background())

	quotes := core.Service(natscore.ServiceConfig{Name: "quotes", Version: "1.0.0", Description: "what things cost"})
	app := holdfast.New(holdfast.Config{Name: "quotes", Logger: slog.Default()})
	holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "quotes.get", Group: "quotes", Service: quotes, Endpoint: "get"}), quote, holdfast.Concurrency(8))

	if err := app.Run(ctx); err != nil { // answers what is in hand, declines the rest, and returns
		log.Fatal(err)
	}
}

// options names the files of a login and of certificates. They are read anew for
// every connection: replace them, and the next reconnect uses the new ones.
func options() []natscore.Option {
	opts := []natscore.Option{natscore.WithName("quotes")}
	if file := os.Getenv("NATS_CREDS"); file != "" {
		opts = append(opts, natscore.WithCredsFile(file))
	}
	if file := os.Getenv("NATS_CA"); file != "" {
		opts = append(opts, natscore.WithCA(file))
	}
	return opts
}

func quote(_ context.Context, m *holdfast.Message[Ask]) (Quote, error) {
	cents, known := map[string]int{"tea": 250, "coffee": 300}[m.Body.Item]
	if !known {
		return Quote{}, errors.New("not sold here") // goes back to whoever asked
	}
	return Quote{Item: m.Body.Item, Cents: cents}, nil
}
