package holdfast_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

func TestASpoolTakesMessagesWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(t.TempDir()))
		check.NoError(t, p.Err())
		r.Disconnect(nil)
		var want []string
		for i := range 500 {
			check.NoError(t, p.Publish(t.Context(), fmt.Sprint(i)))
			want = append(want, fmt.Sprint(i))
		}
		check.Equal(t, p.Stats().Spool.Pending, int64(500))
		check.Equal(t, len(r.bodies()), 0)
		r.Reconnect()
		check.NoError(t, p.Flush(t.Context()))
		check.Equal(t, r.bodies(), want)
		check.Equal(t, r.Len("orders"), 500)
		closed(t, p)
	})
}

func closed(t *testing.T, p *holdfast.Publisher[string]) {
	t.Helper()
	left, err := p.Close(t.Context())
	check.NoError(t, err)
	check.Equal(t, len(left), 0)
}

func TestWhatIsLeftInASpoolIsSentByTheNextPublisher(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		dir := t.TempDir()
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		r.Disconnect(nil)
		for i := range 10 {
			check.NoError(t, p.Publish(t.Context(), fmt.Sprint(i), holdfast.ID(fmt.Sprint(i)), holdfast.Key("k"), holdfast.SetHeader("X-A", "1")))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		left, err := p.Close(ctx)
		check.NoError(t, err)
		check.Equal(t, len(left), 0, "they are on disk")
		r.Reconnect()

		p = holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		check.NoError(t, p.Err())
		check.Equal(t, p.Recovered().Pending, int64(10))
		check.NoError(t, p.Publish(t.Context(), "new"))
		check.NoError(t, p.Flush(t.Context()))
		check.Equal(t, r.bodies(), []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "new"})
		first, last := r.sent[0], r.sent[len(r.sent)-1]
		check.Equal(t, []any{first.ID, first.Key, first.Header.Get("X-A"), first.Resent}, []any{"0", "k", "1", true})
		check.True(t, !last.Resent, "a new message is no possible duplicate")
		closed(t, p)
	})
}

func TestAMessageTheBrokerRefusesIsSetAsideAndHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(t.TempDir()))
		check.NoError(t, p.Publish(t.Context(), "a"))
		check.NoError(t, p.Publish(t.Context(), "b", holdfast.To(transport.Address{Name: "nobody.takes.it"})))
		check.NoError(t, p.Publish(t.Context(), "c"))
		check.NoError(t, p.Flush(t.Context()))
		check.Equal(t, r.Len("orders"), 2)
		st := p.Stats().Spool
		check.Equal(t, []any{st.Pending, st.SetAside, st.Err}, []any{int64(0), 1, nil})
		closed(t, p)
	})
}

func TestAFullQueueIsWaitedForBehindASpool(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		full := &transport.Error{Op: "publish", Kind: transport.Temporary, Err: transport.ErrFull}
		check.Equal(t, holdfast.OutcomeOf(full), holdfast.Refused)
		direct := holdfast.NewPublisher[string](r, placed)
		r.Fail("publish", full, 1)
		check.ErrorIs(t, direct.Publish(t.Context(), "a"), transport.ErrFull)
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(t.TempDir()))
		r.Fail("publish", full, 20)
		check.NoError(t, p.Publish(t.Context(), "b"))
		check.NoError(t, p.Flush(t.Context()))
		check.Equal(t, r.Len("orders"), 1)
		check.Equal(t, p.Stats().Spool.SetAside, 0)
		closed(t, p)
	})
}

func TestASpoolThatIsFullSaysSo(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(t.TempDir()), holdfast.SpoolLimit(64<<10))
		r.Disconnect(nil)
		body := strings.Repeat("x", 8<<10)
		accepted := 0
		var err error
		for err == nil {
			if err = p.Publish(t.Context(), body); err == nil {
				accepted++
			}
		}
		check.ErrorIs(t, err, transport.ErrFull)
		check.Equal(t, holdfast.OutcomeOf(err), holdfast.Refused)
		check.True(t, accepted > 2 && accepted < 9, accepted)
		check.ErrorIs(t, p.Publish(t.Context(), strings.Repeat("x", 128<<10)), holdfast.ErrTooLarge)
		r.Reconnect()
		check.NoError(t, p.Flush(t.Context()))
		check.Equal(t, r.Len("orders"), accepted)
		check.NoError(t, p.Publish(t.Context(), body))
		closed(t, p)
	})
}

func TestASpoolBelongsToOnePublisher(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		dir := t.TempDir()
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		second := holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		check.True(t, second.Err() != nil, "the second one is refused")
		check.ErrorIs(t, second.Publish(t.Context(), "a"), second.Err())
		_, err := second.PublishAsync(t.Context(), "a")
		check.ErrorIs(t, err, second.Err())
		check.ErrorIs(t, second.Flush(t.Context()), second.Err())
		closed(t, second)
		closed(t, p)
		check.True(t, holdfast.NewPublisher[string](r, placed, holdfast.Spool("")).Err() != nil, "a spool needs a directory")
	})
}

func TestABatchIsSpooledAtOnce(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(t.TempDir()))
		results, err := p.PublishBatch(t.Context(), []holdfast.Outgoing[string]{
			{Body: "a"}, {Body: "b", Options: []holdfast.PublishOption{holdfast.SetHeader("Nats-X", "1")}}, {Body: "c"},
		})
		check.ErrorIs(t, err, holdfast.ErrInvalid)
		check.Equal(t, []any{results[0].Err, results[2].Err}, []any{nil, nil})
		check.NoError(t, p.Flush(t.Context()))
		check.Equal(t, r.bodies(), []string{"a", "c"})
		f, err := p.PublishAsync(t.Context(), "d")
		check.NoError(t, err)
		check.NoError(t, f.Err(), "the outcome is there: it is on disk")
		closed(t, p)
	})
}

func TestAClosedTransportLeavesTheSpoolAsItIs(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		dir := t.TempDir()
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		release := r.Alarm(errors.New("memory is low"))
		for i := range 5 {
			check.NoError(t, p.Publish(t.Context(), fmt.Sprint(i)))
		}
		check.NoError(t, r.Close(t.Context()))
		release()
		check.True(t, p.Flush(t.Context()) != nil, "nothing is sent any more")
		check.Equal(t, p.Stats().Spool.SetAside, 0)
		closed(t, p)
		p = holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		check.Equal(t, p.Recovered().Pending, int64(5))
		closed(t, p)
	})
}

func TestWhatCannotBeSetAsideIsTriedAgain(t *testing.T) {
	t.Parallel()
	market(t, func(t *testing.T, r *recorder) {
		dir := t.TempDir()
		p := holdfast.NewPublisher[string](r, placed, holdfast.Spool(dir))
		check.NoError(t, p.Publish(t.Context(), "a"))
		aside := filepath.Join(dir, "aside")
		check.NoError(t, os.Rename(aside, aside+".away"))
		check.NoError(t, os.WriteFile(aside, nil, 0o600)) // the disk takes nothing there
		for range 3 {
			check.NoError(t, p.Publish(t.Context(), "b", holdfast.To(transport.Address{Name: "nobody.takes.it"})))
		}
		check.NoError(t, p.Publish(t.Context(), "c"))
		time.Sleep(10 * time.Second) // virtual
		st := p.Stats().Spool
		check.True(t, st.Pending == 3 && st.SetAside == 0 && st.Err != nil, st)
		check.Equal(t, r.Len("orders"), 2, "the others are not held up")
		check.NoError(t, os.Remove(aside))
		check.NoError(t, os.Rename(aside+".away", aside))
		check.NoError(t, p.Flush(t.Context()))
		time.Sleep(10 * time.Second) // virtual
		st = p.Stats().Spool
		check.Equal(t, []any{st.Pending, st.SetAside, st.Err}, []any{int64(0), 3, nil})
		closed(t, p)
	})
}
