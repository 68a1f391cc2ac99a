//go:build unix

package spool

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// noFollow makes opening a symlink fail.
const noFollow = syscall.O_NOFOLLOW

// ours reports whether a file belongs to the user of this process.
func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
