package spool

import (
	"errors"
	"fmt"
	"time"
)

// What callers branch on. The errors that are returned wrap one of these, say
// more, and wrap the cause.
var (
	// ErrFull says that the limit of the spool is reached: nothing was written.
	ErrFull = errors.New("spool is full")
	// ErrTooLarge says that the record can never fit: nothing was written.
	ErrTooLarge = errors.New("record is too large for the spool")
	// ErrWrite says that the disk refused: the records are not accepted. The next
	// Append tries again.
	ErrWrite = errors.New("spool cannot write")
	// ErrUnknown says that the context or the patience ended while the disk was at
	// work: the records may be kept or not.
	ErrUnknown = errors.New("spool: outcome unknown")
	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("spool is closed")
	// ErrLocked says that another process, or another Log of this one, writes here.
	ErrLocked = errors.New("spool is in use")
	// ErrNotFound says that no record of that number was set aside.
	ErrNotFound = errors.New("spool: no such record was set aside")
	// ErrDone says that the record was marked before.
	ErrDone = errors.New("spool: record is done")
)

const (
	defaultMaxBytes     = 1 << 30
	defaultSegmentBytes = 16 << 20
	leastSegmentBytes   = 4 << 10
)

// Options are settings of a log. The zero value works.
type Options struct {
	// MaxBytes bounds what waits: segments with a record that is not done, those
	// of records set aside included. Zero means 1 GiB. Append returns ErrFull
	// beyond it; SetAside does not. Since whole segments are freed, the disk needs
	// room for two segments more, for the marks (16 bytes for each row of marked
	// records), and for what is in quarantine.
	MaxBytes int64
	// SegmentBytes is the size at which a new file is begun. Zero means 16 MiB, or
	// an eighth of MaxBytes where that is less.
	SegmentBytes int64
	// Patience bounds how long an Append waits for the disk, as a deadline of its
	// context does at a higher price. Zero means as long as the context allows.
	Patience time.Duration
	// FS is where the files are. Nil means the real disk.
	FS FS
}

func (o Options) withDefaults() (Options, error) {
	if o.MaxBytes < 0 || o.SegmentBytes < 0 {
		return o, fmt.Errorf("spool: MaxBytes %d and SegmentBytes %d must not be negative; zero means the default", o.MaxBytes, o.SegmentBytes)
	}
	if o.Patience < 0 {
		return o, fmt.Errorf("spool: Patience %v must not be negative; zero means without a limit", o.Patience)
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = max(min(defaultSegmentBytes, o.MaxBytes/8), leastSegmentBytes)
	}
	if o.FS == nil {
		o.FS = disk{}
	}
	return o, nil
}

// Record is what was appended once.
type Record struct {
	// Seq is its number, greater than those of all records appended before.
	Seq uint64
	// Time is when it was appended.
	Time time.Time
	// Data belongs to the caller.
	Data []byte
}

// Aside is a record that was set aside.
type Aside struct {
	Record
	// Reason is what SetAside was given.
	Reason string
	// Since is when it was set aside.
	Since time.Time
}

// Status is the state of a log at an instant.
type Status struct {
	// Pending is how many records wait to be marked, handed out or not.
	Pending int64 `json:"pending"`
	// Bytes is what counts against MaxBytes.
	Bytes int64 `json:"bytes"`
	// MaxBytes is the limit; zero in a view, which does not know it.
	MaxBytes int64 `json:"max_bytes,omitempty"`
	// Oldest is when the oldest pending record was appended, up to a second too
	// early. It is zero when none is pending.
	Oldest time.Time `json:"oldest,omitzero"`
	// SetAside is how many records were set aside and neither retried nor dropped.
	SetAside int `json:"set_aside"`
	// Segments is the number of files that hold records, those set aside included.
	Segments int `json:"segments"`
	// Quarantined is the number of files in the quarantine folder.
	Quarantined int `json:"quarantined"`
	// Broken is why the last write failed; nil when writing works. It does not say
	// that the log is lost: the next Append tries again.
	Broken error `json:"-"`
	// MarksBroken is why the last marks could not be written, or why a file whose
	// records are all done could not be removed. Both are tried again.
	MarksBroken error `json:"-"`
}

// Damage is a part of a segment that could not be read.
type Damage struct {
	// Segment is the file, below the directory of the spool.
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Length  int64  `json:"length"`
	// Records is how many records it held at most; zero when that is not known.
	Records uint64 `json:"records"`
	// File holds the bytes as they were, below the directory of the spool; empty
	// when they could not be saved. The segment is kept then.
	File string `json:"file,omitempty"`
	// Err is why they could not be saved.
	Err error `json:"-"`
}

// String says it in a sentence.
func (d Damage) String() string {
	s := fmt.Sprintf("%s: %d bytes at %d cannot be read", d.Segment, d.Length, d.Offset)
	switch {
	case d.Records == 1:
		s += ", at most one record"
	case d.Records > 1:
		s += fmt.Sprintf(", at most %d records", d.Records)
	}
	switch {
	case d.Err != nil:
		return fmt.Sprintf("%s; not saved: %v", s, d.Err)
	case d.File != "":
		return s + "; saved as " + d.File
	}
	return s
}

// Recovery is what Open found. Whoever opens a log should tell of every part of
// it that is not zero.
type Recovery struct {
	// Pending is how many records wait, and Bytes what they and those set aside
	// take against MaxBytes.
	Pending int64 `json:"pending"`
	Bytes   int64 `json:"bytes"`
	// SetAside is how many records were set aside.
	SetAside int `json:"set_aside"`
	// TornBytes is what was cut from the end of the last segment: the remains of
	// an append that a crash interrupted.
	TornBytes int64 `json:"torn_bytes"`
	// Damage lists what could not be read. It is told at every Open until the
	// rest of its file is done; the file in quarantine stays until a person
	// removes it.
	Damage []Damage `json:"damage,omitempty"`
	// BadMarks is how many entries of marks could not be read. What they marked
	// is sent again.
	BadMarks int `json:"bad_marks"`
	// Took is how long it took.
	Took time.Duration `json:"took"`
}
