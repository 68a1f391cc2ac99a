package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// settings are the JSON names of a configuration of the client library.
func settings(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	return out
}

// Whatever the client library lets a program say of a stream, a file can say.
func TestEverySettingOfAStreamCanBeWritten(t *testing.T) {
	t.Parallel()
	all(t, "stream", reflect.TypeFor[jetstream.StreamConfig](), streamShape(), "template_owner")
}

// The rest of a consumer is what a subscription says, or what would break a promise.
func TestEverySettingOfAConsumerCanBeWritten(t *testing.T) {
	t.Parallel()
	all(t, "consumer", reflect.TypeFor[jetstream.ConsumerConfig](), consumerShape(),
		"name", "durable_name", "deliver_policy", "opt_start_seq", "opt_start_time", "filter_subject", "filter_subjects",
		"replay_policy", "pause_until", "ack_policy", "max_deliver", "backoff", "inactive_threshold",
		"rate_limit_bps", "deliver_subject", "deliver_group", "flow_control", "idle_heartbeat")
}

func TestEverySettingOfABucketAndAnObjectStoreCanBeWritten(t *testing.T) {
	t.Parallel()
	all(t, "bucket", reflect.TypeFor[jetstream.KeyValueConfig](), bucketShape(), "bucket")
	all(t, "object store", reflect.TypeFor[jetstream.ObjectStoreConfig](), objectStoreShape(), "bucket")
}

func all(t *testing.T, place string, typ reflect.Type, s *shape, but ...string) {
	t.Helper()
	for name, of := range settings(typ) {
		field := s.field(name)
		if slices.Contains(but, name) {
			if field != nil {
				t.Errorf("%s.%s is not to be written", place, name)
			}
			continue
		}
		if field == nil {
			t.Errorf("%s.%s cannot be written", place, name)
			continue
		}
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		if field.kind == list {
			field = field.elem
		}
		if of.Kind() == reflect.Struct && of != reflect.TypeFor[time.Time]() {
			all(t, place+"."+name, of, field)
		}
	}
}

func TestAStreamIsReadInFull(t *testing.T) {
	t.Parallel()
	const file = `
streams:
  - name: S
    description: all of it
    subjects: ["s.>"]
    retention: interest
    max_consumers: 2
    max_msgs: 3
    max_bytes: 4MiB
    max_age: 5h
    max_msgs_per_subject: 6
    max_msg_size: 7
    discard: old
    storage: memory
    num_replicas: 3
    compression: s2
    duplicate_window: 8m
    placement: {cluster: c, tags: [t]}
    sources:
      - {name: A, opt_start_seq: 9, filter_subject: "a.>", domain: hub}
      - {name: B, opt_start_time: "2026-01-31T12:00:00Z", subject_transforms: [{src: "b.*", dest: "s.{{wildcard(1)}}"}], external: {api: $JS.b.API, deliver: b}}
      - {name: C, consumer: {name: c, deliver_subject: d}}
    subject_transform: {src: "s.*.x", dest: "s.{{wildcard(1)}}"}
    republish: {src: "s.>", dest: "live.s.>", headers_only: true}
    consumer_limits: {inactive_threshold: 10m, max_ack_pending: 11}
    metadata: {owner: us}
    allow_direct: true
    allow_rollup_hdrs: true
    deny_delete: true
    deny_purge: true
    first_seq: 12
    allow_msg_ttl: true
    subject_delete_marker_ttl: 13s
    allow_atomic: true
    allow_batched: true
    allow_msg_counter: false
    allow_msg_schedules: true
    persist_mode: async
  - {name: M, mirror: {name: S}, mirror_direct: true}
  - {name: D, subjects: [d]}
buckets:
  - {name: prices, history: 5, ttl: 1h, limit_marker_ttl: 2h, max_value_size: 1KiB, max_bytes: 2KiB, storage: memory, num_replicas: 3, compression: true,
     sources: [{name: other, domain: hub}], republish: {dest: "p.>"}, metadata: {a: b}, placement: {cluster: c}, description: d}
object_stores:
  - {name: files, max_age: 1h, max_bytes: 3KiB, storage: memory, num_replicas: 3, compression: true, metadata: {a: b}, placement: {tags: [t]}, description: d}
subscriptions:
  - {name: k, from: {kv: prices, start: all, consumer: {ack_wait: 2m, max_ack_pending: 5}}, handler: {log: {}}}
  - {name: o, from: {object: files, start: all}, handler: {log: {}}}
  - {name: a, from: {stream: S, start: all, consumer: {
      description: d, ack_wait: 1m, max_ack_pending: 14, num_replicas: 1, mem_storage: true, sample_freq: "15%", max_waiting: 16, max_batch: 17,
      max_expires: 18s, max_bytes: 19KiB, headers_only: true, metadata: {a: b}, priority_policy: pinned_client, priority_groups: [g], priority_timeout: 20s,
      pull: {group: g, min_pending: 21, min_ack_pending: 22, priority: 3}}}, handler: {log: {}}}
  - {name: b, from: {stream: M, start: all}, handler: {log: {}}}
  - {name: c, from: {stream: D, start: all}, handler: {log: {}}}
`
	c, err := Parse("f", []byte(file), func(string) (string, bool) { return "", false }, Named{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	want := jetstream.StreamConfig{
		Name: "S", Description: "all of it", Subjects: []string{"s.>"}, Retention: jetstream.InterestPolicy, MaxConsumers: 2, MaxMsgs: 3, MaxBytes: 4 << 20,
		MaxAge: 5 * time.Hour, MaxMsgsPerSubject: 6, MaxMsgSize: 7, Discard: jetstream.DiscardOld, Storage: jetstream.MemoryStorage, Replicas: 3,
		Compression: jetstream.S2Compression, Duplicates: 8 * time.Minute, Placement: &jetstream.Placement{Cluster: "c", Tags: []string{"t"}},
		Sources: []*jetstream.StreamSource{
			{Name: "A", OptStartSeq: 9, FilterSubject: "a.>", Domain: "hub"},
			{
				Name: "B", OptStartTime: &at, SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "b.*", Destination: "s.{{wildcard(1)}}"}},
				External: &jetstream.ExternalStream{APIPrefix: "$JS.b.API", DeliverPrefix: "b"},
			},
			{Name: "C", Consumer: &jetstream.StreamConsumerSource{Name: "c", DeliverSubject: "d"}},
		},
		SubjectTransform: &jetstream.SubjectTransformConfig{Source: "s.*.x", Destination: "s.{{wildcard(1)}}"},
		RePublish:        &jetstream.RePublish{Source: "s.>", Destination: "live.s.>", HeadersOnly: true},
		ConsumerLimits:   jetstream.StreamConsumerLimits{InactiveThreshold: 10 * time.Minute, MaxAckPending: 11},
		Metadata:         map[string]string{"owner": "us"}, AllowDirect: true, AllowRollup: true, DenyDelete: true, DenyPurge: true, FirstSeq: 12,
		AllowMsgTTL: true, SubjectDeleteMarkerTTL: 13 * time.Second, AllowAtomicPublish: true, AllowBatchPublish: true, AllowMsgSchedules: true,
		PersistMode: jetstream.AsyncPersistMode,
	}
	if got := c.Streams["S"]; !reflect.DeepEqual(got.StreamConfig, want) || got.TTLUnsaid {
		t.Errorf("got  %+v\nwant %+v", got.StreamConfig, want)
	}
	if got := c.Streams["D"]; got.Discard != jetstream.DiscardNew || !got.TTLUnsaid || c.Streams["M"].TTLUnsaid {
		t.Errorf("what is left out: %+v", got)
	}
	wantConsumer := Consumer{
		Config: jetstream.ConsumerConfig{
			Description: "d", MemoryStorage: true, SampleFrequency: "15%", MaxWaiting: 16, MaxRequestBatch: 17, MaxRequestExpires: 18 * time.Second,
			MaxRequestMaxBytes: 19 << 10, HeadersOnly: true, Metadata: map[string]string{"a": "b"},
			PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"g"}, PinnedTTL: 20 * time.Second,
		},
		AckWait: time.Minute, MaxAckPending: 14, Replicas: 1, Pull: Pull{Group: "g", MinPending: 21, MinAckPending: 22, Priority: 3},
	}
	wantBucket := jetstream.KeyValueConfig{
		Bucket: "prices", Description: "d", History: 5, TTL: time.Hour, LimitMarkerTTL: 2 * time.Hour, MaxValueSize: 1 << 10, MaxBytes: 2 << 10,
		Storage: jetstream.MemoryStorage, Replicas: 3, Compression: true, Sources: []*jetstream.StreamSource{{Name: "other", Domain: "hub"}},
		RePublish: &jetstream.RePublish{Destination: "p.>"}, Metadata: map[string]string{"a": "b"}, Placement: &jetstream.Placement{Cluster: "c"},
	}
	if got := c.Buckets["prices"]; !reflect.DeepEqual(got, wantBucket) {
		t.Errorf("got  %+v\nwant %+v", got, wantBucket)
	}
	wantStore := jetstream.ObjectStoreConfig{
		Bucket: "files", Description: "d", TTL: time.Hour, MaxBytes: 3 << 10, Storage: jetstream.MemoryStorage, Replicas: 3, Compression: true,
		Metadata: map[string]string{"a": "b"}, Placement: &jetstream.Placement{Tags: []string{"t"}},
	}
	if got := c.ObjectStores["files"]; !reflect.DeepEqual(got, wantStore) {
		t.Errorf("got  %+v\nwant %+v", got, wantStore)
	}
	if got := c.Subscriptions[2].From.Consumer; !reflect.DeepEqual(got, wantConsumer) {
		t.Errorf("got  %+v\nwant %+v", got, wantConsumer)
	}
}
