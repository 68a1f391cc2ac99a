package main

import (
	"os"
	"syscall"
)

// syncFile is the sync that spool uses here.
func syncFile(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
