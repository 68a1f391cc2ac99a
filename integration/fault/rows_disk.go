//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"
)

// diskFull: the disk under a spool takes nothing for a while. A publish says so,
// soon; nothing that was accepted is lost; and it heals without a restart.
func diskFull(t *trial) error {
	disk, err := t.smallDisk()
	if err != nil {
		t.absent("%s (%v); the row file-limit needs none", noMount, err)
		return nil
	}
	filler := filepath.Join(disk, "filler")
	dir := filepath.Join(disk, "spool")
	return t.fullDisk(dir, func(*publisher) error { return fill(filler) }, func(*publisher) error { return os.Remove(filler) })
}

// diskHung: the disk under a spool answers nothing for a while. A publish waits no
// longer than its bound, and what it cannot know it says.
func diskHung(t *trial) error {
	m, err := t.newImage()
	if err != nil {
		t.absent("%s (%v)", noMount, err)
		return nil
	}
	thaw := func(*publisher) error { return command("fsfreeze", "--unfreeze", m.mount) }
	t.before = append(t.before, func() { _ = thaw(nil) }) // it is thawed already, or the row has failed
	freeze := func(*publisher) error { return command("fsfreeze", "--freeze", m.mount) }
	return t.fullDisk(filepath.Join(m.mount, "spool"), freeze, thaw)
}

// fileLimit: files of the publisher may not grow for a while, as with a quota. It
// needs no rights.
func fileLimit(t *trial) error {
	dir, err := t.dir()
	if err != nil {
		return err
	}
	limit := func(bytes uint64) func(*publisher) error {
		return func(p *publisher) error { return limitFiles(p.cmd.Process.Pid, bytes) }
	}
	return t.fullDisk(dir, limit(1), limit(syscall.RLIM_INFINITY&(1<<63-1)))
}

func (t *trial) fullDisk(dir string, full, heal func(*publisher) error) error {
	const soon = time.Second
	t.terms.window, t.terms.spooled = window, true
	t.terms.mayRefuse = func(id) bool { return true }
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	p, err := t.publish(order{Spool: dir, Callers: 50, Rate: 20, Timeout: soon})
	if err != nil {
		return err
	}
	if err := t.accepted(300); err != nil {
		return err
	}
	from := time.Now()
	if err := full(p); err != nil {
		return err
	}
	if err := t.expect("publishes on a full disk are refused", func() bool { _, _, r := t.led.counts(); return r >= 100 }); err != nil {
		return err
	}
	if err := heal(p); err != nil {
		return err
	}
	back := time.Now()
	a, _, _ := t.led.counts()
	if err := t.expect("publishes are accepted again when there is room", func() bool { n, _, _ := t.led.counts(); return n > a+10 }); err != nil {
		return err
	}
	t.recovered(time.Since(back))
	t.terms.faults = append(t.terms.faults, span{from, time.Now()})
	slowest := t.slowestRefusal()
	t.note("refused within %.0f ms", float64(slowest.Microseconds())/1e3)
	if slowest > 10*soon {
		t.broke("a refusal took %v, and %v is what a publish may take", slowest, soon)
	}
	return t.more(300)
}

func (t *trial) slowestRefusal() time.Duration {
	t.led.mu.Lock()
	defer t.led.mu.Unlock()
	var most time.Duration
	for _, r := range t.led.refused {
		most = max(most, r.to.Sub(r.from))
	}
	return most
}

// smallDisk mounts a small file system in memory.
func (t *trial) smallDisk() (string, error) {
	dir, err := t.dir()
	if err != nil {
		return "", err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		return "", err
	}
	t.cleanups = append(t.cleanups, func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir, nil
}

// fill writes until nothing goes in.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return err
		}
	}
	return nil
}

// limitFiles bounds the size to which files of a process may grow.
func limitFiles(pid int, bytes uint64) error {
	const fileSize = 1 // RLIMIT_FSIZE
	var limit syscall.Rlimit
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), fileSize, 0, uintptr(unsafe.Pointer(&limit)), 0, 0); e != 0 {
		return e
	}
	limit.Cur = min(bytes, limit.Max)
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), fileSize, uintptr(unsafe.Pointer(&limit)), 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// noMount begins the note of a row that could not have its file system.
const noMount = "no right to mount"

// powerLoss: the power of the publisher's machine is cut. The spool lies on a file
// system in an image: what the copy of the image has after a kill is what was
// synced or written back.
func powerLoss(t *trial) error {
	m, err := t.newImage()
	if err != nil {
		t.absent("%s (%v); the spool's own tests cut the power of a simulated disk", noMount, err)
		return nil
	}
	// The marks of what was sent may be a second behind.
	t.terms.window, t.terms.spooled = 4*window, true
	if err := t.b.create(t.ctx, t.name, 0); err != nil {
		return err
	}
	p, url, err := t.proxied()
	if err != nil {
		return err
	}
	for k := range t.size.powerCuts + 1 {
		last := k == t.size.powerCuts
		pub, err := t.publish(order{Lane: "s", First: k * generation, Spool: filepath.Join(m.mount, "spool"), Callers: 4, Rate: 500, URL: url})
		if err != nil {
			return err
		}
		offline := k%2 == 0 && !last
		p.set(func(p *proxy) { p.refuse = offline })
		if offline {
			p.cutAll()
		}
		if err := t.more(100 + t.rnd.IntN(200)); err != nil || last {
			return err
		}
		from := time.Now()
		if err := t.pause(t.within(50 * time.Millisecond)); err != nil {
			return err
		}
		pub.kill()
		if err := m.cutPower(); err != nil {
			return err
		}
		p.set(func(p *proxy) { p.refuse = false })
		t.terms.faults = append(t.terms.faults, span{from, time.Now()})
	}
	return nil
}

// image is a mounted file system in a file.
type image struct {
	dir, mount, file string
	n                int
}

func (t *trial) newImage() (*image, error) {
	dir, err := t.dir()
	if err != nil {
		return nil, err
	}
	m := &image{dir: dir, mount: filepath.Join(dir, "mount"), file: filepath.Join(dir, "image0")}
	if err := os.Mkdir(m.mount, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(m.file)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(48<<20), f.Close()); err != nil {
		return nil, err
	}
	if err := command("mkfs.ext4", "-q", "-F", m.file); err != nil {
		return nil, err
	}
	if err := m.up(); err != nil {
		return nil, err
	}
	t.cleanups = append(t.cleanups, func() { _ = m.down() })
	return m, nil
}

func (m *image) up() error   { return command("mount", "-o", "loop", m.file, m.mount) }
func (m *image) down() error { return command("umount", "--lazy", m.mount) }

// cutPower goes on with what is on the disk at this moment, and nothing else.
func (m *image) cutPower() error {
	m.n++
	next := filepath.Join(m.dir, fmt.Sprintf("image%d", m.n))
	if err := copyFile(next, m.file); err != nil {
		return err
	}
	if err := m.down(); err != nil {
		return err
	}
	_ = os.Remove(m.file) // it goes on where it is still mounted
	m.file = next
	return m.up()
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
