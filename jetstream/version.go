package jetstream

import (
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// serverAtLeast tells whether the connected server has this version or a later
// one. A version that cannot be read counts as old: a feature is used only
// where the server said that it has it.
func serverAtLeast(nc *nats.Conn, major, minor, patch int) bool {
	return versionAtLeast(nc.ConnectedServerVersion(), major, minor, patch)
}

func versionAtLeast(version string, want ...int) bool {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "-")
	parts := strings.Split(version, ".")
	for i, w := range want {
		if i >= len(parts) {
			return false
		}
		have, err := strconv.Atoi(parts[i])
		if err != nil {
			return false
		}
		if have != w {
			return have > w
		}
	}
	return true
}
