package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// quarantine keeps damaged bytes of segments.
type quarantine struct {
	fs   FS
	root string // of the spool
}

func (q quarantine) dir() string { return filepath.Join(q.root, quarantineDir) }

// describe names the file that damage belongs into. sub is the folder of the
// segment below the root.
func (q quarantine) describe(sub string, first uint64, g gap) Damage {
	name := fmt.Sprintf("%020d-%d%s", first, g.off, quarantineSuffix)
	if sub != "" {
		name = sub + "-" + name
	}
	return Damage{
		Segment: filepath.Join(sub, segmentName(first)), Offset: g.off, Length: g.end - g.off, Records: g.records,
		File: filepath.Join(quarantineDir, name),
	}
}

// save copies a damaged part into a file of its own, unless that was done before,
// and describes it.
func (q quarantine) save(sub string, first uint64, g gap) Damage {
	d := q.describe(sub, first, g)
	if err := q.copy(filepath.Join(q.root, d.Segment), filepath.Join(q.root, d.File), g); err != nil {
		d.File, d.Err = "", err
	}
	return d
}

func (q quarantine) copy(segment, final string, g gap) (err error) {
	if err := q.fs.Prepare(q.dir()); err != nil {
		return err
	}
	if f, err := q.fs.OpenFile(final, readOnly); err == nil {
		// Whoever renamed it may not have come to make the name durable.
		return errors.Join(f.Close(), q.fs.SyncDir(q.dir()))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	from, err := q.fs.OpenFile(segment, readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := q.write(final+temporary, from, g); err != nil {
		return errors.Join(err, removed(q.fs.Remove(final+temporary)))
	}
	if err := q.fs.Rename(final+temporary, final); err != nil {
		return err
	}
	return q.fs.SyncDir(q.dir())
}

func (q quarantine) write(name string, from io.ReaderAt, g gap) (err error) {
	to, err := q.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	src := io.NewSectionReader(from, g.off, g.end-g.off)
	if _, err := io.CopyBuffer(io.NewOffsetWriter(to, 0), struct{ io.Reader }{src}, make([]byte, 64<<10)); err != nil {
		return err
	}
	return to.Sync()
}

// count returns how many files there are.
func (q quarantine) count() int {
	entries, err := q.fs.ReadDir(q.dir())
	if err != nil {
		return 0 // not made yet
	}
	n := 0
	for _, e := range entries {
		if filepath.Ext(e.Name()) == quarantineSuffix {
			n++
		}
	}
	return n
}
