package integration_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/integration/internal/rabbittest"
	"github.com/holdfast-go/holdfast/internal/rabbitnode"
	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir, name: name}
	a.key = a.write(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, true)
	block, _ := pem.Decode(a.read(name + ".pem"))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	a.cert = cert
	return a
}

func (a *authority) read(file string) []byte {
	a.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, file))
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// path is where a file of this authority lies.
func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

// issue writes name.pem and name-key.pem, signed by the authority.
func (a *authority) issue(name string, change func(*x509.Certificate)) {
	a.t.Helper()
	c := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(c)
	}
	a.write(name, c, false)
}

func (a *authority) write(name string, c *x509.Certificate, self bool) *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.next++
	c.SerialNumber = big.NewInt(a.next)
	if c.Subject.CommonName == "" {
		c.Subject = pkix.Name{CommonName: name}
	}
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if self {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem":     {Type: "CERTIFICATE", Bytes: der},
		name + "-key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return key
}

// pool trusts this authority.
func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// tlsBroker starts a broker that speaks TLS with server.pem, and asks clients for
// a certificate of ca.
func tlsBroker(t *testing.T, ca *authority, server string) *rabbittest.Broker {
	t.Helper()
	return rabbittest.StartWith(t, rabbitnode.Settings{
		Plugins: []string{"rabbitmq_auth_mechanism_ssl"},
		Conf: "listeners.ssl.1 = 127.0.0.1:TLSPort\nssl_options.cacertfile = " + ca.path(ca.name+".pem") +
			"\nssl_options.certfile = " + ca.path(server+".pem") + "\nssl_options.keyfile = " + ca.path(server+"-key.pem") +
			"\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true" +
			"\nauth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
	})
}

// secureURL is a URL with certificates as parameters.
func secureURL(b *rabbittest.Broker, user string, params ...string) string {
	return "amqps://" + user + b.TLSAddr() + "/?" + strings.Join(params, "&")
}

// dialed connects and closes again.
func dialed(t *testing.T, url string, opts ...rabbitmq.Option) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rabbitPatience)
	defer cancel()
	rmq, err := rabbitmq.Connect(ctx, url, opts...)
	if err != nil {
		return err
	}
	return rmq.Close(ctx)
}

// Over TLS a certificate of either side that cannot be trusted is refused, by a
// permanent error that says how to mend it and shows no credentials; with the
// right ones, given in the URL or in Go, a message goes through.
func TestRabbitMQTLSIsRefusedWithAHintOrWorks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, stranger := newAuthority(t, dir, "ca"), newAuthority(t, dir, "stranger")
	ca.issue("server", nil)
	ca.issue("client", nil)
	ca.issue("nobody", nil)
	ca.issue("old", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	stranger.issue("foreign", nil)
	b := tlsBroker(t, ca, "server")
	b.Ctl(t, "add_user", "client", "unused-password")
	b.Ctl(t, "set_permissions", "client", ".*", ".*", ".*")

	const login = "guest:guest@"
	trust, cert := "cacertfile="+ca.path("ca.pem"), func(name string) string {
		return "certfile=" + ca.path(name+".pem") + "&keyfile=" + ca.path(name+"-key.pem")
	}
	for name, c := range map[string]struct {
		url  string
		hint string
	}{
		"wrong CA":              {secureURL(b, login, "cacertfile="+ca.path("stranger.pem"), cert("client")), "cacertfile=FILE"},
		"no CA":                 {secureURL(b, login, cert("client")), "cacertfile=FILE"},
		"wrong host":            {secureURL(b, login, trust, cert("client"), "server_name_indication=elsewhere.example"), "server_name_indication=NAME"},
		"no client certificate": {secureURL(b, login, trust), "certfile=FILE"},
		"client of another CA":  {secureURL(b, login, trust, cert("foreign")), "ssl_options.cacertfile"},
		"client has expired":    {secureURL(b, login, trust, cert("old")), "renew it"},
		"no such file":          {secureURL(b, login, trust, cert("missing")), "cannot be read"},
		"key of another":        {secureURL(b, login, trust, "certfile="+ca.path("client.pem"), "keyfile="+ca.path("server-key.pem")), "in PEM"},
		"wrong password":        {secureURL(b, "guest:canary-secret@", trust, cert("client")), "the user, the password"},
		"external, no user":     {secureURL(b, "", trust, cert("nobody"), "auth_mechanism=external"), "rabbitmqctl add_user"},
		"TLS on a plain port":   {"amqps://guest:canary-secret@" + b.Addr() + "/?" + trust, "does not speak TLS"},
	} {
		err := dialed(t, c.url)
		if transport.KindOf(err) != transport.Permanent || !strings.Contains(fmt.Sprint(err), c.hint) {
			t.Errorf("%s: %v (%v), and no word of %q", name, err, transport.KindOf(err), c.hint)
		}
		if strings.Contains(fmt.Sprint(err), "canary") || strings.Contains(fmt.Sprint(err), "guest:") {
			t.Errorf("%s: the error shows credentials: %v", name, err)
		}
	}
	if err := dialed(t, "amqp://guest:canary-secret@"+b.TLSAddr()); err == nil || !strings.Contains(err.Error(), "amqps://") || strings.Contains(err.Error(), "canary") {
		t.Errorf("plain on a TLS port: %v", err)
	}

	pair, err := tls.LoadX509KeyPair(ca.path("client.pem"), ca.path("client-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{pair}}
	for name, rmq := range map[string]*rabbitmq.Transport{
		"URL":      rabbitConnect(t, secureURL(b, login, trust, cert("client"))),
		"external": rabbitConnect(t, secureURL(b, "", trust, cert("client"), "auth_mechanism=external")),
		"WithTLS":  rabbitConnect(t, "amqps://"+login+b.TLSAddr(), rabbitmq.WithTLS(config)),
		"WithExternalAuth": rabbitConnect(t, "amqps://"+b.TLSAddr(), rabbitmq.WithTLS(config),
			rabbitmq.WithExternalAuth()),
	} {
		w := &rabbitWorld{TB: t, b: b, rmq: rmq, name: "tls-" + name}
		rx := w.open(w.queue(nil), 1)
		m := w.publish("over TLS")
		if d := w.receive(rx); d.Message().ID != m.ID {
			t.Errorf("%s: got %q", name, d.Message().ID)
		}
	}
	if err := dialed(t, "amqps://"+login+b.TLSAddr(), rabbitmq.WithTLS(&tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS11})); err == nil {
		t.Error("a connection with TLS 1.1 was made")
	}
}

// A broker whose own certificate has expired is refused, and so is one for another
// host, whatever is trusted.
func TestRabbitMQExpiredServerIsRefused(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("client", nil)
	ca.issue("server", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		c.DNSNames, c.IPAddresses = []string{"elsewhere.example"}, nil
	})
	b := tlsBroker(t, ca, "server")
	url := secureURL(b, "guest:canary-secret@", "cacertfile="+ca.path("ca.pem"),
		"certfile="+ca.path("client.pem"), "keyfile="+ca.path("client-key.pem"))
	for name, c := range map[string]struct{ url, hint string }{
		"expired": {url + "&server_name_indication=elsewhere.example", "expired"},
		"both":    {url, "renew it"},
	} {
		err := dialed(t, c.url, rabbitmq.WaitForBroker()) // waiting mends nothing
		if transport.KindOf(err) != transport.Permanent || !strings.Contains(fmt.Sprint(err), c.hint) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Certificates and passwords that are renewed are used at the next connection,
// without a restart.
func TestRabbitMQRenewedCredentialsAreUsed(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, t.TempDir(), "ca")
	ca.issue("server", nil)
	ca.issue("client", nil)
	ca.issue("renewed", func(c *x509.Certificate) { c.Subject.CommonName = "renewed" })
	b := tlsBroker(t, ca, "server")
	for _, user := range []string{"client", "renewed"} {
		b.Ctl(t, "add_user", user, "first")
		b.Ctl(t, "set_permissions", user, ".*", ".*", ".*")
	}
	byFile := rabbitConnect(t, secureURL(b, "", "cacertfile="+ca.path("ca.pem"), "certfile="+ca.path("client.pem"),
		"keyfile="+ca.path("client-key.pem"), "auth_mechanism=external"), rabbitmq.WithReconnectWait(20*time.Millisecond, 200*time.Millisecond))
	var password atomic.Pointer[string]
	first := "first"
	password.Store(&first)
	byCall := rabbitConnect(t, "amqp://"+b.Addr(), rabbitmq.WithReconnectWait(20*time.Millisecond, 200*time.Millisecond),
		rabbitmq.WithCredentials(func(context.Context) (string, string, error) { return "client", *password.Load(), nil }))
	w := &rabbitWorld{TB: t, b: b, rmq: byFile, name: "renewed"}
	w.queue(nil)
	w.publish("before")
	for _, suffix := range []string{".pem", "-key.pem"} {
		if err := os.Rename(ca.path("renewed"+suffix), ca.path("client"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	second := "second"
	password.Store(&second)
	b.Ctl(t, "change_password", "client", "second")
	b.Ctl(t, "close_all_connections", "for a test")
	for name, rmq := range map[string]*rabbitmq.Transport{"files": byFile, "callback": byCall} {
		w.eventually("the connection is back by "+name, func() bool {
			return rmq.Publish(w.soon(), rabbitmq.QueueAddress(w.name), w.message("after")) == nil
		})
	}
	if users := b.Ctl(t, "list_connections", "user"); !strings.Contains(users, "renewed") || !strings.Contains(users, "client") {
		t.Errorf("the users connected are %q", users)
	}
	err := dialed(t, "amqp://"+b.Addr(), rabbitmq.WithCredentials(func(context.Context) (string, string, error) {
		return "", "", errors.New("the vault is sealed")
	}))
	if transport.KindOf(err) != transport.Temporary || !strings.Contains(fmt.Sprint(err), "the vault is sealed") {
		t.Errorf("a login that cannot be had: %v", err)
	}
}

// What a URL says about certificates and cannot mean is refused before anything
// is sent, and no credential of it is shown.
func TestRabbitMQContradictoryURLsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		url  string
		opts []rabbitmq.Option
	}{
		"unknown parameter":   {"amqps://u:canary@127.0.0.1:1/?cacert=canary", nil},
		"certificate, no key": {"amqps://u:canary@127.0.0.1:1/?certfile=f", nil},
		"not over TLS":        {"amqp://u:canary@127.0.0.1:1/?cacertfile=f", nil},
		"external, not TLS":   {"amqp://u:canary@127.0.0.1:1/?auth_mechanism=external", nil},
		"no mechanism":        {"amqps://u:canary@127.0.0.1:1/?auth_mechanism=canary", nil},
		"certificates twice":  {"amqps://u:canary@127.0.0.1:1/?cacertfile=f", []rabbitmq.Option{rabbitmq.WithTLS(&tls.Config{MinVersion: tls.VersionTLS12})}},
		"external by option":  {"amqp://u:canary@127.0.0.1:1", []rabbitmq.Option{rabbitmq.WithExternalAuth()}},
	} {
		if err := dialed(t, c.url, c.opts...); !errors.Is(err, transport.ErrInvalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
