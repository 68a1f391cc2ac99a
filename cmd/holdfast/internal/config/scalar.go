package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// parse fills v from its text, and says what is wrong with it and what to write
// instead. A value from the environment has no type of its own.
func (s *shape) parse(v *value, tag string, fromEnv bool) (problem, hint string) {
	switch s.kind {
	case number:
		return s.parseNumber(v, tag, fromEnv)
	case boolean:
		v.yes = strings.EqualFold(v.text, "true")
		if (tag != "!!bool" && !fromEnv) || (!v.yes && !strings.EqualFold(v.text, "false")) {
			return "is not true or false", "write true or false"
		}
	case duration:
		d, err := parseDuration(v.text)
		v.dur = d
		switch {
		case err != nil && tag == "!!int":
			return "has no unit", "write " + v.text + "s for seconds, or ms, m, h, d"
		case err != nil:
			return "is not a duration", "write " + s.expects()
		case d <= 0:
			return "is not a duration above zero", "write " + s.expects()
		}
	case percent:
		share, ok := parsePercent(v.text)
		v.share = share
		if !ok {
			return "is not a percentage from 0% to 100%", "write " + s.expects()
		}
	case size:
		return s.parseSize(v)
	case instant:
		if _, err := time.Parse(time.RFC3339, v.text); err != nil && tag == "!!str" {
			return "is not a time with its zone", "write " + s.expects()
		}
		return s.parseText(v, tag, fromEnv)
	default:
		return s.parseText(v, tag, fromEnv)
	}
	return "", ""
}

// parseSize reads a number of bytes, with a unit or without.
func (s *shape) parseSize(v *value) (problem, hint string) {
	digits, shift := v.text, 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if d, ok := strings.CutSuffix(v.text, unit); ok {
			digits, shift = d, 10*(i+1)
		}
	}
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil || n < 1 || !regexp.MustCompile(s.form).MatchString(v.text):
		return "is not a number of bytes", "write " + s.expects()
	case n > math.MaxInt>>shift || (s.max > 0 && n<<shift > s.max):
		return "is too large", "write less"
	}
	v.num = n << shift
	return "", ""
}

func (s *shape) parseNumber(v *value, tag string, fromEnv bool) (problem, hint string) {
	i, err := strconv.Atoi(v.text)
	v.num = i
	switch {
	case err != nil:
		return "is not a whole number", "write " + s.expects()
	case tag != "!!int" && !fromEnv:
		return "is text, not a number", "write " + v.text + " without quotes"
	case i < s.min:
		return fmt.Sprintf("is less than %d", s.min), fmt.Sprintf("write %d or more", s.min)
	case s.max > 0 && i > s.max:
		return fmt.Sprintf("is more than %d", s.max), fmt.Sprintf("write %d or less", s.max)
	}
	return "", ""
}

func (s *shape) parseText(v *value, tag string, fromEnv bool) (problem, hint string) {
	switch {
	case tag != "!!str" && !fromEnv:
		return "is not text", "put quotes around it"
	case len(s.enum) > 0 && !slices.Contains(s.enum, v.text):
		hint = "(allowed: " + strings.Join(s.enum, ", ") + ")"
		if near := nearest(v.text, s.enum); near != "" {
			hint = fmt.Sprintf("did you mean %q?   %s", near, hint)
		}
		return "is not one of its values", hint
	case s.form != "" && !regexp.MustCompile(s.form).MatchString(v.text):
		return "does not have the right form", "write " + s.forms
	}
	return "", ""
}

// noun names what the shape takes.
func (s *shape) noun() string {
	switch s.kind {
	case number:
		return "a whole number"
	case boolean:
		return "true or false"
	case duration:
		return "a duration"
	case percent:
		return "a percentage"
	case size:
		return "a number of bytes"
	case instant:
		return "a time"
	default:
		return "text"
	}
}

// expects says what to write.
func (s *shape) expects() string {
	switch {
	case s.forms != "":
		return s.forms
	case s.kind == duration:
		return "a duration such as 200ms, 30s, 1m30s or 24h"
	case s.kind == percent:
		return "a percentage such as 20%"
	case s.sample != "":
		return s.noun() + ", for example " + s.sample
	default:
		return s.noun()
	}
}

// describe says what a node is, for errors about its type.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Tag == "!!null":
		return "empty"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!bool":
		return "true or false"
	default:
		return "text"
	}
}

var days = regexp.MustCompile(`^([0-9]+)d`)

// parseDuration reads what time.ParseDuration reads, and days in front.
func parseDuration(s string) (time.Duration, error) {
	var d time.Duration
	if m := days.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 36500 {
			return 0, fmt.Errorf("invalid duration %q", s)
		}
		d = time.Duration(n) * 24 * time.Hour
		if s = s[len(m[0]):]; s == "" {
			return d, nil
		}
	}
	rest, err := time.ParseDuration(s)
	return d + rest, err
}

func parsePercent(s string) (float64, bool) {
	digits, found := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(digits, 64)
	return f / 100, found && err == nil && f >= 0 && f <= 100
}
