package natscore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Check implements transport.Transport. What NATS core cannot do is an error,
// with the JetStream source to use instead: for that, and to find subjects that
// a stream captures, it asks the server for its streams. A server that does not
// answer this within a second, or may not, is a warning.
func (t *Transport) Check(ctx context.Context, src transport.Source, want transport.Want) ([]transport.Finding, error) {
	s, err := t.own("check", src)
	if err != nil {
		return nil, err
	}
	if faults := s.faults(); len(faults) > 0 {
		return invalidFindings(want, faults), nil
	}
	if err := t.ready(ctx, "check", s.cfg.Subject); err != nil {
		return nil, err
	}
	streams, lookupErr := t.streams(ctx, s.cfg.Subject)
	if err := ctx.Err(); err != nil {
		return nil, &transport.Error{Op: "check", Address: s.cfg.Subject, Kind: transport.Temporary, Err: err}
	}
	findings := append(s.denied(want, streams), s.captured(want, streams)...)
	findings = append(findings, s.mayListen(ctx, want)...)
	return append(findings, lookupFindings(s.cfg.Subject, want, lookupErr)...), nil
}

// CheckRequest returns what stands against sending requests to a subject: a
// stream that captures it would answer in place of a handler. Like Check it
// changes nothing.
func (t *Transport) CheckRequest(ctx context.Context, to transport.Address) ([]transport.Finding, error) {
	if _, err := encode("check", to, &transport.Message{}); err != nil {
		return nil, err
	}
	if err := t.ready(ctx, "check", to.Name); err != nil {
		return nil, err
	}
	streams, err := t.streams(ctx, to.Name)
	findings := lookupFindings(to.Name, transport.Want{}, err)
	if len(streams) > 0 {
		findings = append(findings, transport.Finding{
			Code: transport.CodeCaptured, Level: transport.LevelError,
			Fact: fmt.Sprintf("requests to %s are captured by %s, whose confirmation reaches the caller in place of an answer", to.Name, streamList(streams)),
			Fix:  "send requests to a subject that no stream captures, or take it out of the stream's subjects",
		})
	}
	return findings, nil
}

// Provision implements transport.Transport. NATS core keeps nothing that could
// be made; it refuses what Open would.
func (t *Transport) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	s, err := t.own("provision", src)
	if err != nil {
		return transport.Report{}, err
	}
	if err := s.refuse("provision", want); err != nil {
		return transport.Report{}, err
	}
	return transport.Report{}, t.ready(ctx, "provision", s.cfg.Subject)
}

// refuse returns the first thing that can never work as an error.
func (s *source) refuse(op string, want transport.Want) error {
	if faults := s.faults(); len(faults) > 0 {
		return transport.Invalid(op, s.cfg.Subject, "%s", faults[0])
	}
	if f := s.denied(want, nil); len(f) > 0 {
		return transport.Unsupported(op, s.cfg.Subject, f[0].Fact+"; "+f[0].Fix)
	}
	return nil
}

// denied lists what is wanted and NATS core cannot do. streams are those that
// capture the subject, as far as that is known.
func (s *source) denied(want transport.Want, streams []string) []transport.Finding {
	var out []transport.Finding
	deny := func(asked bool, code transport.Code, fact string) {
		if asked {
			out = append(out, transport.Finding{
				Code: code, Level: transport.LevelError, Subscription: want.Subscription,
				Fact: fact + captureNote(s.cfg.Subject, streams),
				Fix:  s.fix(want, streams),
			})
		}
	}
	deny(want.Redelivery || want.Delay, transport.CodeNoRedelivery,
		"NATS core hands out a message once and never again, so a failed one cannot be retried later")
	deny(want.DeadLetter, transport.CodeNoDeadLetters,
		"NATS core stores nothing, so it cannot keep dead letters")
	deny(want.Reject, transport.CodeNoReject,
		"NATS core has no reject: there is nothing to settle")
	deny(s.cfg.Service != nil && !want.Reply, transport.CodeNoReply,
		"the endpoint of a service answers requests, and this handler answers none")
	deny(s.cfg.Durable != "", transport.CodeNoDurable,
		fmt.Sprintf("NATS core has no durable consumers, and Durable is %q", s.cfg.Durable))
	return out
}

// captured lists that streams store what is published to the subject.
func (s *source) captured(want transport.Want, streams []string) []transport.Finding {
	if len(streams) == 0 {
		return nil
	}
	f := transport.Finding{
		Code: transport.CodeCaptured, Level: transport.LevelError, Subscription: want.Subscription,
		Fact: fmt.Sprintf("%s is captured by %s, and a core subscription gets a copy of each message at most once, whatever is stored", s.cfg.Subject, streamList(streams)),
		Fix:  s.fix(want, streams) + "; " + allowCaptured,
	}
	if want.Reply {
		f.Fact += "; a requester gets the confirmation of the stream in place of the answer"
	}
	if s.cfg.AllowCaptured {
		f.Level = transport.LevelWarning
		f.Fix = s.fix(want, streams)
	}
	return []transport.Finding{f}
}

// willBeCaptured tells that a stream which this program makes for another source
// captures the subject. sure tells that both are in one account for certain.
func (s *source) willBeCaptured(stream, stored string, sure bool) transport.Finding {
	f := transport.Finding{
		Code: transport.CodeCaptured, Level: transport.LevelError,
		Fact: fmt.Sprintf("%s will be captured by the stream %s, which this program makes with the subject %s, and a core subscription gets a copy of each message at most once, whatever is stored",
			s.cfg.Subject, stream, stored),
		Fix: s.fix(transport.Want{}, []string{stream}) + ", or choose another subject for one of them; " + allowCaptured,
	}
	if !sure {
		f.Fact += ", if both connections are of one account"
	}
	if s.cfg.AllowCaptured || !sure {
		f.Level = transport.LevelWarning
	}
	return f
}

// allowCaptured is the way out for a program that means it.
const allowCaptured = "if at most once is meant, allow the subject to be captured (AllowCaptured)"

// fix writes the source of the program that keeps what was asked for.
func (s *source) fix(want transport.Want, streams []string) string {
	if len(streams) == 0 {
		return "store the subject in a stream, and take the messages from there with a durable consumer: " + s.consumerSource("NAME", want)
	}
	var lines []string
	for _, name := range streams {
		lines = append(lines, s.consumerSource(name, want))
	}
	return "take the messages from the stream with a durable consumer: " + strings.Join(lines, " or ")
}

func (s *source) consumerSource(stream string, want transport.Want) string {
	durable := firstOf(s.cfg.Durable, s.cfg.Group, want.Subscription, "NAME")
	durable = strings.Map(func(r rune) rune {
		if strings.ContainsRune(".*>/\\ \t", r) {
			return '-'
		}
		return r
	}, durable)
	return fmt.Sprintf("js.Consumer(jetstream.ConsumerConfig{Stream: %q, Subjects: []string{%q}, Durable: %q})", stream, s.cfg.Subject, durable)
}

func firstOf(names ...string) string {
	for _, name := range names {
		if name != "" {
			return name
		}
	}
	return ""
}

func captureNote(subject string, streams []string) string {
	if len(streams) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s is captured by %s, where it could)", subject, streamList(streams))
}

func streamList(streams []string) string {
	if len(streams) == 1 {
		return "the stream " + streams[0]
	}
	return "the streams " + strings.Join(streams, ", ")
}

func invalidFindings(want transport.Want, faults []string) []transport.Finding {
	var out []transport.Finding
	for _, fault := range faults {
		out = append(out, transport.Finding{
			Code: transport.CodeInvalid, Level: transport.LevelError, Subscription: want.Subscription,
			Fact: fault, Fix: "correct the configuration of the subject",
		})
	}
	return out
}

// streamNames is where a server answers which streams it has.
const streamNames = "$JS.API.STREAM.NAMES"

// lookupFindings says that the streams could not be asked for. A server without
// JetStream is no finding: it has none.
func lookupFindings(subject string, want transport.Want, err error) []transport.Finding {
	f := transport.Finding{Level: transport.LevelWarning, Subscription: want.Subscription}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, transport.ErrPermission):
		f.Code = transport.CodePermission
		f.Fact = fmt.Sprintf("it is not known whether a stream captures %s: %v", subject, errors.Unwrap(err))
		f.Fix = fmt.Sprintf("allow this user to publish to %s and to subscribe to its inbox, or make sure that no stream captures the subject", streamNames)
	default:
		f.Code = transport.CodeUnreachable
		f.Fact = fmt.Sprintf("it is not known whether a stream captures %s: asking JetStream for its streams failed: %v", subject, err)
		f.Fix = "check the health of JetStream, or make sure that no stream captures the subject"
	}
	return []transport.Finding{f}
}

// streams returns the names of all streams with a subject that overlaps this
// one. A server or account without JetStream has none.
func (t *Transport) streams(ctx context.Context, subject string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	guarded, stop := t.conn.Guard(ctx, streamNames)
	defer stop()
	var names []string
	for {
		page, total, err := t.streamPage(guarded, subject, len(names))
		if err != nil {
			if denied, ok := errors.AsType[*transport.Error](context.Cause(guarded)); ok {
				return nil, denied
			}
			return nil, err
		}
		names = append(names, page...)
		if len(page) == 0 || len(names) >= total {
			return names, nil
		}
	}
}

func (t *Transport) streamPage(ctx context.Context, subject string, offset int) (names []string, total int, err error) {
	ask, err := json.Marshal(map[string]any{"subject": subject, "offset": offset})
	if err != nil {
		return nil, 0, err
	}
	reply, err := t.conn.NATS().RequestWithContext(ctx, streamNames, ask)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var answer struct {
		Streams []string `json:"streams"`
		Total   int      `json:"total"`
		Error   *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, 0, fmt.Errorf("read the answer of JetStream: %w", err)
	}
	if e := answer.Error; e != nil {
		if e.Code == codeNoJetStream || e.Code == codeNoJetStreamAccount {
			return nil, 0, nil
		}
		return nil, 0, fmt.Errorf("JetStream answered: %s (%d)", e.Description, e.Code)
	}
	return answer.Streams, answer.Total, nil
}

// What a server without JetStream answers, by its published error codes.
const (
	codeNoJetStream        = 10076
	codeNoJetStreamAccount = 10039
)
