package spool_test

import (
	"fmt"
	"sync"
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

// BenchmarkDrain reads and marks what waits.
func BenchmarkDrain(b *testing.B) {
	l, _ := open(b, b.TempDir(), spool.Options{MaxBytes: 1 << 40})
	batch := make([][]byte, 1000)
	for i := range batch {
		batch[i] = make([]byte, 1024)
	}
	for n := 0; n < b.N; n += len(batch) {
		if _, err := l.Append(b.Context(), batch...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := l.Done(next(b, l).Seq); err != nil {
			b.Fatal(err)
		}
	}
}
