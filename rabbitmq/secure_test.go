package rabbitmq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-go/holdfast/rabbitmq"
	"github.com/holdfast-go/holdfast/transport"
)

// A broker that wants a client certificate says so after the handshake, in the moment
// in which the client library sends its greeting. What it says is lost when the
// greeting fails first; here it is lost twice.
func TestABrokerThatWantsACertificateIsUnderstood(t *testing.T) {
	t.Parallel()
	addr, roots := demanding(t, 2)
	tr, err := rabbitmq.Connect(t.Context(), "amqps://guest:guest@"+addr, rabbitmq.WithTLS(&tls.Config{RootCAs: roots}))
	if err == nil {
		_ = tr.Close(t.Context())
		t.Fatal("connected without a certificate")
	}
	var told *transport.Error
	if !errors.As(err, &told) || told.Kind != transport.Permanent || !strings.Contains(told.Hint, "certfile=FILE") {
		t.Errorf("no word of the certificate: %v", err)
	}
}

// demanding listens for TLS connections and lets nobody in without a certificate. The
// first few are reset before it can say so.
func demanding(t *testing.T, resets int32) (addr string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	lax := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	strict := lax.Clone()
	strict.ClientAuth, strict.ClientCAs = tls.RequireAndVerifyClientCert, roots
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			resets--
			reset, tcp := resets >= 0, c.(*net.TCPConn)
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				if reset {
					_ = tls.Server(c, lax).Handshake()
					_ = tcp.SetLinger(0)
					return
				}
				_ = tls.Server(c, strict).Handshake() // fails, and says why
				_ = tcp.CloseWrite()
				_, _ = io.Copy(io.Discard, c) // a close before would be a reset
			})
		}
	})
	return ln.Addr().String(), roots
}
