package spool_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-go/holdfast/spool"
)

// simDisk is a file system in memory that loses what was not synced, in any
// order and in parts of sectors, when its power is cut.
type simDisk struct {
	mu      sync.Mutex
	rng     *rand.Rand
	life    int                 // grows with each crash; files of an earlier one are dead
	names   map[string]*simFile // as the process sees them
	durable map[string]*simFile // as they are on the disk
	changes []nameChange        // not synced
	locks   map[string]bool
	room    int64 // bytes left; negative means no limit
	// fault is asked before each operation: "write", "sync", "syncdir",
	// "create", "truncate", "remove". It runs without the lock, so it may block.
	fault func(op, name string) error
	// broken collects what a log must never do.
	broken []string
}

type nameChange struct {
	from, to string // "" for a creation or a removal
	file     *simFile
}

type simFile struct {
	data     []byte // as the process sees it
	disk     []byte
	pending  []change // not synced
	poisoned bool     // a sync has failed
}

// change is a write, or a truncation when data is nil.
type change struct {
	off  int64
	data []byte
}

var errPower = errors.New("the power is off")

func newSimDisk(seed uint64) *simDisk {
	return &simDisk{
		rng: rand.New(rand.NewPCG(seed, 1)), names: map[string]*simFile{}, durable: map[string]*simFile{},
		locks: map[string]bool{}, room: -1,
	}
}

func (c change) apply(b []byte) []byte {
	if c.data == nil {
		if int64(len(b)) > c.off {
			return b[:c.off:c.off]
		}
		return append(b, make([]byte, c.off-int64(len(b)))...)
	}
	if end := c.off + int64(len(c.data)); int64(len(b)) < end {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[c.off:], c.data)
	return b
}

func (n nameChange) apply(names map[string]*simFile) {
	if n.from != "" {
		delete(names, n.from)
	}
	if n.to != "" {
		names[n.to] = n.file
	}
}

// crash cuts the power: what was not synced is there, or not, or in part.
func (d *simDisk) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
	clear(d.locks)
	d.fault = nil
	mode := d.rng.IntN(4)
	files := map[*simFile]bool{}
	for _, n := range d.changes {
		if d.persists(mode) {
			n.apply(d.durable)
		}
	}
	d.changes = nil
	var names []string
	for name := range d.durable {
		names = append(names, name)
	}
	slices.Sort(names) // so that the seed decides
	for _, name := range names {
		f := d.durable[name]
		if files[f] {
			continue
		}
		files[f] = true
		d.lose(f, mode)
	}
	d.names = map[string]*simFile{}
	for name, f := range d.durable {
		d.names[name] = f
	}
}

// persists decides about something that was not synced: all is lost, all is
// there, or each for itself.
func (d *simDisk) persists(mode int) bool {
	switch mode {
	case 0:
		return false
	case 1:
		return true
	}
	return d.rng.IntN(2) == 0
}

func (d *simDisk) lose(f *simFile, mode int) {
	for _, c := range f.pending {
		if mode < 2 || c.data == nil {
			if d.persists(mode) {
				f.disk = c.apply(f.disk)
			}
			continue
		}
		const sector = 512
		for at := int64(0); at < int64(len(c.data)); at += sector {
			if d.rng.IntN(2) == 0 {
				part := change{c.off + at, c.data[at:min(at+sector, int64(len(c.data)))]}
				f.disk = part.apply(f.disk)
			}
		}
	}
	f.pending = nil
	f.poisoned = false
	f.data = slices.Clone(f.disk)
}

// machine is the disk as processes see it until the next crash.
type machine struct {
	*simDisk
	life int
}

func (d *simDisk) boot() spool.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return machine{d, d.life}
}

// on takes the lock while the power is on.
func (m machine) on() error {
	m.mu.Lock()
	if m.life != m.simDisk.life {
		m.mu.Unlock()
		return errPower
	}
	return nil
}

func (d *simDisk) ask(op, name string) error {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(op, name)
}

func (d *simDisk) setFault(fault func(op, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

func (d machine) Prepare(string) error { return nil }

type simLock struct {
	d    *simDisk
	life int
	name string
}

func (l simLock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.life == l.d.life {
		delete(l.d.locks, l.name)
	}
	return nil
}

func (d machine) Lock(name string) (io.Closer, error) {
	if err := d.on(); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if d.locks[name] {
		return nil, spool.ErrLocked
	}
	d.locks[name] = true
	return simLock{d.simDisk, d.life, name}, nil
}

type simEntry struct{ name string }

func (e simEntry) Name() string               { return e.name }
func (e simEntry) IsDir() bool                { return false }
func (e simEntry) Type() fs.FileMode          { return 0 }
func (e simEntry) Info() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

func (d machine) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := d.on(); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var list []fs.DirEntry
	for name := range d.names {
		if filepath.Dir(name) == dir {
			list = append(list, simEntry{filepath.Base(name)})
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

func (d machine) OpenFile(name string, flag int) (spool.File, error) {
	if flag&syscall.O_CREAT != 0 {
		if err := d.ask("create", name); err != nil {
			return nil, err
		}
	}
	if err := d.on(); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	f := d.names[name]
	switch {
	case f != nil && flag&syscall.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case f == nil && flag&syscall.O_CREAT == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case f == nil:
		f = &simFile{}
		d.names[name] = f
		d.changes = append(d.changes, nameChange{to: name, file: f})
	case flag&syscall.O_TRUNC != 0:
		f.change(change{})
	}
	return &simHandle{d: d.simDisk, f: f, name: name, life: d.life}, nil
}

func (d machine) Rename(from, to string) error {
	if err := d.on(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	n := nameChange{from, to, d.names[from]}
	n.apply(d.names)
	d.changes = append(d.changes, n)
	return nil
}

func (d machine) Remove(name string) error {
	if err := d.ask("remove", name); err != nil {
		return err
	}
	if err := d.on(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	n := nameChange{from: name}
	n.apply(d.names)
	d.changes = append(d.changes, n)
	return nil
}

func (d machine) SyncDir(dir string) error {
	if err := d.ask("syncdir", dir); err != nil {
		return err
	}
	if err := d.on(); err != nil {
		return err
	}
	defer d.mu.Unlock()
	d.changes = slices.DeleteFunc(d.changes, func(n nameChange) bool {
		name := n.to
		if name == "" {
			name = n.from
		}
		if filepath.Dir(name) != dir {
			return false
		}
		n.apply(d.durable)
		return true
	})
	return nil
}

func (f *simFile) change(c change) {
	f.data = c.apply(f.data)
	f.pending = append(f.pending, c)
}

// simHandle is an open file.
type simHandle struct {
	d    *simDisk
	f    *simFile
	name string
	life int
}

// alive takes the lock; a handle from before a crash belongs to nobody.
func (h *simHandle) alive() error {
	h.d.mu.Lock()
	if h.life != h.d.life {
		h.d.mu.Unlock()
		return errPower
	}
	return nil
}

func (h *simHandle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.alive(); err != nil {
		return 0, err
	}
	defer h.d.mu.Unlock()
	if off >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *simHandle) WriteAt(p []byte, off int64) (int, error) {
	failed := h.d.ask("write", h.name)
	if err := h.alive(); err != nil {
		return 0, err
	}
	defer h.d.mu.Unlock()
	if h.f.poisoned && strings.HasSuffix(h.name, ".seg") {
		h.d.broken = append(h.d.broken, "write to "+h.name+" after its sync has failed")
	}
	n := int64(len(p))
	if failed != nil {
		n = h.d.rng.Int64N(n + 1)
	}
	if more := off + n - int64(len(h.f.data)); h.d.room >= 0 && more > 0 {
		if more > h.d.room {
			n -= more - h.d.room
			more, failed = h.d.room, syscall.ENOSPC
		}
		h.d.room -= more
	}
	if n > 0 {
		h.f.change(change{off, slices.Clone(p[:n])})
	}
	return int(max(n, 0)), failed
}

func (h *simHandle) Truncate(size int64) error {
	if err := h.d.ask("truncate", h.name); err != nil {
		return err
	}
	if err := h.alive(); err != nil {
		return err
	}
	defer h.d.mu.Unlock()
	if less := int64(len(h.f.data)) - size; h.d.room >= 0 && less > 0 {
		h.d.room += less
	}
	h.f.change(change{off: size})
	return nil
}

// Sync makes the changes durable. One that fails forgets some of them, and the
// next one does not bring them back: this is what Linux does.
func (h *simHandle) Sync() error {
	failed := h.d.ask("sync", h.name)
	if err := h.alive(); err != nil {
		return err
	}
	defer h.d.mu.Unlock()
	for _, c := range h.f.pending {
		if failed == nil || h.d.rng.IntN(2) == 0 {
			h.f.disk = c.apply(h.f.disk)
		}
	}
	h.f.pending = nil
	h.f.poisoned = h.f.poisoned || failed != nil
	return failed
}

func (h *simHandle) Size() (int64, error) {
	if err := h.alive(); err != nil {
		return 0, err
	}
	defer h.d.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *simHandle) Close() error { return nil }

// rot changes bytes of a file, on the disk and as it is seen.
func (d *simDisk) rot(name string, off int64, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		panic(fmt.Sprintf("no file %s", name))
	}
	c := change{off, b}
	f.data, f.disk = c.apply(f.data), c.apply(f.disk)
}

// seed is of this run, and printed where a test fails.
func seed() uint64 { return uint64(time.Now().UnixNano()) }

// damage replaces bytes of one of the files and names it.
func (d *simDisk) damage(which uint8, off, cut int, insert []byte) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name := range d.names {
		names = append(names, name)
	}
	slices.Sort(names)
	name := names[int(which)%len(names)]
	f := d.names[name]
	off = min(off, len(f.data))
	f.data = slices.Concat(f.data[:off], insert, f.data[min(off+cut, len(f.data)):])
	f.disk, f.pending = slices.Clone(f.data), nil
	return name
}
