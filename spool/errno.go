//go:build unix || windows

package spool

import (
	"errors"
	"syscall"
)

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func readOnlyDisk(err error) bool { return errors.Is(err, syscall.EROFS) }
