package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-go/holdfast/transport"
)

// Codes of the server that are acted upon and that nats.go does not name.
const (
	codeNoStorage       natsjs.ErrorCode = 10047 // account or server storage is used up
	codeStoreFailed     natsjs.ErrorCode = 10077 // a full stream with DiscardNew, and others
	codeTooManyRequests natsjs.ErrorCode = 10167 // too much in flight
	codeNoMessage       natsjs.ErrorCode = 10037
	codeSubjectsOverlap natsjs.ErrorCode = 10065
	codeWrongStream     natsjs.ErrorCode = 10060
	codeClusterNotReady natsjs.ErrorCode = 10008
	codeInsufficient    natsjs.ErrorCode = 10023
	codeAccountFull     natsjs.ErrorCode = 10002
	codeNoMemory        natsjs.ErrorCode = 10028
	codeTTLInvalid      natsjs.ErrorCode = 10165
	codeTTLDisabled     natsjs.ErrorCode = 10166
	codeSchedulesOff    natsjs.ErrorCode = 10188
	codeSchedulePattern natsjs.ErrorCode = 10189
	codeScheduleTarget  natsjs.ErrorCode = 10190
	codeScheduleTTL     natsjs.ErrorCode = 10191
	codeScheduleZone    natsjs.ErrorCode = 10223
	codeBatchesInFlight natsjs.ErrorCode = 10210 // too many atomic batches at once
)

// errDisconnected is the cause when the connection was lost while waiting.
var errDisconnected = errors.New("the connection was lost while waiting for the answer")

// errBadAnswer is the cause when an answer cannot be understood.
var errBadAnswer = errors.New("the answer is not one of JetStream")

// isCode tells whether err is an API error with one of these codes.
func isCode(err error, codes ...natsjs.ErrorCode) bool {
	var api *natsjs.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, c := range codes {
		if api.ErrorCode == c {
			return true
		}
	}
	return false
}

func streamMissing(err error) bool { return isCode(err, natsjs.JSErrCodeStreamNotFound) }

func consumerMissing(err error) bool {
	return isCode(err, natsjs.JSErrCodeConsumerNotFound, natsjs.JSErrCodeConsumerDoesNotExist)
}

// seamError turns what went wrong with a question into an error of the seam.
// asked tells whether the question may have reached the broker.
func seamError(op, address string, err error, asked bool) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*transport.Error](err); ok {
		return err
	}
	e := &transport.Error{Op: op, Address: address, Kind: transport.Temporary, Err: err}
	var api *natsjs.APIError
	switch {
	case errors.As(err, &api):
		explainAPI(e, api)
	case errors.Is(err, transport.ErrPermission):
		e.Kind, e.Hint = transport.Permanent, "grant the account this permission"
	case errors.Is(err, nats.ErrConnectionClosed):
		e.Kind, e.Err = transport.Permanent, fmt.Errorf("%w: %w", transport.ErrClosed, err)
	case errors.Is(err, nats.ErrNoResponders):
		e.Hint = "nobody answers there: no stream takes it, JetStream is not enabled, or its leader is being elected"
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected):
		e.Err = fmt.Errorf("not connected: %w", err)
	case errors.Is(err, nats.ErrMaxPayload):
		e.Kind, e.Err = transport.Permanent, fmt.Errorf("%w: %w", transport.ErrTooLarge, err)
	case errors.Is(err, errBadAnswer):
		e.Kind = transport.Unknown
		e.Hint = "a subscriber of this subject answered in place of the stream; it must not reply or nak there"
	case asked:
		e.Kind = transport.Unknown
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	}
	return e
}

// explainAPI sets kind, cause and hint for an answer of JetStream itself.
func explainAPI(e *transport.Error, api *natsjs.APIError) {
	e.Kind = transport.Permanent
	switch api.ErrorCode {
	case codeStoreFailed:
		explainStore(e, api)
	case codeNoStorage, codeNoMemory, codeInsufficient, codeAccountFull:
		e.Kind, e.Err = transport.Temporary, fmt.Errorf("%w: %w", transport.ErrFull, api)
		e.Hint = "the storage of the server or the account is used up: remove messages or streams, or raise the limit"
	case codeTooManyRequests, codeBatchesInFlight:
		e.Kind, e.Err = transport.Temporary, fmt.Errorf("%w: %w", transport.ErrBusy, api)
		e.Hint = "too much is under way to this stream: the same publish succeeds a moment later"
	case codeClusterNotReady:
		e.Kind, e.Hint = transport.Temporary, "the cluster elects a leader: try again"
	case codeTTLDisabled:
		e.Err = fmt.Errorf("%w: %w", transport.ErrUnsupported, api)
		e.Hint = "the stream takes no time to live: set allow_msg_ttl on it, or publish without one"
	case codeSchedulesOff:
		e.Err = fmt.Errorf("%w: %w", transport.ErrUnsupported, api)
		e.Hint = "the stream does not keep messages for later: EnableSchedules lets it"
	case codeTTLInvalid, codeSchedulePattern, codeScheduleTarget, codeScheduleTTL, codeScheduleZone:
		e.Err = fmt.Errorf("%w: %w", transport.ErrInvalid, api)
	case natsjs.JSErrCodeStreamMessageExceedsMaximum:
		e.Err = fmt.Errorf("%w: %w", transport.ErrTooLarge, api)
		e.Hint = "raise the stream's max_msg_size, or send less"
	case natsjs.JSErrCodeStreamNotFound, natsjs.JSErrCodeConsumerNotFound, natsjs.JSErrCodeConsumerDoesNotExist, codeNoMessage:
		e.Err = fmt.Errorf("%w: %w", transport.ErrNotFound, api)
	case natsjs.JSErrCodeJetStreamNotEnabled, natsjs.JSErrCodeJetStreamNotEnabledForAccount:
		e.Err = fmt.Errorf("%w: %w", transport.ErrUnsupported, api)
		e.Hint = "enable JetStream on the server and for this account"
	case codeSubjectsOverlap:
		e.Hint = "another stream takes these subjects: name that stream, or choose others"
	default:
		if api.Code >= 500 {
			e.Kind = transport.Temporary
		}
	}
}

// explainStore explains why a stream could not store a message: it is full and
// refuses new ones (discard: new), the message is too large, or the store failed.
func explainStore(e *transport.Error, api *natsjs.APIError) {
	e.Kind = transport.Temporary
	switch text := api.Description; {
	case strings.Contains(text, "exceeds maximum"), strings.Contains(text, "too large"):
		e.Kind, e.Err = transport.Permanent, fmt.Errorf("%w: %w", transport.ErrTooLarge, api)
	case strings.Contains(text, "maximum"):
		e.Err = fmt.Errorf("%w: %w", transport.ErrFull, api)
		e.Hint = "the stream is full: it takes messages again when some were removed, or when its limit is raised"
	default:
		e.Hint = "the server could not store the message: look at its log and its disk"
	}
}
