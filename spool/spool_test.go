package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/spool"
)

const patience = 20 * time.Second

func open(t testing.TB, dir string, opts spool.Options) (*spool.Log, spool.Recovery) {
	t.Helper()
	l, rec, err := spool.Open(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLog(t, l) })
	return l, rec
}

func closeLog(t testing.TB, l *spool.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, l *spool.Log, texts ...string) uint64 {
	t.Helper()
	var records [][]byte
	for _, s := range texts {
		records = append(records, []byte(s))
	}
	seq, err := l.Append(t.Context(), records...)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func next(t testing.TB, l *spool.Log) spool.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := l.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// waiting returns what the log would hand out from now on.
func waiting(t testing.TB, dir string) []string {
	t.Helper()
	v, err := spool.Inspect(t.Context(), dir, spool.Options{})
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

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond) // between two looks at a condition
	}
}

func same(t testing.TB, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("waiting are %q, want %q", got, want)
	}
}

func TestRecordsAreHandedOutInOrderUntilTheyAreDone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, rec := open(t, dir, spool.Options{})
	if rec.Pending != 0 || rec.TornBytes != 0 || len(rec.Damage) != 0 {
		t.Fatalf("a new spool has a past: %+v", rec)
	}
	first := add(t, l, "a", "b")
	add(t, l, "", "c")
	for i, want := range []string{"a", "b", "", "c"} {
		r := next(t, l)
		if string(r.Data) != want || r.Seq != first+uint64(i) || time.Since(r.Time) > time.Minute {
			t.Fatalf("record %d is %d %q of %v, want %q", i, r.Seq, r.Data, r.Time, want)
		}
	}
	for _, seq := range []uint64{first + 2, first} {
		if err := l.Done(seq); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Status(); s.Pending != 2 || s.Bytes == 0 || s.Oldest.IsZero() || s.Broken != nil {
		t.Fatalf("status %+v", s)
	}
	closeLog(t, l)
	same(t, waiting(t, dir), "b", "c")

	l, rec = open(t, dir, spool.Options{})
	if rec.Pending != 2 || rec.TornBytes != 0 || len(rec.Damage) != 0 {
		t.Fatalf("recovery after a clean end: %+v", rec)
	}
	if r := next(t, l); string(r.Data) != "b" {
		t.Fatalf("first is %q", r.Data)
	}
	if seq := add(t, l, "d"); seq <= first+3 {
		t.Fatalf("number %d is used again", seq)
	}
}

func TestNextWaitsForTheNextRecord(t *testing.T) {
	t.Parallel()
	l, _ := open(t, t.TempDir(), spool.Options{})
	got := make(chan spool.Record, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		r, err := l.Next(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- r
	})
	add(t, l, "late")
	wg.Wait()
	if r := <-got; string(r.Data) != "late" {
		t.Fatalf("got %q", r.Data)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("without a record and with an ended context: %v", err)
	}
	wg.Go(func() {
		if _, err := l.Next(t.Context()); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("closed while waiting: %v", err)
		}
	})
	closeLog(t, l)
	wg.Wait()
	if _, err := l.Append(t.Context(), []byte("x")); !errors.Is(err, spool.ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
	if err := l.Done(1); !errors.Is(err, spool.ErrClosed) {
		t.Fatalf("done after close: %v", err)
	}
}

func TestManyCallersShareTheLogAndKeepTheirOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, _ := open(t, dir, spool.Options{SegmentBytes: 8 << 10})
	const callers, each = 16, 200
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				if _, err := l.Append(t.Context(), fmt.Appendf(nil, "%d %d", c, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := make([]int, callers)
	var last uint64
	for range callers * each {
		r := next(t, l)
		var c, i int
		if _, err := fmt.Sscan(string(r.Data), &c, &i); err != nil || i != seen[c] || r.Seq <= last {
			t.Fatalf("caller %d: got %d after %d, number %d after %d", c, i, seen[c], r.Seq, last)
		}
		seen[c]++
		last = r.Seq
		if err := l.Done(r.Seq); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	eventually(t, "segments that are done are removed", func() bool {
		names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names) == 1
	})
	if s := l.Status(); s.Pending != 0 || s.Bytes != 0 || !s.Oldest.IsZero() {
		t.Fatalf("all is done and the status is %+v", s)
	}
}

func TestAFullSpoolSaysSoAndHasRoomAgain(t *testing.T) {
	t.Parallel()
	l, _ := open(t, t.TempDir(), spool.Options{MaxBytes: 64 << 10})
	data := bytes.Repeat([]byte("x"), 1000)
	var seqs []uint64
	for {
		seq, err := l.Append(t.Context(), data)
		if errors.Is(err, spool.ErrFull) {
			if text := err.Error(); !strings.Contains(text, "64.0 KiB") || !strings.Contains(text, fmt.Sprint(len(seqs), " waiting")) {
				t.Fatalf("unclear: %s", text)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, seq)
	}
	if s := l.Status(); s.Bytes > 64<<10 || len(seqs) < 50 {
		t.Fatalf("%d records and %d bytes", len(seqs), s.Bytes)
	}
	for _, seq := range seqs[:20] {
		if err := l.Done(seq); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Append(t.Context(), data); err != nil {
		t.Fatalf("after a third was sent: %v", err)
	}
	if _, err := l.Append(t.Context(), make([]byte, 65<<10)); !errors.Is(err, spool.ErrTooLarge) {
		t.Fatalf("larger than all: %v", err)
	}
}

func TestWhatIsSetAsideDoesNotBlockAndIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, _ := open(t, dir, spool.Options{})
	seq := add(t, l, "bad", "good", "worse")
	if err := l.SetAside(t.Context(), seq, "no queue"); err != nil {
		t.Fatal(err)
	}
	if err := l.SetAside(t.Context(), seq+2, "no queue either"); err != nil {
		t.Fatal(err)
	}
	if err := l.SetAside(t.Context(), seq, "again"); !errors.Is(err, spool.ErrDone) {
		t.Fatalf("set aside twice: %v", err)
	}
	if r := next(t, l); string(r.Data) != "good" {
		t.Fatalf("got %q", r.Data)
	}
	closeLog(t, l)

	v, err := spool.Inspect(t.Context(), dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for a, err := range v.SetAside(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %s: %s", a.Seq-seq, a.Data, a.Reason))
	}
	same(t, got, "0 bad: no queue", "2 worse: no queue either")

	l, rec := open(t, dir, spool.Options{})
	if rec.SetAside != 2 || rec.Pending != 1 {
		t.Fatalf("recovery %+v", rec)
	}
	if again, err := l.Retry(t.Context(), seq); err != nil || again <= seq+2 {
		t.Fatalf("retry: %d, %v", again, err)
	}
	if err := l.Drop(t.Context(), seq+2); err != nil {
		t.Fatal(err)
	}
	if err := l.Drop(t.Context(), seq+2); !errors.Is(err, spool.ErrNotFound) {
		t.Fatalf("dropped twice: %v", err)
	}
	closeLog(t, l)
	same(t, waiting(t, dir), "good", "bad")
	if _, rec := open(t, dir, spool.Options{}); rec.SetAside != 0 {
		t.Fatalf("still set aside: %+v", rec)
	}
}

func TestOneLogAtATimeWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, _ := open(t, dir, spool.Options{})
	if _, _, err := spool.Open(t.Context(), dir, spool.Options{}); !errors.Is(err, spool.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) || !strings.Contains(err.Error(), "a directory of its own") {
		t.Fatalf("second: %v", err)
	}
	closeLog(t, l)
	open(t, dir, spool.Options{})
}

func TestAViewIsTakenBesideTheWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, _ := open(t, dir, spool.Options{SegmentBytes: 4 << 10})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := l.Append(t.Context(), fmt.Appendf(nil, "%d", i)); err != nil {
				t.Error(err)
			}
			if r := next(t, l); i%3 > 0 {
				_ = l.Done(r.Seq)
			}
		}
	})
	for range 50 {
		v, err := spool.Inspect(t.Context(), dir, spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d := v.Recovery().Damage; len(d) > 0 {
			t.Fatalf("damage beside a writer: %v", d)
		}
		last := -1
		for r, err := range v.Pending(t.Context()) {
			var i int
			if _, scan := fmt.Sscan(string(r.Data), &i); err != nil || scan != nil || i <= last {
				t.Fatalf("%q after %d: %v", r.Data, last, err)
			}
			last = i
		}
	}
	close(stop)
	wg.Wait()
}

func TestAnUnsafeDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	unfinished := t.TempDir()
	if err := os.WriteFile(filepath.Join(unfinished, "thesis.tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inside := t.TempDir()
	if err := os.Symlink(filepath.Join(foreign, "letter.txt"), filepath.Join(inside, "00000000000000000001.seg")); err != nil {
		t.Fatal(err)
	}
	for dir, word := range map[string]string{foreign: "letter.txt", link: "symlink", inside: "symlink", unfinished: "thesis.tmp", filepath.Join(foreign, "letter.txt"): "not a directory"} {
		if _, _, err := spool.Open(t.Context(), dir, spool.Options{}); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want a word about %q", dir, err, word)
		}
	}
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	l, _ := open(t, dir, spool.Options{})
	seq := add(t, l, "secret", "second")
	if err := l.Done(seq); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	n := 0
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		want := os.FileMode(0o600)
		if info.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s is %v", path, info.Mode())
		}
		n++
		return err
	})
	if err != nil || n < 5 {
		t.Fatalf("%d files, %v", n, err)
	}
}
