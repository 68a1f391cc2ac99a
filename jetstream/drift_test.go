package jetstream

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/check"
	"github.com/holdfast-go/holdfast/transport"
)

// filled returns a value of type typ that is not its zero value.
func filled(typ reflect.Type) reflect.Value {
	v := reflect.New(typ).Elem()
	switch typ.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(typ.Elem()))
		v.Elem().Set(filled(typ.Elem()))
	case reflect.Struct:
		if typ == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return v
		}
		for i := range typ.NumField() {
			v.Field(i).Set(filled(typ.Field(i).Type))
		}
	case reflect.Slice:
		v.Set(reflect.Append(v, filled(typ.Elem())))
	case reflect.Map:
		v.Set(reflect.MakeMap(typ))
		v.SetMapIndex(filled(typ.Key()), filled(typ.Elem()))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.Set(reflect.ValueOf(7).Convert(typ))
	}
	return v
}

// with returns the zero value of T with one field set.
func with[T any](field string) T {
	var cfg T
	f := reflect.ValueOf(&cfg).Elem().FieldByName(field)
	f.Set(filled(f.Type()))
	return cfg
}

func fields[T any]() []string {
	var names []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		names = append(names, f.Name)
	}
	return names
}

// A field that a later version of the client library adds is not forgotten: it
// is compared, or left out here with the reason.
func TestDriftForgetsNoFieldOfAStream(t *testing.T) {
	t.Parallel()
	apart := []string{
		"Name",     // it is looked up by it
		"Template", // of a server of long ago
	}
	for _, name := range fields[natsjs.StreamConfig]() {
		diff := diffStream(with[natsjs.StreamConfig](name), natsjs.StreamConfig{})
		check.Equal(t, len(diff) > 0, !slices.Contains(apart, name), name, diff)
	}
	// What the server adds or fills in is no difference, all else is.
	added := append(apart, "Description", "Duplicates", "FirstSeq", "Placement", "MirrorDirect", "Metadata")
	for _, name := range fields[natsjs.StreamConfig]() {
		diff := diffStream(natsjs.StreamConfig{}, with[natsjs.StreamConfig](name))
		check.Equal(t, len(diff) > 0, !slices.Contains(added, name), name, diff)
	}
}

func TestDriftForgetsNoFieldOfAConsumer(t *testing.T) {
	t.Parallel()
	apart := []string{
		"Name", "Durable", // it is looked up by them
		"DeliverPolicy", "OptStartSeq", "OptStartTime", // applied once, when it is made
		"PauseUntil", // the same: somebody may have resumed it
	}
	for _, name := range fields[natsjs.ConsumerConfig]() {
		diff := diffConsumer(with[natsjs.ConsumerConfig](name), natsjs.ConsumerConfig{})
		check.Equal(t, len(diff) > 0, !slices.Contains(apart, name), name, diff)
	}
}

// Each setting of the client library's consumer is in reach: it goes through
// Consumer, or is refused there with a code, and said elsewhere.
func TestEverySettingOfAConsumerIsInReach(t *testing.T) {
	t.Parallel()
	for _, name := range fields[natsjs.ConsumerConfig]() {
		cfg := with[natsjs.ConsumerConfig](name)
		refused := owned(cfg)
		if len(refused) > 0 {
			check.Equal(t, refused[0].code != "" && refused[0].fix != "", true, name)
			continue
		}
		src := (&Transport{}).Consumer(ConsumerConfig{Stream: "S", Consumer: &cfg}).(*source)
		got := reflect.ValueOf(src.consumerConfig("c")).FieldByName(name).Interface()
		check.Equal(t, reflect.DeepEqual(got, reflect.ValueOf(cfg).FieldByName(name).Interface()), true, name, got)
	}
}

// An update takes nothing away that nothing was asked about.
func TestAnUpdateKeepsWhatIsNotAskedFor(t *testing.T) {
	t.Parallel()
	have := natsjs.StreamConfig{
		Name: "S", Subjects: []string{"a"}, Description: "d", Duplicates: time.Hour, FirstSeq: 9,
		Placement: &natsjs.Placement{Cluster: "c"}, Metadata: map[string]string{"a": "1", "b": "2"},
	}
	next := kept(natsjs.StreamConfig{Name: "S", Metadata: map[string]string{"b": "3"}}, have)
	check.Equal(t, len(diffStream(next, have)), 2) // subjects and metadata b
	check.Equal(t, next.Metadata["a"]+next.Metadata["b"], "13")
	was := natsjs.ConsumerConfig{Name: "c", MaxWaiting: 9, MaxRequestBatch: 3, PriorityPolicy: natsjs.PriorityPolicyPinned, PriorityGroups: []string{"g"}, SampleFrequency: "5%"}
	check.Equal(t, reflect.DeepEqual(updatedConsumer(natsjs.ConsumerConfig{Name: "c"}, was), was), true)
}

func TestADomainIsWrittenAsTheServerKnowsIt(t *testing.T) {
	t.Parallel()
	want := natsjs.StreamConfig{Mirror: &natsjs.StreamSource{Name: "M", Domain: "hub"}, Sources: []*natsjs.StreamSource{{Name: "A", Domain: "leaf"}}}
	have := natsjs.StreamConfig{
		Mirror:  &natsjs.StreamSource{Name: "M", External: &natsjs.ExternalStream{APIPrefix: "$JS.hub.API"}},
		Sources: []*natsjs.StreamSource{{Name: "A", External: &natsjs.ExternalStream{APIPrefix: "$JS.leaf.API"}}},
	}
	check.Equal(t, len(diffStream(want, have)), 0)
	check.Equal(t, onWire(external(want)), onWire(have))
	check.Equal(t, want.Mirror.Domain, "hub") // the caller's is his own
}

func TestWhatAnOldServerDropsIsKnown(t *testing.T) {
	t.Parallel()
	for version, field := range map[string]string{"2.9.25": "Compression", "2.10.27": "AllowMsgTTL", "2.11.9": "AllowMsgSchedules", "2.12.4": "AllowBatchPublish"} {
		facts := tooOld("stream S", version, streamNeeds(with[natsjs.StreamConfig](field)))
		check.Equal(t, len(facts), 1, version, field)
		check.Equal(t, len(tooOld("stream S", "2.15.2", streamNeeds(with[natsjs.StreamConfig](field)))), 0, field)
		check.Equal(t, strings.Contains(strings.Join(facts, ""), version), true, field)
	}
	prioritized := natsjs.ConsumerConfig{PriorityPolicy: natsjs.PriorityPolicyPrioritized}
	check.Equal(t, len(tooOld("consumer c", "2.11.0", consumerNeeds(prioritized))), 1)
	check.Equal(t, len(tooOld("consumer c", "2.10.0", consumerNeeds(prioritized))), 2)
	paused := natsjs.ConsumerConfig{PauseUntil: &time.Time{}}
	check.Equal(t, len(tooOld("consumer c", "2.10.0", consumerNeeds(paused))), 1)
}

func TestHeadersOnlyAndDeadLettersAreRefused(t *testing.T) {
	t.Parallel()
	src := (&Transport{}).Consumer(ConsumerConfig{Stream: "S", Consumer: &natsjs.ConsumerConfig{HeadersOnly: true}}).(*source)
	refused := src.refusals(transport.Want{DeadLetter: true})
	check.Equal(t, len(refused), 1)
	check.Equal(t, refused[0].code, transport.CodeHeadersOnly)
	check.Equal(t, len(src.refusals(transport.Want{})), 0)
}

// What a stream says of other subjects and streams cannot be moved with it.
func TestAPrefixThatWouldBreakAStreamIsRefused(t *testing.T) {
	t.Parallel()
	for _, sc := range []natsjs.StreamConfig{
		{Mirror: &natsjs.StreamSource{Name: "A"}},
		{Sources: []*natsjs.StreamSource{{Name: "A"}}},
		{SubjectTransform: &natsjs.SubjectTransformConfig{Source: "a", Destination: "b"}},
		{RePublish: &natsjs.RePublish{Destination: "b.>"}},
	} {
		src := (&Transport{}).Consumer(ConsumerConfig{Stream: "S", StreamConfig: &sc}).(*source)
		check.Equal(t, len(src.faults()), 0)
		check.Equal(t, len(src.WithPrefix("eu.").(*source).faults()), 1)
	}
}
