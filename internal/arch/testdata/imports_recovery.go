package bad

import (
	_ "context"

	_ "github.com/holdfast-go/holdfast/internal/wire" // want: recovery may not import github.com/holdfast-go/holdfast/internal/wire: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/transport"     // want: recovery may not import github.com/holdfast-go/holdfast/transport: the arrow points the wrong way
	_ "github.com/nats-io/nats.go"                    // want: recovery may not import github.com/nats-io/nats.go: it is no requirement of this room
)
