package httphandler_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/config"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/httphandler"
	"github.com/holdfast-go/holdfast/cmd/holdfast/internal/outcome"
)

func endpoint(t *testing.T, cfg httphandler.Config, fn http.HandlerFunc) *httphandler.Handler {
	t.Helper()
	srv := httptest.NewServer(fn)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL + "/hook?token=hunter2")
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("ana", "hunter2")
	cfg.URL = u
	h := httphandler.New(cfg)
	t.Cleanup(h.Close)
	return h
}

func message() outcome.Message {
	return outcome.Message{ID: "m-1", Subject: "orders.placed", Subscription: "orders", Attempt: 2, ContentType: "application/json", Body: []byte(`{"a":1}`), Header: map[string][]string{"traceparent": {"00-a-b-01"}}}
}

func TestTheStatusCodeDecides(t *testing.T) {
	t.Parallel()
	var code atomic.Int64
	h := endpoint(t, httphandler.Config{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(code.Load())) })
	for c, want := range map[int]outcome.Verdict{
		200: outcome.Ack, 201: outcome.Ack, 204: outcome.Ack,
		400: outcome.Permanent, 410: outcome.Permanent, 422: outcome.Permanent, 413: outcome.Permanent, 415: outcome.Permanent,
		301: outcome.Retry, 307: outcome.Retry, 401: outcome.Retry, 403: outcome.Retry, 404: outcome.Retry, 405: outcome.Retry, 408: outcome.Retry, 409: outcome.Retry, 425: outcome.Retry, 429: outcome.Retry,
		500: outcome.Retry, 501: outcome.Retry, 502: outcome.Retry, 503: outcome.Retry, 504: outcome.Retry,
	} {
		code.Store(int64(c))
		o := h.Handle(t.Context(), message())
		if o.Verdict != want || (o.Err == nil) != (want == outcome.Ack) {
			t.Errorf("%d = %v, %v; want %v", c, o.Verdict, o.Err, want)
		}
		if o.Err != nil && strings.Contains(o.Err.Error(), "hunter2") {
			t.Errorf("%d shows a secret: %v", c, o.Err)
		}
	}
}

func TestAJSONAnswerWinsOverTheCode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code   int
		answer string
		want   outcome.Verdict
		after  time.Duration
		says   string
	}{
		{200, `{"status":"retry","after":"30s","reason":"later"}`, outcome.Retry, 30 * time.Second, "later"},
		{200, `{"status":"dead","reason":"no such customer"}`, outcome.Permanent, 0, "no such customer"},
		{500, `{"status":"drop","reason":"old"}`, outcome.Drop, 0, "old"},
		{422, `{"status":"retry"}`, outcome.Retry, 0, "422"},
		{200, `{"status":"shipped"}`, outcome.Ack, 0, ""},
		{200, `not json`, outcome.Ack, 0, ""},
		{200, `{"status":5}`, outcome.Ack, 0, ""},
		{500, `{"status":"retry","after":"soon"}`, outcome.Retry, 0, "500"},
		{500, strings.Repeat("x", 200<<10), outcome.Retry, 0, "..."},
		{500, "a\x00\x1b[1m\n\n  b \xff", outcome.Retry, 0, "a[1m b ?"},
	} {
		h := endpoint(t, httphandler.Config{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(tc.code)
			_, _ = io.WriteString(w, tc.answer)
		})
		o := h.Handle(t.Context(), message())
		if o.Verdict != tc.want || o.After != tc.after || (tc.says != "" && !strings.Contains(o.Err.Error(), tc.says)) {
			t.Errorf("%d %.60s = %+v", tc.code, tc.answer, o)
		}
		if o.Err != nil && len(o.Err.Error()) > 700 {
			t.Errorf("an error of %d bytes", len(o.Err.Error()))
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	var value atomic.Value
	h := endpoint(t, httphandler.Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", value.Load().(string))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	at := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for v, within := range map[string][2]time.Duration{
		"7": {7 * time.Second, 7 * time.Second}, at: {59 * time.Minute, time.Hour},
		"-5": {0, 0}, "soon": {0, 0}, "": {0, 0}, "Thu, 01 Jan 1970 00:00:00 GMT": {0, 0}, "99999999999999": {366 * 24 * time.Hour, 366 * 24 * time.Hour},
	} {
		value.Store(v)
		if o := h.Handle(t.Context(), message()); o.After < within[0] || o.After > within[1] {
			t.Errorf("Retry-After %q = %v, want %v", v, o.After, within)
		}
	}
}

// The vector is that of the Standard Webhooks specification.
func TestARequestIsSignedByTheStandard(t *testing.T) {
	t.Parallel()
	key, err := config.DecodeSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	var got *http.Request
	var body []byte
	h := endpoint(t, httphandler.Config{Key: key, Headers: map[string]string{"X-Tenant": "t1"}, UserAgent: "holdfast/test"}, func(_ http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.WithoutCancel(r.Context()))
		body, _ = io.ReadAll(r.Body)
	})
	if o := h.Handle(t.Context(), message()); o.Verdict != outcome.Ack {
		t.Fatal(o.Err)
	}
	want := httphandler.Sign(key, "m-1", got.Header.Get("webhook-timestamp"), []byte(`{"a":1}`))
	for name, v := range map[string]string{
		"webhook-id": "m-1", "webhook-signature": want, "Content-Type": "application/json", "holdfast-subject": "orders.placed",
		"holdfast-subscription": "orders", "holdfast-attempt": "2", "traceparent": "00-a-b-01", "X-Tenant": "t1", "User-Agent": "holdfast/test",
	} {
		if got.Header.Get(name) != v {
			t.Errorf("%s = %q, want %q", name, got.Header.Get(name), v)
		}
	}
	if string(body) != `{"a":1}` || got.Method != http.MethodPost || got.ContentLength != 7 {
		t.Errorf("%s %d %q", got.Method, got.ContentLength, body)
	}
	if sig := httphandler.Sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`)); sig != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("Sign = %s", sig)
	}
}

func TestValuesThatCannotTravelAreEncoded(t *testing.T) {
	t.Parallel()
	var id, subject string
	h := endpoint(t, httphandler.Config{}, func(_ http.ResponseWriter, r *http.Request) {
		id, subject = r.Header.Get("webhook-id"), r.Header.Get("holdfast-subject")
	})
	m := message()
	m.ID, m.Subject = "a\r\nX: y\xff", "größe"
	if o := h.Handle(t.Context(), m); o.Verdict != outcome.Ack {
		t.Fatal(o.Err)
	}
	if id != "a%0D%0AX:%20y%FF" || subject != "gr%C3%B6%C3%9Fe" {
		t.Errorf("id %q subject %q", id, subject)
	}
}

func TestAnEndpointThatIsNotThereIsARetryWithoutSecrets(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"http://ana:hunter2@127.0.0.1:1/hunter2?x=hunter2", "https://127.0.0.1:1/hunter2"} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		o := httphandler.New(httphandler.Config{URL: u}).Handle(t.Context(), message())
		if o.Verdict != outcome.Retry || strings.Contains(o.Err.Error(), "hunter2") || !strings.Contains(o.Err.Error(), "127.0.0.1:1") {
			t.Errorf("%+v", o)
		}
	}
}

func TestASlowEndpointIsARetry(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	h := endpoint(t, httphandler.Config{Timeout: 20 * time.Millisecond}, func(_ http.ResponseWriter, _ *http.Request) { <-hang })
	t.Cleanup(func() { close(hang) })
	if o := h.Handle(t.Context(), message()); o.Verdict != outcome.Retry || !strings.Contains(o.Err.Error(), "no answer within 20ms") {
		t.Errorf("%+v", o)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopping := errors.New("stopping")
	cancel(stopping)
	if o := h.Handle(ctx, message()); !errors.Is(o.Err, stopping) {
		t.Errorf("%+v", o)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	h := endpoint(t, httphandler.Config{}, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	if o := h.Handle(t.Context(), message()); o.Verdict != outcome.Retry || calls.Load() != 1 {
		t.Errorf("%d calls, %+v", calls.Load(), o)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 60<<10)) }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	h := httphandler.New(httphandler.Config{URL: u, Concurrency: 8})
	t.Cleanup(h.Close)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if o := h.Handle(t.Context(), message()); o.Verdict != outcome.Ack {
					t.Error(o.Err)
				}
			}
		})
	}
	wg.Wait()
	if n := opened.Load(); n > 16 {
		t.Errorf("%d connections for 8 requests at once", n)
	}
}
