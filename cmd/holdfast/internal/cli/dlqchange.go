package cli

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/deadletter"
)

// changeFlags are the flags of redrive and discard.
type changeFlags struct {
	selection
	all, dryRun bool
	because     string
}

func (f *changeFlags) register(p *program, cmd *cobra.Command) {
	f.flags(p, cmd)
	cmd.Flags().BoolVar(&f.all, "all", false, "all there are")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be done and do nothing")
	cmd.Flags().BoolVarP(&p.Yes, "yes", "y", false, "do not ask")
	p.outputFlag(cmd)
	cmd.ValidArgsFunction = p.completeLetters
}

func (p *program) dlqRedrive() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use: "redrive [ID...]", Aliases: []string{"retry", "replay"},
		Short: "Send dead letters back to the subscription that failed, and to no other",
		Long: `Sends dead letters back to the subscription that failed and to no other consumer,
as the messages they first were, under their own IDs, with a new budget of
attempts. A dead letter is removed after its redrive was confirmed.`,
		Example: `  holdfast dlq redrive 4f2a
  holdfast dlq redrive --group 7c1e --limit 5    a few first
  holdfast dlq redrive --subscription orders --reason attempts-exhausted --dry-run`,
		Args: args(0, -1, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), deadletter.OpRedrive, args, f)
		},
	}
	f.register(p, cmd)
	return cmd
}

func (p *program) dlqDiscard() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use: "discard [ID...]", Aliases: []string{"rm"},
		Short: "Remove dead letters for ever",
		Example: `  holdfast dlq discard 4f2a --because "test order"
  holdfast dlq discard --group 7c1e --dry-run`,
		Args: args(0, -1, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.change(cmd.Context(), deadletter.OpDiscard, args, f)
		},
	}
	cmd.Flags().StringVar(&f.because, "because", "discarded by hand", "why, for the log")
	f.register(p, cmd)
	return cmd
}

// changed is what redrive and discard print for each dead letter.
type changed struct {
	DeadID       string `json:"dead_id"`
	ID           string `json:"id"`
	Subscription string `json:"subscription"`
	State        string `json:"state"`
	Error        string `json:"error,omitempty"`
}

func (p *program) change(ctx context.Context, op deadletter.Op, ids []string, f changeFlags) (err error) {
	q, err := f.query(ids, time.Now())
	if err != nil {
		return err
	}
	if q.Subscription == "" && q.Fingerprint == "" && q.Reason == "" && len(ids) == 0 && q.Since.IsZero() && q.Before.IsZero() && !f.all {
		return ui.Usagef("%s what? Name dead IDs, select with --group, --subscription, --reason or --since, or write --all", op)
	}
	q.All = f.all
	store, d, err := p.deadLetters(ctx, q.Subscription)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	n, err := p.plan(ctx, store, op, q)
	if err != nil {
		return err
	}
	if f.dryRun {
		result, err := p.apply(ctx, store, op, q, f)
		return errors.Join(p.printChanged(result), brokerError(err))
	}
	if err := p.Confirm(fmt.Sprintf("%s %s?", op, plural(n, "dead letter"))); err != nil {
		return err
	}
	result, err := p.apply(ctx, store, op, q, f)
	if printErr := p.printChanged(result); printErr != nil {
		return printErr
	}
	return p.ending(op, result, err)
}

// plan says what is about to be done, and returns to how many.
func (p *program) plan(ctx context.Context, store *deadletter.Store, op deadletter.Op, q deadletter.Query) (int, error) {
	var n, size int
	var oldest, newest time.Time
	groups, subs := map[string]bool{}, map[string]int{}
	for l, err := range store.List(ctx, q) {
		if err != nil {
			return 0, brokerError(err)
		}
		n++
		size += len(l.Body)
		groups[l.Subscription+"/"+l.Fingerprint] = true
		subs[l.Subscription]++
		when := l.When()
		if oldest.IsZero() || when.Before(oldest) {
			oldest = when
		}
		if when.After(newest) {
			newest = when
		}
	}
	if n == 0 {
		return 0, ui.Exit(ui.ExitNothing, errors.New("no dead letters match"))
	}
	var to []string
	for s, count := range subs {
		to = append(to, fmt.Sprintf("%s (%d)", s, count))
	}
	sort.Strings(to)
	now := time.Now()
	verb := map[deadletter.Op]string{deadletter.OpRedrive: "send back to", deadletter.OpDiscard: "remove for ever from"}[op]
	p.Sayf("plan: %s %s: %s, %s, %s; oldest %s, newest %s", verb, ui.Line(strings.Join(to, ", ")),
		plural(n, "dead letter"), plural(len(groups), "group"), plural(size, "byte"), ui.Ago(oldest, now), ui.Ago(newest, now))
	return n, nil
}

func (p *program) apply(ctx context.Context, store *deadletter.Store, op deadletter.Op, q deadletter.Query, f changeFlags) (deadletter.Result, error) {
	if op == deadletter.OpRedrive {
		return store.Redrive(ctx, q, deadletter.RedriveOptions{DryRun: f.dryRun})
	}
	return store.Discard(ctx, q, deadletter.DiscardOptions{DryRun: f.dryRun, Reason: f.because})
}

func (p *program) printChanged(r deadletter.Result) error {
	var all []changed
	for _, o := range r.Outcomes {
		c := changed{DeadID: o.ID, ID: o.MessageID, Subscription: o.Subscription, State: string(o.State)}
		if o.Err != nil {
			c.Error = o.Err.Error()
		}
		all = append(all, c)
	}
	return ui.List(p.UI, all, func(c changed) string { return c.DeadID },
		ui.Column[changed]{Name: "dead id", Whole: true, Value: func(c changed) string { return p.short(c.DeadID) }},
		ui.Column[changed]{Name: "id", Spare: true, Value: func(c changed) string { return c.ID }},
		ui.Column[changed]{Name: "subscription", Value: func(c changed) string { return c.Subscription }},
		ui.Column[changed]{Name: "state", Value: func(c changed) string { return c.State }},
		ui.Column[changed]{Name: "error", Value: func(c changed) string { return firstLine(c.Error) }},
	)
}

// ending sums a change up and chooses its exit code.
func (p *program) ending(op deadletter.Op, r deadletter.Result, err error) error {
	done := map[deadletter.Op]string{deadletter.OpRedrive: "redriven", deadletter.OpDiscard: "discarded"}[op]
	line := fmt.Sprintf("%d %s", r.Done, done)
	for _, part := range []struct {
		n    int
		what string
	}{{r.Gone, "already gone"}, {r.Failed, "failed"}, {r.Skipped, "not tried"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	p.Sayf("%s", line)
	switch {
	case err == nil:
		return nil
	case r.Done > 0:
		return ui.Exit(ui.ExitPartial, err)
	default:
		return brokerError(err)
	}
}
