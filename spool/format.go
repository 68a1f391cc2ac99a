package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

const (
	formatVersion = 1

	segmentMagic  = "HFSPOOL\n"
	segmentHeader = 40

	recordMagic  = "HFr1"
	recordHeader = 32

	markSize = 16

	segmentSuffix = ".seg"
	marksSuffix   = ".done"
	temporary     = ".tmp"

	quarantineSuffix = ".bad"

	asideDir      = "aside"
	quarantineDir = "quarantine"
	lockName      = "lock"

	// MaxRecord is the size that a record may have, 256 MiB. A length beyond it
	// on the disk is damage.
	MaxRecord = 256 << 20
)

// castagnoli returns the table of CRC32C, which the standard library keeps.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli()) }

// saltOf is what the checksums in a segment are XORed with.
func saltOf(first uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], first)
	return checksum(b[:]) ^ 0x5f00_150f
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

func marksName(first uint64) string { return fmt.Sprintf("%020d%s", first, marksSuffix) }

// firstOf returns the number in the name of a segment or its marks.
func firstOf(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

// header is the beginning of a segment.
type header struct {
	first   uint64
	prev    uint64
	prevEnd int64
}

func (h header) encode() []byte {
	b := make([]byte, segmentHeader)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], h.first)
	binary.LittleEndian.PutUint64(b[24:], h.prev)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.prevEnd))
	binary.LittleEndian.PutUint32(b[12:], headerSum(b))
	return b
}

func headerSum(b []byte) uint32 {
	return crc32.Update(checksum(b[:12]), castagnoli(), b[16:segmentHeader])
}

// decodeHeader reads the beginning of the segment called first. It reports false
// for one that is damaged, and an error for one of another version.
func decodeHeader(b []byte, first uint64) (header, bool, error) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic || binary.LittleEndian.Uint32(b[12:]) != headerSum(b) {
		return header{}, false, nil
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return header{}, false, fmt.Errorf("segment %s has format %d and this program knows %d: read it with the version that wrote it", segmentName(first), v, formatVersion)
	}
	h := header{
		first:   binary.LittleEndian.Uint64(b[16:]),
		prev:    binary.LittleEndian.Uint64(b[24:]),
		prevEnd: int64(binary.LittleEndian.Uint64(b[32:])),
	}
	return h, h.first == first && h.prev < first && h.prevEnd >= 0, nil
}

// recordHead is the header of a record.
type recordHead struct {
	size uint32 // of the data
	seq  uint64
	at   int64
	sum  uint32 // of the data, without salt
}

// appendRecord encodes a record. dataSum is the checksum of the data.
func appendRecord(b []byte, salt uint32, h recordHead, data []byte) []byte {
	n := len(b)
	b = append(b, recordMagic...)
	b = binary.LittleEndian.AppendUint32(b, h.size)
	b = binary.LittleEndian.AppendUint64(b, h.seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.at))
	b = binary.LittleEndian.AppendUint32(b, h.sum^salt)
	b = binary.LittleEndian.AppendUint32(b, checksum(b[n:n+28])^salt)
	return append(b, data...)
}

// decodeHead reads the header of a record; false means damage.
func decodeHead(b []byte, salt uint32) (recordHead, bool) {
	if len(b) < recordHeader || string(b[:4]) != recordMagic || binary.LittleEndian.Uint32(b[28:]) != checksum(b[:28])^salt {
		return recordHead{}, false
	}
	h := recordHead{
		size: binary.LittleEndian.Uint32(b[4:]),
		seq:  binary.LittleEndian.Uint64(b[8:]),
		at:   int64(binary.LittleEndian.Uint64(b[16:])),
		sum:  binary.LittleEndian.Uint32(b[24:]) ^ salt,
	}
	return h, h.size <= MaxRecord && h.seq > 0
}

// resalt turns a batch that was encoded for one segment into one for another.
func resalt(batch []byte, from, to uint32) {
	for len(batch) >= recordHeader {
		size := binary.LittleEndian.Uint32(batch[4:])
		sum := binary.LittleEndian.Uint32(batch[24:]) ^ from ^ to
		binary.LittleEndian.PutUint32(batch[24:], sum)
		binary.LittleEndian.PutUint32(batch[28:], checksum(batch[:28])^to)
		batch = batch[recordHeader+int(size):]
	}
}

// span is a row of numbers, the last one excluded.
type span struct{ from, to uint64 }

// appendMarks encodes a row of done numbers.
func appendMarks(b []byte, salt uint32, s span) []byte {
	for s.from < s.to {
		n := min(s.to-s.from, 1<<31)
		at := len(b)
		b = binary.LittleEndian.AppendUint64(b, s.from)
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
		b = binary.LittleEndian.AppendUint32(b, checksum(b[at:at+12])^salt)
		s.from += n
	}
	return b
}

// decodeMarks reads one entry; false means damage.
func decodeMarks(b []byte, salt uint32) (span, bool) {
	from, n := binary.LittleEndian.Uint64(b), uint64(binary.LittleEndian.Uint32(b[8:]))
	ok := binary.LittleEndian.Uint32(b[12:]) == checksum(b[:12])^salt && n > 0 && from > 0 && from+n > from
	return span{from, from + n}, ok
}

// encodeAside makes the data of a record of aside/.
func encodeAside(seq uint64, at int64, reason string, data []byte) []byte {
	b := make([]byte, 0, 20+len(reason)+len(data))
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(reason)))
	b = append(b, reason...)
	return append(b, data...)
}

// decodeAside reads what encodeAside wrote.
func decodeAside(b []byte) (seq uint64, at int64, reason string, data []byte, ok bool) {
	if len(b) < 20 {
		return 0, 0, "", nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b[16:]))
	if n > uint64(len(b)-20) {
		return 0, 0, "", nil, false
	}
	return binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:])), string(b[20 : 20+n]), b[20+n:], true
}
