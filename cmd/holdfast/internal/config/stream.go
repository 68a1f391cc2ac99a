package config

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// streams reads the streams that are described in full.
func (w *walker) streams(file *value) map[string]Stream {
	all := map[string]Stream{}
	w.described(file, "streams", "stream", func(v *value, name string) { all[name] = w.stream(v) })
	return all
}

// buckets reads the key-value buckets that are.
func (w *walker) buckets(file *value) map[string]jetstream.KeyValueConfig {
	all := map[string]jetstream.KeyValueConfig{}
	w.described(file, "buckets", "bucket", func(v *value, name string) {
		var b jetstream.KeyValueConfig
		w.decode(v, bucketShape(), &b)
		b.Bucket = name
		if v.has("mirror") && v.has("sources") {
			w.fault(v.fields["sources"].key, CodeContradicts, "keep one of them", "bucket %q is a mirror and has sources", name)
		}
		w.origins(v, b.Mirror, b.Sources)
		all[name] = b
	})
	return all
}

// objectStores reads the object stores that are.
func (w *walker) objectStores(file *value) map[string]jetstream.ObjectStoreConfig {
	all := map[string]jetstream.ObjectStoreConfig{}
	w.described(file, "object_stores", "object store", func(v *value, name string) {
		var s jetstream.ObjectStoreConfig
		w.decode(v, objectStoreShape(), &s)
		s.Bucket = name
		all[name] = s
	})
	return all
}

// described reads a list of named descriptions, each name once.
func (w *walker) described(file *value, key, what string, read func(v *value, name string)) {
	list := file.get(key)
	if list == nil {
		return
	}
	if url, by := w.broker(file); FamilyOf(url) == FamilyRabbitMQ {
		w.fault(list.key, CodeContradicts, "remove it, or name a broker with nats://", "%q are of JetStream, and %s", key, usedBroker(url, by, FamilyRabbitMQ))
	}
	first := map[string]*value{}
	for _, it := range list.items {
		name := it.get("name")
		read(it, name.str())
		if name == nil {
			continue
		}
		if before := first[name.text]; before != nil {
			w.fault(name.node, CodeDuplicate, "keep one of them", "%s %q is already on line %d", what, name.text, before.Line())
		}
		first[name.text] = name
	}
}

// broker returns the broker that is used, and what names it where that is not the
// file.
func (w *walker) broker(file *value) (url, by string) {
	if w.named.URL != "" {
		return w.named.URL, w.named.By
	}
	return file.get("broker").str(), ""
}

func (w *walker) stream(v *value) Stream {
	s := Stream{TTLUnsaid: !v.has("allow_msg_ttl") && !v.has("mirror") && !v.has("sources")}
	w.decode(v, streamShape(), &s.StreamConfig)
	if !v.has("discard") && !s.AllowMsgSchedules { // the server lets no other than old be with schedules
		s.Discard = jetstream.DiscardNew
	}
	for _, it := range items(v.fields["subjects"]) {
		w.subject(it)
	}
	w.streamFits(v)
	w.origins(v, s.Mirror, s.Sources)
	return s
}

// origins reads of a mirror and of sources what has no name in JSON.
func (w *walker) origins(v *value, mirror *jetstream.StreamSource, sources []*jetstream.StreamSource) {
	if m := v.get("mirror"); m != nil {
		w.origin(m)
		mirror.Domain = m.get("domain").str()
	}
	for i, it := range items(v.fields["sources"]) {
		w.origin(it)
		if i < len(sources) {
			sources[i].Domain = it.get("domain").str()
		}
	}
}

// streamFits refuses settings of a stream that contradict each other.
func (w *walker) streamFits(v *value) {
	refuse := func(key, other, hint, format string, args ...any) {
		if v.has(key) && v.has(other) {
			w.fault(v.fields[key].key, CodeContradicts, hint, format, args...)
		}
	}
	name := v.get("name").str()
	refuse("subjects", "mirror", "remove one of them; sources take subjects as well", "stream %q is a mirror, which has no subjects of its own", name)
	refuse("sources", "mirror", "keep one of them", "stream %q is a mirror and has sources", name)
	if !v.has("subjects") && !v.has("mirror") && !v.has("sources") {
		w.fault(v.node, CodeMissing, `add subjects: ["orders.>"], a mirror, or sources`, "stream %q has no subjects, no mirror and no sources", name)
	}
	if v.is("discard_new_per_subject") && (v.get("discard").str() == "old" || !v.has("max_msgs_per_subject")) {
		w.fault(v.fields["discard_new_per_subject"].key, CodeContradicts, "add max_msgs_per_subject, and leave discard out", "discard_new_per_subject is for max_msgs_per_subject and discard: new")
	}
}

// origin refuses what a mirror or a source cannot say at once.
func (w *walker) origin(v *value) {
	for _, pair := range [][2]string{{"opt_start_seq", "opt_start_time"}, {"filter_subject", "subject_transforms"}, {"domain", "external"}} {
		if v.has(pair[0]) && v.has(pair[1]) {
			w.fault(v.fields[pair[1]].key, CodeContradicts, "keep one of them", "%s and %s exclude each other", pair[0], pair[1])
		}
	}
}

// used refuses what no subscription takes from: nobody would make it.
func (w *walker) used(file *value, subs []Subscription) {
	if url, _ := w.broker(file); w.sources || FamilyOf(url) == FamilyRabbitMQ {
		return
	}
	for _, kind := range []struct {
		list, what, key string
		name            func(From) string
	}{
		{"streams", "stream", "stream", func(f From) string { return f.Stream }},
		{"buckets", "bucket", "kv", func(f From) string { return f.KV }},
		{"object_stores", "object store", "object", func(f From) string { return f.Object }},
	} {
		list := file.get(kind.list)
		if list == nil {
			continue
		}
		for _, it := range list.items {
			name := it.get("name")
			if name != nil && !slices.ContainsFunc(subs, func(s Subscription) bool { return kind.name(s.From) == name.text }) {
				w.fault(name.node, CodeContradicts, "write "+kind.key+": "+name.text+" in the source of a subscription, or remove it",
					"%s %q has no effect: no subscription takes from it", kind.what, name.text)
			}
		}
	}
}

// consumer reads what is said of a consumer.
func (w *walker) consumer(v *value, f From) Consumer {
	var c Consumer
	if v == nil {
		return c
	}
	w.decode(v, consumerShape(), &c.Config)
	c.AckWait, c.MaxAckPending, c.Replicas = c.Config.AckWait, c.Config.MaxAckPending, c.Config.Replicas
	c.Config.AckWait, c.Config.MaxAckPending, c.Config.Replicas = 0, 0, 0
	if p := v.get("pull"); p != nil {
		w.decode(p, consumerShape().field("pull"), &c.Pull)
	}
	refuse := func(hint, fact string, keys ...string) {
		for _, key := range keys {
			if v.has(key) {
				w.fault(v.fields[key].key, CodeContradicts, hint, "%s: %s", key, fact)
			}
		}
	}
	switch {
	case f.KV != "" || f.Object != "":
		for _, field := range consumerShape().fields {
			if field.name != "ack_wait" && field.name != "max_ack_pending" {
				refuse("remove it", "a watch has a consumer of its own, for which this cannot be said", field.name)
			}
		}
	case f.Ordered:
		refuse("remove it, or ordered", "an ordered consumer is this program's own and takes no acks",
			"ack_wait", "max_ack_pending", "num_replicas", "mem_storage", "sample_freq", "max_waiting", "priority_policy", "priority_groups", "priority_timeout", "pull")
	}
	w.priority(v)
	return c
}

// priority refuses a priority that is said by halves. What a consumer that exists
// has is the business of a check.
func (w *walker) priority(v *value) {
	policy := v.has("priority_policy")
	switch {
	case policy && !v.has("priority_groups"):
		w.fault(v.fields["priority_policy"].key, CodeMissing, "add priority_groups: [NAME]", "priority_policy has no groups")
	case !policy && v.has("priority_groups"):
		w.fault(v.fields["priority_groups"].key, CodeMissing, "add priority_policy: pinned_client, overflow or prioritized", "priority_groups have no policy")
	case !policy && v.has("priority_timeout"):
		w.fault(v.fields["priority_timeout"].key, CodeMissing, "add priority_policy: pinned_client", "priority_timeout has no policy")
	}
}

// decode fills a configuration of the client library. The keys of s are the names
// that it has in JSON, but for those whose values are read elsewhere.
func (w *walker) decode(v *value, s *shape, into any) {
	text, err := json.Marshal(v.plain(s))
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		err = dec.Decode(into)
	}
	if err != nil {
		w.fault(v.node, CodeValue, "correct it", "it cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

// elsewhere are the keys of an object that have no name of their own in JSON, or
// another one.
func elsewhere(s *shape) []string {
	keys := []string{"domain", "pull"}
	if s.called == "bucket" || s.called == "object store" {
		keys = append(keys, "name")
	}
	return keys
}

// plain is a value as it stands in JSON. What could not be used was reported and is
// left out.
func (v *value) plain(s *shape) any {
	switch s.kind {
	case object:
		out := map[string]any{}
		for _, f := range s.fields {
			if it := v.get(f.name); it != nil && !slices.Contains(elsewhere(s), f.name) {
				out[f.name] = it.plain(f.shape)
			}
		}
		return out
	case list:
		out := []any{}
		for _, it := range v.items {
			out = append(out, it.plain(s.elem))
		}
		return out
	case mapping:
		return v.names
	case number, size:
		return v.num
	case boolean:
		return v.yes
	case duration:
		return v.dur
	default:
		return v.text
	}
}
