package spool_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/spool"
)

// FuzzRecovery changes a spool in any way and opens it. Whatever was done, no
// record is handed out that was never appended, none whose bytes and file were
// left alone is missing, and the log works again.
func FuzzRecovery(f *testing.F) {
	f.Add(uint8(0), uint16(80), uint16(3), []byte("XXX"))         // a record
	f.Add(uint8(0), uint16(2), uint16(1), []byte{0})              // the header
	f.Add(uint8(1), uint16(50), uint16(60000), []byte{})          // a file cut short
	f.Add(uint8(2), uint16(0), uint16(60000), []byte{})           // an empty file
	f.Add(uint8(4), uint16(0), uint16(16), []byte("0123456789"))  // marks
	f.Add(uint8(1), uint16(300), uint16(0), []byte("HFr1HFr1"))   // bytes put in
	f.Add(uint8(0), uint16(40), uint16(60000), []byte("garbage")) // all records
	f.Fuzz(func(t *testing.T, which uint8, off, cut uint16, insert []byte) {
		d := newSimDisk(1)
		l, _ := open(t, "/spool", spool.Options{FS: d.boot(), SegmentBytes: 300})
		appended := map[string]uint64{}
		for i := range 12 {
			data := fmt.Sprint(i, strings.Repeat("-", i*9))
			appended[data] = add(t, l, data)
		}
		for _, seq := range []uint64{2, 3, 7} {
			if err := l.Done(seq); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.SetAside(t.Context(), 5, "because"); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		before := left(t, d)

		name := d.damage(which, int(off), int(cut), insert)
		l, _, err := spool.Open(t.Context(), "/spool", spool.Options{FS: d.boot(), SegmentBytes: 300})
		if err != nil {
			if strings.Contains(err.Error(), "this program knows 1") {
				return // a good checksum over another version
			}
			t.Fatal(err)
		}
		got := map[string]bool{}
		for n := l.Status().Pending; n > 0; n-- {
			r := next(t, l)
			if appended[string(r.Data)] != r.Seq || got[string(r.Data)] {
				t.Fatalf("%d %q was never appended, or twice", r.Seq, r.Data)
			}
			got[string(r.Data)] = true
		}
		for _, data := range before {
			if !got[data] && !strings.HasSuffix(name, ".seg") {
				t.Fatalf("%q is missing after a change of %s", data, name)
			}
		}
		add(t, l, "works again")
		closeLog(t, l)
		if now := left(t, d); now[len(now)-1] != "works again" || len(now) != len(got)+1 {
			t.Fatalf("%d were handed out, and now there are %q", len(got), now)
		}
	})
}
