package integration_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/jetstream"
)

// What is stored of an object may have been written by anybody. Its version
// becomes a part of subjects, and one with a wildcard would stand for the bytes of
// all objects: a put over it, a deletion and a sweep remove nothing else.
func TestObjectStoreIsNotEmptiedByHostileMetadata(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	body := noise(300 << 10)
	putObject(w, s, "precious", body)
	say := func(name, info string) {
		w.Helper()
		subject := "$O.files.M." + base64.URLEncoding.EncodeToString([]byte(name))
		if _, err := w.js.JetStream().Publish(w.ctx, subject, []byte(info)); err != nil {
			t.Fatal(err)
		}
	}
	for _, nuid := range []string{">", "*", "a.b", "a b"} {
		say("evil", `{"name":"evil","bucket":"files","nuid":"`+nuid+`","size":1,"chunks":1}`)
		if _, err := readObject(w, s, "evil"); !errors.Is(err, jetstream.ErrObjectDamaged) {
			t.Errorf("version %q was opened: %v", nuid, err)
		}
		putObject(w, s, "evil", []byte("new"))
		if err := s.Delete(w.ctx, "evil"); err != nil {
			t.Errorf("delete what took its place: %v", err)
		}
	}
	for _, bucket := range []string{"files.M.x", "a b", "*", "a\\r\\nPUB evil 0"} {
		say("link", `{"name":"link","bucket":"files","nuid":"n1","options":{"link":{"bucket":"`+bucket+`","name":"precious"}}}`)
		if _, err := readObject(w, s, "link"); !errors.Is(err, jetstream.ErrObjectDamaged) {
			t.Errorf("a link to the store %q: %v", bucket, err)
		}
	}
	putObject(w, s, "evil", nil)
	if err := s.Delete(w.ctx, "link"); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{">", "*"} {
		if _, err := w.js.JetStream().Publish(w.ctx, "$O.files.C."+version, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	// All that was written becomes older than the age, and a version whose put was
	// cut is there as well.
	if _, err := w.js.JetStream().Publish(w.ctx, "$O.files.C.cut", []byte("x")); err != nil {
		t.Fatal(err)
	}
	removed := 0
	eventually(t, "the sweep removes what a put has left", func() bool {
		n, err := s.Sweep(w.ctx, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		removed += n
		return removed > 0
	})
	if removed != 1 {
		t.Errorf("the sweep removed %d versions", removed)
	}
	if got, err := readObject(w, s, "precious"); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}
