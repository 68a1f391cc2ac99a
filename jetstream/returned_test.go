package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

func TestReturnsAreTakenOffTheServersCount(t *testing.T) {
	t.Parallel()
	var r returns
	check.Equal(t, r.less(7, 0), uint32(1), "a count that cannot be read")
	check.Equal(t, r.less(7, 3), uint32(3))
	r.learn(map[string]string{returnedKey: "7:2 9:1"}, 0)
	check.Equal(t, r.less(7, 3), uint32(1))
	check.Equal(t, r.less(7, 2), uint32(1), "never below one")
	check.Equal(t, r.less(8, 3), uint32(3))
	r.learn(map[string]string{returnedKey: "7:1"}, 0)
	check.Equal(t, r.less(7, 4), uint32(2), "what is known is not forgotten for a record that lost it")
	r.learn(nil, 7)
	check.Equal(t, r.less(7, 4), uint32(4), "below the ack floor nothing is kept")
	check.Equal(t, r.less(9, 2), uint32(1))
	r.forget()
	check.Equal(t, r.less(9, 2), uint32(2), "of a consumer that is gone")
}

func TestARecordIsReadAndWrittenWithinItsBounds(t *testing.T) {
	t.Parallel()
	check.Equal(t, formatReturned(parseReturned(" 3:1  nonsense 12:x 4:0 :5 9:2 18446744073709551615:4294967295 5:99999999999"), 0), "3:1 9:2 18446744073709551615:4294967295")
	check.Equal(t, formatReturned(map[uint64]uint32{5: 1, 3: 2, 9: 1}, 3), "5:1 9:1")
	many := map[uint64]uint32{}
	for seq := range uint64(3 * maxReturned) {
		many[seq] = 1
	}
	entries := strings.Fields(formatReturned(many, 0))
	check.Equal(t, len(entries), maxReturned)
	check.Equal(t, entries[0], fmt.Sprintf("%d:1", 2*maxReturned), "the lowest go first")
}

func TestAWriteAddsToWhatOthersWrote(t *testing.T) {
	t.Parallel()
	var r returns
	r.join([]uint64{5, 6})
	got := r.raised(map[uint64]uint32{5: 2, 8: 1}, []uint64{5, 6})
	check.Equal(t, formatReturned(got, 0), "5:3 6:1 8:1")
	check.Equal(t, r.less(5, 4), uint32(1), "and is known here")
}

func TestARecordThatFailedIsLeftAloneForAWhile(t *testing.T) {
	t.Parallel()
	var r returns
	r.failed(nil)
	check.True(t, !r.isOff())
	r.failed(context.DeadlineExceeded)
	check.True(t, r.isOff())
	r.paused = r.paused.Add(-returnedPause)
	check.True(t, !r.isOff())
	r.failed(errors.Join(transport.ErrPermission))
	r.paused = r.paused.Add(-returnedPause)
	check.True(t, r.isOff(), "for good when it is denied")
}
