package jetstream

import (
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// streamNeeds are the settings of a stream that came with a version. A server
// before it drops them in silence.
func streamNeeds(cfg natsjs.StreamConfig) []need {
	moved, durable := false, false
	for _, src := range append([]*natsjs.StreamSource{cfg.Mirror}, cfg.Sources...) {
		if src != nil {
			moved = moved || len(src.SubjectTransforms) > 0
			durable = durable || src.Consumer != nil
		}
	}
	return []need{
		{"compression", cfg.Compression != natsjs.NoCompression, []int{2, 10, 0}},
		{"metadata", len(cfg.Metadata) > 0, []int{2, 10, 0}},
		{"first_seq", cfg.FirstSeq > 0, []int{2, 10, 0}},
		{"subject_transform", cfg.SubjectTransform != nil, []int{2, 10, 0}},
		{"subject_transforms of a mirror or a source", moved, []int{2, 10, 0}},
		{"consumer_limits", cfg.ConsumerLimits != natsjs.StreamConsumerLimits{}, []int{2, 10, 0}},
		{"allow_msg_ttl", cfg.AllowMsgTTL, []int{2, 11, 0}},
		{"subject_delete_marker_ttl", cfg.SubjectDeleteMarkerTTL > 0, []int{2, 11, 0}},
		{"allow_atomic", cfg.AllowAtomicPublish, []int{2, 12, 0}},
		{"allow_msg_schedules", cfg.AllowMsgSchedules, []int{2, 12, 0}},
		{"allow_msg_counter", cfg.AllowMsgCounter, []int{2, 12, 0}},
		{"persist_mode", cfg.PersistMode != natsjs.DefaultPersistMode, []int{2, 12, 0}},
		{"allow_batched", cfg.AllowBatchPublish, []int{2, 14, 0}},
		{"the durable consumer of a mirror or a source", durable, []int{2, 14, 0}},
	}
}

// consumerNeeds are the same of a consumer.
func consumerNeeds(cfg natsjs.ConsumerConfig) []need {
	return []need{
		{"more than one filter", len(filtersOf(cfg)) > 1, []int{2, 10, 0}},
		{"metadata", len(cfg.Metadata) > 0, []int{2, 10, 0}},
		{"pause_until", cfg.PauseUntil != nil, []int{2, 11, 0}},
		{"priority_groups", cfg.PriorityPolicy != natsjs.PriorityPolicyNone || len(cfg.PriorityGroups) > 0, []int{2, 11, 0}},
		{"the priority policy prioritized", cfg.PriorityPolicy == natsjs.PriorityPolicyPrioritized, []int{2, 12, 0}},
	}
}

// tooOld returns a sentence for each need that a server of this version does not
// meet.
func tooOld(what, version string, needs []need) []string {
	var facts []string
	for _, n := range needs {
		if n.asked && !versionAtLeast(version, n.versions...) {
			facts = append(facts, fmt.Sprintf("%s of the %s needs a server of version %d.%d or later, and this one is %s",
				n.setting, what, n.versions[0], n.versions[1], version))
		}
	}
	return facts
}

// beyond returns what the source asks for and the connected server would drop in
// silence.
func (s *source) beyond() []string {
	var facts []string
	version := s.t.nc().ConnectedServerVersion()
	if s.cfg.StreamConfig != nil {
		facts = tooOld("stream "+s.cfg.Stream, version, streamNeeds(*s.cfg.StreamConfig))
	}
	return append(facts, tooOld("consumer "+s.address(), version, consumerNeeds(s.consumerConfig(s.cfg.Durable)))...)
}

const oldFix = "upgrade the server, or do not ask for it"
