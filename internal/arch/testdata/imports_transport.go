package bad

import (
	_ "github.com/holdfast-go/holdfast"                 // want: jetstream may not import github.com/holdfast-go/holdfast: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/internal/engine" // want: jetstream may not import github.com/holdfast-go/holdfast/internal/engine: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/internal/wire"
	_ "github.com/holdfast-go/holdfast/memory"   // want: jetstream may not import github.com/holdfast-go/holdfast/memory: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/recovery" // want: jetstream may not import github.com/holdfast-go/holdfast/recovery: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/transport"
	_ "github.com/nats-io/nats-server/v2/server" // want: jetstream may not import github.com/nats-io/nats-server/v2/server: it is no requirement of this room
	_ "github.com/nats-io/nats.go"
	_ "github.com/nats-io/nats.go/jetstream"
)
