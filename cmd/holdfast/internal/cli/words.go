package cli

import (
	"strings"

	"github.com/holdfast-go/holdfast/transport"
)

// fileWords says in the words of a file what the library says in those of Go. It is
// made anew for each caller, so that nobody can change it for another.
func fileWords() *strings.Replacer {
	return strings.NewReplacer(
		"(Start)", "(start)", "StartAll", "start: all", "StartNew", "start: new", "StartLast", "start: last",
		"StartSequence", "start: sequence:N", "StartTime", "start: time:...",
		"mode ensure: ModeEnsure", "mode: ensure", "mode update: ModeUpdate", "mode: update",
		"Subjects, or a whole StreamConfig", "subjects, or streams", "(Subjects)", "(subjects)", "(StreamConfig)", "(streams)",
		"DeclareEnsure", "declare: ensure", "DeclareAdopt", "declare: adopt", "DeclareVerify", "declare: verify",
		"MaxAckPending", "max_ack_pending", "AckWait", "ack_wait", "HeadersOnly", "headers_only", "in Arguments", "in arguments",
		"DeadLetterExchange", "dead_letter_exchange", "DeadLetterKey", "dead_letter_key",
		"ConsumerPriority", "priority", "LimitMarkerTTL", "limit_marker_ttl", "SingleActiveConsumer", "single_active_consumer",
		"holdfast.NoDeadLetter", "dead_letter: false", "holdfast.OrderByKey() (order_by: key)", "order_by: key", "holdfast.OrderByKey", "order_by: key",
		"with jetstream.Consumer", "(stream: NAME)", "holdfast.Name", "name",
		"WaitForBroker; run --wait", "run --wait", "use WaitForBroker", "wait for it (run --wait)",
	)
}

// inWords puts findings into the words of a file.
func inWords(found []transport.Finding) []transport.Finding {
	words := fileWords()
	out := make([]transport.Finding, len(found))
	for i, f := range found {
		f.Fact, f.Fix = words.Replace(f.Fact), words.Replace(f.Fix)
		out[i] = f
	}
	return out
}
