package jetstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// ObjectStoreConfig names an object store and says what may be done about it.
type ObjectStoreConfig struct {
	// Bucket is the name: letters, digits, '-' and '_'.
	Bucket string
	// Mode says what may be created or changed. Default: ModeEnsure.
	Mode Mode
	// Config is the whole configuration; its Bucket may be left empty. A store
	// that exists is compared with it. Nil takes a store as it is, and makes one
	// that is missing with the client library's defaults: in files, kept for ever.
	Config *natsjs.ObjectStoreConfig
}

// Why an object cannot be read or written. Errors of the object store wrap them.
var (
	// ErrObjectReplaced is returned by a read whose object was written anew or
	// deleted meanwhile, and by Open for a version that is gone.
	ErrObjectReplaced = errors.New("the object was replaced or deleted")
	// ErrObjectDamaged is returned by a read whose object misses a part or does
	// not have the digest that was stored with it.
	ErrObjectDamaged = errors.New("the object is damaged")
	// ErrObjectExists is returned by AddLink and AddBucketLink when there is an
	// object of that name.
	ErrObjectExists = errors.New("an object of this name exists")
)

// ObjectInfo is what is known of an object besides its bytes.
type ObjectInfo = natsjs.ObjectInfo

// ObjectMeta is what is said of an object when it is put.
type ObjectMeta = natsjs.ObjectMeta

// ObjectStore keeps objects of any size. It is safe for concurrent use, and works
// until its transport is closed. Objects are read and written as streams, in
// memory that does not grow with their size.
//
// An object is there for others once Put has returned: the version before it is
// what they see until then. A name is any text of UTF-8 up to 1 KiB.
type ObjectStore struct {
	t      *Transport
	cfg    ObjectStoreConfig
	found  []transport.Finding
	stream string
}

// OpenObjectStore opens the store that cfg names, and makes it when it is missing
// and the mode allows. The error wraps a *FindingsError when the store is not
// what cfg asks for, or cannot be on this server. What differs and was left as it
// is stands in Findings.
func OpenObjectStore(ctx context.Context, t *Transport, cfg ObjectStoreConfig) (*ObjectStore, error) {
	if faults := cfg.faults(); len(faults) > 0 {
		return nil, transport.Invalid("open", "object store "+cfg.Bucket, "%s", faults[0])
	}
	s := t.objectStore(cfg)
	info, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return &ObjectStore{t: t, cfg: cfg, found: s.found, stream: info.Config.Name}, nil
}

// objectStore is the stream of an object store.
func (t *Transport) objectStore(cfg ObjectStoreConfig) *store {
	s := &store{
		t: t, what: "object store " + cfg.Bucket, mode: cfg.Mode, want: objectStream(cfg), full: cfg.Config != nil, isOne: isObjects,
	}
	if c := cfg.Config; c != nil {
		s.needs = []need{
			{"Compression", c.Compression, []int{2, 10, 0}},
			{"Metadata", len(c.Metadata) > 0, []int{2, 10, 0}},
		}
	}
	return s
}

// isObjects tells whether a stream keeps objects.
func isObjects(cfg natsjs.StreamConfig) bool {
	bucket, ok := strings.CutPrefix(cfg.Name, objectStreamPrefix)
	return ok && cfg.AllowRollup && cfg.Retention == natsjs.LimitsPolicy &&
		(cfg.Mirror != nil || coveredBy(objectPrefix+bucket+".M.>", cfg.Subjects) && coveredBy(objectPrefix+bucket+".C.>", cfg.Subjects))
}

// objectStream is the stream of a store as other clients would make it.
func objectStream(cfg ObjectStoreConfig) natsjs.StreamConfig {
	var c natsjs.ObjectStoreConfig
	if cfg.Config != nil {
		c = *cfg.Config
	}
	sc := natsjs.StreamConfig{
		Name:         objectStreamPrefix + cfg.Bucket,
		Description:  c.Description,
		Subjects:     []string{objectPrefix + cfg.Bucket + ".C.>", objectPrefix + cfg.Bucket + ".M.>"},
		MaxAge:       c.TTL,
		MaxBytes:     orUnlimited(c.MaxBytes),
		Storage:      c.Storage,
		Replicas:     max(c.Replicas, 1),
		Placement:    c.Placement,
		Metadata:     c.Metadata,
		Discard:      natsjs.DiscardNew,
		AllowRollup:  true,
		AllowDirect:  true,
		MaxMsgs:      -1,
		MaxConsumers: -1,
	}
	if c.Compression {
		sc.Compression = natsjs.S2Compression
	}
	return sc
}

// faults lists what can never work about a store.
func (c ObjectStoreConfig) faults() []string {
	var faults []string
	if !validToken(c.Bucket) {
		faults = append(faults, "the name "+quote(c.Bucket)+" is not made of letters, digits, '-' and '_'")
	}
	if c.Config != nil && c.Config.Bucket != "" && c.Config.Bucket != c.Bucket {
		faults = append(faults, "Config names the store "+quote(c.Config.Bucket)+" and Bucket "+quote(c.Bucket))
	}
	return faults
}

// Bucket returns the name of the store.
func (s *ObjectStore) Bucket() string { return s.cfg.Bucket }

// Findings returns what was found when the store was opened and left as it is.
func (s *ObjectStore) Findings() []transport.Finding { return slices.Clone(s.found) }

// Native returns the client library's own handle on the store, which belongs to
// the connection that Transport.Conn returns. Both may be used beside each other.
func (s *ObjectStore) Native(ctx context.Context) (natsjs.ObjectStore, error) {
	native, err := s.t.JetStream().ObjectStore(ctx, s.cfg.Bucket)
	return native, seamError("open", "object store "+s.cfg.Bucket, err, false)
}

// Info returns what is known of an object; transport.ErrNotFound when there is
// none of that name, or it was deleted. A link is not followed.
func (s *ObjectStore) Info(ctx context.Context, name string) (*ObjectInfo, error) {
	info, _, err := s.info(ctx, "look at object", name)
	if err == nil && info.Deleted {
		err = s.missing("look at object", name)
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// info returns what is stored under a name, deletions included, and where.
func (s *ObjectStore) info(ctx context.Context, op, name string) (*ObjectInfo, uint64, error) {
	if err := s.checkName(op, name); err != nil {
		return nil, 0, err
	}
	var m *storedMessage
	err := s.t.persist(ctx, func() error {
		var err error
		m, err = s.t.get(ctx, s.stream, getRequest{LastFor: s.metaSubject(name)})
		if isCode(err, codeNoMessage) {
			return s.missing(op, name)
		}
		return s.fault(op, name, err)
	})
	if err != nil {
		return nil, 0, err
	}
	r, err := m.stored()
	if err != nil {
		return nil, 0, s.fault(op, name, err)
	}
	info, err := s.decode(op, r)
	return info, r.seq, err
}

// decode reads what is stored of an object. The name of a version becomes a part of
// subjects: one with a wildcard would stand for those of other objects.
func (s *ObjectStore) decode(op string, r stored) (*ObjectInfo, error) {
	var info ObjectInfo
	if err := json.Unmarshal(r.data, &info); err != nil || !validToken(info.NUID) {
		return nil, &transport.Error{Op: op, Address: s.cfg.Bucket + " seq " + fmt.Sprint(r.seq), Kind: transport.Permanent, Err: fmt.Errorf("%w: what is stored of it cannot be read", ErrObjectDamaged)}
	}
	info.ModTime = r.time
	return &info, nil
}

// List yields all objects, in the order in which they were last changed, links
// included and deleted ones left out, until the caller stops or an error was
// yielded. An object that is changed meanwhile may come twice.
func (s *ObjectStore) List(ctx context.Context) iter.Seq2[*ObjectInfo, error] {
	return func(yield func(*ObjectInfo, error) bool) {
		const op = "list objects"
		for r, err := range s.t.scan(ctx, scanning{op: op, what: "object store " + s.cfg.Bucket, stream: s.stream, filters: []string{s.metaPrefix() + ">"}, last: true}) {
			var info *ObjectInfo
			if err == nil {
				info, err = s.decode(op, r)
			}
			if err == nil && info.Deleted {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// Delete deletes an object and its bytes; transport.ErrNotFound when there is
// none. Of a link it deletes the link.
func (s *ObjectStore) Delete(ctx context.Context, name string) error {
	const op = "delete object"
	_, err := s.replace(ctx, op, name, func(old *ObjectInfo) (*ObjectInfo, error) {
		if old == nil || old.Deleted {
			return nil, s.missing(op, name)
		}
		next := *old
		next.Deleted, next.Size, next.Chunks, next.Digest = true, 0, 0, ""
		return &next, nil
	})
	return err
}

// SetMeta changes the description, the headers and the metadata of an object; its
// bytes stay. meta.Name is the object. transport.ErrNotFound when there is none.
func (s *ObjectStore) SetMeta(ctx context.Context, meta ObjectMeta) error {
	const op = "change object"
	_, err := s.replace(ctx, op, meta.Name, func(old *ObjectInfo) (*ObjectInfo, error) {
		if old == nil || old.Deleted {
			return nil, s.missing(op, meta.Name)
		}
		next := *old
		next.Description, next.Headers, next.Metadata = meta.Description, meta.Headers, meta.Metadata
		return &next, nil
	})
	return err
}

// AddLink makes name stand for another object, in this store or another one on
// the same server; see Get. It takes the place of a link. A link to a link and
// to what was deleted is refused.
func (s *ObjectStore) AddLink(ctx context.Context, name string, to *ObjectInfo) error {
	const op = "link object"
	switch {
	case to == nil || to.Name == "" || to.Deleted:
		return transport.Invalid(op, s.at(name), "there is no object to link to")
	case linkOf(to) != nil:
		return transport.Invalid(op, s.at(name), "%s is a link itself; link to what it stands for", to.Name)
	}
	return s.addLink(ctx, op, name, &natsjs.ObjectLink{Bucket: to.Bucket, Name: to.Name})
}

// AddBucketLink makes name stand for a whole store. Nothing can be read through
// it: who finds it in a list opens the store.
func (s *ObjectStore) AddBucketLink(ctx context.Context, name, bucket string) error {
	const op = "link store"
	if !validToken(bucket) {
		return transport.Invalid(op, s.at(name), "%q is no name of a store", bucket)
	}
	return s.addLink(ctx, op, name, &natsjs.ObjectLink{Bucket: bucket})
}

func (s *ObjectStore) addLink(ctx context.Context, op, name string, link *natsjs.ObjectLink) error {
	_, err := s.replace(ctx, op, name, func(old *ObjectInfo) (*ObjectInfo, error) {
		if old != nil && !old.Deleted && linkOf(old) == nil {
			return nil, &transport.Error{Op: op, Address: s.at(name), Kind: transport.Permanent, Err: ErrObjectExists, Hint: "delete it, or choose another name"}
		}
		return &ObjectInfo{
			ObjectMeta: ObjectMeta{Name: name, Opts: &natsjs.ObjectMetaOptions{Link: link}},
			Bucket:     s.cfg.Bucket, NUID: newNUID(),
		}, nil
	})
	return err
}

// linkOf is what a link stands for, nil for an object.
func linkOf(info *ObjectInfo) *natsjs.ObjectLink {
	if info.Opts == nil {
		return nil
	}
	return info.Opts.Link
}

func (s *ObjectStore) metaPrefix() string { return objectPrefix + s.cfg.Bucket + ".M." }

func (s *ObjectStore) metaSubject(name string) string {
	return s.metaPrefix() + base64.URLEncoding.EncodeToString([]byte(name))
}

func (s *ObjectStore) chunkSubject(nuid string) string {
	return objectPrefix + s.cfg.Bucket + ".C." + nuid
}

// maxName keeps the subject of a name below what a protocol line holds.
const maxName = 1024

func (s *ObjectStore) checkName(op, name string) error {
	switch {
	case name == "":
		return transport.Invalid(op, s.cfg.Bucket, "the name of the object is empty")
	case len(name) > maxName:
		return transport.Invalid(op, s.at(name), "the name has %d bytes; at most %d are taken", len(name), maxName)
	case !utf8.ValidString(name):
		return transport.Invalid(op, s.cfg.Bucket, "the name %q is no valid UTF-8 and would not come back as it is", short(name))
	}
	return nil
}

// at is how errors call an object.
func (s *ObjectStore) at(name string) string { return s.cfg.Bucket + "/" + short(name) }

func (s *ObjectStore) missing(op, name string) error {
	return &transport.Error{Op: op, Address: s.at(name), Kind: transport.Permanent, Err: transport.ErrNotFound}
}

func (s *ObjectStore) fault(op, name string, err error) error {
	if streamMissing(err) {
		return &transport.Error{
			Op: op, Address: s.at(name), Kind: transport.Permanent, Err: fmt.Errorf("the store is gone: %w: %w", transport.ErrNotFound, err),
			Hint: "it was deleted; open it again to make it",
		}
	}
	return seamError(op, s.at(name), err, false)
}
