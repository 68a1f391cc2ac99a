package ui_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
	"go.yaml.in/yaml/v4"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/ui"
)

type item struct {
	ID   string `json:"id"`
	Text string `json:"text"`
	N    int    `json:"n"`
}

func screen(env ...string) (*ui.UI, *bytes.Buffer, *bytes.Buffer) {
	var out, talk bytes.Buffer
	return &ui.UI{In: strings.NewReader(""), Out: &out, Err: &talk, Env: func(name string) (string, bool) {
		for _, kv := range env {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v, true
			}
		}
		return "", false
	}}, &out, &talk
}

func list(u *ui.UI, items ...item) error {
	return ui.List(u, items, func(i item) string { return i.ID },
		ui.Column[item]{Name: "id", Value: func(i item) string { return i.ID }},
		ui.Column[item]{Name: "text", Value: func(i item) string { return i.Text }})
}

func TestEachFormatIsWhatItSays(t *testing.T) {
	t.Parallel()
	items := []item{{"a", "one <two>\tthree\n\x1b[31mfour", 1}, {"b", "true", 2}}
	for format, want := range map[string]string{
		"":      "ID\tTEXT\na\tone <two> three \\x1b[31mfour\nb\ttrue\n",
		"table": "ID  TEXT\na   one <two> three \\x1b[31mfour\nb   true\n",
		"json":  "[\n  {\n    \"id\": \"a\",\n    \"text\": \"one <two>\\tthree\\n\\u001b[31mfour\",\n    \"n\": 1\n  },\n  {\n    \"id\": \"b\",\n    \"text\": \"true\",\n    \"n\": 2\n  }\n]\n",
		"jsonl": "{\"id\":\"a\",\"text\":\"one <two>\\tthree\\n\\u001b[31mfour\",\"n\":1}\n{\"id\":\"b\",\"text\":\"true\",\"n\":2}\n",
		"yaml":  "- id: a\n  text: \"one <two>\\tthree\\n\\e[31mfour\"\n  n: 1\n- id: b\n  text: 'true'\n  n: 2\n",
		"name":  "a\nb\n",
	} {
		u, out, _ := screen()
		u.Format = format
		if err := list(u, items...); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%q:\n%q\nwant\n%q", format, out.String(), want)
		}
	}
}

// What came from a broker cannot move the cursor, change the terminal, or look
// like something else.
func TestWhatAMessageSaysDoesNothingToTheTerminal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"plain, grüße, 👩\u200d🔬, می\u200cخواهم": {"plain, grüße, 👩\u200d🔬, می\u200cخواهم", "plain, grüße, 👩\u200d🔬, می\u200cخواهم"},
		"a\x1b]0;title\x07b":               {`a\x1b]0;title\ab`, `a\x1b]0;title\ab`},
		"\u009b2J\x7f\r":                   {`\u009b2J\x7f\r`, `\u009b2J\x7f\r`},
		"two\nlines\tand tabs":             {"two\nlines\tand tabs", `two\nlines\tand tabs`},
		"\u202egnp.exe\u2066 \u2028\ufeff": {`\u202egnp.exe\u2066 \u2028\ufeff`, `\u202egnp.exe\u2066 \u2028\ufeff`},
		"\xff\xc3(\ufffd":                  {`\xff\xc3(` + "\ufffd", `\xff\xc3(` + "\ufffd"},
		"\x00":                             {`\x00`, `\x00`},
		"\U000e0041":                       {`\U000e0041`, `\U000e0041`},
	} {
		if got := ui.Clean(in); got != want[0] {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want[0])
		}
		if got := ui.Line(in); got != want[1] {
			t.Errorf("Line(%q) = %q, want %q", in, got, want[1])
		}
	}
}

// Machines get every character, and a terminal that shows what they get is not
// changed by it.
func TestWhatMachinesReadDoesNothingToTheTerminal(t *testing.T) {
	t.Parallel()
	const hostile = "a\u009b2J\u202egnp.exe\u2028\x7f\U000e0041 grüße 👩\u200d🔬 \x1b[31m <>"
	for _, format := range []string{"json", "jsonl", "yaml"} {
		u, out, _ := screen()
		u.Format = format
		if err := list(u, item{ID: "a", Text: hostile}); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(out.String(), "\u009b\u202e\u2028\x7f\U000e0041\x1b") || !strings.Contains(out.String(), "grüße") {
			t.Errorf("%s: %q", format, out.String())
		}
		var all []item
		var one item
		err := json.Unmarshal(out.Bytes(), &all)
		switch format {
		case "jsonl":
			err = json.Unmarshal(out.Bytes(), &one)
			all = []item{one}
		case "yaml":
			err = yaml.Unmarshal(out.Bytes(), &all)
		}
		if err != nil || len(all) != 1 || all[0].Text != hostile {
			t.Errorf("%s: %+v, %v", format, all, err)
		}
	}
}

// Bytes go on as they are, but a terminal is not changed by them, however they are
// cut into writes.
func TestBytesDoNothingToTheTerminal(t *testing.T) {
	t.Parallel()
	const hostile = "grüße\x1b]0;title\x07\r\n\xff\xc3 長い\t👩"
	for cut := range len(hostile) {
		for tty, want := range map[bool]string{false: hostile, true: "grüße\\x1b]0;title\\a\\r\n\\xff\\xc3 長い\t👩\n"} {
			u, out, _ := screen()
			u.OutTTY = tty
			w := u.Raw()
			for _, part := range []string{hostile[:cut], hostile[cut:]} {
				if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := w.Close(); err != nil || out.String() != want {
				t.Errorf("cut at %d: %q, want %q (%v)", cut, out.String(), want, err)
			}
		}
	}
	u, out, _ := screen()
	u.OutTTY = true
	w := u.Raw()
	if _, err := w.Write([]byte("line\n\xe9")); err != nil || w.Close() != nil || out.String() != "line\n\\xe9\n" {
		t.Errorf("an open end: %q, %v", out.String(), err)
	}
}

func TestATableFitsTheTerminal(t *testing.T) {
	t.Parallel()
	u, out, _ := screen()
	u.OutTTY, u.Width, u.Color = true, 40, "never"
	if err := list(u, item{ID: "a", Text: strings.Repeat("long ", 50)}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 40 {
			t.Errorf("%d characters: %q", n, line)
		}
	}
	if !strings.Contains(out.String(), "…") {
		t.Errorf("what was cut is not marked: %q", out.String())
	}
}

// What commands take stays whole, what is spare goes first, and wide characters
// count as what they take.
func TestANarrowTerminalGetsWhatMatters(t *testing.T) {
	t.Parallel()
	columns := []ui.Column[item]{
		{Name: "dead id", Whole: true, Value: func(i item) string { return i.ID }},
		{Name: "message", Spare: true, Value: func(item) string { return strings.Repeat("m", 26) }},
		{Name: "subscription", Value: func(item) string { return "a-subscription-with-quite-a-name" }},
		{Name: "attempts", Value: func(i item) string { return fmt.Sprint(i.N) }},
		{Name: "error", Value: func(i item) string { return i.Text }},
	}
	for width, want := range map[int][]string{
		200: {"0123456789", "MESSAGE", "a-subscription-with-quite-a-name"},
		110: {"0123456789", "MESSAGE", "a-subscription-with-quite-a-name", "…"},
		80:  {"0123456789", "a-subscription-with", "…"},
		50:  {"0123456789", "a-subs", "…"},
	} {
		for _, text := range []string{strings.Repeat("long ", 50), strings.Repeat("長い", 50), strings.Repeat("e\u0301", 100)} {
			u, out, _ := screen()
			u.OutTTY, u.Width, u.Color = true, width, "never"
			if err := ui.List(u, []item{{"0123456789", text, 3}}, func(i item) string { return i.ID }, columns...); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := lipgloss.Width(strings.TrimSuffix(line, "\n")); n > width {
					t.Errorf("width %d: %d columns: %q", width, n, line)
				}
			}
			for _, w := range want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("width %d: no %q in\n%s", width, w, out.String())
				}
			}
			if width == 80 && strings.Contains(out.String(), "MESSAGE") {
				t.Errorf("what is spare is there:\n%s", out.String())
			}
		}
	}
}

func TestNothingIsStillAList(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{"json": "[]\n", "jsonl": "", "yaml": "[]\n", "name": ""} {
		u, out, _ := screen()
		u.Format = format
		if err := list(u); err != nil {
			t.Fatal(err)
		}
		if format != "yaml" && out.String() != want {
			t.Errorf("%s: %q", format, out.String())
		}
	}
}

func TestColoursAreUsedWhereTheyAreWanted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		env  string
		flag string
		tty  bool
		want bool
	}{
		{"", "", true, true},
		{"", "", false, false},
		{"NO_COLOR=1", "", true, false},
		{"NO_COLOR=", "", true, true},
		{"CLICOLOR_FORCE=1", "", false, true},
		{"CLICOLOR_FORCE=0", "", false, false},
		{"TERM=dumb", "", true, false},
		{"NO_COLOR=1", "always", false, true},
		{"CLICOLOR_FORCE=1", "never", true, false},
	} {
		u, _, _ := screen(tc.env)
		u.Color = tc.flag
		if got := u.Colors(tc.tty); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	u, _, _ := screen()
	u.Color = "always"
	if s := u.Styles(false).Bad("x"); s == "x" || !strings.Contains(s, "x") {
		t.Errorf("Bad = %q", s)
	}
}

func TestNothingIsChangedWithoutAYes(t *testing.T) {
	t.Parallel()
	refused := func(err error) bool {
		e, ok := errors.AsType[*ui.ExitError](err)
		return ok && e.Code == ui.ExitRefused
	}
	u, _, _ := screen()
	if err := u.Confirm("sure?"); !refused(err) || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("off a terminal: %v", err)
	}
	u.Yes = true
	if err := u.Confirm("sure?"); err != nil {
		t.Errorf("--yes: %v", err)
	}
	for answer, ok := range map[string]bool{"y\n": true, "YES\n": true, "\n": false, "n\n": false, "": false, "yup\n": false} {
		u, _, talk := screen()
		u.InTTY, u.In = true, strings.NewReader(answer)
		if err := u.Confirm("sure?"); (err == nil) != ok || (!ok && !refused(err)) {
			t.Errorf("answer %q: %v", answer, err)
		}
		if talk.String() != "sure? [y/N] " {
			t.Errorf("asked %q", talk.String())
		}
	}
}

func TestTimesAndCountsReadWell(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for d, want := range map[time.Duration]string{0: "now", 5 * time.Second: "5s ago", 90 * time.Second: "1m ago", 3 * time.Hour: "3h ago", 100 * time.Hour: "4d ago"} {
		if got := ui.Ago(now.Add(-d), now); got != want {
			t.Errorf("%s: %q", d, got)
		}
	}
	for n, want := range map[int]string{0: "0 messages", 1: "1 message", 999: "999 messages", 1204: "1,204 messages", 1234567: "1,234,567 messages"} {
		if got := ui.Count(n, "message"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}
