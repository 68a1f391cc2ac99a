package integration_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/jetstream"
	"github.com/holdfast-go/holdfast/transport"
)

func openObjects(w *jsWorld) *jetstream.ObjectStore {
	w.Helper()
	s, err := jetstream.OpenObjectStore(w.ctx, w.js, jetstream.ObjectStoreConfig{Bucket: "files"})
	if err != nil {
		w.Fatalf("open the store: %v", err)
	}
	return s
}

// noise are so many bytes that do not repeat.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(b)
	return b
}

func putObject(w *jsWorld, s *jetstream.ObjectStore, name string, body []byte) *jetstream.ObjectInfo {
	w.Helper()
	info, err := s.Put(w.ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(body))
	if err != nil {
		w.Fatalf("put %s: %v", name, err)
	}
	return info
}

func readObject(w *jsWorld, s *jetstream.ObjectStore, name string) ([]byte, error) {
	w.Helper()
	r, err := s.Get(w.ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // opened for reading
	return io.ReadAll(r)
}

// chunksOf counts what the stream holds of one version, or of all.
func chunksOf(w *jsWorld, nuid string) uint64 {
	w.Helper()
	stream, err := w.js.JetStream().Stream(w.ctx, "OBJ_files")
	if err != nil {
		w.Fatal(err)
	}
	info, err := stream.Info(w.ctx, natsjs.WithSubjectFilter("$O.files.C."+nuid))
	if err != nil {
		w.Fatal(err)
	}
	var n uint64
	for _, c := range info.State.Subjects {
		n += c
	}
	return n
}

func TestObjectsComeBackWhole(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	native, err := s.Native(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 128<<10 - 1, 128 << 10, 128<<10 + 1, 5<<20 + 17} {
		name, body := fmt.Sprintf("dir/file %d.bin", n), noise(n)
		info := putObject(w, s, name, body)
		sum := sha256.Sum256(body)
		if info.Size != uint64(n) || int(info.Chunks) != (n+128<<10-1)/(128<<10) || info.Digest != "SHA-256="+base64.URLEncoding.EncodeToString(sum[:]) {
			t.Errorf("%s: %+v", name, info)
		}
		if got, err := readObject(w, s, name); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		r, err := s.Get(w.ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if got, err := io.Copy(&buf, r); err != nil || got != int64(n) || !bytes.Equal(buf.Bytes(), body) {
			t.Errorf("%s by WriteTo: %d bytes, %v", name, got, err)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
		if got, err := native.GetBytes(w.ctx, name); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: the client library reads %d bytes, %v", name, len(got), err)
		}
		if _, err := native.PutBytes(w.ctx, name, append(body, 'x')); err != nil {
			t.Fatal(err)
		}
		if got, err := readObject(w, s, name); err != nil || !bytes.Equal(got, append(body, 'x')) {
			t.Errorf("%s: written by the client library: %d bytes, %v", name, len(got), err)
		}
	}
	if left := chunksOf(w, "*"); left != 1+1+1+2+2+41 {
		t.Errorf("%d chunks are left of the versions that were replaced", left)
	}
}

func TestObjectMetadataLinksListAndDelete(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	info, err := s.Put(w.ctx, jetstream.ObjectMeta{Name: "a", Description: "one", Metadata: map[string]string{"k": "v"}, Opts: &natsjs.ObjectMetaOptions{ChunkSize: 10}}, strings.NewReader("twenty-five bytes of text"))
	if err != nil || info.Chunks != 3 {
		t.Fatalf("%+v, %v", info, err)
	}
	meta := info.ObjectMeta
	meta.Description = "two"
	if err := s.SetMeta(w.ctx, meta); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Info(w.ctx, "a"); err != nil || got.Description != "two" || got.Metadata["k"] != "v" || got.Size != 25 || got.ModTime.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := s.AddLink(w.ctx, "link", info); err != nil {
		t.Fatal(err)
	}
	other, err := jetstream.OpenObjectStore(w.ctx, w.js, jetstream.ObjectStoreConfig{Bucket: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.AddLink(w.ctx, "far", info), other.AddBucketLink(w.ctx, "store", "files")); err != nil {
		t.Fatal(err)
	}
	if got, err := readObject(w, s, "link"); err != nil || string(got) != "twenty-five bytes of text" {
		t.Errorf("through a link: %q, %v", got, err)
	}
	if got, err := readObject(w, other, "far"); err != nil || string(got) != "twenty-five bytes of text" {
		t.Errorf("through a link from another store: %q, %v", got, err)
	}
	if _, err := other.Get(w.ctx, "store"); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("through a link to a store: %v", err)
	}
	link, err := s.Info(w.ctx, "link")
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a link to a link":  s.AddLink(w.ctx, "x", link),
		"a link to nothing": s.AddLink(w.ctx, "x", nil),
		"a put of a link": func() error {
			_, err := s.Put(w.ctx, link.ObjectMeta, strings.NewReader(""))
			return err
		}(),
	} {
		if !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.AddLink(w.ctx, "a", info); !errors.Is(err, jetstream.ErrObjectExists) {
		t.Errorf("a link in the place of an object: %v", err)
	}
	putObject(w, s, "b", []byte("b"))
	names := func() string {
		var got []string
		for info, err := range s.List(w.ctx) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, info.Name)
		}
		return strings.Join(got, " ")
	}
	if got := names(); got != "a link b" {
		t.Errorf("listed %s", got)
	}
	if err := s.Delete(w.ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "a link" {
		t.Errorf("after a delete: %s", got)
	}
	for _, err := range []error{s.Delete(w.ctx, "b"), s.Delete(w.ctx, "never"), func() error { _, err := s.Get(w.ctx, "b"); return err }(), s.SetMeta(w.ctx, jetstream.ObjectMeta{Name: "b"})} {
		if !errors.Is(err, transport.ErrNotFound) {
			t.Errorf("a deleted object: %v", err)
		}
	}
	if n := chunksOf(w, "*"); n != 3 {
		t.Errorf("%d chunks are left", n)
	}
}

func TestObjectNamesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	for _, name := range []string{"", "\xff\xfe", strings.Repeat("n", 1025), strings.Repeat("n", 1<<20)} {
		_, put := s.Put(w.ctx, jetstream.ObjectMeta{Name: name}, strings.NewReader("x"))
		_, get := s.Get(w.ctx, name)
		for _, err := range []error{put, get, s.Delete(w.ctx, name)} {
			if !errors.Is(err, transport.ErrInvalid) || len(err.Error()) > 400 {
				t.Errorf("the name %.20q: %.400v", name, err)
			}
		}
	}
	for _, name := range []string{" ", "a b", "../x", "a.b.*.>", "ünï/☃", "\x00\r\n", strings.Repeat("n", 1024)} {
		putObject(w, s, name, []byte(name))
		if got, err := readObject(w, s, name); err != nil || string(got) != name {
			t.Errorf("the name %.20q: %.20q, %v", name, got, err)
		}
	}
	if _, err := jetstream.OpenObjectStore(w.ctx, w.js, jetstream.ObjectStoreConfig{Bucket: "a.b"}); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("the bucket a.b: %v", err)
	}
	if _, err := s.Put(w.ctx, jetstream.ObjectMeta{Name: "n", Metadata: map[string]string{"k": strings.Repeat("v", 2<<20)}}, strings.NewReader("x")); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("metadata above max_payload: %v", err)
	}
	if _, err := s.Put(w.ctx, jetstream.ObjectMeta{Name: "n", Opts: &natsjs.ObjectMetaOptions{ChunkSize: 4 << 20}}, strings.NewReader("x")); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("a chunk size above max_payload: %v", err)
	}
	if n := chunksOf(w, "*"); n != 7 {
		t.Errorf("%d chunks are left", n)
	}
}

// cutReader yields n bytes of noise and then does what cut says.
type cutReader struct {
	rest int
	cut  func() error
}

func (r *cutReader) Read(p []byte) (int, error) {
	if r.rest <= 0 {
		return 0, r.cut()
	}
	n := min(len(p), r.rest)
	for i := range p[:n] {
		p[i] = byte(i)
	}
	r.rest -= n
	return n, nil
}

func TestObjectPutThatIsCutLeavesNothing(t *testing.T) {
	t.Parallel()
	torn := errors.New("the source is torn")
	for name, cut := range map[string]func(w *jsWorld, stop context.CancelFunc) error{
		"the reader fails":       func(*jsWorld, context.CancelFunc) error { return torn },
		"the context ends":       func(_ *jsWorld, stop context.CancelFunc) error { stop(); return nil },
		"the server restarts":    func(w *jsWorld, _ context.CancelFunc) error { w.server.Restart(); return nil },
		"the connection is lost": func(w *jsWorld, _ context.CancelFunc) error { w.server.CutClients(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newJSWorld(t)
			s := openObjects(w)
			before := putObject(w, s, "file", []byte("as it was"))
			ctx, stop := context.WithCancel(w.ctx)
			defer stop()
			once := false
			r := &cutReader{rest: 10 << 20}
			r.cut = func() error {
				if once {
					return io.EOF
				}
				once, r.rest = true, 10<<20
				return cut(w, stop)
			}
			_, err := s.Put(ctx, jetstream.ObjectMeta{Name: "file"}, r)
			if err == nil || transport.KindOf(err) != transport.Temporary {
				t.Fatalf("the put: %v", err)
			}
			if name == "the reader fails" && !errors.Is(err, torn) || name == "the context ends" && !errors.Is(err, context.Canceled) {
				t.Errorf("the put: %v", err)
			}
			eventually(t, "the connection is back", w.js.Conn().IsConnected)
			if got, err := readObject(w, s, "file"); err != nil || string(got) != "as it was" {
				t.Errorf("what was there before: %q, %v", got, err)
			}
			if n := chunksOf(w, "*"); n != uint64(before.Chunks) {
				t.Errorf("%d chunks are left behind", n)
			}
		})
	}
}

func TestObjectStoreThatIsFullRefusesAPut(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s, err := jetstream.OpenObjectStore(w.ctx, w.js, jetstream.ObjectStoreConfig{Bucket: "files", Config: &natsjs.ObjectStoreConfig{MaxBytes: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(w.ctx, jetstream.ObjectMeta{Name: "big"}, bytes.NewReader(noise(4<<20))); err == nil || transport.KindOf(err) != transport.Temporary {
		t.Fatalf("a put into a full store: %v", err)
	}
	if n := chunksOf(w, "*"); n != 0 {
		t.Errorf("%d chunks are left behind", n)
	}
	putObject(w, s, "small", noise(100<<10))
}

// A put that died with its process leaves chunks that nobody sees and Sweep finds.
func TestObjectSweepRemovesWhatBelongsToNobody(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	putObject(w, s, "kept", noise(300<<10))
	for i := range 3 {
		if _, err := w.js.JetStream().Publish(w.ctx, "$O.files.C.ORPHAN", noise(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Sweep(w.ctx, time.Millisecond); !errors.Is(err, transport.ErrInvalid) {
		t.Errorf("an age of a millisecond: %v", err)
	}
	if n, err := s.Sweep(w.ctx, time.Hour); n != 0 || err != nil {
		t.Errorf("swept %d that may be under way, %v", n, err)
	}
	if n := chunksOf(w, "ORPHAN"); n != 3 {
		t.Errorf("%d chunks are left of what may be under way", n)
	}
	swept := 0
	eventually(t, "the orphan is old enough", func() bool {
		n, err := s.Sweep(w.ctx, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		swept += n
		return swept > 0
	})
	if n := chunksOf(w, "*"); n != 3 || swept != 1 {
		t.Errorf("swept %d, and %d chunks are left", swept, n)
	}
	if got, err := readObject(w, s, "kept"); err != nil || len(got) != 300<<10 {
		t.Errorf("what is kept: %d, %v", len(got), err)
	}
}

func TestObjectThatIsDamagedIsNeverComplete(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(w *jsWorld, info *jetstream.ObjectInfo){
		"the first chunk is missing": func(w *jsWorld, info *jetstream.ObjectInfo) { deleteChunk(w, info, 0) },
		"a chunk is missing":         func(w *jsWorld, info *jetstream.ObjectInfo) { deleteChunk(w, info, 20) },
		"the last chunk is missing":  func(w *jsWorld, info *jetstream.ObjectInfo) { deleteChunk(w, info, 39) },
		"all chunks are missing":     func(w *jsWorld, info *jetstream.ObjectInfo) { purgeChunks(w, info) },
		"a chunk too many":           func(w *jsWorld, info *jetstream.ObjectInfo) { addChunk(w, info, noise(10)) },
		"a chunk is another": func(w *jsWorld, info *jetstream.ObjectInfo) {
			deleteChunk(w, info, 39)
			addChunk(w, info, noise(128<<10))
		},
		"a chunk is one of less size": func(w *jsWorld, info *jetstream.ObjectInfo) { deleteChunk(w, info, 39); addChunk(w, info, noise(10)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newJSWorld(t)
			s := openObjects(w)
			info := putObject(w, s, "file", noise(40*128<<10))
			damage(w, info)
			if _, err := readObject(w, s, "file"); !errors.Is(err, jetstream.ErrObjectDamaged) || transport.KindOf(err) != transport.Permanent {
				t.Errorf("read: %v", err)
			}
			r, err := s.Get(w.ctx, "file")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close() //nolint:errcheck // opened for reading
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, jetstream.ErrObjectDamaged) {
				t.Errorf("copied: %v", err)
			}
			putObject(w, s, "file", noise(5)) // mends it
			if got, err := readObject(w, s, "file"); err != nil || len(got) != 5 {
				t.Errorf("put again: %d, %v", len(got), err)
			}
		})
	}
}

// deleteChunk removes the nth chunk of a version.
func deleteChunk(w *jsWorld, info *jetstream.ObjectInfo, nth int) {
	w.Helper()
	stream, err := w.js.JetStream().Stream(w.ctx, "OBJ_files")
	if err != nil {
		w.Fatal(err)
	}
	if err := stream.DeleteMsg(w.ctx, uint64(nth+1)); err != nil { // it is the first in the store
		w.Fatal(err)
	}
}

func purgeChunks(w *jsWorld, info *jetstream.ObjectInfo) {
	w.Helper()
	stream, err := w.js.JetStream().Stream(w.ctx, "OBJ_files")
	if err != nil {
		w.Fatal(err)
	}
	if err := stream.Purge(w.ctx, natsjs.WithPurgeSubject("$O.files.C."+info.NUID)); err != nil {
		w.Fatal(err)
	}
}

func addChunk(w *jsWorld, info *jetstream.ObjectInfo, data []byte) {
	w.Helper()
	if _, err := w.js.JetStream().Publish(w.ctx, "$O.files.C."+info.NUID, data); err != nil {
		w.Fatal(err)
	}
}

func TestObjectThatIsReplacedWhileItIsRead(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *jsWorld, s *jetstream.ObjectStore){
		"replaced": func(w *jsWorld, s *jetstream.ObjectStore) { putObject(w, s, "file", noise(20<<20)) },
		"deleted": func(w *jsWorld, s *jetstream.ObjectStore) {
			if err := s.Delete(w.ctx, "file"); err != nil {
				w.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newJSWorld(t)
			s := openObjects(w)
			info := putObject(w, s, "file", noise(30<<20))
			r, err := s.Get(w.ctx, "file")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close() //nolint:errcheck // opened for reading
			if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			change(w, s)
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, jetstream.ErrObjectReplaced) {
				t.Errorf("read on: %v", err)
			}
			if _, err := s.Open(w.ctx, info); !errors.Is(err, jetstream.ErrObjectReplaced) {
				t.Errorf("open the version that is gone: %v", err)
			}
		})
	}
}

func TestObjectIsReadOverARestartOfTheServer(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	body := noise(30 << 20)
	putObject(w, s, "file", body)
	r, err := s.Get(w.ctx, "file")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // opened for reading
	head := make([]byte, 1<<20)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	w.server.Restart()
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), body) {
		t.Errorf("%d bytes behind the restart, %v", len(rest), err)
	}
}

func TestObjectOfOneNameHasOneVersionWhoeverPutsIt(t *testing.T) {
	t.Parallel()
	w := newJSWorld(t)
	s := openObjects(w)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 5 {
				if _, err := s.Put(w.ctx, jetstream.ObjectMeta{Name: "file"}, bytes.NewReader(noise(300<<10+i*10+n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, err := readObject(w, s, "file"); err != nil || len(got) < 300<<10 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := chunksOf(w, "*"); n != 3 {
		t.Errorf("%d chunks are left of 40 versions", n)
	}
}
