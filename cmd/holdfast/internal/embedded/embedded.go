// Package embedded runs a NATS server with JetStream inside the process: for
// development, for the demo, and for programs on one machine.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// lockName is the file that is locked while a server uses the directory.
	lockName = "holdfast.lock"
	// readyTimeout bounds the start; a large file store is read first.
	readyTimeout = 60 * time.Second
	// maxPayload is above the 1 MiB that clients expect of a server, so that a
	// dead letter of the largest usual message, which is longer by its envelope,
	// still fits.
	maxPayload = 4 << 20
	// syncInterval is how often the store is written through to the disk. What
	// was confirmed survives the end of the process at any time, and that of the
	// machine but for the last interval.
	syncInterval = time.Second
)

// ErrNotLoopback is returned for an address that other machines can reach.
var ErrNotLoopback = errors.New("the embedded server listens on loopback only: it asks nobody for a password")

// ErrListen is returned for an address that the server cannot listen on.
var ErrListen = errors.New("the embedded server cannot listen")

// ErrNoData is returned for a directory that no embedded server has written.
var ErrNoData = errors.New("no embedded server has kept its data there")

// ErrLocked is returned when another process uses the data directory.
var ErrLocked = errors.New("the data directory is in use by another process")

// Config describes a server.
type Config struct {
	// Listen is HOST:PORT. Port 0 or -1 takes a free one.
	Listen string
	// Data is the directory of the file store; it is created when missing.
	Data string
	// AllowRemote lets Listen be an address that other machines can reach.
	AllowRemote bool
	// Logger gets what the server has to say; nil discards it.
	Logger *slog.Logger
}

// Server is a running server.
type Server struct {
	ns     *server.Server
	unlock func()
	once   sync.Once
}

// Check reports whether a server may listen on this address, without doing so.
func Check(listen string, allowRemote bool) error {
	_, _, err := address(listen, allowRemote)
	return err
}

func address(listen string, allowRemote bool) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: want HOST:PORT", listen)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("listen address %q: the port must be a number up to 65535", listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	ip := net.ParseIP(host)
	loopback := host == "localhost" || (ip != nil && ip.IsLoopback())
	if !loopback && !allowRemote {
		return "", 0, fmt.Errorf("listen address %q: %w", listen, ErrNotLoopback)
	}
	return host, port, nil
}

// Free reports whether a server could listen on an address now, by doing so for a
// moment. A free port is always found.
func Free(listen string) error {
	host, port, err := address(listen, true)
	if err != nil || port == server.RANDOM_PORT {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("%w on %s: %w", ErrListen, listen, err)
	}
	return l.Close()
}

// Kept reports whether an embedded server has kept its data in a directory.
func Kept(data string) error {
	for _, name := range []string{lockName, server.JetStreamStoreDir} {
		if _, err := os.Stat(filepath.Join(data, name)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", data, ErrNoData)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Start starts a server and returns once it takes connections, or when ctx ends.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	host, port, err := address(cfg.Listen, cfg.AllowRemote)
	if err != nil {
		return nil, err
	}
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		return nil, err
	}
	if err = os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	unlock, err := lock(filepath.Join(data, lockName))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Data, err)
	}
	log := newLog(cfg.Logger)
	ns, err := server.NewServer(&server.Options{
		ServerName: "holdfast", Host: host, Port: port,
		JetStream: true, StoreDir: data, DisableJetStreamBanner: true, SyncInterval: syncInterval,
		MaxPayload: maxPayload, NoSigs: true, NoLog: true,
	})
	if err != nil {
		unlock()
		return nil, fmt.Errorf("embedded server: %w", err)
	}
	ns.SetLoggerV2(log, false, false, false)
	s := &Server{ns: ns, unlock: unlock}
	ns.Start()
	if err := s.ready(ctx, log); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w on %s: %w", ErrListen, cfg.Listen, err)
	}
	return s, nil
}

// ready waits until the server takes connections or says that it never will.
func (s *Server) ready(ctx context.Context, log *logAdapter) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		select {
		case reason := <-log.fatal:
			return errors.New(reason)
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
		}
		if s.ns.ReadyForConnections(50 * time.Millisecond) {
			return nil
		}
	}
}

// URL is where clients connect to.
func (s *Server) URL() string { return s.ns.ClientURL() }

// Version is that of the server.
func (s *Server) Version() string { return server.VERSION }

// Close stops the server, writes its store out and frees the data directory. It
// is idempotent. It returns early when ctx ends; the server goes on stopping.
func (s *Server) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() { // the server itself has no way to stop waiting
		defer close(done)
		s.stop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) stop() {
	s.once.Do(func() {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
		s.unlock()
	})
}

// logAdapter hands what the server says to slog. Notices are many and of no
// interest to somebody who did not ask for a server.
type logAdapter struct {
	log   *slog.Logger
	fatal chan string
}

func newLog(l *slog.Logger) *logAdapter {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &logAdapter{log: l, fatal: make(chan string, 1)}
}

func (a *logAdapter) Noticef(f string, v ...any) { a.log.Debug("nats-server", "said", line(f, v)) }
func (a *logAdapter) Debugf(f string, v ...any)  { a.log.Debug("nats-server", "said", line(f, v)) }
func (a *logAdapter) Tracef(f string, v ...any)  { a.log.Debug("nats-server", "said", line(f, v)) }
func (a *logAdapter) Warnf(f string, v ...any)   { a.log.Warn("nats-server", "said", line(f, v)) }
func (a *logAdapter) Errorf(f string, v ...any)  { a.log.Error("nats-server", "said", line(f, v)) }

// Fatalf keeps the first reason for Start to return; it does not end the
// process.
func (a *logAdapter) Fatalf(f string, v ...any) {
	select {
	case a.fatal <- line(f, v):
	default:
	}
}

func line(f string, v []any) string { return strings.TrimSpace(fmt.Sprintf(f, v...)) }
