package natsconn

import (
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
)

// Keeper is a source on a stream.
type Keeper interface {
	// WillStore returns the subjects that the stream does not store yet and will
	// store once the source is provisioned, as its last check found, and the
	// connection the stream is reached by. No subjects, if that is not known.
	WillStore() (nc *nats.Conn, stream string, subjects []string)
}

// Overlap reports whether one subject can be selected by both filters.
func Overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; ; i++ {
		if i >= len(as) || i >= len(bs) {
			return len(as) == len(bs)
		}
		x, y := as[i], bs[i]
		if x == ">" || y == ">" {
			return true
		}
		if x != "*" && y != "*" && x != y {
			return false
		}
	}
}

// Together reports whether two connections lead to one server or cluster, and
// whether their accounts are the same for certain: accounts share no subjects.
func Together(a, b *nats.Conn) (together, sure bool) {
	if a == b {
		return true, true
	}
	id, cluster := a.ConnectedServerId(), a.ConnectedClusterName()
	together = id != "" && id == b.ConnectedServerId() || cluster != "" && cluster == b.ConnectedClusterName()
	return together, together && a.Opts.UserJWT == nil && b.Opts.UserJWT == nil && userOf(a) == userOf(b)
}

// userOf is as whom a connection was made, without a password.
func userOf(nc *nats.Conn) [2]string {
	name := nc.Opts.User
	if u, err := url.Parse(nc.ConnectedUrl()); err == nil && u.User != nil {
		name = u.User.Username()
	}
	return [2]string{name, nc.Opts.Nkey}
}
