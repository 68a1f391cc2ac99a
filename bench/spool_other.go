//go:build !linux

package main

import "os"

// syncFile is the sync that spool uses here.
func syncFile(f *os.File) error { return f.Sync() }
