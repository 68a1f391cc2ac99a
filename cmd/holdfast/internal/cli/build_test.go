package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
	"github.com/holdfast-go/holdfast/recovery"
)

func TestWhatAHandlerSaysIsWhatTheLibraryHears(t *testing.T) {
	t.Parallel()
	cause := errors.New("why")
	for _, tc := range []struct {
		o    outcome.Outcome
		want error
	}{
		{outcome.Outcome{Verdict: outcome.Permanent, Err: cause}, holdfast.Permanent(cause)},
		{outcome.Outcome{Verdict: outcome.Drop, Err: cause}, holdfast.Discard(cause)},
		{outcome.Outcome{Verdict: outcome.Retry, Err: cause}, cause},
		{outcome.Outcome{Verdict: outcome.Retry, After: time.Second, Err: cause}, holdfast.RetryAfter(cause, time.Second)},
	} {
		err := verdict(tc.o)
		class, after := recovery.Classify(err)
		wantClass, wantAfter := recovery.Classify(tc.want)
		if !errors.Is(err, cause) || class != wantClass || after != wantAfter {
			t.Errorf("%+v = %v (%v, %s), want %v, %s", tc.o, err, class, after, wantClass, wantAfter)
		}
	}
	if err := verdict(outcome.Outcome{}); err != nil {
		t.Errorf("an ack is %v", err)
	}
	if err := verdict(outcome.Outcome{Verdict: outcome.Retry}); err == nil {
		t.Error("a retry without a reason is no error")
	}
}

func TestARetryLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	def := holdfast.DefaultRetry()
	for _, tc := range []struct {
		in       config.Retry
		attempts int
		delays   []time.Duration // the first ones
	}{
		{config.Retry{Attempts: 5, Immediate: 1, Backoff: config.Backoff{Delays: []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second}}}, 5, []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second, 5 * time.Second}},
		{config.Retry{Attempts: 3, Backoff: config.Backoff{Delays: []time.Duration{time.Second}}}, 3, []time.Duration{time.Second, time.Second}},
		{config.Retry{Attempts: 9, Backoff: config.Backoff{First: time.Second, Max: 3 * time.Second}}, 9, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
		{config.Retry{}, def.Attempts, []time.Duration{time.Second}},
		{config.Retry{Within: time.Hour}, 0, []time.Duration{time.Second}},
		{config.Retry{Backoff: config.Backoff{Delays: make([]time.Duration, 9)}}, 10, nil},
		{config.Retry{Attempts: 3, Immediate: 2}, 3, []time.Duration{0}}, // a backoff would be refused
	} {
		got := retryOf(tc.in)
		if got.Attempts != tc.attempts || got.Immediate != tc.in.Immediate || got.Within != tc.in.Within {
			t.Errorf("%+v = %+v", tc.in, got)
		}
		for i, want := range tc.delays {
			if d := got.Backoff.Delay(i + 1); d != want {
				t.Errorf("%+v: delay %d is %s, want %s", tc.in, i+1, d, want)
			}
		}
	}
}

// run calls the program as a person would who is not at a terminal.
func run(env map[string]string, args ...string) (out, talk string, code int) {
	var stdout, stderr bytes.Buffer
	code = Main(args, &ui.UI{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Env: func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}})
	return stdout.String(), stderr.String(), code
}

func TestTheFlagWinsOverTheEnvironment(t *testing.T) {
	t.Parallel()
	_, talk, code := run(map[string]string{"HOLDFAST_BROKER": "nats://127.0.0.1:2"}, "dlq", "list", "--broker", "nats://127.0.0.1:1")
	if code != ui.ExitUnreachable || !strings.Contains(talk, "nats://127.0.0.1:1:") {
		t.Errorf("exit %d: %s", code, talk)
	}
	_, talk, code = run(map[string]string{"HOLDFAST_BROKER": "nats://127.0.0.1:2"}, "dlq", "list")
	if code != ui.ExitUnreachable || !strings.Contains(talk, "nats://127.0.0.1:2:") {
		t.Errorf("exit %d: %s", code, talk)
	}
}

func TestErrorsAreColouredOnRequestOnly(t *testing.T) {
	t.Parallel()
	_, plain, _ := run(nil, "dql")
	_, coloured, _ := run(nil, "dlq", "list", "--broker", "nats://127.0.0.1:1", "--color", "always")
	if strings.Contains(plain, "\x1b") || !strings.Contains(coloured, "\x1b[31merror:") {
		t.Errorf("plain %q\ncoloured %q", plain, coloured)
	}
}

func TestAMomentIsATimeOrADurationAgo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{"": {}, "2h": now.Add(-2 * time.Hour), "3d": now.AddDate(0, 0, -3), "2026-01-01T00:00:00Z": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got, err := moment("--since", s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q = %v, %v", s, got, err)
		}
	}
	if _, err := moment("--since", "yesterday", now); err == nil {
		t.Error("yesterday is no error")
	}
}
