package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

// This file reads the words of the golden transcripts: settings and errors.

// Errors that rules are written for.
var (
	errFlaky  = errors.New("flaky")
	errBusy   = errors.New("busy")
	errBroken = errors.New("broken")
)

// quotaError is found by type.
type quotaError struct{ limit int }

func (e *quotaError) Error() string { return fmt.Sprintf("quota of %d used up", e.limit) }

// set applies one setting to the policy.
func set(p *recovery.Policy, name, value string) (err error) {
	switch name {
	case "ack":
		p.Ack, err = parseAck(value)
	case "attempts":
		p.Attempts, err = strconv.Atoi(value)
	case "immediate":
		p.Immediate, err = strconv.Atoi(value)
	case "backoff":
		p.Backoff, err = parseBackoff(value)
	case "jitter":
		var percent float64
		percent, err = strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		p.Jitter = percent / 100
	case "within":
		p.Within, err = time.ParseDuration(value)
	case "max age":
		p.MaxAge, err = time.ParseDuration(value)
	case "crash limit":
		p.CrashLimit, err = strconv.Atoi(value)
	case "dead letters":
		p.DeadLetters = value == "yes"
	case "rule":
		var r recovery.Rule
		r, err = parseRule(value)
		p.Rules = append(p.Rules, r)
	default:
		err = errors.New("no such setting")
	}
	return err
}

func parseAck(value string) (recovery.AckPolicy, error) {
	for a := recovery.RetryOnError; a <= recovery.Manual; a++ {
		if a.String() == value {
			return a, nil
		}
	}
	n, err := strconv.Atoi(value)
	return recovery.AckPolicy(n), err
}

func parseBackoff(value string) (recovery.Backoff, error) {
	words := strings.Fields(value)
	kind := ""
	if len(words) > 0 && (words[0] == "exponential" || words[0] == "constant") {
		kind, words = words[0], words[1:]
	}
	var d []time.Duration
	for _, w := range words {
		one, err := time.ParseDuration(w)
		if err != nil {
			return recovery.Backoff{}, err
		}
		d = append(d, one)
	}
	switch {
	case kind == "exponential" && len(d) == 2:
		return recovery.Exponential(d[0], d[1]), nil
	case kind == "constant" && len(d) == 1:
		return recovery.Constant(d[0]), nil
	case kind == "":
		return recovery.Delays(d...), nil
	}
	return recovery.Backoff{}, fmt.Errorf("%s of %d delays", kind, len(d))
}

// parseRule reads "busy: attempts 2, after 30s, backoff 1s 2s, permanent, discard".
func parseRule(value string) (recovery.Rule, error) {
	when, what, _ := strings.Cut(value, ":")
	r := recovery.Rule{When: matchers()[when]}
	for part := range strings.SplitSeq(what, ",") {
		name, rest, _ := strings.Cut(strings.TrimSpace(part), " ")
		var err error
		switch name {
		case "":
		case "permanent":
			r.Permanent = true
		case "discard":
			r.Discard = true
		case "attempts":
			r.Attempts, err = strconv.Atoi(rest)
		case "after":
			r.After, err = time.ParseDuration(rest)
		case "backoff":
			r.Backoff, err = parseBackoff(rest)
		default:
			err = fmt.Errorf("a rule has no %q", name)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// matchers are what rules can be for. A name that is not here gives a rule
// without a When.
func matchers() map[string]func(error) bool {
	return map[string]func(error) bool{
		"flaky":    recovery.Is(errFlaky),
		"busy":     recovery.Is(errBusy),
		"broken":   recovery.Is(errBroken),
		"canceled": recovery.Is(context.Canceled),
		"quota":    recovery.As[*quotaError](),
		"panic":    recovery.As[*recovery.PanicError](),
		"timeout":  recovery.As[*recovery.TimeoutError](),
		"decode":   recovery.As[*recovery.DecodeError](),
		"any":      func(error) bool { return true },
	}
}

// parseError reads an error: a name, or a name with arguments in parentheses,
// such as wrap(permanent(flaky)) or retry-after(busy, 30s). It returns what
// follows it, too.
func parseError(text string) (rest string, err error) {
	text = strings.TrimSpace(text)
	end := strings.IndexAny(text, "(,)")
	if end < 0 {
		end = len(text)
	}
	name := text[:end]
	rest = text[end:]
	var args []error
	var words []string
	if inner, ok := strings.CutPrefix(rest, "("); ok {
		for {
			words = append(words, strings.TrimSpace(inner[:max(strings.IndexAny(inner, ",)"), 0)]))
			var arg error
			inner, arg = parseError(inner)
			args = append(args, arg)
			if more, ok := strings.CutPrefix(inner, ","); ok {
				inner = more
				continue
			}
			rest = strings.TrimPrefix(inner, ")")
			break
		}
	}
	return rest, makeError(name, args, words)
}

func makeError(name string, args []error, words []string) error {
	cause := errFlaky
	if len(args) > 0 {
		cause = args[0]
	}
	switch name {
	case "ok":
		return nil
	case "busy":
		return errBusy
	case "broken":
		return errBroken
	case "canceled":
		return context.Canceled
	case "deadline":
		return context.DeadlineExceeded
	case "quota":
		return &quotaError{limit: 10}
	case "wrap":
		return fmt.Errorf("wrapped: %w", cause)
	case "join":
		return errors.Join(args...)
	default:
		return makeMarked(name, cause, words)
	}
}

func makeMarked(name string, cause error, words []string) error {
	switch name {
	case "permanent":
		return recovery.Permanent(cause)
	case "discard":
		return recovery.Discard(cause)
	case "retry-after":
		d, err := time.ParseDuration(words[len(words)-1])
		if err != nil {
			return recovery.Permanent(err) // shows in the transcript
		}
		return recovery.RetryAfter(cause, d)
	case "decode":
		return &recovery.DecodeError{Err: cause}
	case "invalid":
		return &recovery.InvalidError{Err: cause}
	case "no-handler":
		return recovery.ErrNoHandler
	case "panic":
		return &recovery.PanicError{Value: cause}
	case "panic-text":
		return &recovery.PanicError{Value: "nil map"}
	case "timeout":
		return &recovery.TimeoutError{After: time.Second}
	case "hung":
		return &recovery.TimeoutError{After: time.Second, Hung: true}
	case "flaky":
		return errFlaky
	default:
		return &wordError{name} // a duration given as an argument, or a slip
	}
}

// wordError is a name that no error has.
type wordError struct{ word string }

func (e *wordError) Error() string { return fmt.Sprintf("no error is called %q", e.word) }
