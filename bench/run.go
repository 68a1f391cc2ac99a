package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bench is a run: a server and a connection to prepare and check its streams.
type bench struct {
	cfg      config
	broker   *broker
	js       jetstream.JetStream
	rabbit   *rabbit // nil where no workload wants it
	streams  int
	fixtures map[int]string // filled streams of the current group, by size
	log      io.Writer
}

// measure runs the chosen groups.
func measure(ctx context.Context, cfg config, groups []*group, log io.Writer) (rep *report, err error) {
	br, err := startBroker()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, br.stop()) }()
	nc, err := nats.Connect(br.url, nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg, broker: br, js: js, fixtures: make(map[int]string), log: log}
	rep = &report{began: time.Now(), rounds: cfg.rounds, retries: cfg.retries, quick: cfg.quick, server: nc.ConnectedServerVersion()}
	groups = slices.DeleteFunc(slices.Clone(groups), func(g *group) bool { return !cfg.only.MatchString(g.name) })
	if slices.ContainsFunc(groups, func(g *group) bool { return g.broker == onRabbit }) {
		if b.rabbit, err = startRabbit(ctx); err != nil {
			return nil, err
		}
		// The context may have ended by then, and what is there must go.
		defer func() { err = errors.Join(err, b.rabbit.stop(context.WithoutCancel(ctx))) }()
		rep.rabbit = b.rabbit.version
	}
	for _, g := range groups {
		results, err := b.group(ctx, g)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		rep.groups = append(rep.groups, results)
	}
	rep.took = time.Since(rep.began)
	return rep, nil
}

// group lets the contenders take turns. Each round begins with another one, so
// that none is always first.
func (b *bench) group(ctx context.Context, g *group) (*results, error) {
	r := &results{group: g, samples: make([][]sample, len(g.contenders))}
	for round := range b.cfg.rounds {
		for i := range g.contenders {
			i = (i + round) % len(g.contenders)
			s, err := b.quietTrial(ctx, g, &g.contenders[i], round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", g.contenders[i].name, err)
			}
			r.samples[i] = append(r.samples[i], s)
		}
	}
	return r, b.clear(ctx)
}

// noisy is the share of the machine that other processes may use before a trial
// is repeated.
const noisy = 0.10

// quietTrial repeats a trial that was disturbed, and returns the quietest.
func (b *bench) quietTrial(ctx context.Context, g *group, c *contender, round int) (sample, error) {
	best, err := b.trial(ctx, g, c, round)
	for range b.cfg.retries {
		if err != nil || best.others <= noisy {
			break
		}
		var again sample
		if again, err = b.trial(ctx, g, c, round); again.others < best.others {
			best = again
		}
	}
	return best, err
}

func (b *bench) trial(ctx context.Context, g *group, c *contender, round int) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	if g.trial == nil {
		return sample{}, errors.New("the workload has no trial")
	}
	if err := b.fill(ctx, g, g.messages(c)+c.parked); err != nil { // not part of the profile
		return sample{}, err
	}
	if b.cfg.profiles != "" && round == b.cfg.rounds-1 {
		stop, err := profile(b.cfg.profiles, g.name+" "+c.name)
		if err != nil {
			return sample{}, err
		}
		defer stop()
	}
	s, err := g.trial(ctx, b, g, c)
	if err == nil {
		fmt.Fprintf(b.log, "%s / %s, round %d: %s, client CPU %.2f us, %.2f allocs, others %.0f %%\n",
			g.name, c.name, round+1, g.metric.show(s), s.cpu(), s.allocs(), 100*s.others)
	}
	return s, err
}

// fill puts the messages of a workload where it finds them.
func (b *bench) fill(ctx context.Context, g *group, n int) error {
	if !g.stored {
		return nil
	}
	if g.broker == onRabbit {
		return b.rabbit.fill(ctx, g, n)
	}
	_, err := b.filled(ctx, g, n)
	return err
}

var unfit = regexp.MustCompile(`[^a-z0-9]+`)

// profile writes a CPU profile until stop is called.
func profile(dir, name string) (stop func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, unfit.ReplaceAllString(strings.ToLower(name), "-")+".prof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // a profile that was cut short is seen when it is read
	}, nil
}
