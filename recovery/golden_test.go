package recovery_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/recovery"
)

var update = flag.Bool("update", false, "write the verdicts of the golden transcripts anew")

// TestTranscripts plays every case of testdata/*.txt. A case reads as
//
//	== what it shows
//	attempts: 3
//	backoff: 1s 5s
//	> flaky took=2s
//	> flaky x2
//	----
//	attempt 1 err=flaky elapsed=2s -> retry later 1s
//
// Settings of the policy come first, one a line; then what happens to one
// message, one event a line, each starting with ">"; below the dashes what the
// policy answers. testdata/README.md lists the words. With -update the answers
// are written anew.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			playFile(t, file)
		})
	}
}

func playFile(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	intro, cases := splitCases(string(raw))
	var out strings.Builder
	out.WriteString(intro)
	for i, c := range cases {
		if i > 0 {
			out.WriteString("\n")
		}
		got := play(t, c)
		if got != c.want && !*update {
			t.Errorf("%s: %s\ngot\n%s\nwant\n%s", file, c.title, got, c.want)
		}
		fmt.Fprintf(&out, "== %s\n%s----\n%s", c.title, c.script, got)
	}
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// golden is one case: its script above the dashes and the answers below.
type golden struct{ title, script, want string }

func splitCases(text string) (intro string, cases []golden) {
	parts := strings.Split("\n"+text, "\n== ")
	for _, part := range parts[1:] {
		title, rest, _ := strings.Cut(part, "\n")
		script, want, _ := strings.Cut(rest, "----\n")
		want = strings.Trim(want, "\n")
		if want != "" {
			want += "\n"
		}
		cases = append(cases, golden{title: title, script: script, want: want})
	}
	if intro = strings.Trim(parts[0], "\n"); intro != "" {
		intro += "\n\n"
	}
	return intro, cases
}

// play runs the script of a case and returns what the policy answered.
func play(t *testing.T, c golden) string {
	t.Helper()
	var p recovery.Policy
	var events []string
	for line := range strings.Lines(c.script) {
		line = strings.TrimSpace(line)
		switch event, ok := strings.CutPrefix(line, ">"); {
		case ok:
			events = append(events, strings.TrimSpace(event))
		case line != "" && !strings.HasPrefix(line, "#"):
			name, value, _ := strings.Cut(line, ":")
			if err := set(&p, name, strings.TrimSpace(value)); err != nil {
				t.Fatalf("%s: setting %q: %v", c.title, line, err)
			}
		}
	}
	if err := p.Validate(); err != nil {
		return "refused: " + strings.ReplaceAll(err.Error(), "\n", "\nrefused: ") + "\n"
	}
	if len(events) == 0 {
		return facts(p)
	}
	story := story{policy: p, deliveries: 1, attempt: p.FirstAttempt(1)}
	for _, e := range events {
		if err := story.happen(e); err != nil {
			t.Fatalf("%s: event %q: %v", c.title, e, err)
		}
	}
	return story.out.String()
}

// facts is what others ask a policy about itself.
func facts(p recovery.Policy) string {
	return fmt.Sprintf("accepted; delays: %v; longest delay: %v\n", p.Delays(), p.MaxDelay())
}

// story follows one message through a policy.
type story struct {
	policy     recovery.Policy
	deliveries int
	attempt    int
	elapsed    time.Duration
	over       bool
	out        strings.Builder
}

// happen plays one event, as often as its "xN" says.
func (s *story) happen(event string) error {
	words := strings.Fields(event)
	if len(words) == 0 {
		return fmt.Errorf("says nothing")
	}
	if s.over {
		return fmt.Errorf("comes after the message's end")
	}
	if words[0] == "arrive" {
		return s.arrive(words[1:])
	}
	times := 1
	f := recovery.Failure{}
	for len(words) > 1 {
		last := words[len(words)-1]
		name, value, _ := strings.Cut(last, "=")
		var err error
		switch {
		case last == "stopping":
			f.Stopping = true
		case name == "took":
			var d time.Duration
			d, err = time.ParseDuration(value)
			s.elapsed += d
		case name == "jitter":
			f.Jitter, err = strconv.ParseFloat(value, 64)
		case last[0] == 'x':
			times, err = strconv.Atoi(last[1:])
		default:
			return s.fail(words, f, times)
		}
		if err != nil {
			return err
		}
		words = words[:len(words)-1]
	}
	return s.fail(words, f, times)
}

func (s *story) fail(words []string, f recovery.Failure, times int) error {
	name := strings.Join(words, " ")
	for range times {
		if s.over {
			return fmt.Errorf("comes after the message's end")
		}
		rest, err := parseError(name)
		if rest != "" {
			return fmt.Errorf("cannot read %q", rest)
		}
		if slip, ok := errors.AsType[*wordError](err); ok {
			return slip
		}
		f.Err, f.Attempt, f.Elapsed = err, s.attempt, s.elapsed
		s.tell(name, f, s.policy.Decide(f))
	}
	return nil
}

// tell writes the answer down and moves the message on.
func (s *story) tell(name string, f recovery.Failure, v recovery.Verdict) {
	fmt.Fprintf(&s.out, "attempt %d err=%s elapsed=%v", f.Attempt, name, f.Elapsed)
	if f.Stopping {
		s.out.WriteString(" stopping")
	}
	if f.Jitter != 0 {
		fmt.Fprintf(&s.out, " jitter=%v", f.Jitter)
	}
	s.out.WriteString(" -> " + sayVerdict(v) + "\n")
	switch v.Action {
	case recovery.RetryNow:
		s.attempt++
	case recovery.RetryLater:
		s.deliveries++
		s.attempt = s.policy.FirstAttempt(s.deliveries)
		s.elapsed += v.Delay
	case recovery.Return:
	default:
		s.over = true
	}
}

func (s *story) arrive(words []string) error {
	a := recovery.Arrival{Deliveries: 1}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		var err error
		switch name {
		case "deliveries":
			a.Deliveries, err = strconv.Atoi(value)
		case "retries":
			a.Retries, err = strconv.Atoi(value)
		case "age":
			a.Age, err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("nothing is called %q", name)
		}
		if err != nil {
			return err
		}
	}
	v := s.policy.Admit(a)
	fmt.Fprintf(&s.out, "arrive %s -> %s\n", strings.Join(words, " "), sayVerdict(v))
	s.over = v.Action != recovery.Handle
	return nil
}

// sayVerdict writes a verdict the way a person would say it. The class is left
// out where it is the ordinary one.
func sayVerdict(v recovery.Verdict) string {
	said := v.Action.String()
	if v.Delay != 0 {
		said += " " + v.Delay.String()
	}
	if v.Reason != "" {
		said += " " + string(v.Reason)
	}
	if v.Class != "" && v.Class != recovery.ClassTransient {
		said += " (class " + string(v.Class) + ")"
	}
	return said
}
