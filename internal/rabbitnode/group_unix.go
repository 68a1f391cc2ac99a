//go:build unix

package rabbitnode

import (
	"os/exec"
	"syscall"
)

// setGroup gives a command a process group of its own, which ends as one.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
