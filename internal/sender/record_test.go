package sender

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/transport"
)

func TestARecordHoldsTheWholeMessage(t *testing.T) {
	t.Parallel()
	to := transport.Address{Name: "orders", Key: "eu.placed"}
	m := &transport.Message{
		ID: "1", DedupID: "1/redrive", Key: "customer", ContentType: "application/json", Body: []byte("{}\x00\xff"),
		Header:    transport.Header{"Tenant": {"a", ""}, "Trace": {"x"}},
		NotBefore: time.Unix(1, 2), TTL: time.Minute, Priority: 9,
	}
	gotTo, got, err := Decode(AppendRecord(nil, to, m))
	if err != nil || gotTo != to || !reflect.DeepEqual(got, m) {
		t.Fatalf("decoded %v %+v, %v", gotTo, got, err)
	}
}

func TestARecordThatIsDamagedIsRefused(t *testing.T) {
	t.Parallel()
	whole := AppendRecord(nil, transport.Address{Name: "a"}, &transport.Message{ID: "1", Body: []byte("body"), Header: transport.Header{"H": {"v"}}})
	for n := range whole {
		if _, _, err := Decode(whole[:n]); !errors.Is(err, ErrRecord) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, _, err := Decode(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrRecord) {
		t.Fatalf("with a byte too many: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(AppendRecord(nil, transport.Address{Name: "a", Key: "b"}, &transport.Message{ID: "1", Body: []byte("body"), Header: transport.Header{"H": {"v", "w"}}}))
	f.Add([]byte{recordVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, record []byte) {
		to, m, err := Decode(record)
		if err != nil {
			return
		}
		again, m2, err := Decode(AppendRecord(nil, to, m))
		if err != nil || again != to || !bytes.Equal(m.Body, m2.Body) || m.ID != m2.ID || len(m.Header) != len(m2.Header) {
			t.Fatalf("a record does not survive a second writing: %+v, %+v, %v", m, m2, err)
		}
	})
}
