//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly || windows)

package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// lockFile takes the directory by a file that must not exist. It stays behind
// when the process is killed and must then be removed by hand.
func lockFile(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w; remove %s if its process was killed", ErrLocked, name)
	}
	if err != nil {
		return nil, err
	}
	return exclusive{f}, nil
}

type exclusive struct{ *os.File }

func (e exclusive) Close() error { return errors.Join(e.File.Close(), os.Remove(e.Name())) }
