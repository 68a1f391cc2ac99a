package bad

import (
	"context"
	"errors"
	"fmt"
	"log" // want: package log: the library logs through an injected slog.Logger
	"os"
	"time"
)

func init() { // want: init: importing a package must not do anything
}

func bad(ctx context.Context) {
	// A comment above explains it.
	ctx = context.Background()
	// want+2: context.TODO: use the caller's context, or say in a comment here why not

	ctx = context.TODO()
	fmt.Println(ctx)            // want: fmt.Println: the output belongs to the application
	fmt.Fprintln(os.Stdout, "") // allowed: the caller may have asked for it
	time.Sleep(time.Second)     // want: time.Sleep: wait for the end of a context as well
	log.Print("")
	if ctx == nil {
		os.Exit(1) // want: os.Exit: the process belongs to the application
	}
	panic(errors.New("bad")) // want: panic: return an error
}
