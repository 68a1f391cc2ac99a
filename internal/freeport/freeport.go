// Package freeport finds ports for servers that tests start, stop and start again
// at their place. It is for tests and benchmarks only.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports to choose from. They lie below those that systems give to clients
// and to whoever asks for any port: while a server is down, nothing that wants
// just any port takes its place.
const (
	first = 10_000
	last  = 31_999
)

// Port is a port on loopback that nobody else who asks this package is given, in
// this process or in another one, until it is released or the process ends. A
// server may listen on it with TCP, as often as it likes.
type Port struct {
	number int
	claim  net.PacketConn // with UDP: it is in nobody's way, and everybody finds it
}

// Take claims a port that nobody listens on. The caller must keep the Port for as
// long as it needs the number.
func Take() (*Port, error) {
	const tries = 1000
	var errs [2]error // the first and the last one
	for i := range tries {
		p, err := claim(first + rand.IntN(last-first+1))
		if err == nil {
			return p, nil
		}
		errs[min(i, 1)] = err
	}
	return nil, errors.Join(errs[:]...)
}

// claim claims one port, unless somebody else has it.
func claim(number int) (*Port, error) {
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(number))
	c, err := net.ListenPacket("udp4", at)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", at)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := l.Close(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Port{number: number, claim: c}, nil
}

// Number is the number of the port.
func (p *Port) Number() int { return p.number }

// Release lets others take the port. Releasing it again does nothing.
func (p *Port) Release() { _ = p.claim.Close() }
