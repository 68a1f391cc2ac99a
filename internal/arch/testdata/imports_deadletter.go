package bad

import (
	_ "github.com/holdfast-go/holdfast/internal/engine" // want: deadletter may not import github.com/holdfast-go/holdfast/internal/engine: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/internal/wire"
	_ "github.com/holdfast-go/holdfast/jetstream" // want: deadletter may not import github.com/holdfast-go/holdfast/jetstream: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/recovery"
	_ "github.com/holdfast-go/holdfast/transport"
)
