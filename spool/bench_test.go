package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-go/holdfast/spool"
)

// BenchmarkAppend is a durable append of 1 KiB by so many producers.
func BenchmarkAppend(b *testing.B) {
	for _, producers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("%d", producers), func(b *testing.B) {
			l, _ := open(b, b.TempDir(), spool.Options{MaxBytes: 1 << 40})
			data := make([]byte, 1024)
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for p := range producers {
				wg.Go(func() {
					for i := p; i < b.N; i += producers {
						if _, err := l.Append(b.Context(), data); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkGroupCommit is what the disk gives to a bare loop that writes batches
// of the same size and syncs each. An operation is one record.
func BenchmarkGroupCommit(b *testing.B) {
	for _, batch := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("%d", batch), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "loop"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			data := make([]byte, batch*(1024+32))
			b.ResetTimer()
			for i := 0; i < b.N; i += batch {
				if _, err := f.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := syscall.Fdatasync(int(f.Fd())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRecovery opens a spool with so many records of 1 KiB.
func BenchmarkRecovery(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			dir := b.TempDir()
			l, _ := open(b, dir, spool.Options{})
			batch := make([][]byte, 1000)
			for i := range batch {
				batch[i] = make([]byte, 1024)
			}
			for range n / len(batch) {
				if _, err := l.Append(b.Context(), batch...); err != nil {
					b.Fatal(err)
				}
			}
			closeLog(b, l)
			b.ReportAllocs()
			for b.Loop() {
				l, rec := open(b, dir, spool.Options{})
				if rec.Pending != int64(n) {
					b.Fatalf("%d pending", rec.Pending)
				}
				closeLog(b, l)
			}
		})
	}
}
