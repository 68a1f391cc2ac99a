package bad

import (
	_ "github.com/holdfast-go/holdfast/cmd/holdfast" // want: integration may not import github.com/holdfast-go/holdfast/cmd/holdfast: nothing imports cmd
	_ "github.com/holdfast-go/holdfast/jetstream"
	_ "github.com/nats-io/nats-server/v2/server"
)
