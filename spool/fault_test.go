package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-go/holdfast/spool"
)

// only makes operations of one kind on names with this end fail.
func only(kind, suffix string, err error) func(op, name string) error {
	return func(op, name string) error {
		if op == kind && strings.HasSuffix(name, suffix) {
			return err
		}
		return nil
	}
}

// left returns what a spool on the simulated disk holds.
func left(t testing.TB, d *simDisk) []string {
	t.Helper()
	v, err := spool.Inspect(t.Context(), "/spool", spool.Options{FS: d.boot()})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for r, err := range v.Pending(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(r.Data))
	}
	return texts
}

func TestAFullDiskRefusesAndHealsWithoutARestart(t *testing.T) {
	t.Parallel()
	d := newSimDisk(seed())
	l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
	add(t, l, "before")
	d.mu.Lock()
	d.room = 100
	d.mu.Unlock()
	for range 3 {
		_, err := l.Append(t.Context(), make([]byte, 500))
		if !errors.Is(err, spool.ErrWrite) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk is full") {
			t.Fatalf("on a full disk: %v", err)
		}
		if s := l.Status(); !errors.Is(s.Broken, syscall.ENOSPC) || s.Pending != 1 {
			t.Fatalf("status %+v", s)
		}
	}
	d.mu.Lock()
	d.room = -1
	d.mu.Unlock()
	add(t, l, "after")
	if s := l.Status(); s.Broken != nil || s.Pending != 2 {
		t.Fatalf("healed, and the status is %+v", s)
	}
	d.crash()
	same(t, left(t, d), "before", "after")
}

func TestAFileWhoseSyncFailedIsNeverTrustedAgain(t *testing.T) {
	t.Parallel()
	d := newSimDisk(seed())
	l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
	add(t, l, "before")
	var fails atomic.Int32
	fails.Store(1)
	d.setFault(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, ".seg") && fails.Add(-1) >= 0 {
			return syscall.EIO
		}
		return nil
	})
	add(t, l, "in a new file") // the failure is healed within the call
	fails.Store(1000)
	if _, err := l.Append(t.Context(), []byte("refused")); !errors.Is(err, spool.ErrWrite) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("when no sync works: %v", err)
	}
	fails.Store(0)
	add(t, l, "healed")
	for _, want := range []string{"before", "in a new file", "healed"} {
		if r := next(t, l); string(r.Data) != want {
			t.Fatalf("got %q, want %q", r.Data, want)
		}
	}
	closeLog(t, l)
	same(t, left(t, d), "before", "in a new file", "healed")
	d.crash()
	same(t, left(t, d), "before", "in a new file", "healed")
	for _, b := range d.broken {
		t.Error(b)
	}
}

func TestAHungDiskHoldsNobodyBeyondThePatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newSimDisk(seed())
		l, _ := open(t, "/spool", spool.Options{FS: d.boot(), Patience: time.Minute})
		hangs := make(chan struct{})
		d.setFault(func(op, name string) error {
			if op == "sync" && strings.HasSuffix(name, ".seg") {
				<-hangs
			}
			return nil
		})
		began := time.Now()
		_, err := l.Append(t.Context(), []byte("in the disk's hands"))
		if !errors.Is(err, spool.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it is written: %v", err)
		}
		_, err = l.Append(t.Context(), []byte("still waiting"))
		if errors.Is(err, spool.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before it is written: %v", err)
		}
		if waited := time.Since(began); waited != 2*time.Minute {
			t.Errorf("both waited %v", waited)
		}
		close(hangs)
		add(t, l, "after it")
		for _, want := range []string{"in the disk's hands", "after it"} {
			if r := next(t, l); string(r.Data) != want {
				t.Errorf("read %q, want %q", r.Data, want)
			}
		}
	})
}

func TestAHungDiskHoldsNobodyBeyondTheirContext(t *testing.T) {
	t.Parallel()
	d := newSimDisk(seed())
	l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
	add(t, l, "before")
	hangs, hung := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d.setFault(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, ".seg") {
			once.Do(func() { close(hung) })
			<-hangs
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := l.Append(ctx, []byte("in the disk's hands"))
		if !errors.Is(err, spool.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("while it is written: %v", err)
		}
	})
	select {
	case <-hung:
	case <-time.After(patience):
		t.Fatal("no sync in sight")
	}
	wg.Go(func() {
		_, err := l.Append(ctx, []byte("still waiting"))
		if errors.Is(err, spool.ErrUnknown) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nothing was written") {
			t.Errorf("before it is written: %v", err)
		}
	})
	if r := next(t, l); string(r.Data) != "before" {
		t.Errorf("reading beside a hung disk: %q", r.Data)
	}
	eventually(t, "the second is queued", func() bool { return l.Status().Bytes > 2*40+6+64+19 })
	cancel()
	wg.Wait()
	if err := l.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("close on a hung disk: %v", err)
	}
	close(hangs)
	closeLog(t, l)
	same(t, left(t, d), "before", "in the disk's hands")
}

func TestMarksThatCannotBeWrittenAreKeptAndTriedAgain(t *testing.T) {
	t.Parallel()
	d := newSimDisk(seed())
	l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
	seq := add(t, l, "a", "b")
	d.setFault(only("write", ".done", syscall.ENOSPC))
	if err := l.Done(seq); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the status tells", func() bool { return errors.Is(l.Status().MarksBroken, syscall.ENOSPC) })
	d.setFault(nil)
	eventually(t, "they are tried again", func() bool { return l.Status().MarksBroken == nil })
	closeLog(t, l)
	d.crash()
	same(t, left(t, d), "b")
}

// A file that cannot be removed is marked in its place: what is forgotten stays so.
func TestWhatIsForgottenStaysSoWhereItsFileStays(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"remove", "syncdir"} {
		for range 10 { // each cut loses something else
			d := newSimDisk(seed())
			opts := spool.Options{FS: d.boot(), SegmentBytes: 1} // each record has a file
			l, _ := open(t, "/spool", opts)
			first := add(t, l, "a")
			add(t, l, "b")
			for seq := first; seq < first+2; seq++ {
				if err := l.SetAside(t.Context(), seq, "why"); err != nil {
					t.Fatal(err)
				}
			}
			failing := only(fault, "", syscall.EIO)
			if fault == "syncdir" { // once, when the segment is gone and its removal not durable
				var once atomic.Bool
				failing = func(op, name string) error {
					if op == "syncdir" && strings.HasSuffix(name, "/aside") && !once.Swap(true) {
						return syscall.EIO
					}
					return nil
				}
			}
			d.setFault(failing)
			dropped := l.Drop(t.Context(), first)
			if fault == "remove" && dropped != nil {
				t.Fatalf("the mark can be written: %v", dropped)
			}
			if l.Status().MarksBroken == nil && dropped == nil && fault == "remove" {
				t.Error("the status does not tell that a file stays")
			}
			d.crash()
			d.setFault(nil)
			closeHung(l)
			l, rec := open(t, "/spool", spool.Options{FS: d.boot()})
			if dropped == nil && rec.SetAside != 1 {
				t.Fatalf("%s: %d are set aside, and one was dropped for good", fault, rec.SetAside)
			}
			closeLog(t, l)
		}
	}
}

// closeHung ends a log whose disk has lost its power.
func closeHung(l *spool.Log) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = l.Close(ctx)
}

func TestDamageIsQuarantinedAndTheRestIsSent(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]struct {
		off  int64
		b    []byte
		want string
	}{
		"data of the second":       {40 + 33 + 32, []byte("X"), "a|c|d"},
		"header of the second":     {40 + 33 + 8, []byte("XXXX"), "a|c|d"},
		"length of the second":     {40 + 33 + 4, []byte{255, 255}, "a|c|d"},
		"second and third":         {40 + 33 + 10, bytes.Repeat([]byte{7}, 40), "a|d"},
		"header of the segment":    {9, []byte("XX"), "a|b|c|d"},
		"the last of a whole file": {40 + 3*33 + 32, []byte("X"), "a|b|c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newSimDisk(seed())
			l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
			add(t, l, "a", "b", "c", "d")
			closeLog(t, l)
			segment := "/spool/00000000000000000001.seg"
			d.rot(segment, damage.off, damage.b)
			whole := bytes.Clone(d.names[segment].data)
			for range 2 { // the second time it is known
				l, rec := open(t, "/spool", spool.Options{FS: d.boot()})
				if len(rec.Damage) != 1 || rec.TornBytes != 0 || l.Status().Quarantined != 1 {
					t.Fatalf("recovery: %+v, status %+v", rec, l.Status())
				}
				g := rec.Damage[0]
				if saved := d.names["/spool/"+g.File]; saved == nil || !bytes.Equal(saved.data, whole[g.Offset:g.Offset+g.Length]) {
					t.Fatalf("the bytes were not kept: %v", g)
				}
				if damage.off < g.Offset || damage.off >= g.Offset+g.Length || !strings.Contains(g.String(), g.File) {
					t.Fatalf("damage at %d is told as %v", damage.off, g)
				}
				for _, want := range strings.Split(damage.want, "|") {
					if r := next(t, l); string(r.Data) != want {
						t.Fatalf("got %q, want %q", r.Data, want)
					}
				}
				closeLog(t, l)
			}
			same(t, left(t, d), strings.Split(damage.want, "|")...)
		})
	}
}

// What was saved before its name could be made durable is made so by the next
// start: until then the segment it comes from stays.
func TestSavedDamageOutlivesAPowerCut(t *testing.T) {
	t.Parallel()
	for range 20 { // each cut loses something else
		d := newSimDisk(seed())
		l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
		add(t, l, "a", "b", "c")
		closeLog(t, l)
		d.rot("/spool/00000000000000000001.seg", 40+33+32, []byte("X"))
		d.setFault(only("syncdir", "/quarantine", syscall.EIO))
		l, rec := open(t, "/spool", spool.Options{FS: d.boot()})
		if len(rec.Damage) != 1 || !errors.Is(rec.Damage[0].Err, syscall.EIO) || rec.Damage[0].File != "" {
			t.Fatalf("recovery: %+v", rec)
		}
		closeLog(t, l)
		d.setFault(nil)
		l, rec = open(t, "/spool", spool.Options{FS: d.boot()})
		if len(rec.Damage) != 1 || rec.Damage[0].Err != nil {
			t.Fatalf("recovery: %+v", rec)
		}
		closeLog(t, l)
		d.crash()
		d.boot()
		if d.names["/spool/"+rec.Damage[0].File] == nil {
			t.Fatalf("%s is told, and gone after a power cut", rec.Damage[0].File)
		}
	}
}

func TestDamageThatAppearsWhileRunningIsQuarantinedToo(t *testing.T) {
	t.Parallel()
	d := newSimDisk(seed())
	l, _ := open(t, "/spool", spool.Options{FS: d.boot(), SegmentBytes: 100})
	seq := add(t, l, "a", "b", "c")
	add(t, l, "d") // in the next file
	d.rot("/spool/00000000000000000001.seg", 40+33+32, []byte("X"))
	for _, want := range []string{"a", "c", "d"} {
		if r := next(t, l); string(r.Data) != want {
			t.Fatalf("got %q, want %q", r.Data, want)
		}
	}
	if s := l.Status(); s.Quarantined != 1 || s.Pending != 3 {
		t.Fatalf("status %+v", s)
	}
	for _, n := range []uint64{seq, seq + 2} {
		if err := l.Done(n); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the damaged file is removed", func() bool { return l.Status().Segments == 1 })
	if f := d.names["/spool/quarantine/00000000000000000001-73.bad"]; f == nil || len(f.data) != 33 {
		t.Fatal("the bytes were not kept")
	}
}

func TestATornTailIsCutAndTold(t *testing.T) {
	t.Parallel()
	for cut := 1; cut < 33; cut += 4 {
		d := newSimDisk(seed())
		l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
		add(t, l, "a", "b")
		// The process is killed: nothing more reaches the disk.
		d.setFault(func(op, _ string) error { return errPower })
		closeLog(t, l)
		d.setFault(nil)
		f := d.names["/spool/00000000000000000001.seg"]
		f.change(change{off: int64(40 + 2*33 - cut)})
		l, rec := open(t, "/spool", spool.Options{FS: d.boot()})
		if rec.TornBytes != int64(33-cut) || rec.Pending != 1 || len(rec.Damage) != 0 {
			t.Fatalf("cut by %d: %+v", cut, rec)
		}
		add(t, l, "c")
		closeLog(t, l)
		same(t, left(t, d), "a", "c")
	}
}

// TestNoAcceptedRecordIsLostByAPowerCut cuts the power 20 times while many
// producers append and a sender marks.
func TestNoAcceptedRecordIsLostByAPowerCut(t *testing.T) {
	t.Parallel()
	s := seed()
	d := newSimDisk(s)
	led := &ledger{accepted: map[string]bool{}, sent: map[string]int{}}
	rng := rand.New(rand.NewPCG(s, 5))
	for cut := range 20 {
		l, rec, err := spool.Open(t.Context(), "/spool", spool.Options{FS: d.boot(), SegmentBytes: 4 << 10})
		if err != nil {
			t.Fatalf("seed %d: %v", s, err)
		}
		var wg sync.WaitGroup
		for p := range 8 {
			wg.Go(func() { led.produce(t.Context(), l, fmt.Sprintf("%d-%d", cut, p)) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { led.send(ctx, l) })
		want := led.count() + 50 + rng.IntN(300)
		eventually(t, "enough is accepted", func() bool { return led.count() >= want })
		d.crash()
		wgDone := make(chan struct{})
		go func() { wg.Wait(); close(wgDone) }()
		eventually(t, "the producers notice", func() bool {
			cancel()
			select {
			case <-wgDone:
				return true
			default:
				return false
			}
		})
		closeLog(t, l)
		if rec.BadMarks > 0 || len(rec.Damage) > 0 {
			t.Logf("cut %d: %+v", cut, rec)
		}
	}
	l, _ := open(t, "/spool", spool.Options{FS: d.boot()})
	led.drain(t, l)
	led.judge(t, s)
}

// ledger knows what was accepted and what was sent.
type ledger struct {
	mu       sync.Mutex
	accepted map[string]bool
	sent     map[string]int
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

func (l *ledger) produce(ctx context.Context, log *spool.Log, name string) {
	for i := 0; ; i++ {
		id := fmt.Sprintf("%s-%d", name, i)
		if _, err := log.Append(ctx, []byte(id+strings.Repeat(" ", i%700))); err != nil {
			return
		}
		l.mu.Lock()
		l.accepted[id] = true
		l.mu.Unlock()
	}
}

func (l *ledger) send(ctx context.Context, log *spool.Log) {
	for i := 0; ; i++ {
		r, err := log.Next(ctx)
		if err != nil {
			return
		}
		if i%5 == 0 {
			continue // in flight when the power goes
		}
		l.handle(r)
		_ = log.Done(r.Seq)
	}
}

func (l *ledger) handle(r spool.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[strings.TrimRight(string(r.Data), " ")]++
}

func (l *ledger) drain(t *testing.T, log *spool.Log) {
	t.Helper()
	for log.Status().Pending > 0 {
		r := next(t, log)
		l.handle(r)
		if err := log.Done(r.Seq); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *ledger) judge(t *testing.T, seed uint64) {
	t.Helper()
	lost, twice := 0, 0
	for id := range l.accepted {
		switch n := l.sent[id]; {
		case n == 0:
			lost++
			t.Errorf("seed %d: %s was accepted and is lost", seed, id)
		case n > 1:
			twice++
		}
	}
	t.Logf("accepted=%d lost=%d sent twice=%d", len(l.accepted), lost, twice)
}
