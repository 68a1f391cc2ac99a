package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

// Origin is where a message came from before it was first buried.
type Origin struct {
	Subject  string
	Position string
	Time     time.Time
	Redrives int
}

// OriginOf returns the origin of a received message: what its origin headers
// say if it was redriven, and otherwise its own place. Transports set
// Message.Subject of a redriven message from it; Message.Position stays that of
// the copy.
func OriginOf(m *transport.Message) Origin {
	o := Origin{
		Subject:  Unescape(m.Header.Get(Subject)),
		Position: Unescape(m.Header.Get(Position)),
		Time:     boundTime(getTime(m.Header, Time)),
		Redrives: bound(getInt(m.Header, Redrives)),
	}
	if o.Subject == "" {
		o.Subject = m.Subject
	}
	if o.Position == "" {
		o.Position = m.Position
	}
	if o.Time.IsZero() {
		o.Time = boundTime(m.Time)
	}
	return o
}

// Complete fills in what e leaves empty and orig knows: origin, identity, the
// dead ID, the fingerprint, and the hash and size of the body. The dead letter
// is filed under DeadKey of the result.
func Complete(orig *transport.Message, e Envelope) Envelope {
	o := OriginOf(orig)
	if e.Subject == "" {
		e.Subject = o.Subject
	}
	if e.Position == "" {
		e.Position = o.Position
	}
	if e.Time.IsZero() {
		e.Time = o.Time
	}
	if e.Redrives == 0 {
		e.Redrives = o.Redrives
	}
	e.ID, e.Key = orig.ID, orig.Key
	if e.DeadID == "" {
		// The position that the transport vouches for, not the one a header
		// claims: headers can be forged, and of two messages with one dead ID
		// the second would be lost.
		e.DeadID = DeadID(e.Subscription, orig.ID, orig.Position, orig.Body, e.Redrives)
	}
	if e.Fingerprint == "" {
		e.Fingerprint = Fingerprint(e.Subscription, e.Class, e.ErrorType, e.ErrorText, TopFrame(e.Stack))
	}
	sum := sha256.Sum256(orig.Body)
	e.BodySHA256 = hex.EncodeToString(sum[:])
	e.BodySize = len(orig.Body)
	e.Version = EnvelopeVersion
	return e
}

// BuryMessage returns the dead letter of orig: its body (the same slice), the
// headers of the user, identity and content type, and the headers of e,
// completed. It drops the headers that a broker would act upon and those of an
// earlier life, so that a message may be buried and redriven for ever without
// growing. It changes nothing of orig and never fails.
func BuryMessage(orig *transport.Message, e Envelope) *transport.Message {
	return BuryMessageWithin(orig, e, Budget)
}

// BuryMessageWithin is BuryMessage with a budget of its own for the envelope,
// for a message that would otherwise be larger than the broker takes.
func BuryMessageWithin(orig *transport.Message, e Envelope, budget int) *transport.Message {
	e = Complete(orig, e)
	return copyWith(orig, EncodeWithin(e, budget), e.DeadID)
}

// RedriveMessage returns the message that dead was, to be published to its
// subscription again: as it first was, with origin headers and one redrive
// more. To redrive the same letter again has the same DedupID; to redrive a
// letter of a later failure has another.
func RedriveMessage(dead *transport.Message, e Envelope) *transport.Message {
	e = e.bounded()
	e.Redrives = bound(e.Redrives + 1)
	id := e.DeadID
	if id == "" {
		id = DeadID(e.Subscription, dead.ID, dead.Position, dead.Body, e.Redrives)
	}
	return copyWith(dead, e.origin(), id+"-r"+strconv.Itoa(e.Redrives))
}

// copyWith returns a copy of m for another leg of its way, with ours beside the
// headers of the user.
func copyWith(m *transport.Message, ours transport.Header, dedup string) *transport.Message {
	h := UserHeader(m.Header)
	if len(m.Body) == 0 {
		shield(h)
	}
	if cause, ok := m.Header[Cause]; ok {
		h[Cause] = slices.Clone(cause)
	}
	maps.Copy(h, ours)
	return &transport.Message{
		ID:          m.ID,
		DedupID:     dedup,
		Key:         m.Key,
		ContentType: m.ContentType,
		Header:      h,
		Body:        m.Body,
	}
}

// UserHeader returns a copy of h without the headers of holdfast and of
// brokers, shielded ones under their own names.
func UserHeader(h transport.Header) transport.Header {
	user := make(transport.Header, len(h))
	for name, values := range h {
		if own, ok := Unshield(name); ok {
			user[own] = slices.Clone(values)
			continue
		}
		if !Reserved(name) && !BrokerOwned(name) {
			user[name] = slices.Clone(values)
		}
	}
	return user
}

// shielded are headers that a NATS client takes for a status of the server when
// the body is empty; such a copy would never be seen again. On copies they
// travel under a name of ours.
var shielded = [...]string{"Status", "Description"}

const shieldPrefix = Prefix + "Shielded-"

// shield renames the headers of h that need it.
func shield(h transport.Header) {
	for _, name := range shielded {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[shieldPrefix+name] = values
		}
	}
}

// Shield returns the name under which a header travels on a copy, and whether
// that is another one.
func Shield(name string) (string, bool) {
	if slices.Contains(shielded[:], name) {
		return shieldPrefix + name, true
	}
	return name, false
}

// Unshield returns the own name of a shielded header, and whether it is one.
func Unshield(name string) (string, bool) {
	own, found := strings.CutPrefix(name, shieldPrefix)
	return own, found && slices.Contains(shielded[:], own)
}
