// Package httphandler hands each message to a URL: one POST with the body as it
// is, the outcome in the status code or in a JSON answer.
package httphandler

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
)

// maxAnswer is how much of a response is read. More than that is cut off, and
// its connection is not used again.
const maxAnswer = 64 << 10

// Config describes the endpoint.
type Config struct {
	URL *url.URL
	// Key signs requests by the Standard Webhooks scheme; empty: unsigned.
	Key []byte
	// Timeout of one request; 0: that of the context.
	Timeout time.Duration
	// Headers are added to each request.
	Headers map[string]string
	// Concurrency is how many requests run at once; that many connections are
	// kept open.
	Concurrency int
	// UserAgent names the program.
	UserAgent string
}

// Handler posts messages. It is safe for concurrent use.
type Handler struct {
	cfg    Config
	client *http.Client
	now    func() time.Time
}

var _ outcome.Handler = (*Handler)(nil)

// New returns a handler for cfg. It connects to nothing yet.
//
// Redirects are not followed: a POST that is redirected would lose its body or
// take its signature to another host. Proxies are those of the environment, as
// is usual, and never for loopback addresses.
func New(cfg Config) *Handler {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   max(cfg.Concurrency, 2),
		IdleConnTimeout:       60 * time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		ExpectContinueTimeout: time.Second,
	}
	return &Handler{cfg: cfg, now: time.Now, client: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close drops idle connections.
func (h *Handler) Close() { h.client.CloseIdleConnections() }

// Handle posts the message once.
func (h *Handler) Handle(ctx context.Context, m outcome.Message) outcome.Outcome {
	if h.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.cfg.Timeout, fmt.Errorf("no answer within %s", h.cfg.Timeout))
		defer cancel()
	}
	req, err := h.request(ctx, m)
	if err != nil {
		return outcome.Outcome{Verdict: outcome.Retry, Err: h.named(err)}
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return outcome.Outcome{Verdict: outcome.Retry, Err: h.named(cause(ctx, err))}
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is written
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		// The verdict may be in the part that did not arrive.
		return outcome.Outcome{Verdict: outcome.Retry, Err: h.named(fmt.Errorf("read the answer: %w", cause(ctx, err)))}
	}
	o := judge(resp.StatusCode, resp.Header, body, h.now())
	if o.Err != nil {
		o.Err = h.named(o.Err)
	}
	return o
}

// maxParams is how long a header with parameters may be; what servers take starts
// at 8 KiB for all of them.
const maxParams = 4 << 10

func (h *Handler) request(ctx context.Context, m outcome.Message) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.cfg.URL.String(), bytes.NewReader(m.Body))
	if err != nil {
		return nil, errors.New("the request cannot be made") // err holds the URL, and with it what is secret in it
	}
	set := func(name, value string) {
		if value = text(value); value != "" {
			req.Header.Set(name, value)
		}
	}
	for name, value := range h.cfg.Headers {
		req.Header.Set(name, value)
	}
	contentType := m.ContentType
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	set("Content-Type", contentType)
	set("User-Agent", h.cfg.UserAgent)
	set("Holdfast-Subject", m.Subject)
	set("Holdfast-Subscription", m.Subscription)
	set("Holdfast-Attempt", strconv.Itoa(m.Attempt))
	if len(m.Params) > 0 {
		set("Holdfast-Params", m.ParamsJSON(maxParams))
	}
	set("Traceparent", first(m.Header, "traceparent"))
	set("Tracestate", first(m.Header, "tracestate"))
	id, at := text(m.ID), strconv.FormatInt(h.now().Unix(), 10)
	set("Webhook-Id", id)
	set("Webhook-Timestamp", at)
	if len(h.cfg.Key) > 0 {
		set("Webhook-Signature", Sign(h.cfg.Key, id, at, m.Body))
	}
	return req, nil
}

// Sign returns the signature of one request by the Standard Webhooks scheme,
// version 1.
func Sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	_, _ = mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// text makes a header value that can travel: control characters and what is not
// ASCII are percent-encoded, and so is '%' itself when anything else is.
func text(s string) string {
	clean := true
	for i := range len(s) {
		clean = clean && s[i] >= ' ' && s[i] < 0x7f
	}
	if clean {
		return strings.TrimSpace(s)
	}
	return url.PathEscape(s)
}

// first returns a header of the message by its name in any case.
func first(h map[string][]string, name string) string {
	for k, v := range h {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// named says which endpoint it was, without user, query or path: each of them
// may be a secret.
func (h *Handler) named(err error) error {
	return fmt.Errorf("POST %s://%s: %w", h.cfg.URL.Scheme, h.cfg.URL.Host, err)
}

// cause returns why a request failed without the URL that net/http puts in
// front, and the cause of a context where that is the reason.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// answer is the JSON a handler may answer with; its status wins over the code.
type answer struct {
	Status string `json:"status"`
	After  string `json:"after"`
	Reason string `json:"reason"`
}

// judge turns a response into an outcome.
func judge(code int, header http.Header, body []byte, now time.Time) outcome.Outcome {
	a := parseAnswer(header, body)
	after := retryAfter(header.Get("Retry-After"), now)
	if d, err := time.ParseDuration(a.After); err == nil && d > 0 {
		after = d
	}
	err := fmt.Errorf("answered %d %s", code, http.StatusText(code))
	if reason := said(a, header, body); reason != "" {
		err = fmt.Errorf("%w: %s", err, reason)
	}
	verdict := byCode(code)
	switch a.Status {
	case "retry":
		verdict = outcome.Retry
	case "drop":
		verdict = outcome.Drop
	case "dead":
		verdict = outcome.Permanent
	}
	switch verdict {
	case outcome.Ack:
		return outcome.Outcome{}
	case outcome.Retry:
		return outcome.Outcome{Verdict: verdict, After: after, Err: err}
	default:
		return outcome.Outcome{Verdict: verdict, Err: err}
	}
}

// byCode is the verdict of a code alone. Only codes that speak of the message
// itself are permanent. A code that speaks of the endpoint (not there yet, not
// allowed, moved, overloaded) is a retry: it can be mended without the message.
func byCode(code int) outcome.Verdict {
	switch {
	case code >= 200 && code < 300:
		return outcome.Ack
	case code == http.StatusBadRequest, code == http.StatusGone, code == http.StatusUnprocessableEntity:
		return outcome.Permanent
	case code == http.StatusRequestEntityTooLarge, code == http.StatusUnsupportedMediaType:
		return outcome.Permanent
	default:
		return outcome.Retry
	}
}

// parseAnswer reads a JSON object with a known status; anything else says
// nothing.
func parseAnswer(header http.Header, body []byte) answer {
	var a answer
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	isJSON := media == "" || media == "text/plain" || media == "application/json" || strings.HasSuffix(media, "+json")
	if !isJSON || !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) || json.Unmarshal(body, &a) != nil {
		return answer{}
	}
	switch a.Status {
	case "retry", "drop", "dead":
		return a
	default:
		return answer{}
	}
}

// said returns what the endpoint gave as its reason, in one line of at most 500
// characters.
func said(a answer, header http.Header, body []byte) string {
	s := a.Reason
	if s == "" && a.Status == "" && !strings.HasPrefix(header.Get("Content-Type"), "text/html") {
		s = string(body)
	}
	words := []rune(strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "))
	if len(words) > 500 {
		words = append(words[:500], []rune("...")...)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, string(words))
}

// retryAfter reads seconds or a date; zero when there is none or it has passed.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && n > 0 {
		return min(time.Duration(n), 366*24*3600) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
