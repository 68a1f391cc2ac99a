package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/explain"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

func (p *program) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the file, for editors",
		Example: `  holdfast schema > holdfast.schema.json
  # and in the first line of holdfast.yaml:
  # yaml-language-server: $schema=./holdfast.schema.json`,
		Args: args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			_, err := p.Out.Write(config.Schema())
			return err
		},
	}
}

func (p *program) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [CODE]",
		Short: "Tell what a code means, why it matters and how to fix it",
		Example: `  holdfast explain HF1101
  holdfast explain                       all codes`,
		Args: args(0, 1, "at most one code"),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return p.listTopics()
			}
			return p.explain(args[0])
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, t := range explain.All() {
				out = append(out, t.Code+"\t"+t.Title)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
	}
	p.outputFlag(cmd)
	return cmd
}

func (p *program) listTopics() error {
	return ui.List(p.UI, explain.All(), func(t explain.Topic) string { return t.Code },
		ui.Column[explain.Topic]{Name: "code", Whole: true, Value: func(t explain.Topic) string { return t.Code }},
		ui.Column[explain.Topic]{Name: "means", Value: func(t explain.Topic) string { return t.Title }},
	)
}

func (p *program) explain(code string) error {
	t, ok := explain.Find(code)
	if !ok {
		var codes []string
		for _, t := range explain.All() {
			codes = append(codes, t.Code)
		}
		return ui.Exit(ui.ExitNothing, fmt.Errorf("there is no code %q%s; holdfast explain lists all", code, meant(strings.ToUpper(code), codes)))
	}
	return p.One(t, t.Code, func(w io.Writer) error {
		st := p.Styles(true)
		for _, line := range strings.Split(strings.TrimSpace(t.Text), "\n") {
			if head, ok := strings.CutPrefix(line, "# "); ok {
				line = st.Bold(head)
			} else if head, ok := strings.CutPrefix(line, "## "); ok {
				line = st.Code(head)
			}
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
		return nil
	})
}

// buildInfo is what version prints.
type buildInfo struct {
	Version  string            `json:"version"`
	Revision string            `json:"revision,omitempty"`
	Modified bool              `json:"modified,omitempty"`
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Modules  map[string]string `json:"modules"` // of the brokers' libraries
	Brokers  []string          `json:"brokers"`
}

func (p *program) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version and what was built in",
		Args: args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			b := buildOf()
			return p.One(b, b.Version, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "holdfast %s  %s  %s\n", b.Version, b.Go, b.Platform)
				return err
			})
		},
	}
	p.outputFlag(cmd)
	return cmd
}

func buildVersion() string { return buildOf().Version }

func buildOf() buildInfo {
	b := buildInfo{
		Version: "dev", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Modules: map[string]string{}, Brokers: []string{"jetstream", "natscore", "rabbitmq"},
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		if slices.Contains([]string{"github.com/nats-io/nats.go", "github.com/nats-io/nats-server/v2", "github.com/rabbitmq/amqp091-go", "github.com/holdfast-go/holdfast"}, m.Path) {
			b.Modules[m.Path] = m.Version
		}
	}
	return b
}
