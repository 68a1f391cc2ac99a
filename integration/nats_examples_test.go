package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/integration/internal/natstest"
	"github.com/holdfast-go/holdfast/natscore"
)

// exampleCore is a transport for NATS core on a server of its own.
func exampleCore() (ctx context.Context, core *natscore.Transport, stop func()) {
	url, end := exampleServer()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	core, err := natscore.Connect(ctx, url, natscore.WithNATS(natstest.Patient()))
	if err != nil {
		panic(err)
	}
	return ctx, core, func() {
		if err := core.Close(ctx); err != nil {
			fmt.Println(err)
		}
		cancel()
		end()
	}
}

// A handler that answers is an endpoint of a service, which others find, and its
// subject has a parameter.
func Example_natsService() {
	ctx, core, stop := exampleCore()
	defer stop()
	app := holdfast.New(holdfast.Config{Name: "quotes"})
	quotes := core.Service(natscore.ServiceConfig{Name: "quotes", Version: "1.0.0", Description: "what things cost"})
	holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "quotes.{item}", Group: "quotes", Service: quotes, Endpoint: "get"}),
		func(_ context.Context, m *holdfast.Message[int]) (string, error) {
			return fmt.Sprintf("%d of %s: %d cents", m.Body, m.Param("item"), 250*m.Body), nil
		})
	defer exampleRun(app)()
	answer, err := holdfast.Request[int, string](ctx, core, natscore.Subject("quotes.tea"), 2)
	fmt.Println(answer, err)
	reply, err := core.Conn().RequestWithContext(ctx, "$SRV.INFO.quotes", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	var info micro.Info
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		fmt.Println(err)
	}
	fmt.Println(info.Name, info.Version, info.Endpoints[0].Name, info.Endpoints[0].Subject)
	// Output:
	// 2 of tea: 500 cents <nil>
	// quotes 1.0.0 get quotes.*
}

// RequestMany yields the answers of all who listen.
func Example_natsRequestMany() {
	ctx, core, stop := exampleCore()
	defer stop()
	app := holdfast.New(holdfast.Config{Name: "shops"})
	for _, shop := range []string{"north", "south"} {
		holdfast.Reply(app, core.Subject(natscore.SubjectConfig{Subject: "stock.get"}), // no group: each gets it
			func(context.Context, *holdfast.Message[string]) (string, error) { return shop, nil }, holdfast.Name(shop))
	}
	defer exampleRun(app)()
	var all []string
	for shop, err := range holdfast.RequestMany[string, string](ctx, core, natscore.Subject("stock.get"), "tea", holdfast.Until{Count: 2, Time: time.Minute}) {
		if err != nil {
			fmt.Println(err)
		}
		all = append(all, shop)
	}
	slices.Sort(all)
	fmt.Println(all)
	// Output: [north south]
}
