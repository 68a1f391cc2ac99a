package jetstream

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// differ collects lines of a diff.
type differ []string

func (d *differ) line(name string, want, have any) {
	*d = append(*d, fmt.Sprintf("%s: want %v, have %v", name, want, have))
}

// same adds a line when want and have differ.
func same[T comparable](d *differ, name string, want, have T) {
	if want != have {
		d.line(name, want, have)
	}
}

// asked adds a line when something was asked for and have differs.
func asked[T comparable](d *differ, name string, want, have T) {
	var zero T
	if want != zero && want != have {
		d.line(name, want, have)
	}
}

// unlimited makes the two ways to say "no limit" one.
func unlimited[T int | int32 | int64](n T) T {
	if n <= 0 {
		return -1
	}
	return n
}

// diffConsumer compares what a program asks of a consumer with what the server
// has, one line per setting. What a promise rests on is compared in any case,
// the rest where the program says something about it. Where a consumer starts
// and that it is made paused is applied once, and is no drift.
func diffConsumer(want, have natsjs.ConsumerConfig) []string {
	var d differ
	same(&d, "ack_policy", want.AckPolicy, have.AckPolicy)
	same(&d, "ack_wait", want.AckWait, have.AckWait)
	same(&d, "max_deliver", unlimited(want.MaxDeliver), unlimited(have.MaxDeliver))
	same(&d, "max_ack_pending", want.MaxAckPending, have.MaxAckPending)
	if !sameSet(filtersOf(want), filtersOf(have)) {
		d.line("filter_subjects", list(filtersOf(want)), list(filtersOf(have)))
	}
	if !slices.Equal(want.BackOff, have.BackOff) {
		d.line("backoff", durations(want.BackOff), durations(have.BackOff))
	}
	same(&d, "inactive_threshold", want.InactiveThreshold, have.InactiveThreshold)
	same(&d, "mem_storage", want.MemoryStorage, have.MemoryStorage)
	same(&d, "headers_only", want.HeadersOnly, have.HeadersOnly)
	same(&d, "deliver_subject", want.DeliverSubject, have.DeliverSubject)
	same(&d, "deliver_group", want.DeliverGroup, have.DeliverGroup)
	same(&d, "flow_control", want.FlowControl, have.FlowControl)
	same(&d, "idle_heartbeat", want.IdleHeartbeat, have.IdleHeartbeat)
	same(&d, "rate_limit_bps", want.RateLimit, have.RateLimit)
	same(&d, "replay_policy", want.ReplayPolicy, have.ReplayPolicy)
	asked(&d, "num_replicas", want.Replicas, have.Replicas)
	asked(&d, "description", want.Description, have.Description)
	asked(&d, "sample_freq", strings.TrimSuffix(want.SampleFrequency, "%"), strings.TrimSuffix(have.SampleFrequency, "%"))
	asked(&d, "max_waiting", want.MaxWaiting, have.MaxWaiting)
	asked(&d, "max_batch", want.MaxRequestBatch, have.MaxRequestBatch)
	asked(&d, "max_expires", want.MaxRequestExpires, have.MaxRequestExpires)
	asked(&d, "max_bytes", want.MaxRequestMaxBytes, have.MaxRequestMaxBytes)
	asked(&d, "priority_policy", want.PriorityPolicy, have.PriorityPolicy)
	asked(&d, "priority_timeout", want.PinnedTTL, have.PinnedTTL)
	if len(want.PriorityGroups) > 0 && !sameSet(want.PriorityGroups, have.PriorityGroups) {
		d.line("priority_groups", list(want.PriorityGroups), list(have.PriorityGroups))
	}
	d.metadata(want.Metadata, have.Metadata)
	return d
}

// diffStream compares a stream with the whole configuration that a program asks
// for. What the server fills in or adds is no difference: replicas, the window
// for duplicates, placement, metadata that was not asked for.
func diffStream(want, have natsjs.StreamConfig) []string {
	var d differ
	want, have = external(want), external(have)
	if want.Mirror == nil && !sameSet(want.Subjects, have.Subjects) {
		d.line("subjects", list(want.Subjects), list(have.Subjects))
	}
	same(&d, "retention", want.Retention, have.Retention)
	same(&d, "storage", want.Storage, have.Storage)
	same(&d, "discard", want.Discard, have.Discard)
	same(&d, "discard_new_per_subject", want.DiscardNewPerSubject, have.DiscardNewPerSubject)
	same(&d, "max_msgs", unlimited(want.MaxMsgs), unlimited(have.MaxMsgs))
	same(&d, "max_bytes", unlimited(want.MaxBytes), unlimited(have.MaxBytes))
	same(&d, "max_age", want.MaxAge, have.MaxAge)
	same(&d, "max_msgs_per_subject", unlimited(want.MaxMsgsPerSubject), unlimited(have.MaxMsgsPerSubject))
	same(&d, "max_msg_size", unlimited(want.MaxMsgSize), unlimited(have.MaxMsgSize))
	same(&d, "max_consumers", unlimited(want.MaxConsumers), unlimited(have.MaxConsumers))
	same(&d, "no_ack", want.NoAck, have.NoAck)
	same(&d, "sealed", want.Sealed, have.Sealed)
	same(&d, "deny_delete", want.DenyDelete, have.DenyDelete)
	same(&d, "deny_purge", want.DenyPurge, have.DenyPurge)
	if want.SubjectDeleteMarkerTTL == 0 && !want.AllowMsgSchedules { // which set it
		same(&d, "allow_rollup_hdrs", want.AllowRollup, have.AllowRollup)
	}
	same(&d, "compression", want.Compression, have.Compression)
	same(&d, "allow_direct", want.AllowDirect, have.AllowDirect)
	same(&d, "allow_msg_ttl", want.AllowMsgTTL, have.AllowMsgTTL)
	same(&d, "subject_delete_marker_ttl", want.SubjectDeleteMarkerTTL, have.SubjectDeleteMarkerTTL)
	same(&d, "allow_atomic", want.AllowAtomicPublish, have.AllowAtomicPublish)
	same(&d, "allow_msg_schedules", want.AllowMsgSchedules, have.AllowMsgSchedules)
	same(&d, "allow_msg_counter", want.AllowMsgCounter, have.AllowMsgCounter)
	same(&d, "allow_batched", want.AllowBatchPublish, have.AllowBatchPublish)
	same(&d, "persist_mode", want.PersistMode, have.PersistMode)
	same(&d, "consumer_limits", want.ConsumerLimits, have.ConsumerLimits)
	asked(&d, "duplicate_window", want.Duplicates, have.Duplicates)
	asked(&d, "num_replicas", max(want.Replicas, 1), max(have.Replicas, 1))
	asked(&d, "description", want.Description, have.Description)
	asked(&d, "first_seq", want.FirstSeq, have.FirstSeq)
	asked(&d, "mirror_direct", want.MirrorDirect, have.MirrorDirect) // a mirror gets it from its origin
	if want.Placement != nil {
		d.written("placement", want.Placement, have.Placement)
	}
	d.written("mirror", want.Mirror, have.Mirror)
	if w, h := writtenSet(want.Sources), writtenSet(have.Sources); !sameSet(w, h) {
		d.line("sources", list(w), list(h))
	}
	d.written("subject_transform", want.SubjectTransform, have.SubjectTransform)
	d.written("republish", republished(want), republished(have))
	d.metadata(want.Metadata, have.Metadata)
	return d
}

// metadata adds a line for each name that was asked for and differs.
func (d *differ) metadata(want, have map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if value, ok := have[name]; !ok || value != want[name] {
			d.line("metadata "+name, quote(want[name]), quote(value))
		}
	}
}

// written adds a line when two structures are not the same on the wire.
func (d *differ) written(name string, want, have any) {
	if w, h := onWire(want), onWire(have); w != h {
		d.line(name, w, h)
	}
}

// onWire is a part of a configuration as it is sent.
func onWire(v any) string {
	b, err := json.Marshal(v)
	if err != nil || string(b) == "null" {
		return "none"
	}
	return string(b)
}

func writtenSet[T any](all []*T) []string {
	out := make([]string, 0, len(all))
	for _, one := range all {
		out = append(out, onWire(one))
	}
	return out
}

// republished is the republishing of a stream; the server fills in that it is of
// everything.
func republished(cfg natsjs.StreamConfig) *natsjs.RePublish {
	if cfg.RePublish == nil || cfg.RePublish.Source != "" {
		return cfg.RePublish
	}
	r := *cfg.RePublish
	r.Source = ">"
	return &r
}

// external returns the configuration as the server knows it: the domain of a
// mirror or a source is written as a prefix of the API.
func external(cfg natsjs.StreamConfig) natsjs.StreamConfig {
	move := func(src *natsjs.StreamSource) *natsjs.StreamSource {
		if src == nil || src.Domain == "" || src.External != nil {
			return src
		}
		moved := *src
		moved.Domain, moved.External = "", &natsjs.ExternalStream{APIPrefix: "$JS." + src.Domain + ".API"}
		return &moved
	}
	cfg.Mirror = move(cfg.Mirror)
	cfg.Sources = slices.Clone(cfg.Sources)
	for i, src := range cfg.Sources {
		cfg.Sources[i] = move(src)
	}
	return cfg
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, " ")
}

func durations(ds []time.Duration) string {
	if len(ds) == 0 {
		return "none"
	}
	parts := make([]string, len(ds))
	for i, d := range ds {
		parts[i] = d.String()
	}
	return strings.Join(parts, " ")
}
