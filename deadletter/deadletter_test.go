package deadletter_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/deadletter"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/internal/wire"
	"github.com/holdfast-go/holdfast/memory"
	"github.com/holdfast-go/holdfast/transport"
)

func TestListSelects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.bury(letter{id: "m1", err: "order 1 not found", hour: 1})
	w.bury(letter{id: "m2", err: "order 2 not found", hour: 2, reason: "permanent"})
	w.bury(letter{id: "m3", err: "timeout", hour: 3, sub: "shipping"})
	group, err := w.dead.Get(t.Context(), one)
	check.NoError(t, err)
	for name, tt := range map[string]struct {
		query deadletter.Query
		want  []string
	}{
		"everything":   {deadletter.Query{}, []string{"m1", "m2", "m3"}},
		"subscription": {deadletter.Query{Subscription: "shipping"}, []string{"m3"}},
		"group":        {deadletter.Query{Fingerprint: group.Fingerprint}, []string{"m1", "m2"}},
		"reason":       {deadletter.Query{Reason: "permanent"}, []string{"m2"}},
		"id":           {deadletter.Query{IDs: []string{one, one}}, []string{"m1"}},
		"id elsewhere": {deadletter.Query{IDs: []string{one}, Reason: "permanent"}, []string{}},
		"since":        {deadletter.Query{Since: day.Add(2 * time.Hour)}, []string{"m2", "m3"}},
		"before":       {deadletter.Query{Before: day.Add(2 * time.Hour)}, []string{"m1"}},
		"limit":        {deadletter.Query{Limit: 2}, []string{"m1", "m2"}},
		"nothing":      {deadletter.Query{Subscription: "nobody"}, []string{}},
	} {
		check.Equal(t, w.list(tt.query), tt.want, name)
	}
}

func TestLetterTellsItsStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.bury(letter{id: "m1", err: "order 17 not found", hour: 5})
	l, err := w.dead.Get(t.Context(), id[:6])
	check.NoError(t, err)
	check.Equal(t, l.ID, id)
	check.Equal(t, l.MessageID, "m1")
	check.Equal(t, l.Subscription, "billing")
	check.Equal(t, l.Subject, "orders.placed")
	check.Equal(t, l.Position, "P/m1")
	check.Equal(t, l.Reason, "attempts-exhausted")
	check.Equal(t, l.Error, "order 17 not found")
	check.Equal(t, l.MaskedError(), "order # not found")
	check.Equal(t, l.Attempts, 3)
	check.Equal(t, l.When(), day.Add(5*time.Hour))
	check.Equal(t, l.Header, transport.Header{"Tenant": {"a", "b"}}, "headers")
	check.Equal(t, string(l.Body), `{"id":"m1"}`)
	check.Equal(t, l.ContentType, "application/json")
	check.True(t, l.Intact(), "intact")
	check.True(t, !l.Foreign, "ours")
	check.True(t, l.Raw.Header.Get(wire.DeadVersion) == "1", "raw headers")
}

func TestGetNamesTheCandidatesOfAnAmbiguousID(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	for _, key := range []string{"billing/f/abc1", "billing/f/abc2", "shipping/f/abc2", "billing/f/ab"} {
		s.put(key, &transport.Message{ID: key})
	}
	dead := deadletter.Open(s)
	l, err := dead.Get(t.Context(), "ab")
	check.NoError(t, err, "a whole ID wins")
	check.Equal(t, l.MessageID, "billing/f/ab")
	_, err = dead.Get(t.Context(), "abc")
	ambiguous, ok := errors.AsType[*deadletter.AmbiguousError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	check.Equal(t, ambiguous.Candidates, []string{"abc1 (billing)", "abc2 (billing)", "abc2 (shipping)"})
	_, err = dead.Get(t.Context(), "zzz")
	check.ErrorIs(t, err, transport.ErrNotFound)
	_, err = dead.Get(t.Context(), "")
	check.ErrorIs(t, err, transport.ErrInvalid)
	l, err = dead.Get(t.Context(), "abc1")
	check.NoError(t, err)
	check.Equal(t, l.Subscription, "billing")
}

func TestGroupsGatherOneCause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ids []string
	for i, text := range []string{"qty must be positive, got -3", "timeout", "qty must be positive, got 0", "qty must be positive, got -12.5", "qty must be positive, got 9"} {
		reason := ""
		if i == 0 {
			reason = "permanent"
		}
		ids = append(ids, w.bury(letter{id: "m" + string(rune('0'+i)), err: text, hour: i, reason: reason}))
	}
	groups, err := w.dead.Groups(t.Context(), deadletter.Query{})
	check.NoError(t, err)
	check.Equal(t, len(groups), 2)
	g := groups[0]
	check.Equal(t, g.Count, 4)
	check.Equal(t, g.Error, "qty must be positive, got #")
	check.Equal(t, g.Reason, "attempts-exhausted")
	check.Equal(t, g.First, day)
	check.Equal(t, g.Last, day.Add(4*time.Hour))
	check.Equal(t, g.Samples, []string{ids[0], ids[2], ids[3]})
	groups, err = w.dead.Groups(t.Context(), deadletter.Query{Limit: 1})
	check.NoError(t, err)
	check.Equal(t, len(groups), 1)
	counts, err := w.dead.Counts(t.Context())
	check.NoError(t, err)
	check.Equal(t, len(counts), 2)
}

func TestRedriveGoesToTheFailingSubscriptionOnlyAndOldestFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(letter{id: "m1", err: "flaky"})
	w.bury(letter{id: "m2", err: "flaky", hour: 1})
	r, err := w.dead.Redrive(t.Context(), deadletter.Query{Subscription: "billing"}, deadletter.RedriveOptions{})
	check.NoError(t, err)
	check.Equal(t, [3]int{r.Matched, r.Done, r.Failed}, [3]int{2, 2, 0})
	got := w.received()
	check.Equal(t, len(got), 2)
	check.Equal(t, got[0].ID+got[1].ID, "m1m2")
	check.Equal(t, string(got[0].Body), `{"id":"m1"}`)
	check.Equal(t, got[0].Subject, "orders.placed")
	check.Equal(t, wire.UserHeader(got[0].Header), transport.Header{"Tenant": {"a", "b"}})
	check.Equal(t, wire.OriginOf(got[0]).Redrives, 1)
	check.Equal(t, w.Len("shipping"), 0, "messages elsewhere")
	check.Equal(t, w.list(deadletter.Query{}), []string{}, "what is left")
	check.Equal(t, len(w.events), 2, "audit")
	check.Equal(t, w.events[0].State, deadletter.Redriven)
}

func TestRedriveAgainAfterAnInterruptionSendsNoSecondCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.bury(letter{id: "m1", err: "flaky"})
	q := deadletter.Query{IDs: []string{id}}
	w.Fail(memory.OpRemove, errors.New("killed"), 1)
	r, err := w.dead.Redrive(t.Context(), q, deadletter.RedriveOptions{})
	check.True(t, err != nil && strings.Contains(err.Error(), "not removed"), err)
	check.Equal(t, r.Failed, 1)
	check.True(t, r.Outcomes[0].Published, "published")
	check.Equal(t, w.list(q), []string{"m1"}, "still there")
	_, err = w.dead.Redrive(t.Context(), q, deadletter.RedriveOptions{})
	check.NoError(t, err)
	check.Equal(t, len(w.received()), 1, "copies")
	check.Equal(t, w.list(deadletter.Query{}), []string{}, "what is left")
}

func TestRedriveWithALostAnswerSendsOneCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(letter{id: "m1", err: "flaky"})
	w.LoseAnswer(memory.OpRedrive, errors.New("link lost"), 2)
	_, err := w.dead.Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{})
	check.NoError(t, err)
	check.Equal(t, len(w.received()), 1, "copies")
}

func TestOneFailingLetterDoesNotStopTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(letter{id: "m1", err: "flaky"})
	w.bury(letter{id: "m2", err: "flaky"})
	down := &transport.Error{Op: "redrive", Kind: transport.Permanent, Err: transport.ErrTooLarge}
	w.Fail(memory.OpRedrive, down, 1)
	r, err := w.dead.Redrive(t.Context(), deadletter.Query{Subscription: "billing"}, deadletter.RedriveOptions{})
	check.ErrorIs(t, err, transport.ErrTooLarge)
	check.Equal(t, [3]int{r.Matched, r.Done, r.Failed}, [3]int{2, 1, 1})
	check.ErrorIs(t, r.Outcomes[0].Err, transport.ErrTooLarge)
	check.Equal(t, w.list(deadletter.Query{}), []string{"m1"}, "what is left")
	check.ErrorIs(t, w.events[0].Err, transport.ErrTooLarge, "audit")
}

func TestARedrivenMessageThatFailsAgainIsAnotherLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.bury(letter{id: "m1", err: "flaky"})
	for cycle := range 3 {
		r, err := w.dead.Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{})
		check.NoError(t, err)
		check.Equal(t, r.Done, 1, "cycle", cycle)
		got := w.received()
		check.Equal(t, len(got), 1, "cycle", cycle)
		e := wire.Complete(got[0], wire.Envelope{Subscription: "billing", ErrorText: "flaky"})
		check.True(t, e.DeadID != id, "a dead ID of its own")
		check.NoError(t, w.DeadLetters().Bury(t.Context(), e.DeadKey(), wire.BuryMessage(got[0], e)))
		id = e.DeadID
	}
	l, err := w.dead.Get(t.Context(), id)
	check.NoError(t, err)
	check.Equal(t, l.Redrives, 3)
	check.Equal(t, l.Position, "P/m1", "the first place")
	check.True(t, l.Time.Equal(day), "the first time", l.Time)
	check.Equal(t, string(l.Body), `{"id":"m1"}`)
}

func TestADryRunChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(letter{id: "m1", err: "flaky"})
	r, err := w.dead.Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{DryRun: true})
	check.NoError(t, err)
	check.Equal(t, r.Outcomes[0].State, deadletter.Planned)
	_, err = w.dead.Discard(t.Context(), deadletter.Query{All: true}, deadletter.DiscardOptions{Reason: "test", DryRun: true})
	check.NoError(t, err)
	check.Equal(t, w.list(deadletter.Query{}), []string{"m1"})
	check.Equal(t, w.Len("billing"), 0)
	check.Equal(t, len(w.events), 0, "audit")
}

func TestAChangeOfEverythingMustBeAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bury(letter{id: "m1", err: "flaky"})
	_, err := w.dead.Redrive(t.Context(), deadletter.Query{Limit: 5}, deadletter.RedriveOptions{})
	check.ErrorIs(t, err, transport.ErrInvalid)
	_, err = w.dead.Discard(t.Context(), deadletter.Query{}, deadletter.DiscardOptions{Reason: "cleaning"})
	check.ErrorIs(t, err, transport.ErrInvalid)
	_, err = w.dead.Discard(t.Context(), deadletter.Query{All: true}, deadletter.DiscardOptions{Reason: " "})
	check.ErrorIs(t, err, transport.ErrInvalid)
	check.Equal(t, w.list(deadletter.Query{}), []string{"m1"})
}

func TestDiscardIsLoggedWithItsReasonAndWithoutBodies(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := newWorld(t, deadletter.WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	w.bury(letter{id: "m1", err: "flaky"})
	keep := w.bury(letter{id: "m2", err: "other"})
	r, err := w.dead.Discard(t.Context(), deadletter.Query{Before: day.Add(time.Hour), Limit: 1}, deadletter.DiscardOptions{Reason: "test data"})
	check.NoError(t, err)
	check.Equal(t, r.Outcomes[0].State, deadletter.Discarded)
	check.Equal(t, w.events[0].Reason, "test data")
	check.Equal(t, w.Len("billing"), 0)
	line := out.String()
	for _, want := range []string{"op=discard", "done=1", `reason="test data"`} {
		check.True(t, strings.Contains(line, want), line)
	}
	check.True(t, strings.Count(line, "\n") == 1 && !strings.Contains(line, `"id"`), line)
	_, err = w.dead.Get(t.Context(), keep)
	check.NoError(t, err)
}

func TestWhatIsGoneAlreadyIsReportedAndTheRestIsDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.bury(letter{id: "m1", err: "flaky"})
	r, err := w.dead.Redrive(t.Context(), deadletter.Query{IDs: []string{"nosuchletter", id}}, deadletter.RedriveOptions{})
	check.ErrorIs(t, err, transport.ErrNotFound)
	check.Equal(t, r.Done, 1)

	s := &shelf{}
	s.put("billing/f/a", &transport.Message{ID: "a"})
	s.put("billing/f/b", &transport.Message{ID: "b"})
	s.redrive = func(int) error {
		s.stored = s.stored[:1] // somebody discards b meanwhile
		return nil
	}
	r, err = deadletter.Open(s).Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{})
	check.NoError(t, err)
	check.Equal(t, [2]int{r.Done, r.Gone}, [2]int{1, 1})
}

func TestALetterStoredTwiceIsListedOnceAndRemovedTogether(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	s.put("billing/f1/a", &transport.Message{ID: "m", Header: transport.Header{wire.DeadError: {"first"}}})
	s.put("billing/f2/a", &transport.Message{ID: "m", Header: transport.Header{wire.DeadError: {"second"}}})
	s.put("shipping/f1/a", &transport.Message{ID: "m"})
	dead := deadletter.Open(s)
	letters, err := dead.ListAll(t.Context(), deadletter.Query{})
	check.NoError(t, err)
	check.Equal(t, len(letters), 2)
	check.Equal(t, letters[0].Error, "first")
	r, err := dead.Redrive(t.Context(), deadletter.Query{Subscription: "billing", IDs: []string{"a"}}, deadletter.RedriveOptions{})
	check.NoError(t, err)
	check.Equal(t, r.Done, 1)
	check.Equal(t, len(s.redriven), 1, "copies")
	check.Equal(t, len(s.stored), 1, "what is left")
	check.Equal(t, s.stored[0].Key.Subscription, "shipping")
}

func TestForeignLettersAreListedWithWhatIsKnown(t *testing.T) {
	t.Parallel()
	s := &shelf{}
	s.put("billing/f/a", &transport.Message{ID: "m", Subject: "some.subject", Body: []byte("x"), Time: day})
	s.put("//", nil)
	s.put("billing/f/c", &transport.Message{Header: transport.Header{
		wire.DeadVersion: {"-1"}, wire.DeadAttempts: {"many"}, wire.DeadError: {"%zz\xff"}, wire.DeadSubscription: {"forged"},
	}})
	dead := deadletter.Open(s)
	letters, err := dead.ListAll(t.Context(), deadletter.Query{})
	check.NoError(t, err)
	check.Equal(t, len(letters), 3)
	for _, l := range letters {
		check.True(t, l.Foreign && !l.Intact(), l.ID)
	}
	check.Equal(t, letters[0].Subject, "some.subject")
	check.Equal(t, letters[0].When(), day)
	check.Equal(t, letters[2].Subscription, "billing", "where it is filed wins")
	_, err = dead.Groups(t.Context(), deadletter.Query{})
	check.NoError(t, err)

	r, err := dead.Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{})
	check.ErrorIs(t, err, transport.ErrInvalid, "nobody knows whose the second is")
	check.Equal(t, [2]int{r.Done, r.Failed}, [2]int{2, 1})
	check.Equal(t, string(s.redriven[0].Body), "x")
	check.True(t, s.redriven[0].DedupID != s.redriven[1].DedupID, "keys of their own")
	r, err = dead.Discard(t.Context(), deadletter.Query{All: true}, deadletter.DiscardOptions{Reason: "junk"})
	check.NoError(t, err)
	check.Equal(t, r.Done, 1)
	check.Equal(t, len(s.stored), 0)
}

func TestAnEndedContextLeavesTheRestAlone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &shelf{redrive: func(int) error { cancel(); return nil }}
	for _, id := range []string{"a", "b", "c"} {
		s.put("billing/f/"+id, &transport.Message{ID: id})
	}
	r, err := deadletter.Open(s).Redrive(ctx, deadletter.Query{All: true}, deadletter.RedriveOptions{})
	check.ErrorIs(t, err, context.Canceled)
	check.Equal(t, [3]int{r.Matched, r.Done, r.Skipped}, [3]int{3, 1, 2})
	check.Equal(t, len(s.stored), 2, "the first is removed all the same")
}

func TestAStoreThatCannotBeReadSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	down := errors.New("link lost")
	w.Fail(memory.OpLetters, down, 3)
	_, err := w.dead.ListAll(t.Context(), deadletter.Query{})
	check.ErrorIs(t, err, down)
	_, err = w.dead.Get(t.Context(), "abc")
	check.ErrorIs(t, err, down)
	_, err = w.dead.Redrive(t.Context(), deadletter.Query{All: true}, deadletter.RedriveOptions{})
	check.ErrorIs(t, err, down)
}
