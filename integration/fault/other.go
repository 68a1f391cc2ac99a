//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "the fault harness needs Linux: it stops processes, limits their files and mounts file systems")
	os.Exit(2)
}
