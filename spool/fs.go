package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// FS is the file system that a log lives on. The zero Options use the real one;
// tests put one that fails in between. All names are full paths. It is used by
// several goroutines at once.
type FS interface {
	// Prepare makes the directory ready, 0700, and refuses one that is not safe:
	// a symlink, somebody else's, or one that holds other things than a spool.
	Prepare(dir string) error
	// Lock takes the lock of a directory until it is closed, or returns ErrLocked.
	Lock(name string) (io.Closer, error)
	// ReadDir lists a directory, sorted by name.
	ReadDir(dir string) ([]fs.DirEntry, error)
	// OpenFile opens a file, never through a symlink. The flags are those of
	// os.OpenFile.
	OpenFile(name string, flag int) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes the creation, renaming and removal of names durable.
	SyncDir(dir string) error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size is the length of the file.
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes the data durable, and as much of the metadata as is needed to
	// read it.
	Sync() error
}

const (
	fileMode = 0o600
	dirMode  = 0o700
)

// disk is the real file system.
type disk struct{}

type diskFile struct{ *os.File }

func (f diskFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f diskFile) Sync() error { return syncData(f.File) }

func (disk) Prepare(dir string) error {
	parents := naming(dir)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	if err := os.Chmod(dir, dirMode); err != nil {
		return err
	}
	for _, parent := range parents {
		if err := (disk{}).SyncDir(parent); err != nil {
			return err
		}
	}
	return nil
}

// naming returns the directories that must be synced so that dir is found after a
// power loss: its parent, for dir itself may be new, and the parent of each
// directory above it that is not there yet.
func naming(dir string) []string {
	var parents []string
	for {
		parent := filepath.Dir(dir)
		parents = append(parents, parent)
		if _, err := os.Lstat(parent); parent == dir || !errors.Is(err, fs.ErrNotExist) {
			return parents
		}
		dir = parent
	}
}

// checkDir refuses a directory that is not safe to write to or was hardly meant.
func checkDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a symlink, and a spool follows none: name the directory itself", dir)
	case !info.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	case !ours(info):
		return fmt.Errorf("%s belongs to another user: a spool must belong to the user who writes it", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := checkEntry(dir, e); err != nil {
			return err
		}
	}
	return nil
}

// checkEntry refuses what a spool does not have.
func checkEntry(dir string, e fs.DirEntry) error {
	if !known(e.Name()) {
		return fmt.Errorf("%s holds %s, which is no file of a spool: give the spool a directory of its own", dir, e.Name())
	}
	if e.Type()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s in %s is a symlink, and a spool follows none: remove it", e.Name(), dir)
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !ours(info) {
		return fmt.Errorf("%s in %s belongs to another user: a spool must belong to the user who writes it", e.Name(), dir)
	}
	return err
}

func known(name string) bool {
	switch name {
	case lockName, asideDir, quarantineDir:
		return true
	}
	_, segment := firstOf(name, segmentSuffix)
	_, marks := firstOf(name, marksSuffix)
	return segment || marks || quarantined(name)
}

// quarantined reports whether a file is called as those in quarantine are.
func quarantined(name string) bool {
	name = strings.TrimPrefix(strings.TrimSuffix(name, temporary), asideDir+"-")
	place, ok := strings.CutSuffix(name, quarantineSuffix)
	first, off, _ := strings.Cut(place, "-")
	_, err := strconv.ParseUint(off, 10, 63)
	_, isSegment := firstOf(first+segmentSuffix, segmentSuffix)
	return ok && err == nil && isSegment
}

// unlockHint says how to get at a spool that somebody writes.
const unlockHint = "end that one first, or give this one a directory of its own"

func (disk) Lock(name string) (io.Closer, error) { return lockFile(name) }

func (disk) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

func (disk) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag|noFollow, fileMode)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }

func (disk) Remove(name string) error { return os.Remove(name) }

func (disk) SyncDir(dir string) error { return syncDir(dir) }
