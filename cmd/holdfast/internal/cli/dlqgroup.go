package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/deadletter"
)

// cause is a group of dead letters as dlq group prints it.
type cause struct {
	Group        string    `json:"group"`
	Subscription string    `json:"subscription"`
	Count        int       `json:"count"`
	Reason       string    `json:"reason"`
	Error        string    `json:"error"` // numbers and IDs masked
	ErrorType    string    `json:"error_type,omitempty"`
	First        time.Time `json:"first"`
	Last         time.Time `json:"last"`
	Samples      []string  `json:"samples"` // dead IDs
}

func (p *program) dlqGroup() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use: "group", Aliases: []string{"groups"},
		Short: "Group dead letters by what caused them, the largest first",
		Example: `  holdfast dlq group
  holdfast dlq group --since 1h -o json`,
		Args: args(0, 0, "no arguments; select with flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := s.query(nil, time.Now())
			if err != nil {
				return err
			}
			return p.listGroups(cmd.Context(), q)
		},
	}
	s.flags(p, cmd)
	p.outputFlag(cmd)
	return cmd
}

func (p *program) listGroups(ctx context.Context, q deadletter.Query) (err error) {
	store, d, err := p.deadLetters(ctx, q.Subscription)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	groups, err := store.Groups(ctx, q)
	if err != nil {
		return brokerError(err)
	}
	var all []cause
	for _, g := range groups {
		all = append(all, cause{g.Fingerprint, g.Subscription, g.Count, g.Reason, g.Error, g.ErrorType, g.First, g.Last, g.Samples})
	}
	if len(all) == 0 {
		p.Sayf("no dead letters match")
	}
	now := time.Now()
	return ui.List(p.UI, all, func(c cause) string { return c.Group },
		ui.Column[cause]{Name: "group", Whole: true, Value: func(c cause) string { return c.Group }},
		ui.Column[cause]{Name: "count", Value: func(c cause) string { return strconv.Itoa(c.Count) }},
		ui.Column[cause]{Name: "subscription", Value: func(c cause) string { return c.Subscription }},
		ui.Column[cause]{Name: "reason", Value: func(c cause) string { return c.Reason }},
		ui.Column[cause]{Name: "last", Value: func(c cause) string { return p.when(c.Last, now) }},
		ui.Column[cause]{Name: "error", Value: func(c cause) string { return firstLine(c.Error) }},
	)
}

// asked is the subscription that a command line names so far.
func asked(cmd *cobra.Command) string {
	f := cmd.Flags().Lookup("subscription")
	if f == nil {
		return ""
	}
	return f.Value.String()
}

// completeLetters offers dead IDs with their errors.
func (p *program) completeLetters(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	store, d, err := p.deadLetters(ctx, asked(cmd))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer d.close() //nolint:errcheck // a completion has nobody to tell
	var out []string
	for l, err := range store.List(ctx, deadletter.Query{Limit: 500}) {
		if err != nil {
			break
		}
		if strings.HasPrefix(l.ID, prefix) {
			out = append(out, fmt.Sprintf("%s\t%s: %s", ui.Line(l.ID), ui.Line(l.Subscription), firstLine(l.Error)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeGroups offers one field of the groups there are, with their counts.
func (p *program) completeGroups(field func(deadletter.Group) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		store, d, err := p.deadLetters(ctx, asked(cmd))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer d.close() //nolint:errcheck // a completion has nobody to tell
		groups, err := store.Groups(ctx, deadletter.Query{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		counts, about, order := map[string]int{}, map[string]string{}, []string(nil)
		for _, g := range groups {
			name := field(g)
			if counts[name] == 0 {
				order, about[name] = append(order, name), firstLine(g.Error)
			}
			counts[name] += g.Count
		}
		var out []string
		for _, name := range order {
			out = append(out, fmt.Sprintf("%s\t%s, %s", ui.Line(name), plural(counts[name], "dead letter"), about[name]))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// indentJSON writes JSON with one member a line, its numbers as they were.
func indentJSON(out *strings.Builder, s string) error {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(s), "", "  "); err != nil {
		return err
	}
	out.Write(b.Bytes())
	return nil
}
