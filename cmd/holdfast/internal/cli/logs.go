package cli

import (
	"log/slog"
	"strings"

	"github.com/lmittmann/tint"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/observe"
	"github.com/holdfast-go/holdfast/recovery"
)

// logger writes to stderr: lines for people at a terminal, JSON for machines.
func (p *program) logger(format string) *slog.Logger {
	level := slog.LevelInfo
	switch {
	case p.verbose:
		level = slog.LevelDebug
	case p.Quiet:
		level = slog.LevelWarn
	}
	if format == "json" || (format == "auto" && !p.ErrTTY) {
		return slog.New(slog.NewJSONHandler(p.Err, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(p.Err, &tint.Options{
		Level: level, TimeFormat: "15:04:05.000", NoColor: !p.Colors(p.ErrTTY), ReplaceAttr: cleanAttr,
	}))
}

// cleanAttr leaves out what says nothing, and escapes control characters of
// messages.
func cleanAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		if v == "" {
			return slog.Attr{}
		}
		a.Value = slog.StringValue(ui.Clean(v))
	case error:
		a.Value = slog.StringValue(ui.Clean(v.Error()))
	case []string:
		a.Value = slog.StringValue(ui.Clean(strings.Join(v, "; ")))
	}
	return a
}

// attemptLog tells every attempt that failed and every delivery that was settled,
// for --verbose. Dead letters are told in any case, by the library.
type attemptLog struct{ log *slog.Logger }

// Observe writes a line.
func (l attemptLog) Observe(e observe.Event) {
	log := l.log.With("subscription", e.Subscription, "id", e.MessageID, "subject", e.Subject, "attempt", e.Attempt)
	switch {
	case e.Kind == observe.Attempted && e.Err != nil:
		log.Debug("attempt failed", "took", e.Duration, "err", e.Err)
	case e.Kind != observe.Settled:
	case e.Verdict.Action == recovery.RetryLater:
		log.Debug("retry later", "in", e.Verdict.Delay)
	case e.Verdict.Action == recovery.Ack:
		log.Debug("handled")
	case e.Verdict.Action == recovery.Return:
		log.Debug("given back, uncharged")
	}
}
