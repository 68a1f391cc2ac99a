package jetstream

import (
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/internal/check"
)

func TestAckSubjectsOfBothFormsAreRead(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		"$JS.ACK.ORDERS.billing.3.17.21.1700000000123456789.4",
		"$JS.ACK._.ACCHASH.ORDERS.billing.3.17.21.1700000000123456789.4",
		"$JS.ACK.hub.ACCHASH.ORDERS.billing.3.17.21.1700000000123456789.4.token",
	} {
		a, err := parseAck(subject)
		check.NoError(t, err, subject)
		check.Equal(t, a.stream, "ORDERS", subject)
		check.Equal(t, a.consumer, "billing", subject)
		check.Equal(t, a.deliveries, 3, subject)
		check.Equal(t, a.streamSeq, 17, subject)
		check.Equal(t, a.consumerSeq, 21, subject)
		check.Equal(t, a.time().UnixNano(), 1700000000123456789, subject)
		check.Equal(t, a.position(), "ORDERS:17:1700000000123456789", subject)
	}
}

func TestAckSubjectsOfAnotherFormAreNoGuesswork(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		"", "$JS.ACK.", "orders.placed", "$JS.ACK.ORDERS.billing.3.17.21.1700",
		"$JS.ACK.acc.ORDERS.billing.3.17.21.1700.4", "$JS.ACK.ORDERS.billing.x.17.21.1700.4",
		"$JS.ACK.ORDERS.billing..17.21.1700.4", "$JS.ACK.ORDERS.billing.3.-7.21.1700.4",
	} {
		if a, err := parseAck(subject); err == nil {
			t.Errorf("%q was read as %+v", subject, a)
		}
	}
}

func TestPositionsStayWhatTheyWere(t *testing.T) {
	t.Parallel()
	var want, got []string
	for i := range 200 {
		a := ackInfo{stream: strings.Repeat("S", i%90*5), seqText: strconv.Itoa(i), storedText: "1700000000123456789"}
		want = append(want, a.stream+":"+a.seqText+":"+a.storedText)
		got = append(got, a.position())
	}
	check.Equal(t, got, want)
}

func BenchmarkPosition(b *testing.B) {
	b.ReportAllocs()
	a := ackInfo{stream: "BENCH5", seqText: "123456", storedText: "1795307992123456789"}
	for b.Loop() {
		if len(a.position()) != 33 {
			b.Fatal(a.position())
		}
	}
}

func BenchmarkParseAck(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		a, err := parseAck("$JS.ACK.BENCH5.bench.1.123456.123456.1795307992123456789.76543")
		if err != nil || a.streamSeq != 123456 {
			b.Fatal(a, err)
		}
	}
}
