package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/spool"
	"github.com/holdfast-go/holdfast/transport"
)

// exported is a message of a spool with all that belongs to it.
type exported struct {
	spooled
	Address address             `json:"address"`
	DedupID string              `json:"dedup_id,omitempty"`
	Header  map[string][]string `json:"header,omitempty"`
	// NotBefore, Expiry and Priority are those it was published with.
	NotBefore time.Time `json:"not_before,omitzero"`
	Expiry    string    `json:"expiry,omitempty"`
	Priority  uint8     `json:"priority,omitempty"`
	// Body is set when it is text, BodyBase64 otherwise. Of a record that is no
	// message it is all of it.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"body_base64,omitempty"`
}

// address is where a message goes, in the words of its transport.
type address struct {
	Name string `json:"name"`
	Key  string `json:"key,omitempty"`
}

func exportedOf(r spool.Record, reason string) exported {
	x, body := exported{spooled: spooledOf(r, reason)}, r.Data
	if to, m, err := sender.Decode(r.Data); err == nil {
		x.Address, x.DedupID, x.Header, x.NotBefore, x.Priority, body = address(to), m.DedupID, m.Header, m.NotBefore, m.Priority, m.Body
		if m.TTL > 0 {
			x.Expiry = m.TTL.String()
		}
	}
	if utf8.Valid(body) {
		x.Body = string(body)
	} else {
		x.BodyBase64 = body
	}
	return x
}

func (p *program) spoolExport() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export DIR", Short: "Write every message with its body as a line of JSON",
		Long: `Writes what waits, and then what was set aside, as JSON lines, bodies included,
and changes nothing. What was set aside has a reason.`,
		Example: `  holdfast spool export spool > left.jsonl`,
		Args:    args(1, 1, "the directory of a spool"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.exportSpool(cmd.Context(), args[0])
		},
	}
	return cmd
}

func (p *program) exportSpool(ctx context.Context, dir string) error {
	v, err := inspect(ctx, dir)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(p.Out)
	for _, aside := range []bool{false, true} {
		err := eachSpooled(ctx, v, aside, func(r spool.Record, reason string) error { return ui.JSONLine(out, exportedOf(r, reason)) })
		if err != nil {
			return errors.Join(err, out.Flush())
		}
	}
	return out.Flush()
}

// flushed is what flush prints.
type flushed struct {
	Sent     int64 `json:"sent"`
	SetAside int   `json:"set_aside"` // all there are now
	Left     int64 `json:"left"`
}

func (p *program) spoolFlush() *cobra.Command {
	var timeout time.Duration
	cmd := p.oneSpool("flush", "Send what waits to the broker, in order",
		"  holdfast spool flush spool --broker nats://127.0.0.1:4222",
		func(ctx context.Context, dir string) error { return p.flushSpool(ctx, dir, timeout) })
	cmd.Long = `Sends what waits to the broker, in order and under the IDs the messages have, as
the publisher would: a message that the broker refuses for good is set aside. It
takes the lock of the spool, so the publisher must have ended. Exit 4 when
something is left.`
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to try")
	return cmd
}

func (p *program) flushSpool(ctx context.Context, dir string, timeout time.Duration) (err error) {
	v, err := inspect(ctx, dir)
	if err != nil {
		return err
	}
	url, err := p.anyBroker()
	if err != nil {
		return err
	}
	d := p.dialer(url)
	defer func() { err = errors.Join(err, d.close()) }()
	var t transport.Transport
	if d.rabbit() {
		t, err = d.rabbitMQ(ctx)
	} else {
		t, err = d.jetStream(ctx)
	}
	if err != nil {
		return err
	}
	// Every message goes where it was published to, whatever the address here.
	to := transport.Address{Name: "spool"}
	for r, err := range v.Pending(ctx) {
		if err != nil {
			return err
		}
		if to, _, err = sender.Decode(r.Data); err == nil {
			break
		}
	}
	pub := holdfast.NewPublisher[[]byte](t, to, holdfast.Spool(dir), holdfast.PublishCodec(holdfast.Bytes()))
	if err := pub.Err(); err != nil {
		return err
	}
	began := pub.Recovered().Pending
	timed, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failed := pub.Flush(timed)
	stats := pub.Stats()
	st := stats.Spool
	if errors.Is(failed, context.DeadlineExceeded) && ctx.Err() == nil {
		failed = fmt.Errorf("not all of it was sent within %s", timeout)
		if why := cmp.Or(st.Err, stats.Err); why != nil {
			failed = fmt.Errorf("%w: %w", failed, why)
		}
	}
	if failed == nil && st.Err != nil {
		failed = st.Err
	}
	if _, err := pub.Close(timed); err != nil && failed == nil {
		failed = err
	}
	if v, err = inspect(ctx, dir); err != nil {
		return errors.Join(failed, err)
	}
	s := v.Status()
	got := flushed{Sent: began - s.Pending - int64(s.SetAside-pub.Recovered().SetAside), SetAside: s.SetAside, Left: s.Pending}
	return p.tellFlushed(dir, got, failed)
}

func (p *program) tellFlushed(dir string, got flushed, failed error) error {
	err := p.One(got, dir, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "sent %s, %d left, %d set aside\n", plural(int(got.Sent), "message"), got.Left, got.SetAside)
		return err
	})
	switch {
	case err != nil:
		return err
	case got.Left > 0 && failed == nil:
		failed = errors.New("not all of it was sent")
	}
	if failed != nil {
		return ui.Exit(ui.ExitPartial, brokerError(failed))
	}
	if got.SetAside > 0 {
		p.Sayf("holdfast spool list %s --aside tells why", dir)
	}
	return nil
}

func (p *program) spoolRetry() *cobra.Command {
	return p.spoolOnAside("retry", "Put what was set aside back, behind what waits", "put back",
		func(ctx context.Context, l *spool.Log, seq uint64) error {
			_, err := l.Retry(ctx, seq)
			return err
		})
}

func (p *program) spoolDrop() *cobra.Command {
	return p.spoolOnAside("drop", "Forget what was set aside", "dropped",
		func(ctx context.Context, l *spool.Log, seq uint64) error { return l.Drop(ctx, seq) })
}

// spoolOnAside is a command on records that were set aside.
func (p *program) spoolOnAside(verb, short, done string, do func(context.Context, *spool.Log, uint64) error) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: verb + " DIR [SEQ...]", Short: short,
		Example: fmt.Sprintf("  holdfast spool list spool --aside\n  holdfast spool %s spool 17", verb),
		Args:    args(1, -1, "the directory of a spool, and numbers from spool list --aside, or --all"),
		RunE: func(cmd *cobra.Command, args []string) error {
			seqs, err := p.asides(cmd.Context(), args[0], args[1:], all)
			if err != nil {
				return err
			}
			if verb == "drop" {
				if err := p.Confirm("drop " + plural(len(seqs), "message") + " for ever?"); err != nil {
					return err
				}
			}
			return p.onAside(cmd.Context(), args[0], seqs, done, do)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all there are")
	if verb == "drop" {
		cmd.Flags().BoolVarP(&p.Yes, "yes", "y", false, "do not ask")
	}
	return cmd
}

// asides reads the numbers of records that were set aside.
func (p *program) asides(ctx context.Context, dir string, words []string, all bool) ([]uint64, error) {
	if all == (len(words) > 0) {
		return nil, ui.Usagef("which? Give numbers from holdfast spool list %s --aside, or --all", dir)
	}
	var seqs []uint64
	for _, w := range words {
		n, err := strconv.ParseUint(w, 10, 64)
		if err != nil {
			return nil, ui.Usagef("%q is no number from holdfast spool list %s --aside", w, dir)
		}
		seqs = append(seqs, n)
	}
	v, err := inspect(ctx, dir)
	if err != nil || !all {
		return seqs, err
	}
	err = eachSpooled(ctx, v, true, func(r spool.Record, _ string) error {
		seqs = append(seqs, r.Seq)
		return nil
	})
	if err == nil && len(seqs) == 0 {
		err = ui.Exit(ui.ExitNothing, errors.New("nothing was set aside"))
	}
	return seqs, err
}

func (p *program) onAside(ctx context.Context, dir string, seqs []uint64, done string, do func(context.Context, *spool.Log, uint64) error) (err error) {
	// A retry must not fail because the limit of the publisher is larger.
	l, _, err := spool.Open(ctx, dir, spool.Options{MaxBytes: math.MaxInt64})
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, l.Close(closing))
	}()
	for i, seq := range seqs {
		if err := do(ctx, l, seq); err != nil {
			if i > 0 {
				p.Sayf("%s %s", done, plural(i, "message"))
			}
			if errors.Is(err, spool.ErrNotFound) {
				return ui.Exit(ui.ExitNothing, err)
			}
			return err
		}
	}
	p.Sayf("%s %s", done, plural(len(seqs), "message"))
	return nil
}
