package jetstream

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

func TestFiltersThatShareASubjectOverlap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b    string
		overlap bool
		inside  bool // a lies inside b
	}{
		{"a", "a", true, true},
		{"a", "b", false, false},
		{"a.b", "a.*", true, true},
		{"a.*", "a.b", true, false},
		{"a.>", "a", false, false},
		{"a.b.c", "a.>", true, true},
		{"a.>", "a.*", true, false},
		{"*.b", "a.*", true, false},
		{"*.b", "a.c", false, false},
		{">", "a.b", true, false},
		{"a.b", ">", true, true},
		{"a.*.c", "a.>", true, true},
	} {
		check.Equal(t, natsconn.Overlap(c.a, c.b), c.overlap, c.a, c.b)
		check.Equal(t, natsconn.Overlap(c.b, c.a), c.overlap, c.b, c.a)
		check.Equal(t, coveredBy(c.a, []string{c.b}), c.inside, c.a, "inside", c.b)
	}
}

func TestVersionsThatCannotBeReadAreOld(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.10.4": true, "2.10.4-RC.1": true, "v2.11.0": true, "3.0.0": true,
		"2.10.3": false, "2.9.25": false, "": false, "2.10": false, "devel": false,
	} {
		check.Equal(t, versionAtLeast(version, 2, 10, 4), want, version)
	}
}

func TestSequencesAreKeptAsRanges(t *testing.T) {
	t.Parallel()
	var s seqSet
	for seq := uint64(1); seq <= 10_000; seq++ {
		s.add(seq)
	}
	check.Equal(t, s.size(), 1)
	s.trim(9_990)
	check.True(t, !s.has(9_990) && s.has(9_991) && s.last() == 10_000)
}

func TestSequencesAreWhatWasAdded(t *testing.T) {
	t.Parallel()
	const n = 400
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var s seqSet
		model := map[uint64]bool{}
		for range n {
			seq := 1 + r.Uint64N(n)
			s.add(seq)
			model[seq] = true
			if r.IntN(40) == 0 {
				floor := r.Uint64N(n)
				s.trim(floor)
				for have := range model {
					if have <= floor {
						delete(model, have)
					}
				}
			}
		}
		for seq := uint64(0); seq <= n+1; seq++ {
			check.Equal(t, s.has(seq), model[seq], seq)
		}
		for i := 1; i < len(s.ranges); i++ {
			check.True(t, s.ranges[i-1].to+1 < s.ranges[i].from, "ranges touch", s.ranges)
		}
	}
}

func TestHeldDeliveriesStayInTheBrokersOrder(t *testing.T) {
	t.Parallel()
	main, back := &lane{}, &lane{}
	at := func(l *lane, order uint64) *delivery { return &delivery{lane: l, order: order} }
	var h held
	h.fill(func(add func(*delivery)) {
		add(at(main, 2))
		add(at(main, 5))
		add(at(back, 1))
	})
	check.Equal(t, h.swap(at(main, 1)).order, uint64(1)) // older than all that is held
	check.Equal(t, h.swap(at(main, 3)).order, uint64(2))
	check.Equal(t, h.swap(at(main, 6)).order, uint64(3))
	check.Equal(t, h.pop().order, uint64(5))
	check.Equal(t, h.pop().order, uint64(6))
	check.Equal(t, h.pop().lane, back)
	check.True(t, h.pop() == nil && !h.any() && h.busy.Load() == 0)
}

func TestConfirmationsAreReadByTheirForm(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]error{
		`{"stream":"ORDERS","seq":1}`:                  nil,
		`{"stream":"ORDERS", "domain":"hub", "seq":1}`: nil,
		`{"stream":"ORDERS","seq":1,"duplicate":true}`: nil,
		`-NAK`: errBadAnswer,
		`{}`:   errBadAnswer,
		`{"error":{"code":503,"err_code":10077,"description":"full"}}`:             &natsjs.APIError{},
		`{"stream":"","error":{"code":400,"err_code":10071,"description":"last"}}`: &natsjs.APIError{},
	} {
		_, err := parsePubAck([]byte(data))
		var api *natsjs.APIError
		if _, wantAPI := want.(*natsjs.APIError); wantAPI {
			check.True(t, errors.As(err, &api), data, err)
			continue
		}
		check.True(t, errors.Is(err, want), data, err)
	}
}

// Trap 22: both codes of a lost race are one class; and what the server says
// when it is full may be tried again.
func TestCodesOfTheServerHaveKinds(t *testing.T) {
	t.Parallel()
	for code, want := range map[natsjs.ErrorCode]transport.Kind{
		codeStoreFailed: transport.Temporary, codeNoStorage: transport.Temporary, codeTooManyRequests: transport.Temporary,
		natsjs.JSErrCodeStreamMessageExceedsMaximum: transport.Permanent, natsjs.JSErrCodeStreamNotFound: transport.Permanent,
	} {
		err := seamError("publish", "a", &natsjs.APIError{ErrorCode: code, Code: 503, Description: "x"}, true)
		check.Equal(t, transport.KindOf(err), want, code)
	}
	check.Equal(t, transport.KindOf(seamError("publish", "a", errDisconnected, true)), transport.Unknown)
	check.Equal(t, transport.KindOf(seamError("publish", "a", errDisconnected, false)), transport.Temporary)
}

func TestDriftIsOneLinePerSetting(t *testing.T) {
	t.Parallel()
	want := natsjs.ConsumerConfig{AckPolicy: natsjs.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1, FilterSubject: "a.>"}
	have := want
	have.FilterSubject, have.FilterSubjects = "", []string{"a.>"}
	have.MaxDeliver = 0
	check.Equal(t, len(diffConsumer(want, have)), 0)
	have.MaxDeliver, have.BackOff, have.FilterSubjects = 5, []time.Duration{time.Second}, []string{"b", "c"}
	check.Equal(t, strings.Join(diffConsumer(want, have), "; "),
		"max_deliver: want -1, have 5; filter_subjects: want a.>, have b c; backoff: want none, have 1s")
}

func TestSubjectsOfAStreamAreNeverTakenAway(t *testing.T) {
	t.Parallel()
	have := natsjs.StreamConfig{Name: "S", Subjects: []string{"a.>", "b"}}
	for _, full := range []bool{true, false} {
		next := wantedStream(have, natsjs.StreamConfig{Name: "S", Subjects: []string{"c.*", "a.x"}}, []string{"c.*", "a.x"}, full)
		check.Equal(t, strings.Join(next.Subjects, " "), "a.> b c.*", full)
	}
}

func TestSourcesTakeAPrefix(t *testing.T) {
	t.Parallel()
	tr := &Transport{}
	src := tr.Consumer(ConsumerConfig{Stream: "ORDERS", Subjects: []string{"orders.>"}, Durable: "billing"}).(transport.Prefixer).WithPrefix("eu.").(*source)
	check.Equal(t, src.cfg.Stream, "eu_ORDERS")
	check.Equal(t, src.cfg.Durable, "eu_billing")
	check.Equal(t, src.cfg.Subjects[0], "eu.orders.>")
	check.Equal(t, len(src.faults()), 0)
}

func TestAStreamOfOurOwnGrowsByUnion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ have, want, next, added, split string }{
		{have: "a", want: "b", next: "a b", added: "b"},
		{have: "a.>", want: "a.b", next: "a.>"},
		{have: "a.b c a.d", want: "a.*", next: "c a.*", added: "a.*"},
		{have: "a.*", want: "*.b", next: "a.*", split: "*.b"},
		{have: "a.* c", want: "*.b d", next: "a.* c d", added: "d", split: "*.b"},
		{have: "a", want: "", next: "a"},
	} {
		next, added, split := union(strings.Fields(c.have), strings.Fields(c.want))
		check.Equal(t, strings.Join(next, " "), c.next, c.have, c.want)
		check.Equal(t, strings.Join(added, " "), c.added, c.have, c.want)
		check.Equal(t, strings.Join(split, " "), c.split, c.have, c.want)
	}
}
