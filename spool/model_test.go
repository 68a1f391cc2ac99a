package spool_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/spool"
)

var (
	modelSeed = flag.Uint64("spool.seed", 0, "run the model test with this seed only")
	modelRuns = flag.Int("spool.runs", 40, "how many seeds the model test takes")
)

// fate is what the model knows of a record.
type fate uint8

const (
	pending fate = iota
	done         // marked; a crash may forget the mark
	failed       // Append returned an error; a crash may bring it back
	aside
	leaving // neither pending nor aside for certain: a call about it has failed
	dropped // gone for ever
)

type known struct {
	fate fate
	seq  uint64
	data string
}

// model is a log on a simulated disk, and what it must hold.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	disk    *simDisk
	log     *spool.Log
	opts    spool.Options
	records map[string]*known // by data
	handed  map[uint64]bool   // since the last open
	last    uint64            // handed out
	made    int
	faulty  bool // the disk has failed since the last open
	trace   []string
}

func TestTheLogIsWhatTheModelSays(t *testing.T) {
	t.Parallel()
	seeds := []uint64{*modelSeed}
	if *modelSeed == 0 {
		seeds = seeds[:0]
		base := seed()
		for i := range *modelRuns {
			seeds = append(seeds, base+uint64(i))
		}
	}
	for _, s := range seeds {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			t.Parallel()
			runModel(t, s)
		})
	}
}

func runModel(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	m := &model{
		t: t, rng: rng, disk: newSimDisk(seed), records: map[string]*known{},
		opts: spool.Options{MaxBytes: 1 << 20, SegmentBytes: int64(1+rng.IntN(8)) << 9},
	}
	defer func() {
		if t.Failed() {
			t.Logf("go test ./spool -run TheLogIsWhatTheModelSays -spool.seed %d\n%s", seed, strings.Join(m.trace, "\n"))
		}
	}()
	m.open(true, true)
	for range 150 {
		m.step()
		if t.Failed() {
			break
		}
	}
	m.disk.setFault(nil)
	m.reopen(true)
	m.drain()
	_ = m.log.Close(context.Background())
	for _, b := range m.disk.broken {
		t.Error(b)
	}
}

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) step() {
	switch n := m.rng.IntN(100); {
	case n < 35:
		m.append()
	case n < 42:
		m.appendTogether()
	case n < 60:
		m.next()
	case n < 75:
		m.markDone()
	case n < 80:
		m.setAside()
	case n < 83:
		m.retry()
	case n < 85:
		m.drop()
	case n < 90:
		m.faults()
	case n < 93:
		m.disk.setFault(nil)
		m.note("heal")
	case n < 96:
		m.reopen(false)
	default:
		m.reopen(true)
	}
}

// faults makes some operations fail from now on.
func (m *model) faults() {
	m.faulty = true
	odds, what := 1+m.rng.IntN(4), m.rng.IntN(6)
	kinds := []string{"write", "sync", "syncdir", "create", "truncate", "remove"}
	m.note("faults: one in %d, %s and worse", odds, kinds[what])
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(m.rng.Uint64(), 3))
	m.disk.setFault(func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if slices.Index(kinds, op) <= what && rng.IntN(odds) == 0 {
			return syscall.EIO
		}
		return nil
	})
}

// fresh returns data that no other record has. Some looks like a record.
func (m *model) fresh() string {
	m.made++
	s := fmt.Sprintf("%d:", m.made)
	switch m.rng.IntN(4) {
	case 0:
		return s + strings.Repeat("HFr1", m.rng.IntN(300))
	case 1:
		return s + strings.Repeat("\x00", m.rng.IntN(2000))
	}
	return s + strings.Repeat("x", m.rng.IntN(100))
}

func (m *model) append() {
	var records [][]byte
	for range 1 + m.rng.IntN(4) {
		records = append(records, []byte(m.fresh()))
	}
	seq, err := m.log.Append(m.t.Context(), records...)
	m.note("append %d: %d, %v", len(records), seq, err)
	m.learn(records, seq, err)
}

func (m *model) learn(records [][]byte, seq uint64, err error) {
	for i, r := range records {
		k := &known{fate: pending, seq: seq + uint64(i), data: string(r)}
		if err != nil {
			k.fate = failed
			if !errors.Is(err, spool.ErrWrite) && !errors.Is(err, spool.ErrFull) {
				m.t.Errorf("append: %v", err)
			}
		}
		m.records[k.data] = k
	}
}

func (m *model) appendTogether() {
	type result struct {
		records [][]byte
		seq     uint64
		err     error
	}
	results := make([]result, 2+m.rng.IntN(6))
	for i := range results {
		results[i].records = [][]byte{[]byte(m.fresh()), []byte(m.fresh())}
	}
	var wg sync.WaitGroup
	for i := range results {
		r := &results[i]
		wg.Go(func() { r.seq, r.err = m.log.Append(m.t.Context(), r.records...) })
	}
	wg.Wait()
	for _, r := range results {
		m.note("append together: %d, %v", r.seq, r.err)
		m.learn(r.records, r.seq, r.err)
	}
}

// pick returns a record of a fate that was handed out.
func (m *model) pick(f fate) *known {
	var some []*known
	for _, k := range m.records {
		if k.fate == f && (f == aside || m.handed[k.seq]) {
			some = append(some, k)
		}
	}
	if len(some) == 0 {
		return nil
	}
	slices.SortFunc(some, func(a, b *known) int { return int(a.seq) - int(b.seq) })
	return some[m.rng.IntN(len(some))]
}

func (m *model) next() {
	for range m.rng.IntN(8) {
		if !m.waits() {
			return
		}
		r, err := m.log.Next(m.t.Context())
		m.note("next: %d, %v", r.Seq, err)
		if err != nil {
			m.t.Errorf("next: %v", err)
			return
		}
		m.got(r)
	}
}

// waits reports whether a record must be there that was not handed out.
func (m *model) waits() bool {
	for _, k := range m.records {
		if k.fate == pending && !m.handed[k.seq] {
			return true
		}
	}
	return false
}

func (m *model) got(r spool.Record) {
	k := m.records[string(r.Data)]
	switch {
	case k == nil:
		m.t.Errorf("a record nobody appended: %d %.20q", r.Seq, r.Data)
	case k.seq != r.Seq || (k.fate != pending && k.fate != leaving):
		m.t.Errorf("record %d is handed out as %d, fate %d", k.seq, r.Seq, k.fate)
	case m.handed[r.Seq] || r.Seq <= m.last:
		m.t.Errorf("record %d is handed out after %d, before: %v", r.Seq, m.last, m.handed[r.Seq])
	}
	for _, k := range m.records {
		if k.fate == pending && k.seq < r.Seq && !m.handed[k.seq] {
			m.t.Errorf("record %d is handed out before %d", r.Seq, k.seq)
			break
		}
	}
	m.handed[r.Seq], m.last = true, r.Seq
}

func (m *model) markDone() {
	for range m.rng.IntN(6) {
		if k := m.pick(pending); k != nil {
			m.note("done %d", k.seq)
			if err := m.log.Done(k.seq); err != nil {
				m.t.Errorf("done: %v", err)
			}
			k.fate = done
		}
	}
}

func (m *model) setAside() {
	k := m.pick(pending)
	if k == nil {
		return
	}
	err := m.log.SetAside(m.t.Context(), k.seq, "because")
	m.note("set aside %d: %v", k.seq, err)
	k.fate = aside
	if err != nil {
		k.fate = leaving
	}
}

func (m *model) retry() {
	k := m.pick(aside)
	if k == nil {
		return
	}
	m.disk.setFault(nil) // a retry that fails may leave the record twice
	seq, err := m.log.Retry(m.t.Context(), k.seq)
	m.note("retry %d: %d, %v", k.seq, seq, err)
	switch {
	case err == nil:
		k.fate, k.seq = pending, seq
	case seq != 0: // appended, and perhaps still aside
		k.fate, k.seq = leaving, seq
	}
}

func (m *model) drop() {
	k := m.pick(aside)
	if k == nil {
		return
	}
	err := m.log.Drop(m.t.Context(), k.seq)
	m.note("drop %d: %v", k.seq, err)
	k.fate = dropped
	if err != nil {
		k.fate = leaving
	}
}

// reopen ends the log, cleanly or by a crash, and compares what is left.
func (m *model) reopen(crash bool) {
	m.note("reopen, crash %v", crash)
	clean := !crash
	if crash {
		m.disk.crash()
	}
	ctx := context.Background()
	if !crash && m.disk.fault != nil {
		clean = false // marks may be lost
	}
	if err := m.log.Close(ctx); err != nil {
		m.t.Errorf("close: %v", err)
	}
	m.disk.setFault(nil)
	m.open(clean, crash)
}

func (m *model) open(clean, crash bool) {
	m.opts.FS = m.disk.boot()
	l, rec, err := spool.Open(m.t.Context(), "/spool", m.opts)
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.log, m.handed, m.last = l, map[uint64]bool{}, 0
	m.note("opened: %+v", rec)
	v, err := spool.Inspect(m.t.Context(), "/spool", m.opts)
	if err != nil {
		m.t.Fatal(err)
	}
	if clean && rec.TornBytes > 0 && !m.faulty { // damage of an earlier crash is told until its segment is done
		m.t.Errorf("after a clean end: %+v", rec)
	}
	waits, apart := map[string]uint64{}, map[string]uint64{}
	for r, err := range v.Pending(m.t.Context()) {
		if err != nil || waits[string(r.Data)] != 0 {
			m.t.Fatalf("record %d: %v, or twice", r.Seq, err)
		}
		waits[string(r.Data)] = r.Seq
	}
	for r, err := range v.SetAside(m.t.Context()) {
		if err != nil || r.Reason != "because" {
			m.t.Fatalf("aside %d: %q, %v", r.Seq, r.Reason, err)
		}
		apart[string(r.Data)] = r.Seq
	}
	if int64(len(waits)) != rec.Pending || len(apart) != rec.SetAside {
		m.t.Errorf("%d pending and %d aside, and recovery says %+v", len(waits), len(apart), rec)
	}
	m.faulty = false
	for _, k := range m.records {
		m.compare(k, waits[k.data], apart[k.data], clean, crash)
	}
}

// compare judges what became of a record, and takes over what may be.
func (m *model) compare(k *known, waits, apart uint64, clean, crash bool) {
	bad := false
	switch k.fate {
	case pending:
		bad = waits != k.seq || apart != 0
	case aside:
		bad = apart != k.seq || waits != 0
	case dropped:
		bad = waits != 0 || apart != 0
	case done:
		bad = apart != 0 || (clean && waits != 0) || (waits != 0 && waits != k.seq)
	case failed:
		bad = apart != 0 || (clean && waits != 0)
	}
	if bad {
		m.t.Errorf("record %d of fate %d is pending as %d and aside as %d; clean %v", k.seq, k.fate, waits, apart, clean)
	}
	switch {
	case !crash && k.fate == failed && waits != 0:
		k.fate, k.seq = leaving, waits // seen, but perhaps not on the disk
	case !crash && k.fate == leaving: // as before
	case waits != 0 && apart != 0: // an unfinished retry; take the other one away
		m.note("both: %d and %d", waits, apart)
		if err := m.log.Drop(m.t.Context(), apart); err != nil {
			m.t.Errorf("drop %d: %v", apart, err)
		}
		k.fate, k.seq = pending, waits
	case waits != 0:
		k.fate, k.seq = pending, waits
	case apart != 0:
		k.fate, k.seq = aside, apart
	case crash || k.fate == leaving: // otherwise only memory may know that it is done
		k.fate = dropped
	}
}

// drain takes everything out.
func (m *model) drain() {
	for m.waits() && !m.t.Failed() {
		r, err := m.log.Next(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		m.note("drain %d", r.Seq)
		m.got(r)
		if err := m.log.Done(r.Seq); err != nil {
			m.t.Error(err)
		}
		m.records[string(r.Data)].fate = done
	}
	if s := m.log.Status(); s.Pending != 0 {
		m.t.Errorf("drained, and the status is %+v", s)
	}
}
