package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/recovery"
)

// letter is a dead letter as dlq list prints it. The names are a contract.
type letter struct {
	ID           string    `json:"id"`      // of the message
	DeadID       string    `json:"dead_id"` // of the dead letter
	Subscription string    `json:"subscription"`
	Subject      string    `json:"subject"`
	Reason       string    `json:"reason"`
	Attempts     int       `json:"attempts"`
	Error        string    `json:"error"`
	Time         time.Time `json:"time"` // when it failed
	Group        string    `json:"group"`
	Class        string    `json:"class,omitempty"`
	Stage        string    `json:"stage,omitempty"`
	Deliveries   int       `json:"deliveries"`
	Redrives     int       `json:"redrives"`
	Source       string    `json:"source,omitempty"`
	Position     string    `json:"position,omitempty"`
	Key          string    `json:"key,omitempty"`
	ContentType  string    `json:"content_type,omitempty"`
	Bytes        int       `json:"bytes"`
	Host         string    `json:"host,omitempty"`
	Foreign      bool      `json:"foreign,omitempty"`
}

func letterOf(l deadletter.Letter) letter {
	return letter{
		ID: l.MessageID, DeadID: l.ID, Subscription: l.Subscription, Subject: l.Subject,
		Reason: l.Reason, Attempts: l.Attempts, Error: l.Error, Time: l.When(),
		Group: l.Fingerprint, Class: l.Class, Stage: l.Stage, Deliveries: l.Deliveries, Redrives: l.Redrives,
		Source: l.Source, Position: l.Position, Key: l.Key, ContentType: l.ContentType, Bytes: len(l.Body),
		Host: l.Host, Foreign: l.Foreign,
	}
}

// selection is the flags that select dead letters.
type selection struct {
	subscription, group, reason string
	since, before               string
	limit                       int
}

func (s *selection) flags(p *program, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&s.subscription, "subscription", "s", "", "only those of this subscription")
	f.StringVarP(&s.group, "group", "g", "", "only those of this group; see dlq group")
	f.StringVarP(&s.reason, "reason", "r", "", "only those with this reason: "+strings.Join(reasons(), ", "))
	f.StringVar(&s.since, "since", "", "only those that failed since: 2h, or 2026-01-31T12:00:00Z")
	f.StringVar(&s.before, "before", "", "only those that failed before: 2h, or 2026-01-31T12:00:00Z")
	f.IntVarP(&s.limit, "limit", "n", 0, "at most so many, the oldest first")
	must(cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("subscription", p.completeGroups(func(g deadletter.Group) string { return g.Subscription })))
	must(cmd.RegisterFlagCompletionFunc("group", p.completeGroups(func(g deadletter.Group) string { return g.Fingerprint })))
}

func reasons() []string {
	var out []string
	for _, r := range recovery.Reasons() {
		out = append(out, string(r))
	}
	return out
}

// query turns flags and IDs into a query.
func (s *selection) query(ids []string, now time.Time) (deadletter.Query, error) {
	q := deadletter.Query{Subscription: s.subscription, Fingerprint: s.group, Reason: s.reason, IDs: ids, Limit: s.limit}
	if s.reason != "" && !contains(reasons(), s.reason) {
		return q, ui.Usagef("--reason %q: write one of %s%s", s.reason, strings.Join(reasons(), ", "), meant(s.reason, reasons()))
	}
	if s.limit < 0 {
		return q, ui.Usagef("--limit %d: write 1 or more", s.limit)
	}
	var err error
	if q.Since, err = moment("--since", s.since, now); err != nil {
		return q, err
	}
	q.Before, err = moment("--before", s.before, now)
	return q, err
}

// moment reads a time, or a duration before now.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if n, ok := strings.CutSuffix(s, "d"); ok {
		if days, err := strconv.Atoi(n); err == nil {
			return now.AddDate(0, 0, -days), nil
		}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, ui.Usagef("%s %q: write a duration such as 2h or 3d, or a time such as 2026-01-31T12:00:00Z", flag, s)
	}
	return t, nil
}

func (p *program) dlqCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "dlq",
		Aliases: []string{"dead", "deadletter"},
		Short:   "Look at dead letters, send them back, or discard them",
		Example: `  holdfast dlq list
  holdfast dlq group                     the causes, largest first
  holdfast dlq show 4f2a                 one of them, with its body and its story
  holdfast dlq redrive --group 7c1e      send a whole group back to the subscription that failed
  holdfast dlq list --file orders.yaml   on RabbitMQ, where a broker does not list its queues`,
	})
	cmd.PersistentFlags().StringVar(&p.file, "file", "", "the file that names the broker and, on RabbitMQ, the queues (default: holdfast.yaml here)")
	cmd.PersistentFlags().StringVar(&p.data, "data", "", "read the data directory of an embedded server that does not run, in place of a broker")
	cmd.AddCommand(p.dlqList(), p.dlqShow(), p.dlqGroup(), p.dlqRedrive(), p.dlqDiscard())
	return cmd
}

func (p *program) dlqList() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List dead letters, the oldest first",
		Example: `  holdfast dlq list --subscription orders --since 2h
  holdfast dlq list -o json | jq -r '.[].error'`,
		Args: args(0, 0, "no arguments; select with flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := s.query(nil, time.Now())
			if err != nil {
				return err
			}
			return p.listLetters(cmd.Context(), q)
		},
	}
	s.flags(p, cmd)
	p.outputFlag(cmd)
	return cmd
}

func (p *program) listLetters(ctx context.Context, q deadletter.Query) (err error) {
	store, d, err := p.deadLetters(ctx, q.Subscription)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	var all []letter
	for l, err := range store.List(ctx, q) {
		if err != nil {
			return brokerError(err)
		}
		all = append(all, letterOf(l))
	}
	if len(all) == 0 {
		p.Sayf("no dead letters match")
	}
	now := time.Now()
	return ui.List(p.UI, all, func(l letter) string { return l.DeadID },
		ui.Column[letter]{Name: "dead id", Whole: true, Value: func(l letter) string { return p.short(l.DeadID) }},
		ui.Column[letter]{Name: "id", Spare: true, Value: func(l letter) string { return l.ID }},
		ui.Column[letter]{Name: "subscription", Value: func(l letter) string { return l.Subscription }},
		ui.Column[letter]{Name: "subject", Spare: true, Value: func(l letter) string { return l.Subject }},
		ui.Column[letter]{Name: "reason", Value: func(l letter) string { return l.Reason }},
		ui.Column[letter]{Name: "attempts", Value: func(l letter) string { return strconv.Itoa(l.Attempts) }},
		ui.Column[letter]{Name: "failed", Value: func(l letter) string { return p.when(l.Time, now) }},
		ui.Column[letter]{Name: "error", Value: func(l letter) string { return firstLine(l.Error) }},
	)
}

// short is enough of a dead ID for a person; every command takes it.
func (p *program) short(id string) string {
	if p.OutTTY && p.Format == "" {
		return id[:min(len(id), 10)]
	}
	return id
}

// when is relative for people and exact for programs.
func (p *program) when(t, now time.Time) string {
	if p.OutTTY {
		return ui.Ago(t, now)
	}
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// raw writes bytes as they are, but for a terminal.
func (p *program) raw(b []byte) error {
	out := p.Raw()
	_, err := out.Write(b)
	return errors.Join(err, out.Close())
}

// shown is a dead letter as dlq show prints it.
type shown struct {
	letter
	FirstFailed time.Time           `json:"first_failed"`
	Buried      time.Time           `json:"buried"`
	App         string              `json:"app,omitempty"`
	ErrorType   string              `json:"error_type,omitempty"`
	ErrorChain  []string            `json:"error_chain,omitempty"`
	Stack       string              `json:"stack,omitempty"`
	Truncated   []string            `json:"truncated,omitempty"`
	Intact      bool                `json:"intact"` // the body is what was buried, by its hash
	Header      map[string][]string `json:"header"`
	// Body is set when it is text, BodyBase64 otherwise.
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"body_base64,omitempty"`
}

func shownOf(l deadletter.Letter) shown {
	s := shown{
		letter: letterOf(l), FirstFailed: l.FirstFailed, Buried: l.Buried, App: l.App, ErrorType: l.ErrorType,
		ErrorChain: l.ErrorChain, Stack: l.Stack, Truncated: l.Truncated, Intact: l.Intact(), Header: l.Header,
	}
	if s.Header == nil {
		s.Header = map[string][]string{}
	}
	if utf8.Valid(l.Body) {
		s.Body = string(l.Body)
	} else {
		s.BodyBase64 = l.Body
	}
	return s
}

func (p *program) dlqShow() *cobra.Command {
	var bodyOnly bool
	var subscription string
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one dead letter with its body and its story",
		Example: `  holdfast dlq show 4f2a
  holdfast dlq show 4f2a --body > body.json      the bytes as they were`,
		Args: args(1, 1, "one dead ID, or the beginning of one"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if bodyOnly && p.Format != "" {
				return ui.Usagef("--body writes the bytes as they are, and -o %s a format; give one of them", p.Format)
			}
			return p.showLetter(cmd.Context(), args[0], subscription, bodyOnly)
		},
		ValidArgsFunction: p.completeLetters,
	}
	cmd.Flags().StringVarP(&subscription, "subscription", "s", "", "look for it in this subscription only")
	cmd.Flags().BoolVar(&bodyOnly, "body", false, "write the body alone, byte for byte")
	p.outputFlag(cmd)
	return cmd
}

func (p *program) showLetter(ctx context.Context, id, subscription string, bodyOnly bool) (err error) {
	store, d, err := p.deadLetters(ctx, subscription)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	l, err := store.Get(ctx, id)
	if err != nil {
		return brokerError(err)
	}
	if bodyOnly {
		return p.raw(l.Body)
	}
	s := shownOf(l)
	return p.One(s, s.DeadID, func(w io.Writer) error { return p.writeLetter(w, s) })
}

func (p *program) writeLetter(w io.Writer, s shown) error {
	st := p.Styles(true)
	row := func(name, value string) {
		if value != "" && value != "0" {
			_, _ = fmt.Fprintf(w, "%s %s\n", st.Faint(fmt.Sprintf("%-13s", name)), ui.Line(value))
		}
	}
	// Errors have lines; indented, none of them looks like a row of ours.
	lines := func(name, value string) {
		for i, line := range strings.Split(strings.TrimSpace(value), "\n") {
			if i > 0 && line != "" {
				name = ""
			}
			row(name, line)
		}
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return fmt.Sprintf("%s (%s)", t.Format(time.RFC3339), ui.Ago(t, time.Now()))
	}
	row("dead id", s.DeadID)
	row("id", s.ID)
	row("subscription", s.Subscription)
	row("source", s.Source)
	row("subject", s.Subject)
	row("position", s.Position)
	row("reason", s.Reason)
	lines("error", s.Error)
	row("group", s.Group)
	row("attempts", strconv.Itoa(s.Attempts))
	row("deliveries", strconv.Itoa(s.Deliveries))
	row("redrives", strconv.Itoa(s.Redrives))
	row("first failed", at(s.FirstFailed))
	row("failed", at(s.Time))
	row("host", s.Host)
	row("cut to fit", strings.Join(s.Truncated, ", "))
	for _, name := range slices.Sorted(maps.Keys(s.Header)) {
		for _, v := range s.Header[name] {
			row("header", name+": "+v)
		}
	}
	if s.Stack != "" {
		_, _ = fmt.Fprintf(w, "\n%s\n%s\n", st.Faint("stack"), ui.Clean(s.Stack))
	}
	_, err := fmt.Fprintf(w, "\n%s\n%s\n", st.Faint(fmt.Sprintf("body, %s, %s", plural(s.Bytes, "byte"), orUnknown(ui.Line(s.ContentType)))), readable(s))
	return err
}

func orUnknown(s string) string {
	if s == "" {
		return "of no stated type"
	}
	return s
}

// readable is a body for people: JSON indented with its numbers as they are,
// other text as it is, bytes as base64.
func readable(s shown) string {
	if s.BodyBase64 != nil {
		b, err := json.Marshal(s.BodyBase64)
		if err != nil {
			return ""
		}
		return "base64 " + strings.Trim(string(b), `"`)
	}
	var indented strings.Builder
	if indentJSON(&indented, s.Body) == nil {
		return ui.Clean(indented.String())
	}
	return ui.Clean(s.Body)
}
