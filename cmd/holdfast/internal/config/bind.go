package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// What a file means that says nothing.
const (
	defaultListen  = "127.0.0.1:4222"
	defaultData    = "./holdfast-data"
	defaultTimeout = 30 * time.Second
)

// bind turns what was read into a Config and reports settings that contradict
// each other. It runs also when there were errors, so that all are seen at once.
func (w *walker) bind(v *value) *Config {
	c := &Config{Broker: v.get("broker").str(), Listen: v.get("listen").str(), Data: v.get("data").str()}
	for _, key := range []string{"listen", "data"} {
		if c.Broker != "" && v.has(key) {
			w.warn(v.fields[key].key, "remove it, or remove broker", "%q is not used: it belongs to the embedded server, and \"broker\" names another one", key)
		}
	}
	if c.Listen == "" {
		c.Listen = defaultListen
	}
	if c.Data == "" {
		c.Data = defaultData
	}
	c.Connection = w.connection(v)
	if w.named.URL == "" {
		w.insist(v, "broker")
	}
	w.oneFamily(v.get("broker"))
	c.Streams, c.Buckets, c.ObjectStores = w.streams(v), w.buckets(v), w.objectStores(v)
	seen := map[string]*value{}
	if subs := v.get("subscriptions"); subs != nil {
		for _, it := range subs.items {
			c.Subscriptions = append(c.Subscriptions, w.subscription(it, seen))
		}
		w.shared(subs.items, c.Subscriptions)
		for _, it := range subs.items {
			w.fits(it, v)
		}
		w.used(v, c.Subscriptions)
	}
	c.Warnings = w.sorted(w.warnings)
	return c
}

// connection reads how to connect. It belongs to a NATS broker that is named.
func (w *walker) connection(file *value) Connection {
	v := file.get("connection")
	if v == nil {
		return Connection{}
	}
	url := w.named.URL
	if b := file.get("broker"); url == "" {
		url = b.str()
	}
	if FamilyOf(url) != FamilyNATS && !(file.has("broker") && url == "") {
		w.fault(v.key, CodeContradicts, "name a broker with nats://, or remove it", "\"connection\" is for a NATS broker, and none is named")
	}
	c := Connection{
		Context: v.get("context").str(), Creds: v.get("creds").str(), NKey: v.get("nkey").str(),
		CA: v.get("ca").str(), Cert: v.get("cert").str(), Key: v.get("key").str(),
		TLSFirst: v.is("tls_first"), InboxPrefix: v.get("inbox_prefix").str(),
	}
	if c.Creds != "" && c.NKey != "" {
		w.fault(v.key, CodeContradicts, "keep one of them", "creds and nkey are two logins")
	}
	if (c.Cert == "") != (c.Key == "") {
		w.fault(v.key, CodeMissing, "name both", "cert and key belong together")
	}
	return c
}

// insist reports a field that is needed and holds a variable that is not set.
func (w *walker) insist(v *value, key string) {
	if v.has(key) && v.fields[key].unset != nil {
		w.add(*v.fields[key].unset)
	}
}

// under returns path as seen from the working directory when it is written in a
// file of dir.
func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func (w *walker) subscription(v *value, seen map[string]*value) Subscription {
	s := Subscription{Name: v.get("name").str(), Line: v.node.Line, Concurrency: 1, Prefetch: -1}
	w.sub = nameIn(v.node)
	defer func() { w.sub = "" }()
	w.insist(v, "name")
	w.insist(v.get("from"), "queue")
	if first := seen[s.Name]; first != nil && s.Name != "" {
		w.fault(v.get("name").node, CodeDuplicate, "give it another name", "subscription %q is already on line %d", s.Name, first.Line())
	} else {
		seen[s.Name] = v.get("name")
	}
	if n := v.get("concurrency"); n != nil {
		s.Concurrency = n.num
	}
	if n := v.get("prefetch"); n != nil {
		s.Prefetch = n.num
	}
	s.From = w.from(v.get("from"), s.Name)
	s.Handler = w.handler(v.get("handler"), w.sub)
	s.Retry = w.retry(v.get("retry"))
	if d := v.get("dead_letter"); d != nil {
		s.DeadLetter = &d.yes
	}
	if d := v.get("max_age"); d != nil {
		s.MaxAge = d.dur
	}
	switch d := v.get("timeout"); {
	case d != nil:
		s.Timeout = d.dur
	case !s.Handler.Log:
		s.Timeout = defaultTimeout
	}
	s.OrderBy = orderBy(v.get("order_by").str())
	w.coreLimits(v)
	w.streamLimits(v, s)
	w.orderedLimits(v, s)
	return s
}

// shared refuses subscriptions that name one durable consumer or one queue: each
// message would go to one of them at random.
func (w *walker) shared(nodes []*value, subs []Subscription) {
	first := map[string]Subscription{}
	for i, s := range subs {
		what, kind, key := s.From.shares()
		other, taken := first[what]
		if what == "" || !taken || other.Name == s.Name {
			first[what] = s
			continue
		}
		node := nodes[i].node
		if from := nodes[i].get("from"); from != nil {
			node = from.node
			if d := from.get(key); d != nil {
				node = d.node
			}
		}
		w.sub = s.Name
		w.fault(node, CodeSharedDurable, "give each subscription a "+kind+" of its own, or handle both kinds of message in one",
			"subscriptions %q (line %d) and %q share the %s: each message would go to one of them at random", other.Name, other.Line, s.Name, what)
		w.sub = ""
	}
}

// shares names the object on the broker whose messages its users share, its kind,
// and the key that names it; "" when every user has one of his own. A stream is
// read by everybody in full.
func (f From) shares() (what, kind, key string) {
	switch {
	case f.JetStream() && f.Durable != "":
		return fmt.Sprintf("durable %q of stream %s", f.Durable, f.StreamName()), "durable", "durable"
	case f.Queue != nil && !f.Queue.Stream():
		return fmt.Sprintf("queue %q", f.Queue.Name), "queue", "queue"
	default:
		return "", "", ""
	}
}

// Line is where the value stands.
func (v *value) Line() int { return v.node.Line }

// coreLimits refuses what core NATS cannot do: it keeps no message, so nothing
// can be delivered a second time.
func (w *walker) coreLimits(v *value) {
	from := v.get("from")
	if from == nil || !from.has("subject") || from.has("stream") {
		return
	}
	const fix = "write from: {stream: NAME, subjects: [...]}, or remove this"
	if v.has("retry") {
		w.fault(v.fields["retry"].key, CodeNoRedelivery, fix, "retry on core NATS: it delivers a message once and cannot deliver it again")
	}
	if d := v.get("dead_letter"); d != nil && d.yes {
		w.fault(d.key, CodeNoDeadLetter, fix, "dead_letter on core NATS: it has no place to keep a message")
	}
	for _, key := range []string{"max_age", "prefetch"} {
		if v.has(key) {
			w.fault(v.fields[key].key, CodeContradicts, fix, "%s on core NATS has no effect: it neither stores messages nor tells their age", key)
		}
	}
}

func orderBy(s string) OrderBy {
	by, header, _ := strings.Cut(s, ":")
	return OrderBy{By: by, Header: header}
}

func (w *walker) from(v *value, name string) From {
	if v == nil {
		return From{}
	}
	f := From{
		Stream: v.get("stream").str(), Subjects: v.get("subjects").strs(), Durable: v.get("durable").str(),
		Mode: v.get("mode").str(), Subject: v.get("subject").str(), Group: v.get("group").str(),
		KV: v.get("kv").str(), Keys: v.get("keys").strs(), Object: v.get("object").str(),
	}
	w.oneSource(v)
	for _, s := range append(append(items(v.fields["subjects"]), v.get("subject")), items(v.fields["keys"])...) {
		w.subject(s)
	}
	f.Start = w.start(v.get("start"))
	w.watchStart(v, f)
	f.Queue = w.queue(v)
	f.Original = v.get("replay").str() == "original"
	f.Pause = w.pause(v.get("pause"))
	f.Ordered = v.is("ordered")
	f.Consumer = w.consumer(v.get("consumer"), f)
	if f.JetStream() && f.Durable == "" && !f.Ordered {
		f.Durable = name
	}
	if f.JetStream() && f.Mode == "" {
		f.Mode = "ensure"
	}
	return f
}

func items(v *value) []*value {
	if v == nil {
		return nil
	}
	return v.items
}

// first returns the key that is written first among names, or nil.
func first(v *value, names ...string) *yaml.Node {
	var best *yaml.Node
	for _, name := range names {
		if !v.has(name) {
			continue
		}
		k := v.fields[name].key
		if best == nil || k.Line < best.Line || (k.Line == best.Line && k.Column < best.Column) {
			best = k
		}
	}
	return best
}

// subject checks what the form cannot say: where wildcards may stand.
func (w *walker) subject(v *value) {
	if v == nil || !v.ok || v.text == "" {
		return
	}
	tokens := strings.Split(v.text, ".")
	for i, t := range tokens {
		switch {
		case t == ">" && i < len(tokens)-1:
			w.fault(v.node, CodeValue, "'>' stands for the rest and must be the last token", "subject %q has tokens behind '>'", v.text)
		case t != "*" && t != ">" && strings.ContainsAny(t, "*>"):
			w.fault(v.node, CodeValue, "a wildcard must be a token of its own, as in orders.*.placed", "subject %q has a wildcard inside a token, where NATS takes it literally", v.text)
		}
	}
}

func (w *walker) start(v *value) Start {
	kind, arg, _ := strings.Cut(v.str(), ":")
	s := Start{Kind: StartKind(kind)}
	var err error
	switch s.Kind {
	case StartSequence:
		s.Sequence, err = strconv.ParseUint(arg, 10, 64)
	case StartTime:
		s.Time, err = time.Parse(time.RFC3339, arg)
	}
	if err != nil {
		w.fault(v.node, CodeValue, "write "+startWords, "start: %q is not %s", v.text, map[StartKind]string{StartSequence: "a sequence", StartTime: "a time with its zone"}[s.Kind])
	}
	return s
}

// pause reads until when a consumer is made paused.
func (w *walker) pause(v *value) time.Time {
	if v.str() == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, v.str())
	if err != nil {
		w.fault(v.node, CodeValue, "write "+pauseWords, "pause: %q is not a time with its zone", v.text)
	}
	return at
}

// orderedLimits refuses what a source that is read in order cannot keep.
func (w *walker) orderedLimits(v *value, s Subscription) {
	from := v.get("from")
	if !s.From.Ordered {
		return
	}
	refuse := func(of *value, key string, not bool, hint, fact string) {
		if not && of.has(key) {
			w.fault(of.fields[key].key, CodeContradicts, hint, "ordered: true, and %s", fact)
		}
	}
	refuse(from, "durable", true, "remove durable, or ordered", "a durable: an ordered consumer begins anew with every start of the program")
	refuse(from, "pause", true, "remove pause, or ordered", "a pause: an ordered consumer is this program's own")
	refuse(v, "dead_letter", s.DeadLetter != nil && *s.DeadLetter, "remove dead_letter, or ordered", "dead letters: nobody takes a redriven message in its place")
	refuse(v, "concurrency", s.Concurrency > 1 && s.OrderBy.By == "", "write concurrency: 1, or add order_by", "several handlers at once, which cannot keep the order")
	if !from.has("start") {
		w.fault(from.node, CodeMissing, "add \"start\": all begins with what the stream holds, last-per-subject with the last message of each subject", "the source is ordered and has no \"start\"")
	}
}

// watchStart refuses starts that fit a stream and not a watch, or the reverse.
func (w *walker) watchStart(v *value, f From) {
	start := v.get("start")
	switch watch := f.KV != "" || f.Object != ""; {
	case watch && f.Start.Kind == StartLast:
		w.fault(start.node, CodeValue, "write current: the last revision of each key", "start: last is the last message of a stream, and this is a watch of many keys")
	case watch && f.Start.Kind == StartEach:
		w.fault(start.node, CodeValue, "write current: it is the same of keys", "start: last-per-subject is for a stream, and this is a watch")
	case !watch && f.Start.Kind == StartCurrent:
		w.fault(start.node, CodeValue, "write all, new, last or last-per-subject; current is for kv and object", "start: current is for a watch, and this is none")
	}
}

func (w *walker) handler(v *value, name string) Handler {
	if v == nil {
		return Handler{}
	}
	var said []string
	var second *yaml.Node
	for _, k := range []string{"exec", "http", "log"} {
		if v.has(k) {
			said = append(said, k)
			if len(said) > 1 {
				second = v.fields[k].key
			}
		}
	}
	switch {
	case len(said) == 0:
		w.fault(v.node, CodeMissing, `write one of exec: ["./handle.sh"], http: {url: ...}, log: {}`, "the handler of subscription %q is none of exec, http and log", name)
	case len(said) > 1:
		w.fault(second, CodeExclusive, "keep one of them", "the handler of subscription %q is %s at once", name, strings.Join(said, " and "))
	}
	h := Handler{Exec: v.get("exec").strs(), Log: v.get("log") != nil}
	if len(h.Exec) > 0 && h.Exec[0] == "" {
		w.fault(v.get("exec").items[0].node, CodeValue, "write the command to run", "the command of subscription %q is empty", name)
	}
	if o := v.get("http"); o != nil {
		h.HTTP = w.http(o)
	}
	return h
}

func (w *walker) http(v *value) *HTTP {
	h := &HTTP{Secret: v.get("secret").str()}
	if u := v.get("url"); u != nil {
		parsed, err := url.Parse(u.text)
		if err != nil || parsed.Host == "" {
			w.fault(u.node, CodeValue, "write http://HOST/PATH or https://HOST/PATH", "url is not a URL")
		}
		h.URL = parsed
	}
	if s := v.get("secret"); s != nil {
		if _, err := DecodeSecret(s.text); err != nil {
			w.fault(s.node, CodeValue, "write base64, for example the output of: openssl rand -base64 32", "secret: %v", err)
		}
	}
	if d := v.get("timeout"); d != nil {
		h.Timeout = d.dur
	}
	if m := v.get("headers"); m != nil {
		h.Headers = m.names
		w.headers(m)
	}
	return h
}

func (w *walker) retry(v *value) *Retry {
	if v == nil {
		return nil
	}
	r := &Retry{}
	attempts, immediate := v.get("attempts"), v.get("immediate")
	if attempts != nil {
		r.Attempts = attempts.num
	}
	if immediate != nil {
		r.Immediate = immediate.num
	}
	if j := v.get("jitter"); j != nil {
		r.Jitter = j.share
	}
	if d := v.get("within"); d != nil {
		r.Within = d.dur
	}
	if b := v.get("backoff"); b != nil {
		r.Backoff = b.grow
		w.backoffFits(b, r, attempts)
	}
	if attempts != nil && immediate != nil && r.Immediate >= r.Attempts {
		w.fault(immediate.node, CodeContradicts, fmt.Sprintf("write at most %d: attempts counts every run, the first one included", r.Attempts-1),
			"%d immediate retries do not fit into %s", r.Immediate, count(r.Attempts, "attempt"))
	}
	return r
}

// backoffFits warns of delays that are never waited, and refuses those that
// leave no retry at all.
func (w *walker) backoffFits(b *value, r *Retry, attempts *value) {
	n := len(r.Backoff.Delays)
	if attempts != nil && n > 1 {
		if room := max(r.Attempts-1-r.Immediate, 0); n > room {
			w.warn(b.node, fmt.Sprintf("keep %s, or raise attempts to %d", count(room, "delay"), n+1+r.Immediate),
				"backoff lists %s, and %s with %d immediate leave room for %d; the last are never waited", count(n, "delay"), count(r.Attempts, "attempt"), r.Immediate, room)
		}
	}
	if r.Within == 0 {
		return
	}
	const fix = "shorten the delay or lengthen within"
	if r.Backoff.First > r.Within {
		w.fault(b.node, CodeContradicts, fix, "a delay of %s never ends within %s, so there would be no retry", r.Backoff.First, r.Within)
	}
	for i, d := range r.Backoff.Delays {
		if d <= r.Within {
			continue
		}
		node := b.node
		if i < len(b.items) {
			node = b.items[i].node
		}
		if i == 0 {
			w.fault(node, CodeContradicts, fix, "a delay of %s never ends within %s, so there would be no retry", d, r.Within)
		} else {
			w.warn(node, fix, "a delay of %s never ends within %s", d, r.Within)
		}
		return
	}
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
