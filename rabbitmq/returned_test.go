package rabbitmq

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// TestWhatIsMovedAndWhatKeepsItsPlace: order, a time to live, a limit that bounds
// retries and a low limit are never traded for a count.
func TestWhatIsMovedAndWhatKeepsItsPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg        QueueConfig
		want       transport.Want
		raw        amqp.Delivery
		handed     int
		moves, now bool
	}{
		"a first delivery":             {handed: 1, moves: true},
		"half the limit":               {handed: 50, moves: true},
		"more than half of it":         {handed: 51, moves: true, now: true},
		"an adopted queue":             {cfg: QueueConfig{Declare: DeclareAdopt}, handed: 11, moves: true, now: true},
		"an adopted queue, half of it": {cfg: QueueConfig{Declare: DeclareAdopt}, handed: 10, moves: true},
		"a low limit":                  {cfg: QueueConfig{DeliveryLimit: 19}, handed: 19, moves: true},
		"a limit in the arguments":     {cfg: QueueConfig{Arguments: amqp.Table{argLimit: int32(30)}}, handed: 16, moves: true, now: true},
		"a classic queue":              {cfg: QueueConfig{Type: Classic}, handed: 99, moves: true},
		"ordered":                      {want: transport.Want{Ordered: true}, handed: 99},
		"a single active consumer":     {cfg: QueueConfig{SingleActiveConsumer: true}, handed: 99},
		"an exclusive one":             {cfg: QueueConfig{Type: Classic, Exclusive: true}, handed: 99},
		"a queue's time to live":       {cfg: QueueConfig{Arguments: amqp.Table{argTTL: 1}}, handed: 99},
		"a message's":                  {raw: amqp.Delivery{Expiration: "60000"}, handed: 99},
		"a first try by the broker":    {want: transport.Want{BrokerRetries: 30}, handed: 1, moves: true},
		"a retry by the broker":        {want: transport.Want{BrokerRetries: 30}, handed: 29},
	} {
		src, _ := (&Transport{}).Queue(c.cfg).(*source)
		r := &receiver{src: src, want: c.want}
		r.movable = src.movable(c.want)
		d := &delivery{raw: c.raw, handed: c.handed, deliveries: c.handed}
		if r.moves(d) != c.moves || r.wears(d) != c.now {
			t.Errorf("%s: it moves: %v, at once: %v", name, r.moves(d), r.wears(d))
		}
		if _, ok := r.handOut(d).(transport.Returner); ok != c.moves {
			t.Errorf("%s: it is a Returner: %v", name, ok)
		}
	}
}
