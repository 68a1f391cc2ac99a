// Package config reads holdfast.yaml. It is strict: a key it does not know, a
// value it cannot use and two settings that contradict each other are errors,
// each with file, line and column, the line itself, and what to write instead.
// All errors of a file are reported at once.
//
// The shape of the file is described once (shape.go); the reader, the lists of
// allowed keys and the published JSON Schema all come from that description.
package config

import (
	"net/url"
	"path/filepath"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// Config is a file that was read without errors.
type Config struct {
	// Path is the file's name as it was given.
	Path string
	// Dir is the directory that relative paths in the file start from: that of
	// the file.
	Dir string
	// Broker is the URL of the broker; empty means the embedded server.
	Broker string
	// Connection says how to connect to Broker, when that is NATS.
	Connection Connection
	// Listen is the address of the embedded server.
	Listen string
	// Data is the directory of the embedded server's file store, absolute or
	// relative to the working directory of the process.
	Data string
	// Streams are those that are described in full, by name.
	Streams map[string]Stream
	// Buckets and ObjectStores are the same.
	Buckets      map[string]natsjs.KeyValueConfig
	ObjectStores map[string]natsjs.ObjectStoreConfig
	// Subscriptions are in the order of the file. There is at least one.
	Subscriptions []Subscription
	// Warnings are about settings that are allowed and likely not meant, in the
	// order of their lines. It is nil when there are none.
	Warnings *Errors
}

// Connection says how to connect to NATS. Files are absolute or relative to the
// working directory of the process.
type Connection struct {
	Context       string // of the nats program; "": none
	Creds, NKey   string // files of a login
	CA, Cert, Key string // files of certificates
	TLSFirst      bool
	InboxPrefix   string
}

// Subscription is one source with its handler and policy.
type Subscription struct {
	Name        string
	Line        int // where the subscription starts in the file
	From        From
	Handler     Handler
	Concurrency int           // at least 1
	Prefetch    int           // -1: not said
	Timeout     time.Duration // 0: none
	Retry       *Retry        // nil: not said
	DeadLetter  *bool         // nil: not said
	MaxAge      time.Duration // 0: none
	OrderBy     OrderBy
}

// From is a JetStream source when Stream is set, a watch of a key-value bucket
// when KV is, a watch of an object store when Object is, a RabbitMQ source when
// Queue is, and a core NATS source otherwise.
type From struct {
	Stream   string
	Subjects []string
	KV       string
	Keys     []string // patterns of KV; empty: all
	Object   string
	Durable  string // empty on JetStream where Ordered: the subscription's name by default
	Start    Start
	Mode     string // "verify", "ensure" or "update"
	Ordered  bool   // without a durable
	Original bool   // replayed at original speed
	Pause    time.Time
	Consumer Consumer

	Subject string
	Group   string

	Queue *Queue
}

// Stream is a stream that a file describes in full.
type Stream struct {
	natsjs.StreamConfig
	// TTLUnsaid: whether messages may have a time to live is left open.
	TTLUnsaid bool
}

// Consumer is what a file says of a consumer beside its start and its filters.
type Consumer struct {
	// Config has neither AckWait nor MaxAckPending nor Replicas.
	Config        natsjs.ConsumerConfig
	AckWait       time.Duration // 0: not said
	MaxAckPending int           // 0: not said
	Replicas      int           // 0: not said
	// Pull is how to pull from a consumer with a priority policy.
	Pull Pull
}

// Pull says when this program asks a consumer with a priority policy for messages.
type Pull struct {
	Group         string `json:"group"`
	MinPending    int64  `json:"min_pending"`
	MinAckPending int64  `json:"min_ack_pending"`
	Priority      int    `json:"priority"`
}

// JetStream tells whether it is a source on JetStream, watches among them.
func (f From) JetStream() bool { return f.StreamName() != "" }

// StreamName is the stream it takes its messages from; "" elsewhere than on JetStream.
func (f From) StreamName() string {
	switch {
	case f.KV != "":
		return "KV_" + f.KV
	case f.Object != "":
		return "OBJ_" + f.Object
	default:
		return f.Stream
	}
}

// Queue is a source on RabbitMQ.
type Queue struct {
	Name     string
	Type     string // "quorum", "classic" or "stream"; empty: as it is, or quorum
	Declare  string // "ensure", "verify" or "adopt"
	Bindings []Binding
	// Arguments of the queue: text, int64, float64 and bool.
	Arguments          map[string]any
	DeliveryLimit      int // 0: not said
	DeadLetterExchange string
	DeadLetterKey      string
	SingleActive       bool
	Exclusive          bool
	Priority           int
	Offset             any // string, int64 or time.Time; nil: not said
	Exchanges          []Exchange
	// ConsumerArguments are like Arguments.
	ConsumerArguments map[string]any
}

// Exchange is declared before the bindings of a queue.
type Exchange struct {
	Name, Kind, Alternate           string
	Internal, AutoDelete, Transient bool
	Args                            map[string]any
	Bindings                        []Binding // from other exchanges to this one
}

// Stream tells whether the queue is a log that is read and not emptied.
func (q *Queue) Stream() bool { return q != nil && q.Type == "stream" }

// Binding routes what is published to an exchange into a queue.
type Binding struct {
	Exchange, Kind, Key string
	Args                map[string]any
}

// StartKind says where a new consumer starts.
type StartKind string

// The start positions. StartUnsaid leaves the question open, which is an error
// for a consumer that does not exist yet.
const (
	StartUnsaid   StartKind = ""
	StartAll      StartKind = "all"
	StartNew      StartKind = "new"
	StartLast     StartKind = "last"
	StartCurrent  StartKind = "current" // the last of each key, for watches
	StartEach     StartKind = "last-per-subject"
	StartSequence StartKind = "sequence"
	StartTime     StartKind = "time"
)

// Start is where a new consumer starts.
type Start struct {
	Kind     StartKind
	Sequence uint64    // of StartSequence
	Time     time.Time // of StartTime
}

// Handler holds exactly one of its fields.
type Handler struct {
	Exec []string
	HTTP *HTTP
	Log  bool
}

// HTTP is a handler behind a URL.
type HTTP struct {
	URL     *url.URL
	Secret  string        // signs requests; empty: unsigned
	Timeout time.Duration // of one request; 0: that of the subscription
	Headers map[string]string
}

// Retry is the policy for messages whose handler failed.
type Retry struct {
	Attempts  int // how often the handler runs at most; 0: not said
	Immediate int
	Backoff   Backoff
	Jitter    float64 // a share: 0.2 for 20%
	Within    time.Duration
}

// Backoff is a list of delays, the last of which repeats, or grows from First
// by doubling up to Max. Its zero value says nothing.
type Backoff struct {
	Delays     []time.Duration
	First, Max time.Duration
}

// OrderBy names what orders messages: "key", "subject", or a header. Empty
// means no order.
type OrderBy struct {
	By     string // "", "key", "subject", "header"
	Header string
}

// dirOf returns the directory that relative paths of the file start from.
func dirOf(path string) string {
	if path == "-" {
		return "."
	}
	return filepath.Dir(path)
}
