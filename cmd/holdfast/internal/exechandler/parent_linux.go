package exechandler

import "syscall"

// dieWithParent makes the kernel kill the command when this process is killed:
// its message is handed out again then, and must not be handled twice at once.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
