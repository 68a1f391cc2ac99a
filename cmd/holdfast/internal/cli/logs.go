package cli

import (
	"log/slog"
	"strings"

	"github.com/lmittmann/tint"
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

// cleanAttr leaves out what says nothing, and keeps control characters of
// messages off the terminal.
func cleanAttr(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindString {
		if a.Value.String() == "" {
			return slog.Attr{}
		}
		a.Value = slog.StringValue(strings.Map(func(r rune) rune {
			if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
				return -1
			}
			return r
		}, a.Value.String()))
	}
	return a
}
