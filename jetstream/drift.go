package jetstream

import (
	"fmt"
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
// has, one line per setting. Where a consumer starts is applied once, when it
// is made, and is no drift.
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
	if want.InactiveThreshold != have.InactiveThreshold {
		d.line("inactive_threshold", want.InactiveThreshold, have.InactiveThreshold)
	}
	same(&d, "mem_storage", want.MemoryStorage, have.MemoryStorage)
	same(&d, "headers_only", want.HeadersOnly, have.HeadersOnly)
	same(&d, "deliver_subject", want.DeliverSubject, have.DeliverSubject)
	same(&d, "rate_limit_bps", want.RateLimit, have.RateLimit)
	asked(&d, "num_replicas", want.Replicas, have.Replicas)
	return d
}

// diffStream compares a stream with what a program asks for.
func diffStream(want, have natsjs.StreamConfig) []string {
	var d differ
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
	same(&d, "compression", want.Compression, have.Compression)
	same(&d, "allow_direct", want.AllowDirect, have.AllowDirect)
	same(&d, "allow_msg_ttl", want.AllowMsgTTL, have.AllowMsgTTL)
	same(&d, "subject_delete_marker_ttl", want.SubjectDeleteMarkerTTL, have.SubjectDeleteMarkerTTL)
	same(&d, "allow_atomic", want.AllowAtomicPublish, have.AllowAtomicPublish)
	same(&d, "allow_msg_schedules", want.AllowMsgSchedules, have.AllowMsgSchedules)
	same(&d, "allow_msg_counter", want.AllowMsgCounter, have.AllowMsgCounter)
	same(&d, "allow_batched", want.AllowBatchPublish, have.AllowBatchPublish)
	asked(&d, "duplicate_window", want.Duplicates, have.Duplicates)
	asked(&d, "num_replicas", max(want.Replicas, 1), max(have.Replicas, 1))
	return d
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
