package jetstream

import (
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
	"github.com/holdfast-go/holdfast/transport"
)

// A stream that several sources of a program name, and that is missing, is made
// for the first of them. For the others its subjects are added: it is the
// program's own, and none of them may be deaf. A stream that was there before is
// changed in ModeUpdate only.

// hasMade tells whether this transport created the stream.
func (t *Transport) hasMade(stream string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.made[stream]
}

func (t *Transport) noteMade(stream string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made[stream] = true
}

// union adds to the subjects of a stream those of a source that it does not
// cover. One that is wider takes the place of what it covers: a stream cannot
// list both. split are subjects that overlap one of the stream in part, which it
// cannot list either.
func union(have, want []string) (next, added, split []string) {
	next = slices.Clone(have)
	for _, s := range want {
		if coveredBy(s, next) {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(next), func(old string) bool { return natsconn.Matches(s, old) })
		if firstOverlap([]string{s}, rest) != "" {
			split = append(split, s)
			continue
		}
		next, added = append(rest, s), append(added, s)
	}
	return next, added, split
}

// streamToGrow checks the subjects that are to be added to a stream of our own,
// and returns it with them.
func (c *checker) streamToGrow(ctx context.Context, have natsjs.StreamConfig) natsjs.StreamConfig {
	next, added, _ := union(have.Subjects, c.s.streamConfig().Subjects)
	if len(added) == 0 {
		return have
	}
	c.subjectsFree(ctx, have.Name, added)
	c.s.plan.Store(&added)
	c.inform(transport.CodeStreamDrift, "the stream "+have.Name+", which this program made, will take "+list(added)+" as well")
	have.Subjects = next
	return have
}

// grow adds subjects to a stream of our own.
func (p *provisioner) grow(ctx context.Context, have natsjs.StreamConfig, subjects []string) (natsjs.StreamConfig, error) {
	next, added, split := union(have.Subjects, subjects)
	for _, s := range split {
		p.note(transport.Finding{
			Code: transport.CodeFilterOutside, Level: transport.LevelError,
			Fact: fmt.Sprintf("the subject %s overlaps the subjects of the stream %s in part (%s), and a stream cannot list both", s, have.Name, list(have.Subjects)),
			Fix:  "give the stream a subject that covers both (StreamConfig)",
		})
	}
	if len(added) == 0 {
		return have, nil
	}
	have.Subjects = next
	got, err := p.t.updateStream(ctx, have)
	if err != nil {
		return have, p.streamError(ctx, have, err)
	}
	p.report.Updated = append(p.report.Updated, "stream "+have.Name+", which takes "+list(added)+" as well")
	return got.Config, nil
}

// streamError explains why a stream could not be made or changed: one that took
// its subjects meanwhile is named.
func (p *provisioner) streamError(ctx context.Context, cfg natsjs.StreamConfig, err error) error {
	wrapped := seamError("provision", "stream "+cfg.Name, err, false)
	e, ok := wrapped.(*transport.Error)
	if !ok || !isCode(err, codeSubjectsOverlap) {
		return wrapped
	}
	e.Hint = overlapFix
	for _, s := range cfg.Subjects {
		owners, lookErr := p.t.streamsFor(ctx, s)
		owners = slices.DeleteFunc(owners, func(owner string) bool { return owner == cfg.Name })
		if lookErr == nil && len(owners) > 0 {
			e.Err = fmt.Errorf("%s (%s): %w", belongs(s, owners), transport.CodeSubjectsOverlap, err)
			return e
		}
	}
	return e
}

// WillStore implements natsconn.Keeper. Of a stream behind another API prefix
// it is not known which subjects of this account it takes.
func (s *source) WillStore() (nc *nats.Conn, stream string, subjects []string) {
	if plan := s.plan.Load(); plan != nil && s.t.set.apiPrefix == "" {
		subjects = *plan
	}
	return s.t.nc(), s.cfg.Stream, subjects
}

// ConflictsWith implements transport.Neighbour: no two streams can be made that
// take the same subject.
func (s *source) ConflictsWith(other transport.Source) (transport.Finding, bool) {
	o, ok := other.(*source)
	if !ok || o.t != s.t || o.cfg.Stream == s.cfg.Stream {
		return transport.Finding{}, false
	}
	mine, theirs := s.plan.Load(), o.plan.Load()
	if mine == nil || theirs == nil {
		return transport.Finding{}, false
	}
	for _, a := range *mine {
		if b := firstOverlap([]string{a}, *theirs); b != "" {
			return transport.Finding{
				Code: transport.CodeSubjectsOverlap, Level: transport.LevelError,
				Fact: fmt.Sprintf("the streams %s and %s are both to be made, and the subject %s of the one overlaps %s of the other (%s; %s)",
					s.cfg.Stream, o.cfg.Stream, a, b, s, o),
				Fix: "name the same stream in both sources, or choose subjects that do not overlap",
			}, true
		}
	}
	return transport.Finding{}, false
}
