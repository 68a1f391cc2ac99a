//go:build unix

package main_test

import (
	"context"
	"fmt"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/spool"
	"github.com/holdfast-go/holdfast/transport"
)

// fill DIR SUBJECT N [REASON] leaves a spool as a publisher would that died: N
// messages wait, or were set aside for a reason.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: fill DIR SUBJECT N [REASON]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	log, _, err := spool.Open(ctx, ts.MkAbs(args[0]), spool.Options{})
	ts.Check(err)
	for i := range n {
		m := &transport.Message{
			ID: fmt.Sprint(args[1], "-", i), Key: "k", ContentType: "text/plain", Body: fmt.Append(nil, "body ", i),
			Header: transport.Header{"X-A": {"1"}},
		}
		seq, err := log.Append(ctx, sender.AppendRecord(nil, transport.Address{Name: args[1]}, m))
		ts.Check(err)
		if len(args) > 3 {
			ts.Check(log.SetAside(ctx, seq, args[3]))
		}
	}
	ts.Check(log.Close(ctx))
}
