package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
)

// amqpTools makes sure that Debian's clients in C are there, once a process.
var amqpTools = sync.OnceValue(func() error {
	if _, err := exec.LookPath("amqp-publish"); err == nil {
		return nil
	}
	install := exec.Command("apt-get", "install", "-y", "--no-install-recommends", "amqp-tools")
	install.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("this test needs amqp-tools, and they are neither installed nor installable: apt-get install amqp-tools: %w: %s", err, tail(strings.TrimSpace(string(out)), 200))
	}
	return nil
})

// TestDebiansClientsPublishAndConsumeBesideUs: the clients of the C library
// publish what a command handles, read what holdfast publishes, and share a queue
// with holdfast run without a message getting lost.
func TestDebiansClientsPublishAndConsumeBesideUs(t *testing.T) {
	t.Parallel()
	if err := amqpTools(); err != nil {
		t.Fatal(err)
	}
	b, dir, name := rabbittest.Shared(t), t.TempDir(), rabbitName()
	tool := func(command string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), busy*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, command, append([]string{"--url=" + b.URL()}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	ours := filepath.Join(dir, "ours")
	p := run(t, dir, fmt.Sprintf(`
broker: %[2]s
subscriptions:
  - name: tools
    from: {queue: %[1]s, bindings: [{exchange: %[1]s, kind: fanout}]}
    handler: {exec: [sh, -c, "cat >> %[3]s; echo \" $HOLDFAST_CONTENT_TYPE $HOLDFAST_HEADERS\" >> %[3]s"]}
`, name, b.URL(), ours))
	ready(t, p)
	tool("amqp-publish", "--exchange="+name, "--routing-key=any", "--persistent", "--content-type=text/x-tool", "--header=Tenant: blue", "--body=m-0")
	eventually(t, time.Minute, "the first message", func() bool {
		got, err := os.ReadFile(ours)
		return err == nil && strings.HasPrefix(string(got), `m-0 text/x-tool {"Tenant":["blue"]`)
	})

	other := rabbitShares(t, b.URL(), name, ours, filepath.Join(dir, "theirs"))
	if err := p.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
	other.kill()

	holdfastEnds(t, "", "publish", "--broker", b.URL(), "--queue", name, "from holdfast").want(t, 0)
	if got := tool("amqp-consume", "--queue="+name, "--count=1", "cat"); got != "from holdfast" {
		t.Errorf("the client in C read %q", got)
	}
}

// rabbitShares lets amqp-consume and the program consume one queue: each message
// goes to one of them, and one is with ours already.
func rabbitShares(t *testing.T, url, name, ours, theirs string) *process {
	t.Helper()
	const count = 20
	script := theirs + ".sh"
	if err := os.WriteFile(script, []byte("#!/bin/sh\ncat >> "+theirs+"; echo >> "+theirs+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	other := start(t, filepath.Dir(theirs), nil, "amqp-consume", "--url="+url, "--queue="+name, "--prefetch-count=1", script)
	for i := 1; i <= count; i++ {
		holdfastEnds(t, "", "publish", "--broker", url, "--exchange", name, "any", fmt.Sprintf("m-%d", i)).want(t, 0)
	}
	bodies := func(file string) []string {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil
		}
		var all []string
		for line := range strings.Lines(string(text)) {
			body, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			all = append(all, body)
		}
		return all
	}
	eventually(t, time.Minute, "every message to be with one of both", func() bool {
		all := append(bodies(ours), bodies(theirs)...)
		slices.Sort(all)
		return len(slices.Compact(all)) == count+1
	})
	if len(bodies(theirs)) == 0 {
		t.Error("the other consumer got nothing")
	}
	if n := len(bodies(ours)) + len(bodies(theirs)); n != count+1 {
		t.Errorf("%d messages were handled, want each of %d once", n, count+1)
	}
	return other
}

// TestAStreamIsReadFromItsOffset: a stream of RabbitMQ gives all that it holds,
// at every start, and what fails for good is a dead letter although a stream gives
// nothing back.
func TestAStreamIsReadFromItsOffset(t *testing.T) {
	t.Parallel()
	b, name := rabbittest.Shared(t), rabbitName()
	yaml := fmt.Sprintf(`
broker: %[2]s
subscriptions:
  - name: %[1]s
    from: {queue: %[1]s, type: stream, offset: first}
    handler: {exec: [sh, -c, 'echo "run $HOLDFAST_ATTEMPT of $(cat)" >&2; exit 1']}
    retry: {attempts: 2, immediate: 1}
`, name, b.URL())
	letters := func() []letter { return deadLetters(t, b.URL(), "--subscription", name) }
	for round := 1; round <= 2; round++ {
		p := run(t, t.TempDir(), yaml)
		ready(t, p)
		holdfastEnds(t, "", "publish", "--broker", b.URL(), "--queue", name, "m", "--id", fmt.Sprintf("m-%d", round)).want(t, 0)
		// At the second start the first message comes again, as the same letter or
		// as another.
		eventually(t, time.Minute, "the dead letters", func() bool {
			return slices.ContainsFunc(letters(), func(l letter) bool {
				return l.ID == fmt.Sprintf("m-%d", round) && l.Attempts == 2 && l.Error == "sh exited with 1: run 2 of m"
			})
		})
		eventually(t, time.Minute, "the first message at every start", func() bool {
			return strings.Count(p.stderr.String(), `"msg":"message dead-lettered"`) == round
		})
		if err := p.terminate(t, 40*time.Second); err != nil {
			t.Errorf("holdfast run did not end cleanly: %v", err)
		}
	}
}
