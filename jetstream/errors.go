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
	case codeStoreFailed, codeNoStorage, codeTooManyRequests, codeClusterNotReady, codeInsufficient:
		e.Kind, e.Hint = transport.Temporary, "the stream or the server is full: it takes messages again when some were removed"
		if strings.Contains(api.Description, "exceeds maximum") {
			e.Kind, e.Hint, e.Err = transport.Permanent, "", fmt.Errorf("%w: %w", transport.ErrTooLarge, api)
		}
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
