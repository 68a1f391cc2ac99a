package jetstream

import (
	"context"
	"encoding/json"
	"fmt"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// EnableSchedules lets a stream keep messages for later: those published with At
// or After, or with Recur. It adds the subject of ScheduleSubjects and sets
// allow_msg_schedules, which the server does not take back. A stream without
// limits that refuses new messages when it is full (discard: new) is set to
// discard old ones, which never comes to pass without limits: the server asks for
// that. Calling it again changes nothing.
//
// It returns ErrUnsupported for a server before 2.12, for a stream with limits,
// and for one with a consumer that would take the messages that wait: whoever acks
// those cancels them.
func (t *Transport) EnableSchedules(ctx context.Context, stream string) error {
	const op = "enable schedules"
	if !serverAtLeast(t.nc(), 2, 12, 0) {
		return transport.Unsupported(op, stream, "the server "+t.nc().ConnectedServerVersion()+" has no schedules; they need nats-server 2.12 or later")
	}
	info, err := t.streamInfo(ctx, stream)
	if err != nil {
		return seamError(op, stream, err, false)
	}
	if t.cannotSchedule(info.Config) == "" {
		return nil
	}
	cfg := info.Config
	cfg.Discard = natsjs.DiscardOld
	if why := waitingIsLost(cfg); why != "" {
		return transport.Unsupported(op, stream, why)
	}
	if name, err := t.takesSchedules(ctx, stream); err != nil || name != "" {
		if err != nil {
			return seamError(op, stream, err, false)
		}
		return transport.Unsupported(op, stream, "its consumer "+name+" would take the messages that wait, and cancel them with its ack: give it filters (Subjects)")
	}
	return t.allowSchedules(ctx, op, stream)
}

// allowSchedules changes the stream, and leaves settings this client does not know
// as they are.
func (t *Transport) allowSchedules(ctx context.Context, op, stream string) error {
	var have struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := t.manage(ctx, "STREAM.INFO."+stream, nil, &have); err != nil {
		return seamError(op, stream, err, false)
	}
	var subjects []string
	if raw, ok := have.Config["subjects"]; ok {
		if err := json.Unmarshal(raw, &subjects); err != nil {
			return seamError(op, stream, errBadAnswer, false)
		}
	}
	if mine := t.ScheduleSubjects(stream); !coveredBy(mine, subjects) {
		subjects = append(subjects, mine)
	}
	names, err := json.Marshal(subjects)
	if err != nil {
		return seamError(op, stream, err, false)
	}
	have.Config["subjects"] = names
	have.Config["discard"] = json.RawMessage(`"old"`)
	have.Config["allow_msg_schedules"] = json.RawMessage("true")
	have.Config["allow_rollup_hdrs"] = json.RawMessage("true")
	have.Config["deny_purge"] = json.RawMessage("false")
	return seamError(op, stream, t.manage(ctx, "STREAM.UPDATE."+stream, have.Config, nil), true)
}

// takesSchedules returns the name of a consumer that would be handed messages that
// wait to be sent, or "".
func (t *Transport) takesSchedules(ctx context.Context, stream string) (string, error) {
	for offset := 0; ; {
		in := struct {
			Offset int `json:"offset"`
		}{offset}
		var out struct {
			Total     int                    `json:"total"`
			Consumers []*natsjs.ConsumerInfo `json:"consumers"`
		}
		if err := t.manage(ctx, "CONSUMER.LIST."+stream, in, &out); err != nil {
			return "", err
		}
		for _, c := range out.Consumers {
			if overlapsSchedules(filtersOf(c.Config), t.ScheduleSubjects(stream)) {
				return c.Name, nil
			}
		}
		offset += len(out.Consumers)
		if len(out.Consumers) == 0 || offset >= out.Total {
			return "", nil
		}
	}
}

// overlapsSchedules tells whether a consumer with these filters, of which none
// means all, takes messages that wait.
func overlapsSchedules(filters []string, waiting string) bool {
	return len(filters) == 0 || firstOverlap([]string{waiting}, filters) != ""
}

// schedules checks that the source does not take messages that wait to be sent.
func (c *checker) schedules(stream *natsjs.StreamInfo) {
	if stream == nil || !stream.Config.AllowMsgSchedules {
		return
	}
	waiting := c.t.ScheduleSubjects(stream.Config.Name)
	if !coveredBy(waiting, stream.Config.Subjects) || !overlapsSchedules(c.s.cfg.Subjects, waiting) {
		return
	}
	c.fail(transport.CodeTakesSchedules,
		fmt.Sprintf("the subscription takes %s from the stream %s, and with that the messages that wait under %s to be sent later: an ack cancels them",
			all(c.s.cfg.Subjects), stream.Config.Name, waiting),
		"name the subjects to take (Subjects), without those")
}

// all lists filters, of which none means every subject.
func all(filters []string) string {
	if len(filters) == 0 {
		return "everything"
	}
	return list(filters)
}
