package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// The settings of the connection for publishing.
const (
	pubDialTimeout  = 2 * time.Second
	pubWriteTimeout = 5 * time.Second // a write to a half-open connection
	pubPingInterval = 20 * time.Second
	pubFirstPause   = 20 * time.Millisecond
	pubLongestPause = time.Second
)

// forPublishing begins the detail of events that concern this connection and no
// other.
const forPublishing = "the connection for publishing"

// pubConns keeps the connection that all pipelines of a transport share. It is
// made when the first pipeline is opened, and made anew when one is opened after
// it was lost.
//
// The client library never restores it: it would keep what was written and send
// it behind what came later. So a message can only reach a new connection when
// somebody sends it there, in its turn.
type pubConns struct {
	base nats.Options      // of the transport's own connection, its handlers removed
	main func() *nats.Conn // the transport's own connection
	emit func(transport.Event)
	turn chan struct{} // holds a token while somebody dials

	life context.Context // ends when the transport is closed
	end  context.CancelFunc

	mu   sync.Mutex // guards what follows; a leaf
	cur  *pubConn
	down bool // told that there is no connection
}

func newPubConns(main func() *nats.Conn, emit func(transport.Event)) *pubConns {
	p := &pubConns{base: publishingOptions(main().Opts), main: main, emit: emit, turn: make(chan struct{}, 1)}
	// It ends with Close of the transport, which no context of a caller bounds.
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// publishingOptions are the options of a connection like one with o, which is
// neither restored nor ever keeps anything to be sent later.
func publishingOptions(o nats.Options) nats.Options {
	o.Name = strings.TrimSpace(o.Name + " (publishing)")
	o.AllowReconnect, o.MaxReconnect, o.RetryOnFailedConnect = false, 0, false
	o.ReconnectBufSize, o.ReconnectOnFlusherError = -1, false
	o.NoCallbacksAfterClientClose, o.PermissionErrOnSubscribe = false, false
	// Handlers of the user belong to the connection the user knows of.
	o.ClosedCB, o.DisconnectedCB, o.DisconnectedErrCB, o.ConnectedCB, o.ReconnectedCB = nil, nil, nil, nil, nil
	o.DiscoveredServersCB, o.AsyncErrorCB, o.LameDuckModeHandler = nil, nil, nil
	o.ReconnectErrCB, o.ReconnectToServerCB, o.CustomReconnectDelayCB = nil, nil, nil
	o.Timeout = max(o.Timeout, pubDialTimeout)
	o.FlusherTimeout = pubWriteTimeout
	o.PingInterval = pubPingInterval
	return o
}

// open returns the connection there is, or waits for a new one until ctx ends.
// What the server refuses for who we are is returned at once.
func (p *pubConns) open(ctx context.Context) (*pubConn, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(p.life, stop)()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, p.notOpened(ctx, nil)
	}
	if c := p.current(); c != nil && p.life.Err() == nil {
		return c, nil
	}
	for pause := pubFirstPause; ; pause = min(2*pause, pubLongestPause) {
		began := time.Now()
		c, err := p.dial(ctx)
		if err == nil {
			return c, nil
		}
		p.lost(err)
		if refused(err) || ctx.Err() != nil || !sleep(ctx, jittered(pause)-time.Since(began)) {
			return nil, p.notOpened(ctx, err)
		}
	}
}

// refused tells whether the server does not want us.
func refused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked)
}

func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// sleep waits for d and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// notOpened says why there is no connection. last is what the last try met.
func (p *pubConns) notOpened(ctx context.Context, last error) error {
	e := &transport.Error{Op: "open pipeline", Address: natsconn.Redact(p.base.Url), Kind: transport.Temporary}
	switch {
	case p.life.Err() != nil:
		e.Kind, e.Err = transport.Permanent, transport.ErrClosed
	case last == nil:
		e.Err = context.Cause(ctx)
	case refused(last):
		e.Err = fmt.Errorf("%w: %w", transport.ErrPermission, last)
		e.Hint = "the server refused the credentials of a second connection, for publishing"
	default:
		e.Err = errors.Join(context.Cause(ctx), last)
		e.Hint = "the server cannot be reached"
	}
	return e
}

func (p *pubConns) current() *pubConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cur
}

// dial makes one try.
func (p *pubConns) dial(ctx context.Context) (*pubConn, error) {
	c := &pubConn{owner: p, gone: make(chan struct{}), pipelines: map[*pipeline]struct{}{}}
	opts := p.base
	// The transport's own connection is made anew when its key was replaced.
	opts.Nkey, opts.SignatureCB = p.main().Opts.Nkey, p.main().Opts.SignatureCB
	// The server that is up may be one that the others told us of.
	opts.Servers = append(slices.Clone(opts.Servers), p.discovered()...)
	opts.ClosedCB, opts.AsyncErrorCB = c.onClosed, c.onError
	guard := &guardDialer{ctx: ctx, opts: p.base, keep: func(g *guardConn) { c.wire = g }}
	if opts.InProcessServer != nil {
		opts.InProcessServer = guard
	} else {
		opts.CustomDialer = guard
	}
	nc, err := opts.Connect()
	if err != nil {
		return nil, err
	}
	c.nc = nc
	if !c.wire.connected() {
		nc.Close()
		<-c.gone
		return nil, ctx.Err()
	}
	p.keep(c)
	return c, nil
}

// discovered are the servers that the transport's own connection was told of,
// with the credentials it has.
func (p *pubConns) discovered() []string {
	user := credentials(p.base)
	var urls []string
	for _, u := range p.main().DiscoveredServers() {
		if scheme, host, ok := strings.Cut(u, "://"); ok {
			urls = append(urls, scheme+"://"+user+host)
		}
	}
	return urls
}

// credentials returns what stands before the host in the URL of the first
// server, with its '@'.
func credentials(o nats.Options) string {
	first := o.Url
	if first == "" && len(o.Servers) > 0 {
		first = o.Servers[0]
	}
	first, _, _ = strings.Cut(first, ",")
	if _, rest, ok := strings.Cut(first, "://"); ok {
		first = rest
	}
	at := strings.LastIndexByte(first, '@')
	return first[:at+1]
}

// keep makes c the connection, unless it is gone again.
func (p *pubConns) keep(c *pubConn) {
	p.mu.Lock()
	select {
	case <-c.gone:
	default:
		p.cur = c
	}
	told := p.down
	p.down = false
	p.mu.Unlock()
	if told {
		p.emit(transport.Event{Kind: transport.Reconnected, Detail: forPublishing + ": " + natsconn.Redact(c.nc.ConnectedUrl())})
	}
}

// lost tells once that there is no connection although one is wanted.
func (p *pubConns) lost(err error) {
	p.mu.Lock()
	told := p.down
	p.down = true
	p.mu.Unlock()
	if !told && p.life.Err() == nil {
		p.emit(transport.Event{Kind: transport.Disconnected, Err: err, Detail: forPublishing})
	}
}

// forget is called when c is gone.
func (p *pubConns) forget(c *pubConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == c {
		p.cur = nil
	}
}

// abort ends the connection for good and does not wait.
func (p *pubConns) abort() {
	p.end()
	if c := p.current(); c != nil {
		c.wire.Close()
	}
}

// close ends the connection for good, and every pipeline with it. It waits
// until its goroutines are told; what is in its buffer is sent before ctx ends.
func (p *pubConns) close(ctx context.Context) {
	p.end()
	p.turn <- struct{}{} // who dials now stops soon
	defer func() { <-p.turn }()
	c := p.current()
	if c == nil {
		return
	}
	defer context.AfterFunc(ctx, func() { c.wire.Close() })()
	c.nc.Close()
	<-c.gone
}

// pubConn is one connection for publishing.
type pubConn struct {
	owner *pubConns
	nc    *nats.Conn
	wire  *guardConn
	gone  chan struct{} // closed when the client library has nothing more to say

	mu        sync.Mutex // guards what follows; nothing else is locked under it
	over      bool
	pipelines map[*pipeline]struct{}
}

// add registers a pipeline, unless the connection is gone.
func (c *pubConn) add(p *pipeline) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.pipelines[p] = struct{}{}
	}
	return !c.over
}

func (c *pubConn) remove(p *pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pipelines, p)
}

func (c *pubConn) each(do func(*pipeline)) {
	c.mu.Lock()
	all := make([]*pipeline, 0, len(c.pipelines))
	for p := range c.pipelines {
		all = append(all, p)
	}
	c.mu.Unlock()
	for _, p := range all {
		do(p)
	}
}

// onClosed is the last thing the client library calls.
func (c *pubConn) onClosed(nc *nats.Conn) {
	c.owner.forget(c)
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	err := lostError(c.owner.life.Err() != nil, nc.LastError())
	c.each(func(p *pipeline) { p.finish(err) })
	close(c.gone)
}

// lostError says why a pipeline ended with its connection.
func lostError(closed bool, cause error) error {
	if closed {
		return &transport.Error{Op: "publish", Kind: transport.Permanent, Err: transport.ErrClosed}
	}
	err := error(nats.ErrDisconnected)
	if cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return &transport.Error{Op: "publish", Kind: transport.Temporary, Err: err}
}

// onError hands a refused permission to those it concerns.
func (c *pubConn) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if d, ok := natsconn.ParseDenial(err); ok {
		c.each(func(p *pipeline) { p.denied(d) })
	}
}

// guardDialer makes the network connections of one dial as its options say, and
// ends them when ctx ends before the dial has succeeded.
type guardDialer struct {
	ctx  context.Context
	opts nats.Options
	keep func(*guardConn)
}

// Dial implements nats.CustomDialer.
func (d *guardDialer) Dial(network, address string) (net.Conn, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	if d.opts.CustomDialer != nil {
		return d.guard(d.opts.CustomDialer.Dial(network, address))
	}
	dialer := net.Dialer{Timeout: d.opts.Timeout}
	if d.opts.Dialer != nil {
		dialer = *d.opts.Dialer
	}
	if d.opts.AllowMultipathTCP != nil {
		dialer.SetMultipathTCP(*d.opts.AllowMultipathTCP)
	}
	return d.guard(dialer.DialContext(d.ctx, network, address))
}

// SkipTLSHandshake says what the user's own dialer says.
func (d *guardDialer) SkipTLSHandshake() bool {
	own, ok := d.opts.CustomDialer.(interface{ SkipTLSHandshake() bool })
	return ok && own.SkipTLSHandshake()
}

// InProcessConn implements nats.InProcessConnProvider.
func (d *guardDialer) InProcessConn() (net.Conn, error) {
	return d.guard(d.opts.InProcessServer.InProcessConn())
}

func (d *guardDialer) guard(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	g := &guardConn{Conn: conn}
	g.connected = context.AfterFunc(d.ctx, func() { g.Close() })
	d.keep(g)
	return g, nil
}

// guardConn is a connection on which nothing follows a write that failed. The
// client library goes on after a failed write when nothing of it was sent, and
// drops what it held: what comes later would overtake it.
type guardConn struct {
	net.Conn
	connected func() bool // the dial is over: false when its context ended before
}

// Write implements net.Conn.
func (g *guardConn) Write(b []byte) (int, error) {
	n, err := g.Conn.Write(b)
	if err != nil {
		g.Conn.Close()
	}
	return n, err
}
