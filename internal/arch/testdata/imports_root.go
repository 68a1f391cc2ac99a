package bad

import (
	_ "github.com/holdfast-go/holdfast/cmd/holdfast/internal/cli" // want: . may not import github.com/holdfast-go/holdfast/cmd/holdfast/internal/cli: nothing imports cmd
	_ "github.com/holdfast-go/holdfast/internal/engine"
	_ "github.com/holdfast-go/holdfast/memory"                  // want: . may not import github.com/holdfast-go/holdfast/memory: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/natscore"                // want: . may not import github.com/holdfast-go/holdfast/natscore: the arrow points the wrong way
	_ "github.com/holdfast-go/holdfast/transport/transporttest" // want: . may not import github.com/holdfast-go/holdfast/transport/transporttest: the arrow points the wrong way
)
