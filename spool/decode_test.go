package spool

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bytesFile is a file that is only read.
type bytesFile struct{ *bytes.Reader }

func (bytesFile) WriteAt([]byte, int64) (int, error) { return 0, os.ErrInvalid }
func (bytesFile) Truncate(int64) error               { return os.ErrInvalid }
func (bytesFile) Sync() error                        { return nil }
func (bytesFile) Close() error                       { return nil }
func (f bytesFile) Size() (int64, error)             { return f.Reader.Size(), nil }

// segmentOf1 is a segment with these records.
func segmentOf1(records ...string) []byte {
	b := header{first: 1}.encode()
	for i, s := range records {
		b = appendRecord(b, saltOf(1), recordHead{uint32(len(s)), uint64(i + 1), 42, checksum([]byte(s))}, []byte(s))
	}
	return b
}

// FuzzScan reads any bytes as a segment. Records and gaps must cover it without
// a hole, records must be what they would be encoded to, and their numbers grow.
func FuzzScan(f *testing.F) {
	whole := segmentOf1("a", "", strings.Repeat("HFr1", 20), "end")
	f.Add(whole)
	f.Add(whole[:len(whole)-2])
	f.Add(append(bytes.Clone(whole[:60]), whole[70:]...))
	f.Add(append(segmentOf1("a"), segmentOf1("b", "c")[segmentHeader:]...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := decodeHeader(b, 1); err != nil && b[8] == formatVersion && b[9] == 0 && b[10] == 0 && b[11] == 0 {
			t.Errorf("this version is refused: %v", err)
		}
		sc := newScanner(bytesFile{bytes.NewReader(b)}, 1, int64(len(b)))
		at, last := min(int64(segmentHeader), int64(len(b))), uint64(0)
		for {
			r, g, ok, err := sc.next()
			if err != nil {
				t.Fatal(err)
			}
			if g.end > g.off {
				if g.off != at {
					t.Fatalf("a hole between %d and %d", at, g.off)
				}
				at = g.end
			}
			if !ok {
				break
			}
			again := appendRecord(nil, saltOf(1), r.recordHead, r.data)
			if r.off != at || r.seq <= last || !bytes.Equal(again, b[at:at+r.bytes()]) {
				t.Fatalf("record %d at %d, expected at %d", r.seq, r.off, at)
			}
			at, last = at+r.bytes(), r.seq
		}
		if at != int64(len(b)) {
			t.Fatalf("read %d of %d bytes", at, len(b))
		}
	})
}

// FuzzMarks reads any bytes as marks and as a record of aside.
func FuzzMarks(f *testing.F) {
	f.Add(appendMarks(nil, saltOf(1), span{1, 9}))
	f.Add(encodeAside(7, 42, "why", []byte("data")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= markSize {
			if s, ok := decodeMarks(b, saltOf(1)); ok && !bytes.Equal(appendMarks(nil, saltOf(1), s), b[:markSize]) && s.to-s.from <= 1<<31 {
				t.Errorf("%v is not what it was read from", s)
			}
		}
		if seq, at, reason, data, ok := decodeAside(b); ok && !bytes.Equal(encodeAside(seq, at, reason, data), b) {
			t.Errorf("record %d aside is not what it was read from", seq)
		}
	})
}

// TestTheFormatStaysAsItIs reads a segment and marks as the first version wrote
// them. If this fails, spools on the disks of users cannot be read any more:
// write a new version of the format instead.
func TestTheFormatStaysAsItIs(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join("testdata", "format1.hex"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{
		"segment": segmentOf1("one", ""),
		"header":  header{first: 9, prev: 1, prevEnd: 1234}.encode(),
		"marks":   appendMarks(nil, saltOf(9), span{9, 12}),
		"aside":   encodeAside(9, 42, "why", []byte("data")),
	}
	for line := range strings.Lines(string(raw)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(text)
		if err != nil || !bytes.Equal(b, want[name]) {
			t.Errorf("%s is %x now", name, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not compared: %v", want)
	}
}
