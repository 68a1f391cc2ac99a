package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/internal/sender"
	"github.com/holdfast-go/holdfast/spool"
)

func (p *program) spoolCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "spool",
		Short: "Look at the disk log of a publisher, and send what is left",
		Long: `Looks at the directory of a publisher that was given holdfast.Spool(DIR). status,
list, export and verify change nothing and may run beside the publisher; flush,
retry and drop take its lock, so the publisher must have ended.`,
		Example: `  holdfast spool status /var/lib/shop/spool
  holdfast spool list /var/lib/shop/spool --aside      what the broker refused, and why
  holdfast spool export /var/lib/shop/spool > left.jsonl
  holdfast spool flush /var/lib/shop/spool --broker nats://127.0.0.1:4222`,
	})
	cmd.AddCommand(p.spoolStatus(), p.spoolList(), p.spoolExport(), p.spoolVerify(), p.spoolFlush(), p.spoolRetry(), p.spoolDrop())
	return cmd
}

// oneSpool is what the commands on one directory have in common.
func (p *program) oneSpool(use, short, example string, run func(context.Context, string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " DIR", Short: short, Example: example,
		Args: args(1, 1, "the directory of a spool"),
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args[0]) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	p.outputFlag(cmd)
	return cmd
}

// inspect looks at a spool, and refuses a directory that is none.
func inspect(ctx context.Context, dir string) (*spool.View, error) {
	if err := isSpool(dir); err != nil {
		return nil, err
	}
	return spool.Inspect(ctx, dir, spool.Options{})
}

func isSpool(dir string) error {
	for _, name := range []string{"lock", "aside"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return ui.Exit(ui.ExitNothing, fmt.Errorf("%s is no spool: name the directory that the publisher was given", dir))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// spoolState is what status and verify print. The names are a contract.
type spoolState struct {
	Dir string `json:"dir"`
	spool.Status
	TornBytes int64          `json:"torn_bytes"`
	BadMarks  int            `json:"bad_marks"`
	Damage    []spool.Damage `json:"damage"`
	// Unreadable is how many records are no messages; verify counts them.
	Unreadable *int `json:"unreadable,omitempty"`
}

func stateOf(dir string, v *spool.View) spoolState {
	rec := v.Recovery()
	s := spoolState{Dir: dir, Status: v.Status(), TornBytes: rec.TornBytes, BadMarks: rec.BadMarks, Damage: rec.Damage}
	if s.Damage == nil {
		s.Damage = []spool.Damage{}
	}
	return s
}

func (p *program) spoolStatus() *cobra.Command {
	return p.oneSpool("status", "Say how much waits, since when, and what is wrong", "  holdfast spool status spool --json | jq .pending",
		func(ctx context.Context, dir string) error {
			v, err := inspect(ctx, dir)
			if err != nil {
				return err
			}
			s := stateOf(dir, v)
			return p.One(s, s.Dir, func(w io.Writer) error { return p.writeSpool(w, s) })
		})
}

func (p *program) writeSpool(w io.Writer, s spoolState) error {
	st := p.Styles(true)
	var failed error
	row := func(name, value string) {
		if _, err := fmt.Fprintf(w, "%s %s\n", st.Faint(fmt.Sprintf("%-12s", name)), ui.Line(value)); err != nil {
			failed = err
		}
	}
	row("spool", s.Dir)
	row("waiting", plural(int(s.Pending), "message")+", "+plural(int(s.Bytes), "byte"))
	if !s.Oldest.IsZero() {
		row("oldest", fmt.Sprintf("%s (%s)", s.Oldest.Format(time.RFC3339), ui.Ago(s.Oldest, time.Now())))
	}
	row("set aside", plural(s.SetAside, "message"))
	row("quarantine", plural(s.Quarantined, "file"))
	if s.TornBytes > 0 {
		row("tail", plural(int(s.TornBytes), "byte")+" at the end are no record: an append under way, or one that a crash interrupted")
	}
	if s.BadMarks > 0 {
		row("marks", plural(s.BadMarks, "mark")+" damaged: some messages will be sent again")
	}
	for _, d := range s.Damage {
		row("damage", d.String())
	}
	if s.Unreadable != nil && *s.Unreadable > 0 {
		row("unreadable", plural(*s.Unreadable, "record")+" that no version up to this one wrote")
	}
	return failed
}

func (p *program) spoolVerify() *cobra.Command {
	return p.oneSpool("verify", "Check every byte; exit 1 when something is damaged", "  holdfast spool verify spool",
		func(ctx context.Context, dir string) error {
			v, err := inspect(ctx, dir)
			if err != nil {
				return err
			}
			s, unreadable := stateOf(dir, v), 0
			for r, err := range v.Pending(ctx) {
				if err != nil {
					return err
				}
				if _, _, err := sender.Decode(r.Data); err != nil {
					unreadable++
				}
			}
			s.Unreadable = &unreadable
			if err := p.One(s, s.Dir, func(w io.Writer) error { return p.writeSpool(w, s) }); err != nil {
				return err
			}
			if len(s.Damage) > 0 || unreadable > 0 || s.BadMarks > 0 {
				return ui.Exit(ui.ExitFailed, errors.New("the spool is damaged; what can be read is sent all the same"))
			}
			p.Sayf("all of it can be read")
			return nil
		})
}

// spooled is a message of a spool as list prints it. The names are a contract.
type spooled struct {
	Seq         uint64    `json:"seq"`
	Time        time.Time `json:"time"` // when it was published
	ID          string    `json:"id"`
	To          string    `json:"to"`
	Key         string    `json:"key,omitempty"`
	ContentType string    `json:"content_type,omitempty"`
	Bytes       int       `json:"bytes"`            // of the body
	Reason      string    `json:"reason,omitempty"` // why it was set aside
	Error       string    `json:"error,omitempty"`  // why it is no message
}

func spooledOf(r spool.Record, reason string) spooled {
	s := spooled{Seq: r.Seq, Time: r.Time, Bytes: len(r.Data), Reason: reason}
	to, m, err := sender.Decode(r.Data)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.ID, s.To, s.Key, s.ContentType, s.Bytes = m.ID, to.String(), m.Key, m.ContentType, len(m.Body)
	return s
}

func (p *program) spoolList() *cobra.Command {
	var aside bool
	var limit int
	cmd := p.oneSpool("list", "List what waits, or what was set aside, the oldest first",
		"  holdfast spool list spool -n 20\n  holdfast spool list spool --aside -o json | jq -r '.[].reason'",
		func(ctx context.Context, dir string) error {
			if limit < 0 {
				return ui.Usagef("--limit %d: write 1 or more, or 0 for all", limit)
			}
			return p.listSpool(ctx, dir, aside, limit)
		})
	cmd.Aliases = []string{"ls"}
	cmd.Flags().BoolVar(&aside, "aside", false, "what was set aside, with the reasons")
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "at most so many; 0 lists all")
	return cmd
}

func (p *program) listSpool(ctx context.Context, dir string, aside bool, limit int) error {
	v, err := inspect(ctx, dir)
	if err != nil {
		return err
	}
	var items []spooled
	total := int(v.Status().Pending)
	if aside {
		total = v.Status().SetAside
	}
	err = eachSpooled(ctx, v, aside, func(r spool.Record, reason string) error {
		items = append(items, spooledOf(r, reason))
		if len(items) == limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	columns := []ui.Column[spooled]{
		{Name: "seq", Whole: true, Value: func(s spooled) string { return strconv.FormatUint(s.Seq, 10) }},
		{Name: "published", Value: func(s spooled) string { return p.when(s.Time, time.Now()) }},
		{Name: "id", Spare: true, Value: func(s spooled) string { return s.ID }},
		{Name: "to", Value: func(s spooled) string { return s.To }},
		{Name: "bytes", Value: func(s spooled) string { return strconv.Itoa(s.Bytes) }},
		{Name: "reason", Value: func(s spooled) string { return s.Reason + s.Error }},
	}
	if err := ui.List(p.UI, items, func(s spooled) string { return strconv.FormatUint(s.Seq, 10) }, columns...); err != nil {
		return err
	}
	if len(items) < total {
		p.Sayf("%d of %d; --limit 0 lists all", len(items), total)
	}
	return nil
}

// errEnough ends a listing.
var errEnough = errors.New("enough")

// eachSpooled calls fn for what waits or what was set aside.
func eachSpooled(ctx context.Context, v *spool.View, aside bool, fn func(r spool.Record, reason string) error) error {
	if aside {
		for a, err := range v.SetAside(ctx) {
			if err == nil {
				err = fn(a.Record, a.Reason)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for r, err := range v.Pending(ctx) {
		if err == nil {
			err = fn(r, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
