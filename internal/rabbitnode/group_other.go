//go:build !unix

package rabbitnode

import "os/exec"

// setGroup does nothing here: Debian's package is not for this platform.
func setGroup(*exec.Cmd) {}
