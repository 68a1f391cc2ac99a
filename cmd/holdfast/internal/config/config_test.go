package config_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
)

var update = flag.Bool("update", false, "write the golden files")

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

// Every file in testdata/bad has its rendered errors beside it.
func TestEveryErrorIsReportedAtItsPlaceWithAHint(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(file, nil, env("SLOW", "hunter3", "TOKEN", "hunter4"), config.Named{})
			es, ok := errors.AsType[*config.Errors](err)
			if !ok {
				t.Fatalf("Load = %v, want *Errors", err)
			}
			got := es.Render(config.Paint{})
			if strings.Contains(got, "hunter") {
				t.Errorf("a secret is shown:\n%s", got)
			}
			compareGolden(t, strings.TrimSuffix(file, ".yaml")+".golden", got)
		})
	}
}

func compareGolden(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("output differs from %s (run with -update if that is meant):\n%s", golden, got)
	}
}

func TestTheFileOfTheManualIsRead(t *testing.T) {
	t.Parallel()
	c, err := config.Load("testdata/good/manual.yaml", nil, env("ORDERS_SECRET", "whsec_c2VjcmV0c2VjcmV0c2VjcmV0"), config.Named{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "testdata/good/holdfast-data" {
		t.Errorf("Data = %q, want a path beside the file", c.Data)
	}
	s := c.Subscriptions[0]
	if s.Name != "orders" || s.From.Stream != "ORDERS" || s.From.Durable != "orders" || s.From.Start.Kind != config.StartAll || s.From.Mode != "ensure" {
		t.Errorf("source: %+v", s.From)
	}
	r := s.Retry
	if r.Attempts != 5 || r.Immediate != 1 || len(r.Backoff.Delays) != 3 || r.Backoff.Delays[0] != 200*time.Millisecond || r.Jitter != 0.2 || r.Within != time.Hour {
		t.Errorf("retry: %+v", r)
	}
	if s.Concurrency != 8 || s.Timeout != 30*time.Second || s.DeadLetter == nil || !*s.DeadLetter || s.Handler.Exec[0] != "./handle.sh" {
		t.Errorf("subscription: %+v", s)
	}
	if p := c.Subscriptions[1]; p.From.JetStream() || p.From.Group != "workers" || !p.Handler.Log {
		t.Errorf("core subscription: %+v", p)
	}
	h := c.Subscriptions[2].Handler.HTTP
	if h == nil || h.Secret != "whsec_c2VjcmV0c2VjcmV0c2VjcmV0" || h.URL.Host != "127.0.0.1:9000" {
		t.Errorf("http: %+v", h)
	}
	if b := c.Subscriptions[2].Retry.Backoff; b.First != time.Second || b.Max != time.Minute {
		t.Errorf("a backoff taken over by a merge: %+v", b)
	}
	if st := c.Subscriptions[3].From.Start; st.Kind != config.StartTime || st.Time.Year() != 2026 {
		t.Errorf("start: %+v", st)
	}
}

func TestAFileForRabbitMQIsRead(t *testing.T) {
	t.Parallel()
	c, err := config.Load("testdata/good/rabbitmq.yaml", nil, env(), config.Named{})
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Queue{
		Name: "orders", Type: "quorum", Declare: "ensure",
		Bindings: []config.Binding{
			{Exchange: "orders", Kind: "topic", Key: "orders.#"},
			{Exchange: "by-tenant", Kind: "headers", Args: map[string]any{"x-match": "all", "tenant": "acme", "tier": int64(2), "gold": true, "ratio": 0.5}},
		},
		Arguments:     map[string]any{"x-max-length": int64(100000), "x-overflow": "reject-publish"},
		DeliveryLimit: 200, Priority: -3, SingleActive: true, DeadLetterExchange: "graveyard", DeadLetterKey: "orders.dead",
	}
	if got := c.Subscriptions[0].From.Queue; !reflect.DeepEqual(got, want) {
		t.Errorf("queue: %+v, want %+v", got, want)
	}
	if q := c.Subscriptions[1].From.Queue; q.Declare != "adopt" || q.Type != "" || q.Name != "legacy.orders" {
		t.Errorf("adopted: %+v", q)
	}
	if at, ok := c.Subscriptions[2].From.Queue.Offset.(time.Time); !ok || at.Year() != 2026 {
		t.Errorf("offset: %v", c.Subscriptions[2].From.Queue.Offset)
	}
	if n := c.Subscriptions[3].From.Queue.Offset; n != int64(512) {
		t.Errorf("offset: %v", n)
	}
	routed := &config.Queue{
		Name: "routed", Type: "classic", Declare: "ensure", Exclusive: true,
		ConsumerArguments: map[string]any{"x-cancel-on-ha-failover": true},
		Bindings:          []config.Binding{{Exchange: "spread", Key: "10"}},
		Exchanges: []config.Exchange{
			{Name: "shop", Kind: "topic", Alternate: "unrouted"},
			{Name: "unrouted", Kind: "fanout", Transient: true},
			{
				Name: "spread", Kind: "x-consistent-hash", Internal: true, AutoDelete: true, Args: map[string]any{"hash-header": "customer"},
				Bindings: []config.Binding{{Exchange: "shop", Key: "orders.#"}, {Exchange: "legacy", Kind: "direct", Key: "order", Args: map[string]any{"x": int64(1)}}},
			},
		},
	}
	if got := c.Subscriptions[4].From.Queue; !reflect.DeepEqual(got, routed) {
		t.Errorf("queue: %+v, want %+v", got, routed)
	}
}

func TestWhatIsAllowedAndLikelyNotMeantIsAWarning(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"warnings", "rabbitmq-warnings"} {
		c, err := config.Load("testdata/good/"+name+".yaml", nil, env(), config.Named{})
		if err != nil {
			t.Fatal(err)
		}
		compareGolden(t, "testdata/good/"+name+".golden", c.Warnings.Render(config.Paint{}))
	}
}

// To look at dead letters one needs not the secrets of the handlers.
func TestSourcesAreReadWithoutWhatTheyDoNotNeed(t *testing.T) {
	t.Parallel()
	load := func(text string, named config.Named, pairs ...string) (*config.Config, error) {
		return config.LoadSources("-", strings.NewReader(text), env(pairs...), named)
	}
	const file = "broker: ${B}\nsubscriptions: [{name: a, from: {queue: '${Q}'}, handler: {http: {url: 'http://h/', secret: '${S}', timeout: '${T}'}}, retry: {attempts: '${N}', immediate: 3}}]"
	c, err := load(file, config.Named{}, "B", "amqp://h", "Q", "orders")
	if err != nil || c.Broker != "amqp://h" || c.Subscriptions[0].From.Queue.Name != "orders" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := load(file, config.Named{URL: "amqp://h", By: "--broker"}, "Q", "orders"); err != nil {
		t.Errorf("with a broker that is named: %v", err)
	}
	for missing, pairs := range map[string][]string{"B": {"Q", "orders"}, "Q": {"B", "amqp://h"}} {
		if _, err := load(file, config.Named{}, pairs...); err == nil || !strings.Contains(err.Error(), "variable "+missing+" is not set") {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

// The broker that the command line names decides, whatever the file says.
func TestASourceFitsTheBrokerThatIsUsed(t *testing.T) {
	t.Parallel()
	const queue, stream = "subscriptions: [{name: a, from: {queue: q}, handler: {log: {}}}]", "subscriptions: [{name: a, from: {stream: S}, handler: {log: {}}}]"
	nats, rabbit := config.Named{URL: "nats://u:hunter2@h", By: "--broker"}, config.Named{URL: "amqps://u:hunter2@h", By: "HOLDFAST_BROKER"}
	for _, tc := range []struct {
		text  string
		named config.Named
		want  string // "" for no error
	}{
		{queue, rabbit, ""},
		{queue, nats, "--broker names NATS"},
		{queue, config.Named{}, "embedded NATS server"},
		{stream, nats, ""},
		{stream, config.Named{}, ""},
		{stream, rabbit, "HOLDFAST_BROKER names RabbitMQ"},
		{"broker: nats://h\n" + queue, rabbit, ""},
		{"broker: amqp://h\n" + queue, nats, "--broker names NATS"},
		{"broker: amqp://h\n" + queue, config.Named{}, ""},
		{"broker: amqp://h\n" + stream, config.Named{}, "the broker of this file is RabbitMQ"},
		{"broker: ${B}\n" + queue, config.Named{}, "the broker of this file is NATS"},
	} {
		_, err := config.Parse("f", []byte(tc.text), env("B", "nats://u:hunter2@h"), tc.named)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s with %q: %v, want %q", tc.text, tc.named.URL, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

func TestAMissingFileIsOneClearError(t *testing.T) {
	t.Parallel()
	_, err := config.Load("testdata/none.yaml", nil, env(), config.Named{})
	es, ok := errors.AsType[*config.Errors](err)
	if !ok || es.List[0].Code != config.CodeUnreadable || es.List[0].Line != 0 {
		t.Fatalf("Load = %v", err)
	}
	_ = es.Render(config.Paint{})
}

func TestAnyBytesGiveAConfigOrErrors(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "\x00", "\xff\xfe", "a", "- a", "{", "a: [", "? {a: b}\n: c", "&a [*a]", "subscriptions: &a [*a]", "subscriptions: [{<<: 5}]", "~", "subscriptions:\n- &x {<<: *x}", strings.Repeat("[", 20000)} {
		c, err := config.Parse("f", []byte(s), env(), config.Named{})
		if es, ok := errors.AsType[*config.Errors](err); ok {
			_ = es.Render(config.Paint{})
			_ = es.Error()
			continue
		}
		t.Errorf("Parse(%.40q) = %v, %v; want *Errors", s, c, err)
	}
}

// FuzzParse checks that no text makes the reader fail in another way than by
// errors with a place inside the file.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"good", "bad"} {
		files, _ := filepath.Glob("testdata/" + dir + "/*.yaml")
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := config.Parse("f", text, env("SLOW", "1s"), config.Named{})
		es, ok := errors.AsType[*config.Errors](err)
		if !ok {
			return
		}
		es.Render(config.Paint{})
		for _, d := range es.List {
			if d.Line < 0 || d.Line > bytes.Count(text, []byte("\n"))+1 {
				t.Fatalf("line %d is outside the file: %+v", d.Line, d)
			}
		}
	})
}

func TestTheSchemaIsPublishedAsItIs(t *testing.T) {
	t.Parallel()
	const file = "../../schema/holdfast.schema.json"
	if *update {
		if err := os.WriteFile(file, config.Schema(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, config.Schema()) {
		t.Errorf("%s is not what `holdfast schema` prints (run with -update)", file)
	}
}

// An editor that follows the schema and the reader agree on the structure of a
// file: what one takes the other takes.
func TestTheSchemaAndTheReaderAgree(t *testing.T) {
	t.Parallel()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(config.SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(config.SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	const base = "subscriptions: [{name: a, from: {stream: S}, handler: {log: {}}%s}]\n"
	rabbit := func(more string) string {
		return "broker: 'amqp://h'\nsubscriptions: [{name: a, from: {queue: q, " + more + "}, handler: {log: {}}}]\n"
	}
	streams := func(s string) string { return "streams: [" + s + "]\n" + strings.Replace(base, "%s", "", 1) }
	cases := []struct {
		text string
		ok   bool
	}{
		{strings.Replace(base, "%s", "", 1), true},
		{strings.Replace(base, "%s", ", concurrency: 3", 1), true},
		{strings.Replace(base, "%s", ", concurrency: 0", 1), false},
		{strings.Replace(base, "%s", ", concurrency: '3'", 1), false},
		{strings.Replace(base, "%s", ", concurrency: '${N}'", 1), true},
		{strings.Replace(base, "%s", ", timeout: 1m30s", 1), true},
		{strings.Replace(base, "%s", ", timeout: 2d", 1), true},
		{strings.Replace(base, "%s", ", timeout: 30", 1), false},
		{strings.Replace(base, "%s", ", timeout: soon", 1), false},
		{strings.Replace(base, "%s", ", dead_letter: maybe", 1), false},
		{strings.Replace(base, "%s", ", order_by: 'header:X'", 1), true},
		{strings.Replace(base, "%s", ", order_by: header", 1), false},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, backoff: 1s}", 1), true},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, backoff: [1s, 2s]}", 1), true},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, backoff: {first: 1s, max: 2s}}", 1), true},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, backoff: {first: 1s}}", 1), false},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, backoff: []}", 1), false},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, jitter: 20%}", 1), true},
		{strings.Replace(base, "%s", ", retry: {attempts: 3, jitter: 20}", 1), false},
		{strings.Replace(base, "%s", ", retires: {}", 1), false},
		{"subscriptions: []\n", false},
		{"x-shared: {a: 1}\n" + strings.Replace(base, "%s", "", 1), true},
		{"broker: localhost\n" + strings.Replace(base, "%s", "", 1), false},
		{"data: 5\n" + strings.Replace(base, "%s", "", 1), false},
		{"subscriptions: [{name: a, from: {stream: S, start: 'sequence:5', mode: verify}, handler: {exec: [a, b]}}]\n", true},
		{"subscriptions: [{name: a, from: {stream: S, start: last-per-subject, replay: original, pause: '2026-01-31T12:00:00Z'}, handler: {log: {}}}]\n", true},
		{"subscriptions: [{name: a, from: {stream: S, start: all, ordered: true}, handler: {log: {}}}]\n", true},
		{"subscriptions: [{name: a, from: {stream: S, replay: slow}, handler: {log: {}}}]\n", false},
		{"subscriptions: [{name: a, from: {stream: S, pause: soon}, handler: {log: {}}}]\n", false},
		{"subscriptions: [{name: a, from: {stream: S, mode: never}, handler: {exec: [a, b]}}]\n", false},
		{"subscriptions: [{name: a, from: {stream: S, start: first}, handler: {exec: [a, b]}}]\n", false},
		{"subscriptions: [{name: a, from: {stream: S}, handler: {log: {x: 1}}}]\n", false},
		{"subscriptions: [{name: a, from: {subject: a.b}, handler: {http: {url: 'http://h/'}}}]\n", true},
		{"subscriptions: [{name: a, from: {subject: a.b}, handler: {http: {url: 'ftp://h/'}}}]\n", false},
		{"subscriptions: [{name: a, from: {subject: a.b}, handler: {http: {}}}]\n", false},
		{streams("{name: S, subjects: [s.>], max_bytes: 10GiB, max_msg_size: 4096, retention: workqueue}"), true},
		{streams("{name: S, subjects: [s.>], max_bytes: 10 GB}"), false},
		{streams("{name: S, subjects: [s.>], max_bytes: 0}"), false},
		{streams("{name: S, subjects: ['s.{id}']}"), false},
		{streams("{name: S, subjects: [s.>], max_bytes: '${N}', num_replicas: 3, placement: {tags: [a]}}"), true},
		{streams("{name: S, subjects: [s.>], num_replicas: 6}"), false},
		{streams("{name: S, subjects: [s.>], replicas: 3}"), false},
		{streams("{name: S, sources: [{name: T, opt_start_time: '2026-01-31T12:00:00Z', domain: hub}]}"), true},
		{streams("{name: S, sources: [{opt_start_seq: 1}]}"), false},
		{streams("{name: S, subjects: [s.>], republish: {src: s.>}}"), false},
		{"subscriptions: [{name: a, from: {stream: S, consumer: {ack_wait: 1m, priority_policy: overflow, priority_groups: [g], pull: {min_pending: 5}}}, handler: {log: {}}}]\n", true},
		{"subscriptions: [{name: a, from: {stream: S, consumer: {max_deliver: 5}}, handler: {log: {}}}]\n", false},
		{rabbit("type: quorum, bindings: [{exchange: e, kind: topic, key: k}], declare: verify"), true},
		{rabbit("bindings: [{exchange: e, kind: x-mine, args: {a: b, c: 1, d: true, e: 1.5}}]"), true},
		{rabbit("bindings: [{exchange: e, args: {a: [b]}}]"), false},
		{rabbit("bindings: [{kind: topic, key: k}]"), false},
		{rabbit("bindings: [{exchange: e, kind: topik, key: k}]"), false},
		{rabbit("bindings: [{exchange: e, key: 5}]"), false},
		{rabbit("bindings: []"), false},
		{rabbit("type: mirrored"), false},
		{rabbit("declare: update"), false},
		{rabbit("priority: -5, delivery_limit: 7, single_active_consumer: true"), true},
		{rabbit("delivery_limit: 0"), false},
		{rabbit("type: stream, offset: 1h"), true},
		{rabbit("type: stream, offset: soon"), false},
		{rabbit("arguments: {x-max-length: 5}, dead_letter_exchange: e, dead_letter_key: k"), true},
		{rabbit("arguments: [x-max-length]"), false},
		{rabbit("queues: x"), false},
	}
	for _, tc := range cases {
		var v any
		if err := yaml.Unmarshal([]byte(tc.text), &v); err != nil {
			t.Fatal(err)
		}
		bySchema := schema.Validate(v) == nil
		_, err := config.Parse("f", []byte(tc.text), env("N", "3"), config.Named{})
		if bySchema != tc.ok || (err == nil) != tc.ok {
			t.Errorf("%swant %v; the schema says %v, the reader %v", tc.text, tc.ok, bySchema, err)
		}
	}
}

// A file from somebody else does nothing to the terminal that shows its errors.
func TestTheLinesOfAFileDoNothingToTheTerminal(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"brokr: \"\u009b2J\u202e\"\n", "a: \x1b]0;t\x07\n", "subscriptions:\n  - {nam: \"\u009b\t\", x: 1}\n"} {
		_, err := config.Parse("f", []byte(text), env(), config.Named{})
		es, ok := errors.AsType[*config.Errors](err)
		if !ok {
			t.Fatalf("%q: %v", text, err)
		}
		if got := es.Render(config.Paint{}); strings.ContainsAny(got, "\u009b\u202e\x1b\x07\t") {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestAMisspeltWordFindsItsNeighbour(t *testing.T) {
	t.Parallel()
	allowed := []string{"attempts", "backoff", "dead_letter", "retry", "timeout", "within"}
	for word, want := range map[string]string{
		"attemps": "attempts", "retires": "retry", "deadletter": "dead_letter", "dead-letter": "dead_letter",
		"timout": "timeout", "time": "timeout", "colour": "", "x": "",
	} {
		if got := config.Nearest(word, allowed); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestABrokerIsShownWithoutItsPassword(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"nats://a:b@h:1,nats://c@d:2": "nats://h:1,nats://d:2",
		"nats://h:1":                  "nats://h:1",
		"u:p@h":                       "h",
		"nats://u:p@ss@h:1":           "nats://h:1",
		"nats://u:p@h1:1,h2:2":        "nats://h1:1,h2:2",
		"amqp://u:p/a,s?s@h/v":        "amqp://h/v",
		"amqp://u:p a@h,amqps://u@h2": "amqp://h,amqps://h2",
		"amqp://h/v?password=p,u:q@h": "amqp://h",
		"amqps://h/v?certfile=a#b":    "amqps://h/v",
		"u:p,q@h":                     "h",
	} {
		if got := config.Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}
