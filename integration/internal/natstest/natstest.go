// Package natstest runs a NATS server inside the test process: loopback only,
// JetStream on, files in the test's own directory. The port is chosen first and
// kept over restarts, as a real broker keeps its own.
//
// Servers and clients of tests are patient: a machine that stalls for seconds
// breaks no handshake that is under way.
package natstest

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/integration/internal/netproxy"
	"github.com/holdfast-go/holdfast/internal/freeport"
)

const (
	// ready bounds how long a server may take to accept connections.
	ready = 2 * time.Minute
	// handshake bounds how long a connection may take to be made, on both sides.
	// The usual limit is two seconds.
	handshake = time.Minute
)

// Patient makes a client wait for its handshake as long as the servers here do.
func Patient() nats.Option { return nats.Timeout(handshake) }

// Server is an embedded NATS server. It is stopped when its test ends. Its
// methods belong to the goroutine of the test.
type Server struct {
	tb   testing.TB
	opts *server.Options
	srv  *server.Server
}

// Option changes the settings of the server before it starts.
type Option func(*server.Options)

// WithoutJetStream starts a server of NATS core only.
func WithoutJetStream() Option {
	return func(o *server.Options) { o.JetStream = false }
}

// WithMaxPayload sets the largest message the server takes, in bytes.
func WithMaxPayload(n int32) Option {
	return func(o *server.Options) { o.MaxPayload = n }
}

// WithUser adds a user with permissions; nil permissions allow everything. With
// any user the server refuses anonymous connections.
func WithUser(name, password string, p *server.Permissions) Option {
	return func(o *server.Options) {
		o.Users = append(o.Users, &server.User{Username: name, Password: password, Permissions: p})
	}
}

// WithOptions changes anything else.
func WithOptions(change func(*server.Options)) Option { return change }

// Start starts a server and fails the test when it does not come up.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s := New(tb, opts...)
	s.Start()
	return s
}

// New reserves a port for a server that is not started yet.
func New(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	o := &server.Options{
		Host:        "127.0.0.1",
		Port:        FreePort(tb),
		AuthTimeout: handshake.Seconds(),
		TLSTimeout:  handshake.Seconds(),
		NoLog:       true,
		NoSigs:      true,
		JetStream:   true,
		StoreDir:    tb.TempDir(),
		MaxPayload:  1 << 20,
	}
	for _, opt := range opts {
		opt(o)
	}
	s := &Server{tb: tb, opts: o}
	tb.Cleanup(s.Stop)
	return s
}

// URL returns the address of the server, without credentials.
func (s *Server) URL() string {
	return fmt.Sprintf("nats://%s:%d", s.opts.Host, s.opts.Port)
}

// URLFor returns the address of the server with the credentials of a user.
func (s *Server) URLFor(user, password string) string {
	return fmt.Sprintf("nats://%s:%s@%s:%d", user, password, s.opts.Host, s.opts.Port)
}

// Start starts the server if it does not run, on the port and the files it had.
func (s *Server) Start() {
	s.tb.Helper()
	if s.srv != nil {
		return
	}
	srv, err := server.NewServer(s.opts.Clone())
	if err != nil {
		s.tb.Fatalf("natstest: make a server: %v", err)
	}
	said := &Complaints{}
	srv.SetLoggerV2(said, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(ready) {
		srv.Shutdown()
		s.tb.Fatalf("natstest: the server did not accept connections within %s: %q", ready, said.All())
	}
	s.srv = srv
}

// Stop shuts the server down and waits until it is gone. Its files stay.
func (s *Server) Stop() {
	if s.srv == nil {
		return
	}
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.srv = nil
}

// Restart stops the server and starts it again on the same port and files.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	s.Start()
}

// RestartWith stops the server and starts it again on the same port and files,
// with other settings.
func (s *Server) RestartWith(change func(*server.Options)) {
	s.tb.Helper()
	s.Stop()
	change(s.opts)
	s.Start()
}

// RestartEmpty stops the server and starts it again on the same port with no
// files, as a broker that lost its disk.
func (s *Server) RestartEmpty() {
	s.tb.Helper()
	s.Stop()
	s.opts.StoreDir = s.tb.TempDir()
	s.Start()
}

// CutClients closes the connection of every client at once; the server runs on.
func (s *Server) CutClients() {
	s.tb.Helper()
	if s.srv == nil {
		return
	}
	info, err := s.srv.Connz(&server.ConnzOptions{})
	if err != nil {
		s.tb.Fatalf("natstest: list the connections: %v", err)
	}
	for _, c := range info.Conns {
		// A client that left in the meantime is what was wanted.
		_ = s.srv.DisconnectClientByID(c.Cid)
	}
}

// Proxy stands between clients and the server.
type Proxy struct{ *netproxy.Proxy }

// NewProxy starts a proxy in front of the server. It ends with the test.
func (s *Server) NewProxy() *Proxy {
	s.tb.Helper()
	return &Proxy{netproxy.Start(s.tb, fmt.Sprintf("%s:%d", s.opts.Host, s.opts.Port))}
}

// URL is what a client connects to.
func (p *Proxy) URL() string { return "nats://" + p.Addr() }

// Server returns the running server, or nil.
func (s *Server) Server() *server.Server { return s.srv }

// Conn opens a connection of the test's own beside the code under test.
func (s *Server) Conn(opts ...nats.Option) *nats.Conn {
	s.tb.Helper()
	return s.ConnTo(s.URL(), opts...)
}

// ConnTo opens a connection to a URL of this server, with credentials perhaps.
func (s *Server) ConnTo(url string, opts ...nats.Option) *nats.Conn {
	s.tb.Helper()
	nc, err := nats.Connect(url, append([]nats.Option{Patient(), nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		s.tb.Fatalf("natstest: connect: %v", err)
	}
	s.tb.Cleanup(nc.Close)
	return nc
}

// FreePort claims a port for a server until the test ends.
func FreePort(tb testing.TB) int {
	tb.Helper()
	p, err := freeport.Take()
	if err != nil {
		tb.Fatalf("natstest: no free port: %v", err)
	}
	tb.Cleanup(p.Release)
	return p.Number()
}
