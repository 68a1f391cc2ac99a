package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

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
