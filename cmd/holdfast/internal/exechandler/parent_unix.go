//go:build unix && !linux

package exechandler

import "syscall"

// dieWithParent does nothing: only Linux can tie a command to the life of this
// process.
func dieWithParent(*syscall.SysProcAttr) {}
