package jetstream

import (
	"context"
	"errors"
	"maps"
	"slices"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Provision implements transport.Transport: it makes the stream, the durable
// consumer, for want.DeadLetter the dead-letter store, and for long delays the park
// stream (see Parking), as far as the modes allow. Drift is returned as findings. It
// never removes a subject from a stream.
func (t *Transport) Provision(ctx context.Context, src transport.Source, want transport.Want) (transport.Report, error) {
	p := provisioner{t: t, want: want}
	s, err := t.sourceOf("provision", src)
	if err != nil {
		return p.report, err
	}
	p.src = s
	if t.isClosed() {
		return p.report, &transport.Error{Op: "provision", Address: s.address(), Kind: transport.Permanent, Err: transport.ErrClosed}
	}
	if faults := s.faults(); len(faults) > 0 {
		return p.report, transport.Invalid("provision", s.address(), "%s", faults[0])
	}
	if err := p.possible(s); err != nil {
		return p.report, err
	}
	if err := p.stream(ctx, s.streamConfig(), s.cfg.Mode, s.cfg.Subjects, s.cfg.StreamConfig != nil); err != nil {
		return p.report, err
	}
	s.plan.Store(nil)
	if s.cfg.Durable != "" {
		if err := p.consumer(ctx, s.cfg.Stream, s.consumerConfig(s.cfg.Durable), s.cfg.Mode, s.cfg.Start.IsZero()); err != nil {
			return p.report, err
		}
	} else if s.cfg.Start.IsZero() {
		return p.report, errNoStart("provision", s.address())
	}
	if want.DeadLetter {
		err = p.deadLetters(ctx)
	}
	if err == nil && s.parks(want) {
		err = p.parking(ctx, s)
	}
	return p.report, err
}

// provisioner makes what one subscription needs and notes what it did.
type provisioner struct {
	t      *Transport
	src    *source // nil where a store is provisioned by itself
	want   transport.Want
	report transport.Report
}

// possible refuses what the server would drop in silence or holdfast cannot keep
// a promise with, before anything is made.
func (p *provisioner) possible(s *source) error {
	if r := s.refusals(p.want); len(r) > 0 {
		return transport.Invalid("provision", s.address(), "%s; fix: %s (%s)", r[0].fact, r[0].fix, r[0].code)
	}
	facts := s.beyond()
	for _, fact := range facts {
		p.note(transport.Finding{Code: transport.CodeServerTooOld, Level: transport.LevelError, Fact: fact, Fix: oldFix})
	}
	if len(facts) == 0 {
		return nil
	}
	return &transport.Error{
		Op: "provision", Address: s.address(), Kind: transport.Permanent, Hint: oldFix,
		Err: errors.Join(transport.ErrUnsupported, errors.New(facts[0])),
	}
}

// stream makes or updates a stream. full tells that want is a configuration to
// compare in whole, and not one derived from subjects.
func (p *provisioner) stream(ctx context.Context, want natsjs.StreamConfig, mode Mode, filters []string, full bool) error {
	info, err := p.t.streamInfo(ctx, want.Name)
	switch {
	case streamMissing(err) && mode == ModeVerify:
		return missing("provision", "stream "+want.Name, "the source is in verify mode: make the stream, or "+letMake)
	case streamMissing(err):
		return p.makeStream(ctx, want)
	case err != nil:
		return seamError("provision", want.Name, err, false)
	}
	have := info.Config
	if mode != ModeVerify && p.t.hasMade(want.Name) {
		if have, err = p.grow(ctx, have, want.Subjects); err != nil {
			return err
		}
	}
	next := wantedStream(have, want, filters, full)
	diff := diffStream(next, have)
	if len(diff) == 0 {
		return nil
	}
	if mode != ModeUpdate {
		p.note(transport.Finding{
			Code: transport.CodeStreamDrift, Level: transport.LevelWarning, Diff: diff,
			Fact: "the stream " + want.Name + " differs from what the program asks for",
			Fix:  "change the program or the stream, or " + letChange,
		})
		return nil
	}
	got, err := p.t.updateStream(ctx, next)
	if err != nil {
		return p.streamError(ctx, next, err)
	}
	p.report.Updated = append(p.report.Updated, "stream "+want.Name)
	return p.compareStream(next, got.Config)
}

func (p *provisioner) makeStream(ctx context.Context, want natsjs.StreamConfig) error {
	if len(want.Subjects) == 0 && want.Mirror == nil && len(want.Sources) == 0 {
		return transport.Invalid("provision", "stream "+want.Name, "it is missing and no subjects are given to make it with")
	}
	got, err := p.t.createStream(ctx, want)
	if isCode(err, natsjs.JSErrCodeStreamNameInUse) {
		// Somebody else made it in this moment, with settings of their own.
		return nil
	}
	if err != nil {
		return p.streamError(ctx, want, err)
	}
	p.t.noteMade(want.Name)
	p.report.Created = append(p.report.Created, "stream "+want.Name)
	return p.compareStream(want, got.Config)
}

// compareStream fails when the server dropped what it was asked for: an old one
// does so in silence.
func (p *provisioner) compareStream(want, got natsjs.StreamConfig) error {
	return p.dropped("stream "+want.Name, diffStream(want, got))
}

func (p *provisioner) dropped(what string, diff []string) error {
	if len(diff) == 0 {
		return nil
	}
	p.note(transport.Finding{
		Code: transport.CodeFieldsDropped, Level: transport.LevelError, Diff: diff,
		Fact: "server " + p.t.nc().ConnectedServerVersion() + " did not take all settings of " + what,
		Fix:  "upgrade the server, or do not ask for these settings",
	})
	return &transport.Error{
		Op: "provision", Address: what, Kind: transport.Permanent,
		Err:  errors.Join(transport.ErrUnsupported, errors.New("the server dropped settings: "+diff[0])),
		Hint: "upgrade the server, or do not ask for these settings",
	}
}

// consumer makes or updates a durable consumer.
func (p *provisioner) consumer(ctx context.Context, stream string, want natsjs.ConsumerConfig, mode Mode, noStart bool) error {
	address := stream + "/" + want.Name
	info, err := p.t.consumerInfo(ctx, stream, want.Name)
	switch {
	case consumerMissing(err) && mode == ModeVerify:
		return missing("provision", "consumer "+address, "the source is in verify mode: make the consumer, or "+letMake)
	case consumerMissing(err) && noStart:
		return errNoStart("provision", address)
	case consumerMissing(err):
		return p.makeConsumer(ctx, stream, want)
	case err != nil:
		return seamError("provision", address, err, false)
	}
	diff := diffConsumer(want, info.Config)
	if len(diff) == 0 {
		return nil
	}
	if mode != ModeUpdate {
		p.note(transport.Finding{
			Code: transport.CodeConsumerDrift, Level: transport.LevelWarning, Diff: diff,
			Fact: "the consumer " + address + " differs from what the program asks for",
			Fix:  "change the program or the consumer, or " + letChange,
		})
		return nil
	}
	next := updatedConsumer(want, info.Config)
	got, err := p.t.putConsumer(ctx, stream, actionUpdate, next)
	if err != nil {
		return seamError("provision", address, err, false)
	}
	p.report.Updated = append(p.report.Updated, "consumer "+address)
	return p.dropped("consumer "+address, diffConsumer(want, got.Config))
}

func (p *provisioner) makeConsumer(ctx context.Context, stream string, want natsjs.ConsumerConfig) error {
	address := stream + "/" + want.Name
	if p.src != nil && p.src.cfg.Stream == stream {
		want = p.src.remembering(ctx, want)
	}
	got, err := p.t.putConsumer(ctx, stream, actionCreate, want)
	if isCode(err, natsjs.JSErrCodeConsumerExists, natsjs.JSErrCodeConsumerAlreadyExists, natsjs.JSErrCodeConsumerNameExists) {
		return nil
	}
	if err != nil {
		return seamError("provision", address, err, false)
	}
	p.report.Created = append(p.report.Created, "consumer "+address)
	diff := diffConsumer(want, got.Config)
	if err := p.dropped("consumer "+address, diff); err != nil {
		// Without its filters it would take what is not meant for it.
		_ = p.t.deleteConsumer(ctx, stream, want.Name)
		return err
	}
	return nil
}

func (p *provisioner) note(f transport.Finding) {
	f.Subscription = p.want.Subscription
	p.report.Findings = append(p.report.Findings, f)
}

// ProvisionStore implements transport.PreparedStore. It makes the dead-letter
// stream and the redrive stream. A consumer that takes back what is redriven is
// made for subscriptions on this transport only: no other would read it.
func (s *deadStore) ProvisionStore(ctx context.Context, subscription string) (transport.Report, error) {
	p := provisioner{t: s.t(), want: transport.Want{Subscription: subscription}}
	err := p.deadStreams(ctx)
	return p.report, err
}

// deadLetters makes the dead-letter stream, the redrive stream and this
// subscription's consumer on it.
func (p *provisioner) deadLetters(ctx context.Context) error {
	if err := p.deadStreams(ctx); err != nil {
		return err
	}
	return p.consumer(ctx, p.t.redriveStream(), p.t.redriveConsumer(p.want), p.t.set.dead.Mode, false)
}

func (p *provisioner) deadStreams(ctx context.Context) error {
	if !validToken(p.want.Subscription) {
		return transport.Invalid("provision dead letters", p.want.Subscription, "the name of a subscription with dead letters is made of letters, digits, '-' and '_'")
	}
	for _, cfg := range []natsjs.StreamConfig{p.t.deadConfig(), p.t.redriveConfig()} {
		if err := p.stream(ctx, cfg, p.t.set.dead.Mode, cfg.Subjects, true); err != nil {
			return err
		}
	}
	return nil
}

// What a person can do about what is missing or differs, in words that serve
// whoever writes Go and whoever writes a configuration file.
const (
	letMake   = "let holdfast make what is missing (mode ensure: ModeEnsure)"
	letChange = "let holdfast apply the program's settings (mode update: ModeUpdate)"
	mended    = " (mode update does it: ModeUpdate)"
)

func missing(op, what, hint string) error {
	return &transport.Error{Op: op, Address: what, Kind: transport.Permanent, Err: transport.ErrNotFound, Hint: hint}
}

// wantedStream is the stream as it should be, given what it is: every subject
// it has stays. Where the source gives no whole configuration, only subjects
// that are missing for its filters are added.
func wantedStream(have, want natsjs.StreamConfig, filters []string, full bool) natsjs.StreamConfig {
	next := have
	if full {
		next = kept(want, have)
		next.Subjects = slices.Clone(have.Subjects)
		for _, s := range want.Subjects {
			if !coveredBy(s, next.Subjects) {
				next.Subjects = append(next.Subjects, s)
			}
		}
		return next
	}
	next.Subjects = slices.Clone(have.Subjects)
	if have.Mirror != nil || len(have.Sources) > 0 {
		return next
	}
	for _, f := range filters {
		if firstOverlap([]string{f}, next.Subjects) == "" {
			next.Subjects = append(next.Subjects, f)
		}
	}
	return next
}

// kept is a stream as it is asked for, with what it is where nothing is asked.
func kept(want, have natsjs.StreamConfig) natsjs.StreamConfig {
	next := want
	next.Metadata = joined(have.Metadata, want.Metadata)
	next.MirrorDirect = want.MirrorDirect || have.MirrorDirect
	fill(&next.Description, have.Description)
	fill(&next.Duplicates, have.Duplicates)
	fill(&next.FirstSeq, have.FirstSeq)
	fill(&next.Template, have.Template)
	if next.Placement == nil {
		next.Placement = have.Placement
	}
	if next.SubjectDeleteMarkerTTL > 0 || next.AllowMsgSchedules {
		next.AllowRollup = next.AllowRollup || have.AllowRollup
	}
	return next
}

// updatedConsumer is the consumer to ask for in an update: where it starts
// cannot change, it stays as paused as it is, and what nothing is asked about
// stays as it is, too.
func updatedConsumer(want, have natsjs.ConsumerConfig) natsjs.ConsumerConfig {
	next := want
	next.DeliverPolicy, next.OptStartSeq, next.OptStartTime = have.DeliverPolicy, have.OptStartSeq, have.OptStartTime
	next.PauseUntil = have.PauseUntil
	next.Metadata = joined(have.Metadata, want.Metadata)
	fill(&next.Description, have.Description)
	fill(&next.SampleFrequency, have.SampleFrequency)
	fill(&next.Replicas, have.Replicas)
	fill(&next.MaxWaiting, have.MaxWaiting)
	fill(&next.MaxRequestBatch, have.MaxRequestBatch)
	fill(&next.MaxRequestExpires, have.MaxRequestExpires)
	fill(&next.MaxRequestMaxBytes, have.MaxRequestMaxBytes)
	if next.PriorityPolicy == natsjs.PriorityPolicyNone {
		next.PriorityPolicy, next.PriorityGroups = have.PriorityPolicy, have.PriorityGroups
	}
	fill(&next.PinnedTTL, have.PinnedTTL)
	return next
}

// fill sets what is not set.
func fill[T comparable](v *T, have T) {
	var zero T
	if *v == zero {
		*v = have
	}
}

func joined(have, want map[string]string) map[string]string {
	if len(want) == 0 {
		return have
	}
	all := maps.Clone(want)
	for name, value := range have {
		if _, ok := all[name]; !ok {
			all[name] = value
		}
	}
	return all
}
