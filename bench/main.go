// Command bench measures holdfast against the raw client library in one run and
// prints one table of ratios.
//
//	go -C bench run .                     # everything, about ten minutes
//	go -C bench run . -only 'consume' -rounds 3
//	go -C bench run . -md RESULTS.md      # keep the table
//
// The NATS server and RabbitMQ run in processes of their own, so that the client's CPU time
// and allocations are the client's alone. The contenders of one workload take
// turns, round by round, so that a change of the machine's mood meets all of
// them; what is printed are medians with the range over the rounds. Every
// workload checks that each message was handled exactly as often as it should
// have been, and a mismatch ends the run with an error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
)

func main() {
	if wantsServer() {
		os.Exit(serve(os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	quick    bool
	scale    float64
	rounds   int
	retries  int
	only     *regexp.Regexp
	md       string
	profiles string
	list     bool
}

func parse(args []string, stderr io.Writer) (config, error) {
	var cfg config
	var only string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.BoolVar(&cfg.quick, "quick", false, "a few messages of each workload: shows that everything runs and measures nothing")
	fs.Float64Var(&cfg.scale, "scale", 1, "multiply the number of messages, for a longer profile")
	fs.IntVar(&cfg.rounds, "rounds", 5, "how often each contender runs; medians are printed")
	fs.IntVar(&cfg.retries, "retries", 3, "how often a trial is repeated while other processes used more than 10 % of the machine; the quietest counts")
	fs.StringVar(&only, "only", "", "run the workloads whose name matches this regular expression")
	fs.StringVar(&cfg.md, "md", "", "write the table to this file as well; what follows its line \"## Notes\" is kept")
	fs.StringVar(&cfg.profiles, "cpuprofile", "", "write a CPU profile of each contender's last round into this directory")
	fs.BoolVar(&cfg.list, "list", false, "print the names of the workloads and run none")
	if err := fs.Parse(args); err != nil {
		return cfg, err
	}
	if cfg.rounds < 1 {
		return cfg, fmt.Errorf("-rounds %d: use at least 1", cfg.rounds)
	}
	if cfg.scale <= 0 {
		return cfg, fmt.Errorf("-scale %g: use a positive number", cfg.scale)
	}
	if cfg.quick {
		cfg.scale, cfg.retries = 1.0/1000, 0
	}
	pattern, err := regexp.Compile(only)
	if err != nil {
		return cfg, fmt.Errorf("-only: %w", err)
	}
	cfg.only = pattern
	return cfg, nil
}

// command is main without the process: arguments in, table out.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg, err := parse(args, stderr)
	if err != nil {
		return err
	}
	groups := plan(cfg.scale)
	if cfg.list {
		for _, g := range groups {
			fmt.Fprintln(stdout, g.name)
		}
		return nil
	}
	rep, err := measure(ctx, cfg, groups, stderr)
	if err != nil {
		return err
	}
	text := rep.markdown(args)
	fmt.Fprint(stdout, text)
	if cfg.md == "" {
		return nil
	}
	return keep(cfg.md, text)
}
