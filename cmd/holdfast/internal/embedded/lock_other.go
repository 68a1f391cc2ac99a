//go:build !unix

package embedded

import (
	"errors"
	"io/fs"
	"os"
)

// lock takes the directory for this process by a file that must not exist. It
// stays behind when the process is killed and must then be removed by hand.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close(); _ = os.Remove(path) }, nil
}
