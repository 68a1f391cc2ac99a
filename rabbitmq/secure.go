package rabbitmq

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/holdfast-go/holdfast/transport"
)

// Parameters of a URL. They are those of RabbitMQ's own clients.
const (
	paramCA        = "cacertfile"
	paramCert      = "certfile"
	paramKey       = "keyfile"
	paramName      = "server_name_indication"
	paramMechanism = "auth_mechanism"
)

// urlFault tells what is wrong with the parameters of a URL, "" for nothing. The
// client library ignores what it does not know, and a certificate without a key:
// a connection would be less safe than it looks. Nothing of the URL is shown.
func urlFault(raw string, set settings) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "the URL cannot be parsed"
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "the parameters of the URL cannot be parsed"
	}
	secure := false
	for name, values := range params {
		switch name {
		case paramCA, paramCert, paramKey, paramName:
			secure = true
			if len(values) != 1 || values[0] == "" {
				return "the URL has " + name + " without a value, or twice"
			}
		case paramMechanism, "channel_max":
		case "heartbeat":
			if slices.Contains(values, "0") {
				return "the URL has heartbeat=0: a connection that is half open would never be found out"
			}
		case "connection_timeout":
			if at, err := amqp.ParseURI(raw); err == nil && at.ConnectionTimeout < 0 {
				return "the connection_timeout of the URL is negative"
			}
		default:
			return "the URL has a parameter that is none of " + strings.Join([]string{
				paramCA, paramCert, paramKey, paramName, paramMechanism, "heartbeat", "connection_timeout", "channel_max",
			}, ", ")
		}
	}
	return secureFault(u.Scheme == "amqps", secure, params, set)
}

func secureFault(overTLS, secure bool, params url.Values, set settings) string {
	external := set.external
	for _, m := range params[paramMechanism] {
		if !slices.Contains([]string{"plain", "amqplain", "external"}, strings.ToLower(m)) {
			return "the auth_mechanism of the URL is none of plain, amqplain and external"
		}
		external = external || strings.EqualFold(m, "external")
	}
	switch {
	case params.Has(paramCert) != params.Has(paramKey):
		return "the URL has one of certfile and keyfile and not the other"
	case secure && !overTLS:
		return "the URL names certificates and is not amqps://, so that nothing would be encrypted"
	case set.tls != nil && !overTLS:
		return "WithTLS is given and the URL is not amqps://, so that nothing would be encrypted"
	case secure && set.tls != nil:
		return "the URL names certificates, and WithTLS is given as well"
	case external && !overTLS:
		return "a client certificate needs amqps://"
	case external && set.credentials != nil:
		return "WithCredentials is given, and the client certificate is to be used"
	}
	return ""
}

// mechanisms are the ways to authenticate at one dial; nil leaves it to the URL.
// They are made anew for each, because the client library wipes them.
func (s *settings) mechanisms(ctx context.Context) ([]amqp.Authentication, error) {
	switch {
	case s.external:
		return []amqp.Authentication{&amqp.ExternalAuth{}}, nil
	case s.credentials == nil:
		return nil, nil
	}
	user, password, err := s.credentials(ctx)
	if err != nil {
		return nil, err
	}
	return []amqp.Authentication{&amqp.PlainAuth{Username: user, Password: password}}, nil
}

// refusedTLS says how to mend what keeps both sides from trusting each other; ""
// when it is something else. The client library passes on as text what is learned
// only after the handshake.
func refusedTLS(err error) (hint string) {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var file *fs.PathError
	switch {
	case errors.As(err, &authority):
		return "the broker's certificate is signed by an authority that is not trusted here: name its CA with cacertfile=FILE in the URL, or with WithTLS"
	case errors.As(err, &host):
		return "the broker's certificate is for other names: connect to one of them, or name the one it has with server_name_indication=NAME in the URL"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the broker's certificate has expired or is not valid yet: renew it, or correct the clock of this machine"
	case errors.As(err, &invalid):
		return "the broker's certificate cannot be used: issue another one"
	case errors.As(err, &record):
		return "the broker does not speak TLS on this port: the port for amqps:// usually is 5671; write amqp:// for one without TLS"
	case errors.As(err, &file):
		return "the file that the URL names cannot be read: correct its path, or let this user read it"
	}
	return alertHint(err.Error())
}

// alertHint is refusedTLS for what the broker says about our certificate.
func alertHint(text string) string {
	said := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, "tls: "+p) })
	}
	switch {
	case said("certificate required"):
		return "the broker wants a client certificate, signed by a CA of its ssl_options.cacertfile: name it with certfile=FILE and keyfile=FILE in the URL, or with WithTLS; one of another CA is not even sent"
	case said("unknown certificate authority"):
		return "the broker does not trust the authority that signed our client certificate: use one signed by a CA of the broker's ssl_options.cacertfile"
	case said("expired certificate"):
		return "our client certificate has expired: renew it"
	case said("bad certificate", "unsupported certificate", "revoked certificate", "unknown certificate"):
		return "the broker refused our client certificate, or wants one and got none: name it with certfile=FILE and keyfile=FILE in the URL, or with WithTLS"
	case said("handshake failure", "protocol version not supported", "insufficient security level"):
		return "the broker and this program agree on no way to encrypt, or the broker wants a client certificate: let the broker speak TLS 1.2 or later, and name a certificate with certfile=FILE and keyfile=FILE"
	case said("failed to find any PEM data", "private key does not match public key", "failed to parse private key"):
		return "certfile and keyfile must hold a certificate and its key, both in PEM and the key without a passphrase"
	}
	return ""
}

// unexplained tells whether a TLS connection ended as it does when the broker wants
// another certificate and its words were lost: it says so after the handshake, and
// when our greeting fails first, the client library tells of that instead.
func unexplained(raw string, err error) bool {
	var said *amqp.Error
	return strings.HasPrefix(raw, "amqps:") && transport.KindOf(err) == transport.Temporary &&
		(errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
			errors.As(err, &said) && said.Code == amqp.FrameError)
}

// refusedLogin says how to mend that the broker refused who we are.
func refusedLogin(err error, external bool) string {
	switch {
	case errors.Is(err, amqp.ErrSASL) && external:
		return "the broker takes no client certificates for a login: enable the plugin rabbitmq_auth_mechanism_ssl and add EXTERNAL to its auth_mechanisms"
	case errors.Is(err, amqp.ErrSASL):
		return "the broker does not take this auth_mechanism"
	case external:
		return "the broker has no user that is named as the client certificate says, or refused the virtual host: rabbitmqctl add_user, see ssl_cert_login_from"
	}
	return "the broker refused the user, the password or the virtual host"
}

// isExternal tells whether a URL is used with a client certificate as the login.
func (t *Transport) isExternal(raw string) bool {
	at, err := amqp.ParseURI(raw)
	return t.set.external || err == nil && slices.ContainsFunc(at.AuthMechanism, func(m string) bool { return strings.EqualFold(m, "external") })
}

// dialError explains why a connection could not be made, without credentials.
func (t *Transport) dialError(raw string, err, ended error) error {
	e := &transport.Error{Op: "connect", Address: redact(raw), Kind: transport.Temporary, Err: err}
	var said *amqp.Error
	switch {
	case ended != nil:
		e.Err = errors.Join(errTimeout, ended)
		e.Hint = "no broker answers there: start it, correct the address, or use WaitForBroker"
	case refusedTLS(err) != "":
		e.Kind, e.Hint = transport.Permanent, refusedTLS(err)
	case errors.As(err, &said) && (said.Code == amqp.AccessRefused || said.Code == amqp.NotAllowed):
		e.Kind, e.Err = transport.Permanent, errors.Join(transport.ErrPermission, err)
		e.Hint = refusedLogin(err, t.isExternal(raw))
	case errors.As(err, &said):
		if !strings.HasPrefix(raw, "amqps:") {
			e.Hint = "it may be no RabbitMQ, or want TLS on this port: then write amqps://"
		}
	default:
		e.Hint = "no broker answers there: start it, correct the address, or use WaitForBroker"
	}
	return e
}
