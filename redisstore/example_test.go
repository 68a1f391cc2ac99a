package redisstore_test

import (
	"github.com/redis/go-redis/v9"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/redisstore"
)

func ExampleNew() {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	app := holdfast.New(holdfast.Config{
		Name: "billing",
		// For every subscription of the app that retries.
		Options: []holdfast.Option{holdfast.CountIn(redisstore.New(rdb))},
	})
	_ = app // holdfast.Handle(app, ...), app.Run(ctx)
}
