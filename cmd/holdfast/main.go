// Holdfast runs message handlers in any language on NATS and RabbitMQ, with retries that end
// and dead letters that can be looked at, and looks after those dead letters.
package main

import (
	"os"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/cli"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

func main() { os.Exit(cli.Main(os.Args[1:], ui.System())) }
