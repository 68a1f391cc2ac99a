//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The codes that the program exits with.
const (
	exitKept   = 0
	exitBroken = 1 // a guarantee
	exitError  = 2 // of the harness
)

func main() {
	for name, run := range map[string]func(string) error{publisherVar: runPublisher, serverVar: runServer} {
		if setting := os.Getenv(name); setting != "" {
			if err := run(setting); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(exitError)
			}
			os.Exit(exitKept)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// settings are the flags.
type settings struct {
	long    bool
	rows    *regexp.Regexp
	brokers *regexp.Regexp
	seed    uint64
	out     string
	mutate  bool
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	var rowsText, brokersText string
	f := flag.NewFlagSet("fault", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&s.long, "long", false, "the long form: more and longer faults")
	f.StringVar(&rowsText, "rows", ".", "run the rows whose name matches this expression")
	f.StringVar(&brokersText, "brokers", ".", "run on the brokers whose name matches this expression")
	f.Uint64Var(&s.seed, "seed", 0, "the seed of all chance; 0 takes one from the clock")
	f.BoolVar(&s.mutate, "mutate", false, "build holdfast without one guard after the other, and see each noticed by a row")
	f.StringVar(&s.out, "out", "", "write the table to this file as well")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	var err error
	if s.rows, err = regexp.Compile(rowsText); err != nil {
		return s, err
	}
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	s.brokers, err = regexp.Compile(brokersText)
	return s, err
}

// column is a kind of broker.
type column struct {
	name  string
	start func() (broker, error)
}

func columns() []column {
	return []column{
		{"jetstream", func() (broker, error) { return newNATS(false) }},
		{"jetstream-batches", func() (broker, error) { return newNATS(true) }},
		{"quorum", func() (broker, error) { return newRabbit("quorum") }},
		{"classic", func() (broker, error) { return newRabbit("classic") }},
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	set, err := parse(args, stderr)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitError
	}
	if set.mutate {
		return mutate(ctx, stdout, stderr)
	}
	fmt.Fprintf(stdout, "seed %d\n", set.seed)
	began := time.Now()
	out := &lines{w: stdout}
	var all []*result
	var mu sync.Mutex
	var working sync.WaitGroup
	for _, c := range columns() {
		if !set.brokers.MatchString(c.name) {
			continue
		}
		working.Go(func() {
			results := set.column(ctx, c, out)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, results...)
		})
	}
	working.Wait()
	return report(all, set, time.Since(began), stdout, stderr)
}

// report writes the table and returns the code to exit with.
func report(all []*result, set settings, took time.Duration, stdout, stderr io.Writer) int {
	order := rows()
	place := func(r *result) int {
		return slices.IndexFunc(order, func(o row) bool { return o.name == r.row.name })
	}
	slices.SortStableFunc(all, func(a, b *result) int {
		if d := place(a) - place(b); d != 0 {
			return d
		}
		return strings.Compare(a.column, b.column)
	})
	var text strings.Builder
	table(&text, all)
	fmt.Fprintf(&text, "seed %d, %.0f s\n", set.seed, took.Seconds())
	totals(&text, all)
	fmt.Fprint(stdout, text.String())
	if set.out != "" {
		if err := os.WriteFile(set.out, []byte(text.String()), 0o644); err != nil {
			fmt.Fprintln(stderr, err)
			return exitError
		}
	}
	code := exitKept
	for _, r := range all {
		switch {
		case r.err != nil:
			return exitError
		case len(r.trial.broken) > 0:
			code = exitBroken
		}
	}
	if len(all) == 0 {
		fmt.Fprintln(stderr, "no row was run")
		return exitError
	}
	return code
}

// lines writes whole lines of many.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format+"\n", args...)
}

// column runs all rows on one broker, one after the other.
func (s settings) column(ctx context.Context, c column, out *lines) []*result {
	var results []*result
	var b broker
	for i, r := range rows() {
		if !s.rows.MatchString(r.name) || ctx.Err() != nil {
			continue
		}
		var err error
		if b == nil {
			if b, err = c.start(); err != nil {
				return append(results, (&result{row: r, column: c.name, trial: &trial{}, err: err}).told(out))
			}
			defer b.stop()
		}
		if r.protocol != "" && r.protocol != b.protocol() {
			continue
		}
		results = append(results, s.row(ctx, r, c, b, i, out))
	}
	return results
}

// row runs one row.
func (s settings) row(ctx context.Context, r row, c column, b broker, i int, out *lines) *result {
	size, limit := short(), 10*time.Minute
	if s.long {
		size, limit = long(), 40*time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("the row took too long"))
	defer cancel()
	t := &trial{
		ctx: ctx, b: b, size: size, name: fmt.Sprintf("fault%d", i), led: newLedger(),
		rnd: rand.New(rand.NewPCG(s.seed, uint64(i))),
	}
	began := time.Now()
	res := &result{row: r, column: c.name, trial: t}
	res.err = t.run(r)
	res.took = time.Since(began)
	return res.told(out)
}

// told writes what became of a row as soon as it is over.
func (r *result) told(out *lines) *result {
	y := r.trial.tally
	out.printf("%-7s %-20s %-18s accepted=%d lost=%d duplicated=%d reordered=%d, %.0f s", r.verdict(), r.row.name, r.column,
		y.Accepted, y.Lost, y.Duplicated, y.Reordered, r.took.Seconds())
	if r.err != nil {
		out.printf("    error: %v", r.err)
	}
	for _, b := range r.trial.broken {
		out.printf("    broken: %s", b)
	}
	return r
}
