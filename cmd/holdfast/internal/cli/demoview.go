package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

// snapshot is the demo at one moment.
type snapshot struct {
	of, published, handled, retried, dead int
	news                                  []string
}

// ended tells whether every message was handled or is dead.
func (s snapshot) ended() bool { return s.published == s.of && s.handled+s.dead >= s.of }

func (w *world) snapshot(sub *holdfast.Subscription) snapshot {
	c := sub.Health().Counts
	return snapshot{
		of: len(w.fates), published: int(w.published.Load()),
		handled: int(c.Handled), retried: int(c.Retried), dead: int(c.Dead), news: w.recent(),
	}
}

// watchDemo shows the demo until every message has ended, and then stops it.
func (p *program) watchDemo(ctx context.Context, stop context.CancelCauseFunc, w *world, sub *holdfast.Subscription, rate int) error {
	if p.Live() {
		return p.watchLive(ctx, stop, w, sub)
	}
	p.Sayf("publishing %s at %d a second; the handler fails now and then", plural(len(w.fates), "order"), rate)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		s := w.snapshot(sub)
		if s.ended() || n%20 == 0 {
			p.Sayf("published %d/%d  handled %d  retried %d  dead %d", s.published, s.of, s.handled, s.retried, s.dead)
		}
		if s.ended() {
			stop(errAllEnded)
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watchLive is the same at a terminal.
func (p *program) watchLive(ctx context.Context, stop context.CancelCauseFunc, w *world, sub *holdfast.Subscription) error {
	m := &demoModel{look: func() snapshot { return w.snapshot(sub) }, style: p.Styles(false)}
	opts := []tea.ProgramOption{tea.WithContext(ctx), tea.WithOutput(p.Err), tea.WithoutSignalHandler()}
	if p.InTTY {
		opts = append(opts, tea.WithInput(p.In))
	} else {
		opts = append(opts, tea.WithInput(nil))
	}
	_, err := tea.NewProgram(m, opts...).Run()
	switch {
	case m.quit:
		stop(errors.New("stopped by hand"))
		return nil
	case m.last.ended():
		stop(errAllEnded)
		return nil
	case ctx.Err() != nil:
		return nil
	default:
		return err
	}
}

// demoModel is the live view.
type demoModel struct {
	look  func() snapshot
	style ui.Styles
	last  snapshot
	quit  bool
}

type tickMsg time.Time

func tick() tea.Cmd {
	return tea.Tick(80*time.Millisecond, func(t time.Time) tea.Msg { return tickMsg(t) })
}

// Init starts the clock.
func (m *demoModel) Init() tea.Cmd { return tick() }

// Update looks again, or ends.
func (m *demoModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.KeyPressMsg:
		if k := msg.String(); k == "q" || k == "ctrl+c" || k == "esc" {
			m.quit = true
			return m, tea.Quit
		}
	case tickMsg:
		m.last = m.look()
		if m.last.ended() {
			return m, tea.Quit
		}
		return m, tick()
	}
	return m, nil
}

// View draws four bars and what happened last.
func (m *demoModel) View() tea.View {
	s, st := m.last, m.style
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %s  an order is handled, retried, or ends as a dead letter   %s\n\n", st.Bold("holdfast demo"), st.Faint("q stops"))
	row := func(name string, n int, paint func(string) string) {
		fmt.Fprintf(&b, "  %-10s %6d  %s\n", name, n, paint(bar(n, s.of)))
	}
	row("published", s.published, st.Code)
	row("handled", s.handled, st.Good)
	row("retried", s.retried, st.Warn)
	row("dead", s.dead, st.Bad)
	b.WriteString("\n")
	for _, line := range s.news {
		fmt.Fprintf(&b, "  %s\n", st.Faint(ui.Clean(line)))
	}
	for range 6 - len(s.news) {
		b.WriteString("\n")
	}
	return tea.NewView(b.String())
}

const barWidth = 40

func bar(n, of int) string {
	filled := 0
	if of > 0 {
		filled = min(n*barWidth/of, barWidth)
	}
	if n > 0 && filled == 0 {
		filled = 1
	}
	return strings.Repeat("█", filled) + strings.Repeat("·", barWidth-filled)
}
