package natstest

import (
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// NewKey makes a key, such as nkeys.CreateUser does, and returns its public part
// and its seed as well.
func NewKey(tb testing.TB, create func() (nkeys.KeyPair, error)) (kp nkeys.KeyPair, public, seed string) {
	tb.Helper()
	kp, err := create()
	if err != nil {
		tb.Fatal(err)
	}
	public, err = kp.PublicKey()
	if err != nil {
		tb.Fatal(err)
	}
	s, err := kp.Seed()
	if err != nil {
		tb.Fatal(err)
	}
	return kp, public, string(s)
}

// Issuer is an operator with one account, which signs users.
type Issuer struct {
	tb       testing.TB
	operator nkeys.KeyPair
	account  nkeys.KeyPair
	claims   *jwt.AccountClaims
	server   *jwt.OperatorClaims
}

// NewIssuer makes the keys of an operator and of its account.
func NewIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	i := &Issuer{tb: tb}
	var operator, account string
	i.operator, operator, _ = NewKey(tb, nkeys.CreateOperator)
	i.account, account, _ = NewKey(tb, nkeys.CreateAccount)
	i.server, i.claims = jwt.NewOperatorClaims(operator), jwt.NewAccountClaims(account)
	return i
}

// Trusted is an Option: the server trusts the operator, with the account as it is
// now, and has no JetStream.
func (i *Issuer) Trusted(o *server.Options) {
	accounts := &server.MemAccResolver{}
	i.store(accounts, i.claims)
	o.JetStream = false
	o.TrustedOperators = []*jwt.OperatorClaims{i.server}
	o.AccountResolver = accounts
}

// Storing is an Option: the server trusts the operator, and the account may use
// JetStream.
func (i *Issuer) Storing(o *server.Options) {
	i.claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	i.Trusted(o)
	_, system, _ := NewKey(i.tb, nkeys.CreateAccount)
	i.store(o.AccountResolver, jwt.NewAccountClaims(system))
	o.JetStream, o.SystemAccount = true, system
}

func (i *Issuer) store(accounts server.AccountResolver, c *jwt.AccountClaims) {
	i.tb.Helper()
	text, err := c.Encode(i.operator)
	if err != nil {
		i.tb.Fatal(err)
	}
	if err := accounts.Store(c.Subject, text); err != nil {
		i.tb.Fatal(err)
	}
}

// User returns the public key of a new user, and its credentials file's text.
func (i *Issuer) User() (public, creds string) {
	i.tb.Helper()
	_, public, seed := NewKey(i.tb, nkeys.CreateUser)
	text, err := jwt.NewUserClaims(public).Encode(i.account)
	if err != nil {
		i.tb.Fatal(err)
	}
	out, err := jwt.FormatUserConfig(text, []byte(seed))
	if err != nil {
		i.tb.Fatal(err)
	}
	return public, string(out)
}

// Revoke takes a user's access away, once a server has read the account anew.
func (i *Issuer) Revoke(user string) { i.claims.Revoke(user) }
