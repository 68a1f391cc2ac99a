package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

// laterFlags are the flags of publish for messages that are sent later, or again
// and again.
type laterFlags struct {
	at, cron, zone string
	after, every   time.Duration

	moment time.Time // of --at and --after; zero without
}

func (l *laterFlags) register(f *pflag.FlagSet) {
	f.StringVar(&l.at, "at", "", "let the server send it at this time, 2026-01-31T12:00:00Z (JetStream, nats-server 2.12)")
	f.DurationVar(&l.after, "after", 0, "let the server send it after this long")
	f.DurationVar(&l.every, "every", 0, "let the server send it again and again, a second apart at least (nats-server 2.14); --id names it")
	f.StringVar(&l.cron, "cron", "", "the same at the times of six fields: second, minute, hour, day, month, day of the week; or @daily and the like")
	f.StringVar(&l.zone, "time-zone", "", "the zone that --cron means, such as Europe/Berlin (default UTC)")
}

// read checks the flags and sets the moment. changed tells which were given.
func (l *laterFlags) read(changed func(string) bool, f publishFlags, now time.Time) error {
	var given []string
	for _, name := range []string{"at", "after", "every", "cron"} {
		if changed(name) {
			given = append(given, "--"+name)
		}
	}
	switch {
	case len(given) > 1:
		return ui.Usagef("%s and %s are two times; give one of them", given[0], given[1])
	case l.zone != "" && l.cron == "":
		return ui.Usagef("--time-zone is for --cron; a time of --at has its zone in itself")
	case len(given) == 0:
		return nil
	case f.core:
		return ui.Usagef("%s: core NATS keeps no message; remove --core", given[0])
	case changed("every") && l.every < time.Second:
		return ui.Usagef("--every %s: write a second or more", l.every)
	case changed("cron") && l.cron == "":
		return ui.Usagef(`--cron "": write six fields, such as "0 30 9 * * 1-5", or @daily`)
	case (changed("every") || changed("cron")) && f.id == "":
		return ui.Usagef("%s needs --id NAME: it names what is sent again and again, to replace it and to cancel it", given[0])
	case changed("after") && l.after <= 0:
		return ui.Usagef("--after %s: write a duration above zero", l.after)
	case changed("after"):
		l.moment = now.Add(l.after)
		return nil
	case changed("at"):
		at, err := time.Parse(time.RFC3339, l.at)
		if err != nil {
			return ui.Usagef("--at %q: write a time with its zone, 2026-01-31T12:00:00Z, or --after 2h", l.at)
		}
		l.moment = at
	}
	return nil
}

// asked tells whether the message is for later.
func (l *laterFlags) asked() bool { return !l.moment.IsZero() || l.recurs() }

func (l *laterFlags) recurs() bool { return l.every > 0 || l.cron != "" }

// recurrence says it in the words of the transport.
func (l *laterFlags) recurrence() jetstream.Recurrence {
	if l.every > 0 {
		return jetstream.Recurrence{Spec: "@every " + l.every.String()}
	}
	return jetstream.Recurrence{Spec: l.cron, TimeZone: l.zone}
}

// message is what a recurrence sends.
func (f publishFlags) message(body []byte, codec rawCodec) (*transport.Message, error) {
	m := &transport.Message{ID: f.id, Key: f.key, ContentType: codec.ContentType(), Body: body, Header: transport.Header{}}
	for _, h := range f.headers {
		name, value, err := headerOf(h)
		if err != nil {
			return nil, err
		}
		m.Header[name] = append(m.Header[name], value)
	}
	return m, nil
}

// scheduleError says in the words of this program what lets a stream keep
// messages for later.
func scheduleError(err error, stream string) error {
	te, ok := errors.AsType[*transport.Error](err)
	if !ok || !errors.Is(err, transport.ErrUnsupported) {
		return err
	}
	told := *te
	told.Hint = strings.ReplaceAll(te.Hint, "EnableSchedules does both", "holdfast schedule enable "+stream+" does both")
	return &told
}

func (p *program) scheduleCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "schedule", Short: "Let a stream keep messages for later, and take them back",
		Long: `A message that was published with --at, --after, --every or --cron waits in the
stream of its subject until the server sends it. The stream must have been told
once that it may keep such messages.`,
		Example: `  holdfast schedule enable ORDERS
  holdfast publish orders.reminders 'pay!' --at 2026-01-31T12:00:00Z --id reminder-7
  holdfast publish orders.sweep '{}' --cron '0 30 9 * * 1-5' --time-zone Europe/Berlin --id sweep
  holdfast schedule cancel orders.reminders reminder-7`,
	})
	cmd.AddCommand(p.scheduleEnable(), p.scheduleCancel())
	return cmd
}

func (p *program) scheduleEnable() *cobra.Command {
	return &cobra.Command{
		Use: "enable STREAM", Short: "Let a stream keep messages for later; the server does not take that back",
		Args: args(1, 1, "a stream"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withJetStream(cmd.Context(), 10*time.Second, func(ctx context.Context, js *jetstream.Transport) error {
				if err := js.EnableSchedules(ctx, args[0]); err != nil {
					return brokerError(err)
				}
				p.Sayf("the stream %s keeps messages for later", ui.Line(args[0]))
				return nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

func (p *program) scheduleCancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel SUBJECT ID", Short: "Take back a message that was not sent yet, or one that is sent again and again",
		Args: args(2, 2, "the subject and the ID that the message was published with"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withJetStream(cmd.Context(), 10*time.Second, func(ctx context.Context, js *jetstream.Transport) error {
				if err := js.CancelScheduled(ctx, jetstream.Subject(args[0]), args[1]); err != nil {
					return brokerError(err)
				}
				p.Sayf("cancelled: %s will not be sent to %s", ui.Line(args[1]), ui.Line(args[0]))
				return nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// tellLater says when a message will be sent, and how to take it back.
func tellLater(w io.Writer, m published) error {
	when := m.Recurs
	if m.At != nil {
		when = "at " + m.At.Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(w, "kept in stream %s  %s will be sent to %s %s\ncancel it with: holdfast schedule cancel %s %s\n",
		ui.Line(m.Stream), ui.Line(m.ID), ui.Line(m.Subject), ui.Line(when), ui.Line(m.Subject), ui.Line(m.ID))
	return err
}

// later keeps a message at the server until it is due.
func (d *dialer) later(ctx context.Context, pub *holdfast.Publisher[[]byte], to destination, body []byte, codec rawCodec, f publishFlags, opts []holdfast.PublishOption) error {
	if !f.later.recurs() {
		if !f.later.moment.IsZero() {
			if !d.js.Capabilities().Schedules {
				return transport.Unsupported("publish", to.name, "the server "+d.js.Conn().ConnectedServerVersion()+" keeps no message for later: schedules need nats-server 2.12 or later")
			}
			opts = append(opts, holdfast.At(f.later.moment))
		}
		return pub.Publish(ctx, body, opts...)
	}
	m, err := f.message(body, codec)
	if err != nil {
		return err
	}
	return d.js.Recur(ctx, to.to, f.later.recurrence(), m)
}
