package spool_test

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-go/holdfast/spool"
)

func Example() {
	dir, err := os.MkdirTemp("", "spool")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()

	l, _, err := spool.Open(ctx, dir, spool.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Returns when all three are synced.
	if _, err := l.Append(ctx, []byte("first"), []byte("second"), []byte("third")); err != nil {
		fmt.Println(err)
	}
	r, _ := l.Next(ctx)
	fmt.Printf("sent %s\n", r.Data)
	_ = l.Done(r.Seq)
	r, _ = l.Next(ctx)
	_ = l.SetAside(ctx, r.Seq, "nobody takes it")
	_ = l.Close(ctx)

	// A restart goes on where the last process ended.
	l, found, err := spool.Open(ctx, dir, spool.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d pending, %d set aside\n", found.Pending, found.SetAside)
	r, _ = l.Next(ctx)
	fmt.Printf("next is %s\n", r.Data)
	_ = l.Close(ctx)
	// Output:
	// sent first
	// 1 pending, 1 set aside
	// next is third
}
