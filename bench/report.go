package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// metric is something a goal is about.
type metric uint8

const (
	metricRatio      metric = iota // messages per second against the first contender; p50 where that is shown
	metricNanos                    // ns per message, by the clock
	metricP50                      // latency
	metricHeap                     // the most the heap took
	metricCPURatio                 // client CPU per message against the first contender
	metricAllocs                   // allocations per message
	metricMoreAllocs               // allocations beyond the first contender's
)

// value is what is compared between contenders.
func (m metric) value(s sample) float64 {
	switch m {
	case metricNanos:
		return s.nanos()
	case metricP50:
		return float64(s.p50)
	case metricHeap:
		return float64(s.heap) / (1 << 20)
	default:
		return s.rate()
	}
}

// show writes the result of one trial.
func (m metric) show(s sample) string { return m.text(m.value(s), float64(s.p99)) }

// text writes a value of the first column.
func (m metric) text(v, p99 float64) string {
	switch m {
	case metricNanos:
		return fmt.Sprintf("%.0f ns", v)
	case metricP50:
		return fmt.Sprintf("p50 %.0f us, p99 %.0f us", v/1e3, p99/1e3)
	case metricHeap:
		return fmt.Sprintf("%.1f MiB", v)
	default:
		return fmt.Sprintf("%.0f/s", v)
	}
}

// absolute metrics have goals of their own and no first contender.
func (m metric) absolute() bool { return m == metricNanos }

type bound uint8

const (
	atLeast bound = iota
	atMost
)

// goal is a bound on a metric.
type goal struct {
	metric metric
	bound  bound
	limit  float64
}

var metricNames = map[metric]string{
	metricRatio: "x first", metricNanos: "ns", metricHeap: "MiB", metricCPURatio: "CPU", metricAllocs: "allocs", metricMoreAllocs: "more allocs",
}

// slack is the precision the figures are given with.
const slack = 0.005

func (g goal) met(v float64) bool {
	if g.bound == atLeast {
		return v >= g.limit-slack
	}
	return v <= g.limit+slack
}

func (g goal) String() string {
	sign := ">="
	if g.bound == atMost {
		sign = "<="
	}
	return fmt.Sprintf("%s %s %g", metricNames[g.metric], sign, g.limit)
}

// results are the samples of a group, by contender and round.
type results struct {
	group   *group
	samples [][]sample
}

// report is everything a run found.
type report struct {
	began   time.Time
	took    time.Duration
	rounds  int
	retries int
	quick   bool
	server  string
	rabbit  string // version of RabbitMQ, where it was used
	groups  []*results
}

// spread is a median with the range around it.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	mid := s[len(s)/2]
	if len(s)%2 == 0 {
		mid = (s[len(s)/2-1] + mid) / 2
	}
	return spread{mid, s[0], s[len(s)-1]}
}

// of returns the spread of a figure of one contender.
func (r *results) of(contender int, figure func(sample) float64) spread {
	values := make([]float64, 0, len(r.samples[contender]))
	for _, s := range r.samples[contender] {
		values = append(values, figure(s))
	}
	return spreadOf(values)
}

// ratio compares a contender with the first: the ratio of the medians, and the
// range of the ratios within one round.
func (r *results) ratio(contender int, figure func(sample) float64) spread {
	var each []float64
	for i, s := range r.samples[contender] {
		each = append(each, figure(s)/figure(r.samples[0][i]))
	}
	sp := spreadOf(each)
	sp.median = r.of(contender, figure).median / r.of(0, figure).median
	return sp
}

// figure is the value a goal is about.
func (r *results) figure(contender int, m metric) float64 {
	switch m {
	case metricRatio:
		return r.ratio(contender, r.group.metric.value).median
	case metricCPURatio:
		return r.ratio(contender, sample.cpu).median
	case metricAllocs:
		return r.of(contender, sample.allocs).median
	case metricMoreAllocs:
		return r.of(contender, sample.allocs).median - r.of(0, sample.allocs).median
	default:
		return r.of(contender, m.value).median
	}
}

// verdict names each goal and whether it was met.
func (r *results) verdict(contender int) (goals, verdict string) {
	var names, missed []string
	for _, g := range r.group.contenders[contender].goals {
		names = append(names, g.String())
		if v := r.figure(contender, g.metric); !g.met(v) {
			missed = append(missed, fmt.Sprintf("%s %.2f", metricNames[g.metric], v))
		}
	}
	switch {
	case len(names) == 0:
		return "", ""
	case len(missed) == 0:
		return strings.Join(names, ", "), "met"
	default:
		return strings.Join(names, ", "), "**short**: " + strings.Join(missed, ", ")
	}
}

func (s spread) ratioText() string {
	return fmt.Sprintf("**%.2f** (%.2f-%.2f)", s.median, s.low, s.high)
}

// row writes one contender.
func (r *results) row(i int) string {
	g := r.group
	c := g.contenders[i]
	first, cpuRatio := "1.00", "1.00"
	switch {
	case g.metric.absolute():
		first, cpuRatio = "", ""
	case i > 0:
		first, cpuRatio = r.ratio(i, g.metric.value).ratioText(), r.ratio(i, sample.cpu).ratioText()
	}
	p99 := r.of(i, func(s sample) float64 { return float64(s.p99) }).median
	goals, verdict := r.verdict(i)
	others := spreadOf(known(r.samples[i]))
	return fmt.Sprintf("| %s | %s | %s | %s | %.2f | %s | %.1f | %.1f | %.0f | %.0f (%.0f) | %s | %s |\n",
		g.name, c.name, g.metric.text(r.of(i, g.metric.value).median, p99), first,
		r.of(i, sample.cpu).median, cpuRatio, r.of(i, sample.srvCPU).median, r.of(i, sample.allocs).median, r.of(i, sample.size).median,
		others.median, others.high, goals, verdict)
}

const tableHead = "| workload | contender | result | x first | client CPU us | client CPU / first | server CPU us | allocs | B | others % | goal | |\n" +
	"|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|---|\n"

// markdown writes the whole report.
func (rep *report) markdown(args []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark results\n\n")
	if rep.quick {
		b.WriteString("A quick run: it shows that everything works, and its figures mean nothing.\n\n")
	}
	fmt.Fprintf(&b, "- command: `go -C bench run . %s`\n", strings.Join(args, " "))
	fmt.Fprintf(&b, "- %s, %d CPUs (%s), %s/%s, %s\n", runtime.Version(), runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH, kernel())
	fmt.Fprintf(&b, "- nats-server %s in a process of its own, loopback, file store, nats.go %s\n", rep.server, natsVersion())
	if rep.rabbit != "" {
		fmt.Fprintf(&b, "- RabbitMQ %s, one node, loopback, amqp091-go %s; messages are persistent\n", rep.rabbit, moduleVersion("github.com/rabbitmq/amqp091-go"))
	}
	fmt.Fprintf(&b, "- %s, %d rounds interleaved, took %s\n", rep.began.UTC().Format("2006-01-02 15:04 MST"), rep.rounds, rep.took.Round(time.Second))
	others := rep.others()
	fmt.Fprintf(&b, "- other processes used %.0f %% of the machine's CPU during the median trial, %.0f %% at most;\n  a trial with more than %.0f %% was repeated up to %d times, and the quietest counted\n\n", others.median, others.high, 100*noisy, rep.retries)
	b.WriteString("Medians; in parentheses the range over the rounds, and the most for \"others\". CPU, allocations and bytes are per message\n" +
		"and the client's unless said otherwise. \"x first\" compares the result column with the first contender of the workload.\n\n")
	b.WriteString(tableHead)
	for _, r := range rep.groups {
		for i := range r.group.contenders {
			b.WriteString(r.row(i))
		}
	}
	return b.String()
}

// others is the share of the machine that other processes used.
func (rep *report) others() spread {
	var all []float64
	for _, r := range rep.groups {
		for _, samples := range r.samples {
			all = append(all, known(samples)...)
		}
	}
	return spreadOf(all)
}

// known returns the load by other processes, in percent, of the samples that
// tell.
func known(samples []sample) []float64 {
	var all []float64
	for _, s := range samples {
		if s.others >= 0 {
			all = append(all, 100*s.others)
		}
	}
	return all
}

// notesMark begins what a person wrote below the table.
const notesMark = "\n## Notes"

// keep writes the report, and keeps the notes the file has.
func keep(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if i := strings.Index(string(old), notesMark); i >= 0 {
		text += string(old[i:])
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// cpuModel names the CPU, where Linux tells.
func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown model"
}

// kernel names the kernel, where Linux tells.
func kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return cmp.Or(strings.TrimSpace(string(data)), "unknown kernel")
}

// moduleVersion is the version of a module that is linked in.
func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}

// natsVersion is that of the client library both sides use.
func natsVersion() string { return nats.Version }
