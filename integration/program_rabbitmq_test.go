package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
)

// rabbitName returns a name that no other test uses.
func rabbitName() string {
	var id [5]byte
	_, _ = rand.Read(id[:]) // documented never to fail
	return "p" + hex.EncodeToString(id[:])
}

// ended is how a command of the program ended.
type ended struct {
	code        int
	out, stderr string
}

// holdfastEnds runs a command of the program to its end, whatever that is.
func holdfastEnds(t *testing.T, stdin string, args ...string) ended {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), busy*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = t.TempDir(), strings.NewReader(stdin), &out, &stderr
	err = cmd.Run()
	e := ended{0, out.String(), stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		e.code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, e.stderr)
	}
	if strings.Contains(e.out+e.stderr, "guest:guest") {
		t.Errorf("holdfast %s shows the password:\n%s%s", strings.Join(args, " "), e.out, e.stderr)
	}
	return e
}

// want fails unless the command ended with this code and said all of this.
func (e ended) want(t *testing.T, code int, said ...string) {
	t.Helper()
	if e.code != code {
		t.Errorf("exit code %d, want %d:\n%s%s", e.code, code, e.out, e.stderr)
	}
	for _, s := range said {
		if !strings.Contains(e.out+e.stderr, s) {
			t.Errorf("it does not say %q:\n%s%s", s, e.out, e.stderr)
		}
	}
}

// config writes a file of the program.
func config(t *testing.T, yaml string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// ready waits until a program takes messages.
func ready(t *testing.T, p *process) {
	t.Helper()
	eventually(t, time.Minute, "holdfast run to be ready", func() bool {
		select {
		case <-p.done:
			t.Fatalf("holdfast run ended: %v\n%s", p.err, p.stderr.String())
		default:
		}
		return strings.Contains(p.stderr.String(), `"msg":"ready"`)
	})
}

// TestForeignRabbitMQClientAndHandlers: messages with headers of every type,
// published by the JavaScript client, are handled by a command and by a URL
// written in JavaScript, retried through the ladder, dead-lettered, and redriven
// once the handlers are mended. Another consumer of the exchange gets each
// message once, and the JavaScript client finds copies as whole as originals.
func TestForeignRabbitMQClientAndHandlers(t *testing.T) {
	t.Parallel()
	const count, dead = 20, 2 + 1 // per exchange: 2 poison, 2 flaky, and one that is not JSON
	b, dir, scripts := rabbittest.Shared(t), t.TempDir(), foreign(t)
	ledger, mended, heard := filepath.Join(dir, "ledger"), filepath.Join(dir, "mended"), filepath.Join(dir, "heard")
	env := []string{"LEDGER=" + ledger, "MENDED=" + mended, "SECRET=whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "RABBIT=" + b.URL()}
	web := start(t, scripts, env, "node", "http.mjs")
	port, err := web.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the foreign server did not start: %v", err)
	}
	name := rabbitName()
	program := run(t, dir, rabbitForeignFile(name, filepath.Join(scripts, "amqp-exec.mjs"), strings.TrimSpace(port)), env...)
	file := filepath.Join(dir, "holdfast.yaml")
	ready(t, program)
	listener := start(t, scripts, nil, "node", "amqp-listen.mjs", b.URL(), name+".orders", "orders.*", heard)
	if _, err := listener.stdout.ReadString('\n'); err != nil {
		t.Fatalf("the other consumer did not start: %v", err)
	}
	node(t, scripts, "amqp-publish.mjs", b.URL(), name+".orders", "orders.placed", fmt.Sprint(count), "o")
	node(t, scripts, "amqp-publish.mjs", b.URL(), name+".payments", "payments.made", fmt.Sprint(count), "p")

	letters := func() []letter { return deadLetters(t, b.URL(), "--file", file) }
	eventually(t, 2*time.Minute, "all outcomes of both handlers", func() bool {
		runs := read(t, ledger)
		return handled(runs, "exec") == count-2 && handled(runs, "http") == count-2
	})
	eventually(t, time.Minute, "all dead letters", func() bool { return len(letters()) == 2*dead })
	rabbitStory(t, read(t, ledger), letters())
	// The client of somebody else finds dead letters whole, and may look often.
	for range 3 {
		node(t, scripts, "amqp-look.mjs", b.URL(), name+".orders.dead", "o-10")
	}
	rabbitShows(t, b.URL(), file, letters())

	// Mended, the poison succeeds; what is not JSON never will, and comes back.
	if err := os.WriteFile(mended, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"by-command", "by-url"} {
		holdfastEnds(t, "", "dlq", "redrive", "--file", file, "--broker", b.URL(), "--subscription", s, "--yes").want(t, 0)
	}
	eventually(t, time.Minute, "the redriven messages", func() bool {
		runs := read(t, ledger)
		return handled(runs, "exec") == count && handled(runs, "http") == count && len(letters()) == 2
	})
	if err := program.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
	if got := read(t, heard); len(got) != count+1 || slices.ContainsFunc(got, func(l line) bool { return l.Outcome != "ok" }) {
		t.Errorf("the other consumer of the exchange got %d messages, want each of %d once: %v", len(got), count+1, got)
	}
}

// rabbitForeignFile has a subscription for a command and one for a URL.
func rabbitForeignFile(name, script, port string) string {
	return fmt.Sprintf(`
broker: ${RABBIT}
subscriptions:
  - name: by-command
    from: {queue: %[1]s.orders, type: quorum, bindings: [{exchange: %[1]s.orders, kind: topic, key: "orders.#"}], declare: ensure}
    handler: {exec: [node, %[2]q]}
    concurrency: 2
    retry: {attempts: 5, immediate: 1, backoff: [200ms, 400ms], jitter: 20%%}
  - name: by-url
    from: {queue: %[1]s.payments, bindings: [{exchange: %[1]s.payments, kind: direct, key: payments.made}]}
    handler: {http: {url: "http://127.0.0.1:%[3]s/", secret: "${SECRET}"}}
    concurrency: 4
    retry: {attempts: 5, backoff: [200ms, 400ms], jitter: 20%%}
`, name, script, port)
}

// rabbitStory fails unless the runs and the dead letters are those of 20 messages
// each.
func rabbitStory(t *testing.T, runs []line, letters []letter) {
	t.Helper()
	for _, prefix := range []string{"o", "p"} {
		if got := attempts(runs, prefix+"-5"); got != "1 retry, 2 retry, 3 ok" {
			t.Errorf("flaky message %s-5 ran: %s", prefix, got)
		}
		if got := attempts(runs, prefix+"-10"); got != "1 permanent" {
			t.Errorf("poison message %s-10 ran: %s", prefix, got)
		}
	}
	for _, l := range letters {
		if l.DeadID == "" || l.ID == "" || l.Reason != "permanent" || l.Attempts != 1 || l.Error == "" || l.Time == "" ||
			l.Subject != map[string]string{"by-command": "orders.placed", "by-url": "payments.made"}[l.Subscription] {
			t.Errorf("dead letter does not tell its story: %+v", l)
		}
	}
}

// rabbitShows looks at the dead letters as a person would.
func rabbitShows(t *testing.T, url, file string, letters []letter) {
	t.Helper()
	i := slices.IndexFunc(letters, func(l letter) bool { return l.ID == "o-10" })
	if i < 0 {
		t.Fatalf("o-10 is no dead letter: %v", letters)
	}
	at := []string{"--file", file, "--broker", url}
	show := func(args ...string) ended {
		return holdfastEnds(t, "", append(append([]string{"dlq"}, args...), at...)...)
	}
	for _, e := range []ended{show("list", "-o", "table"), show("list"), show("show", letters[i].DeadID)} {
		e.want(t, 0, "o-10")
		if strings.ContainsAny(e.out+e.stderr, "\x1b\u202e") {
			t.Errorf("a message reaches the terminal:\n%q", e.out+e.stderr)
		}
	}
	show("show", letters[i].DeadID).want(t, 0, `h-text: \x1b[31mgrüße\u202e`, "Tag: second", `h-bytes: \xff\x00\x1b`, "Amqp-Expiration: 3600000")
	if e := show("show", letters[i].DeadID, "--body"); e.out != `{"id":"o-10","kind":"poison","text":"grüße"}` {
		t.Errorf("the body is %q", e.out)
	}
	var whole struct {
		Header map[string][]string
	}
	if err := json.Unmarshal([]byte(show("show", letters[i].DeadID, "--json").out), &whole); err != nil {
		t.Fatal(err)
	}
	if whole.Header["h-text"][0] != "\x1b[31mgrüße\u202e" {
		t.Errorf("in JSON a header is not as it was: %q", whole.Header["h-text"])
	}
	show("group").want(t, 0, "by-command", "by-url")
}

// TestPublishOnRabbitMQSaysWhatBecameOfIt: a publish ends with 0 only when a
// queue has the message, and says at once why none has.
func TestPublishOnRabbitMQSaysWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	b, name := rabbittest.Shared(t), rabbitName()
	file := config(t, fmt.Sprintf(`
broker: %[2]s
subscriptions:
  - name: %[1]s
    from: {queue: %[1]s, bindings: [{exchange: %[1]s, kind: topic, key: "orders.#"}]}
    handler: {exec: [sh, -c, "cat >&2; exit 65"]}
`, name, b.URL()))
	broker := []string{"--broker", b.URL()}
	publish := func(stdin string, args ...string) ended {
		return holdfastEnds(t, stdin, append(append([]string{"publish"}, args...), broker...)...)
	}
	// Said at once: whoever waits for the timeout is ended before.
	publish("", "--exchange", name, "orders.placed", "x", "--timeout", "10m").want(t, 1, "there is no exchange")
	publish("", "--queue", name, "x", "--timeout", "10m").want(t, 1, "there is no queue")

	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, t.TempDir(), nil, path, "run", file)
	ready(t, p)
	publish("", "--exchange", name, "payments.made", "x").want(t, 1, "no queue is bound for this routing key")
	publish("", "--exchange", name, "orders.placed", "one", "--id", "m-1", "--header", "Tenant: acme").want(t, 0, "published "+name+"/orders.placed", "id m-1", "stored")
	publish("two", "--queue", name, "-", "--id", "m-2").want(t, 0, "published "+name, "id m-2")
	var got struct {
		Subject, Queue, ID string
		Confirmed          bool
	}
	e := publish("", "--queue", name, `{"three":3}`, "--json")
	if err := json.Unmarshal([]byte(e.out), &got); err != nil || got.Subject != name || got.Queue != name || got.ID == "" || !got.Confirmed {
		t.Errorf("%+v, %v: %s", got, err, e.out)
	}

	rabbitDiscards(t, b.URL(), name, file)
	if err := p.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
}

// rabbitDiscards looks at the dead letters of the publish test and discards them.
func rabbitDiscards(t *testing.T, url, name, file string) {
	t.Helper()
	broker := []string{"--broker", url}
	// The subscription has the name of its queue: no file is needed.
	letters := func() []letter { return deadLetters(t, url, "--subscription", name) }
	eventually(t, time.Minute, "three dead letters", func() bool { return len(letters()) == 3 })
	subjects := map[string]string{}
	for _, l := range letters() {
		subjects[l.ID] = l.Subject + " " + l.Error
	}
	if subjects["m-1"] != "orders.placed sh exited with 65: one" || subjects["m-2"] != name+" sh exited with 65: two" {
		t.Errorf("dead letters: %v", subjects)
	}
	dlq := func(args ...string) ended {
		return holdfastEnds(t, "", append(append([]string{"dlq"}, args...), broker...)...)
	}
	dlq("list").want(t, 2, "AMQP cannot list queues")
	dlq("list", "--file", file).want(t, 0, "m-1", "m-2")
	dlq("group", "--file", file).want(t, 0, name)
	dlq("show", letters()[0].DeadID, "--subscription", name).want(t, 0, "permanent")
	dlq("show", "0000", "--subscription", name).want(t, 3)
	dlq("discard", "--all", "--subscription", name).want(t, 5, "3 dead letters", "--yes")
	dlq("discard", "--all", "--subscription", name, "--dry-run").want(t, 0, "3 dead letters")
	dlq("discard", letters()[0].DeadID, "--subscription", name, "--yes").want(t, 0, "1 discarded")
	dlq("discard", "--all", "--subscription", name, "--yes").want(t, 0, "2 discarded")
	dlq("discard", "--all", "--subscription", name, "--yes").want(t, 3)
}

// checked is one finding of `holdfast check -o json`.
type checked struct {
	Code, Level, Subscription, Fact, Fix string
	Diff                                 []string
}

func holdfastChecks(t *testing.T, file string, code int) map[string]checked {
	t.Helper()
	e := holdfastEnds(t, "", "check", file, "-o", "json")
	e.want(t, code)
	var all []checked
	if err := json.Unmarshal([]byte(e.out), &all); err != nil {
		t.Fatalf("check is not a JSON array: %v\n%s%s", err, e.out, e.stderr)
	}
	byCode := make(map[string]checked)
	for _, f := range all {
		byCode[f.Code] = f
	}
	return byCode
}

// TestCheckOfAnAdoptedQueueMendsIt: the check of somebody else's queue tells what
// would be lost. The command that it prints, run as it is, sees to it that what
// the queue rejects is kept. What differs and what is missing is told, too, and
// nothing is declared by a check.
func TestCheckOfAnAdoptedQueueMendsIt(t *testing.T) {
	t.Parallel()
	b, name := rabbittest.Shared(t), rabbitName()
	scripts := foreign(t)
	yaml := func(from string) string {
		return config(t, fmt.Sprintf("broker: %s\nsubscriptions:\n  - {name: adopted, from: {%s}, handler: {log: {}}}\n", b.URL(), from))
	}
	adopt := yaml("queue: " + name + ", declare: adopt")
	if f := holdfastChecks(t, adopt, 2)["HF1601"]; !strings.Contains(f.Fact, name) || f.Fix == "" {
		t.Errorf("a queue that is missing: %+v", f)
	}
	node(t, scripts, "amqp-declare.mjs", b.URL(), name)

	found := holdfastChecks(t, adopt, 1)
	f := found["HF1607"]
	if f.Level != "warning" || f.Subscription != "adopted" || !strings.Contains(f.Fact, name) {
		t.Fatalf("the net of the queue: %+v in %v", f, found)
	}
	_, command, printed := strings.Cut(f.Fix, "rabbitmqctl set_policy")
	if !printed {
		t.Fatalf("the fix names no command: %s", f.Fix)
	}
	if _, created := found["HF1307"]; !created {
		t.Errorf("it does not say that the dead-letter queue will be declared: %v", found)
	}
	p := run(t, t.TempDir(), fmt.Sprintf("broker: %s\nsubscriptions:\n  - {name: adopted, from: {queue: %s, declare: adopt}, handler: {exec: [\"false\"]}}\n", b.URL(), name))
	ready(t, p)
	if err := p.terminate(t, 40*time.Second); err != nil {
		t.Errorf("holdfast run did not end cleanly: %v", err)
	}
	b.Ctl(t, append([]string{"set_policy"}, shellWords(t, command)...)...)
	node(t, scripts, "amqp-reject.mjs", b.URL(), name, "rejected-1")
	eventually(t, 30*time.Second, "what the queue rejected", func() bool {
		l := deadLetters(t, b.URL(), "--subscription", "adopted", "--file", adopt)
		return len(l) == 1 && l[0].ID == "rejected-1" && l[0].Reason == "rejected"
	})

	if f := holdfastChecks(t, yaml("queue: "+name+", type: quorum"), 2)["HF1602"]; !strings.Contains(strings.Join(f.Diff, " "), ": want ") {
		t.Errorf("a queue that differs: %+v", f)
	}
	if f := holdfastChecks(t, yaml("queue: "+name+"x, bindings: [{exchange: amq.topic, kind: direct, key: k}]"), 2)["HF1605"]; len(f.Diff) == 0 {
		t.Errorf("an exchange that differs: %+v", f)
	}
	if f := holdfastChecks(t, yaml("queue: "+name+"x, bindings: [{exchange: "+name+"x, key: k}]"), 2)["HF1604"]; f.Fix == "" {
		t.Errorf("an exchange that is missing: %+v", f)
	}
	missing := yaml("queue: " + name + "x")
	if f := holdfastChecks(t, missing, 0)["HF1603"]; f.Level != "info" {
		t.Errorf("a queue that will be declared: %+v", f)
	}
	if f := holdfastChecks(t, missing, 0)["HF1603"]; f.Level != "info" {
		t.Errorf("the check declared the queue: %+v", f)
	}
}

// shellWords splits a command as the shell of whoever copies it does.
func shellWords(t *testing.T, command string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `printf '%s\n' `+command).Output()
	if err != nil {
		t.Fatalf("%q is no command: %v", command, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}
