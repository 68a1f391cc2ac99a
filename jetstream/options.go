package jetstream

import (
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/internal/natsconn"
)

// Option changes how a transport connects and where it keeps its own streams.
type Option func(*settings)

// settings is what the options write; defaultSettings says the defaults.
type settings struct {
	conn       natsconn.Config
	dials      bool // an option says how to connect
	domain     string
	apiPrefix  string
	namespace  string
	dead       DeadLetterConfig
	park       ParkConfig
	pubTimeout time.Duration
	batches    bool
}

// DeadLetterConfig says how the dead-letter stream and the redrive stream are
// made and checked. The zero value is right for one server.
type DeadLetterConfig struct {
	// Mode says what may be done with the two streams. Default: ModeEnsure.
	Mode Mode
	// Replicas of both streams. Default: 1.
	Replicas int
	// MaxBytes bounds the dead-letter stream; a full one refuses new dead
	// letters, and the messages stay where they are. Default: no bound.
	MaxBytes int64
	// Storage of both streams. Default: file.
	Storage natsjs.StorageType
	// Duplicates is how long a dead letter that was removed is remembered, so
	// that a late second burial of it changes nothing. Default: 24 hours.
	Duplicates time.Duration
}

func defaultSettings() settings {
	return settings{
		namespace:  "holdfast",
		pubTimeout: 5 * time.Second,
		dead:       DeadLetterConfig{Mode: ModeEnsure, Replicas: 1, Duplicates: 24 * time.Hour},
		park:       ParkConfig{After: defaultParkAfter},
	}
}

// WaitForBroker makes Connect wait for a broker that does not answer, until its
// context ends. Without it a broker that is down is an error at once.
func WaitForBroker() Option { return connection(func(c *natsconn.Config) { c.Wait = true }) }

// Domain selects a JetStream domain, such as that of a leaf node.
func Domain(domain string) Option { return func(s *settings) { s.domain = domain } }

// APIPrefix replaces "$JS.API" where an account imports JetStream under another
// name. It is not used together with Domain.
func APIPrefix(prefix string) Option { return func(s *settings) { s.apiPrefix = prefix } }

// Namespace starts the names of holdfast's own streams and subjects. Default:
// "holdfast", which gives the streams HOLDFAST_DEAD, HOLDFAST_REDRIVE and
// HOLDFAST_PARK. Letters, digits, '-' and '_' only.
func Namespace(ns string) Option { return func(s *settings) { s.namespace = ns } }

// DeadLetters says how the dead-letter and redrive streams are made. Zero
// fields keep their defaults.
func DeadLetters(cfg DeadLetterConfig) Option {
	return func(s *settings) {
		if cfg.Replicas == 0 {
			cfg.Replicas = s.dead.Replicas
		}
		if cfg.Duplicates == 0 {
			cfg.Duplicates = s.dead.Duplicates
		}
		s.dead = cfg
	}
}

// PublishTimeout bounds one publish, confirmation included. Default: 5 s.
func PublishTimeout(d time.Duration) Option { return func(s *settings) { s.pubTimeout = d } }

// AtomicBatches lets pipelines publish in atomic batches, which a server that
// syncs every write to disk (sync_interval: always) syncs once for all their
// messages. Order and outcomes are the same as without. It asks for
// nats-server 2.12 or later, is of use from 2.15, and takes streams with
// allow_atomic; elsewhere messages are published one by one.
//
// Only messages to one subject share a batch, and one batch of a pipeline is
// under way at a time; the next one waits up to a millisecond for what is sent
// when the outcomes of the one before are known. On a server that does not sync
// every write batches are slower than single messages. A pipeline publishes
// message by message what it was given as sent before (Message.Resent), and what
// has no ID.
func AtomicBatches() Option { return func(s *settings) { s.batches = true } }
