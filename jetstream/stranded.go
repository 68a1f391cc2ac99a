package jetstream

import (
	"context"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// strandedPage is how many stranded messages are looked for at one time.
const strandedPage = 64

// below returns sequences of messages that a work queue still stores although
// its consumer is past them and does not wait for their ack: a delivery limit
// left them behind. At most limit are returned.
func (t *Transport) below(ctx context.Context, stream *natsjs.StreamInfo, info *natsjs.ConsumerInfo, limit int) ([]uint64, error) {
	floor := info.AckFloor.Stream
	if info.NumAckPending == 0 {
		// What waits for a redelivery counts as pending, so nothing does.
		floor = info.Delivered.Stream
	}
	filters := filtersOf(info.Config)
	if len(filters) == 0 {
		filters = []string{">"}
	}
	var out []uint64
	for _, filter := range filters {
		for seq := max(stream.State.FirstSeq, 1); seq <= floor && len(out) < limit; {
			m, err := t.get(ctx, stream.Config.Name, getRequest{Seq: seq, NextFor: filter})
			if isCode(err, codeNoMessage) {
				break
			}
			if err != nil {
				return out, err
			}
			if m.Sequence <= floor {
				out = append(out, m.Sequence)
			}
			seq = m.Sequence + 1
		}
	}
	return out, nil
}
