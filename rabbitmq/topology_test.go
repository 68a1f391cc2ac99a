package rabbitmq

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

func names(rungs []rung) string {
	var out []string
	for _, r := range rungs {
		out = append(out, r.name)
	}
	return strings.Join(out, " ")
}

func TestTheLadderHasARungForEachDelay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		want transport.Want
		rung string
	}{
		{"nothing is retried", transport.Want{}, ""},
		{"without jitter", transport.Want{Delay: true, Delays: []time.Duration{time.Second, time.Minute}, MaxDelay: time.Minute}, "q.retry.1000 q.retry.60000"},
		{"with a fifth of jitter", transport.Want{Delay: true, Delays: []time.Duration{time.Second, 10 * time.Second}, MaxDelay: 12 * time.Second}, "q.retry.1200 q.retry.12000"},
		{"no delays of a policy", transport.Want{Delay: true, MaxDelay: time.Minute}, "q.retry.1000 q.retry.10000 q.retry.60000"},
		{"dead letters alone need a place to wait for their store", transport.Want{DeadLetter: true}, "q.retry.1000"},
		{"equal delays", transport.Want{Delay: true, Delays: []time.Duration{time.Second, time.Second}, MaxDelay: time.Second}, "q.retry.1000"},
		{"a part of a millisecond", transport.Want{Delay: true, Delays: []time.Duration{1500 * time.Microsecond}, MaxDelay: 1500 * time.Microsecond}, "q.retry.2"},
		{"very long", transport.Want{Delay: true, Delays: []time.Duration{100 * 24 * time.Hour}, MaxDelay: 100 * 24 * time.Hour}, "q.retry.86400000"},
	} {
		if got := names(ladder("q", c.want)); got != c.rung {
			t.Errorf("%s: %q, want %q", c.name, got, c.rung)
		}
	}
}

func TestADelayTakesTheFirstRungThatIsLongEnough(t *testing.T) {
	t.Parallel()
	rungs := []rung{{"a", time.Second}, {"b", time.Minute}}
	for _, c := range []struct {
		delay, stay time.Duration
		rung        string
	}{
		{time.Nanosecond, time.Millisecond, "a"},
		{time.Second, time.Second, "a"},
		{time.Second + 1, time.Second + 1, "b"},
		{time.Minute, time.Minute, "b"},
		{time.Hour, time.Minute, "b"}, // and again, until it is due
	} {
		if r, stay := step(rungs, c.delay); r.name != c.rung || stay != c.stay {
			t.Errorf("%v: rung %s for %v, want %s for %v", c.delay, r.name, stay, c.rung, c.stay)
		}
	}
}

func TestQueuesAreDeclaredForTheServerVersion(t *testing.T) {
	t.Parallel()
	src := func(cfg QueueConfig) *source { return (&Transport{}).Queue(cfg).(*source) }
	s := src(QueueConfig{Name: "q", Arguments: amqp.Table{"x-quorum-initial-group-size": int32(3)}})
	for _, v := range []version{{3, 10}, {3, 13}, {4, 0}, {4, 2}, {4, 3}} {
		work := s.workQueue(v).args
		if work[argType] != "quorum" || work[argLimit] != int64(100) || work[argDLX] != "" || work[argDLKey] != "q.dead" ||
			work[argStrategy] != "at-least-once" || work[argOverflow] != "reject-publish" || work["x-quorum-initial-group-size"] != int32(3) {
			t.Errorf("%v: the work queue has %v", v, work)
		}
		dead := deadQueue("q", v)
		if limit, has := dead.args[argLimit]; has != v.atLeast(4, 0) || has && limit != int64(-1) {
			t.Errorf("%v: the dead-letter queue has the limit %v", v, limit)
		}
		retry := s.retryQueue(rung{"q.retry.5", 5 * time.Millisecond}, v).args
		if retry[argTTL] != int64(5) || retry[argDLX] != "" || retry[argDLKey] != "q" || retry[argStrategy] != "at-least-once" {
			t.Errorf("%v: the retry queue has %v", v, retry)
		}
	}
	if args := src(QueueConfig{Name: "s", Type: Stream, Offset: "next"}).workQueue(version{4, 0}).args; len(args) != 1 {
		t.Errorf("a stream is declared with %v", args)
	}
	if args := src(QueueConfig{Name: "c", Type: Classic}).workQueue(version{3, 10}).args; args[argStrategy] != nil || args[argLimit] != nil {
		t.Errorf("a classic queue is declared with %v", args)
	}
}

func TestSettingsThatCanNeverWorkAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  QueueConfig
		want string
	}{
		{QueueConfig{}, "empty"},
		{QueueConfig{Name: "amq.q"}, "belong to the broker"},
		{QueueConfig{Name: strings.Repeat("q", 221)}, "longer"},
		{QueueConfig{Name: "q", Type: "ring"}, "none of"},
		{QueueConfig{Name: "q", Type: Stream}, "Offset"},
		{QueueConfig{Name: "q", Offset: "first"}, "streams only"},
		{QueueConfig{Name: "q", Exclusive: true}, "SingleActiveConsumer"},
		{QueueConfig{Name: "q", DeliveryLimit: -1}, "negative"},
		{QueueConfig{Name: "q", Bindings: []Binding{{Key: "k"}}}, "names no exchange"},
		{QueueConfig{Name: "q", Arguments: amqp.Table{"a": uint(1)}}, "type"},
		{QueueConfig{Name: "q", Exchanges: []ExchangeConfig{{Name: "e"}}}, "Kind"},
	} {
		s := (&Transport{}).Queue(c.cfg).(*source)
		if got := strings.Join(s.faults(), "; "); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q does not name %q", c.cfg, got, c.want)
		}
	}
}

func TestADifferenceIsReadFromWhatTheBrokerSays(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '1000' of type 'long' but current is the value '2000' of type 'signedint'": "x-message-ttl: want 1000, have 2000",
		"PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received none but current is the value 'x' of type 'longstr'":                        "x-dead-letter-exchange: want none, have x",
		"PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received 'topic' but current is 'direct'":                                                           "type: want topic, have direct",
		"PRECONDITION_FAILED - something else": "PRECONDITION_FAILED - something else",
	} {
		line, differs := difference(&amqp.Error{Code: amqp.PreconditionFailed, Reason: reason, Server: true})
		if !differs || line != want {
			t.Errorf("%s: %q", reason, line)
		}
	}
	if _, differs := difference(&amqp.Error{Code: amqp.NotFound, Server: true}); differs {
		t.Error("what is missing is no difference")
	}
}
