package cli

import (
	"log/slog"

	"github.com/lmittmann/tint"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
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
	}
	return a
}
