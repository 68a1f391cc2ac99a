package natsconn

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-go/holdfast/transport"
)

// Context is what a context of the nats command line program says.
type Context struct {
	Name        string
	URL         string
	Auth        Auth
	TLS         TLS
	InboxPrefix string
	Domain      string // of JetStream
	APIPrefix   string // of JetStream
}

// contextFile is the file of a context, as that program writes it.
type contextFile struct {
	URL         string   `json:"url"`
	Token       string   `json:"token"`
	User        string   `json:"user"`
	Password    string   `json:"password"`
	Creds       string   `json:"creds"`
	NKey        string   `json:"nkey"`
	Cert        string   `json:"cert"`
	Key         string   `json:"key"`
	CA          string   `json:"ca"`
	TLSFirst    bool     `json:"tls_first"`
	InboxPrefix string   `json:"inbox_prefix"`
	Domain      string   `json:"jetstream_domain"`
	APIPrefix   string   `json:"jetstream_api_prefix"`
	EventPrefix string   `json:"jetstream_event_prefix"`
	JWT         string   `json:"user_jwt"`
	Seed        string   `json:"user_seed"`
	NSC         string   `json:"nsc"`
	SocksProxy  string   `json:"socks_proxy"`
	WinStore    string   `json:"windows_cert_store"`
	WinMatchBy  string   `json:"windows_cert_match_by"`
	WinMatch    string   `json:"windows_cert_match"`
	WinCAMatch  []string `json:"windows_ca_certs_match"`
}

// ReadContext reads a context of the nats command line program: the file
// nats/context/NAME.json below $XDG_CONFIG_HOME, or below ~/.config. An empty
// name means the one in $NATS_CONTEXT, or else the one that was selected there.
func ReadContext(name string) (Context, error) {
	c, err := readContext(name)
	if err != nil {
		return Context{}, &transport.Error{
			Op: "read nats context", Address: name, Kind: transport.Permanent,
			Err:  fmt.Errorf("%w: %w", transport.ErrInvalid, err),
			Hint: "see the contexts there are with: nats context ls",
		}
	}
	return c, nil
}

func readContext(name string) (Context, error) {
	dir, err := configDir()
	if err != nil {
		return Context{}, err
	}
	if name == "" {
		if name, err = selected(dir); err != nil {
			return Context{}, err
		}
	}
	if name != filepath.Base(name) || name == "." || name == ".." || strings.ContainsAny(name, `/\`) {
		return Context{}, fmt.Errorf("%q is not the name of a context", name)
	}
	text, err := os.ReadFile(filepath.Join(dir, "context", name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Context{}, fmt.Errorf("there is no context %q in %s", name, filepath.Join(dir, "context"))
	}
	if err != nil {
		return Context{}, err
	}
	c, err := parseContext(text)
	if err != nil {
		return Context{}, fmt.Errorf("the context %q: %w", name, err)
	}
	c.Name = name
	return c, nil
}

// configDir is where the nats program keeps its files.
func configDir() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "nats"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("contexts are looked for below the home directory: %w", err)
	}
	return filepath.Join(home, ".config", "nats"), nil
}

// selected is the context to use when none is named.
func selected(dir string) (string, error) {
	if name := os.Getenv("NATS_CONTEXT"); name != "" {
		return name, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "context.txt"))
	if name := strings.TrimSpace(string(text)); err == nil && name != "" {
		return name, nil
	}
	return "", errors.New("no context is named, and none is selected")
}

// parseContext reads the text of a context. No error quotes it: it holds
// passwords.
func parseContext(text []byte) (Context, error) {
	var f contextFile
	if err := json.Unmarshal(text, &f); err != nil {
		if bad, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return Context{}, fmt.Errorf("the value of %q has the wrong type", bad.Field)
		}
		return Context{}, errors.New("the file is not JSON")
	}
	if what := f.unknown(); what != "" {
		return Context{}, fmt.Errorf("it uses %s, which is not supported here; give the connection its URL and credentials in another way", what)
	}
	creds, err := f.credsFile()
	if err != nil {
		return Context{}, err
	}
	c := Context{
		URL:  f.URL,
		Auth: Auth{User: f.User, Password: f.Password, Token: f.Token, NKeyFile: expandPath(f.NKey), CredsFile: creds, JWT: f.JWT, Seed: f.Seed},
		TLS:  TLS{Cert: expandPath(f.Cert), Key: expandPath(f.Key), First: f.TLSFirst},

		InboxPrefix: f.InboxPrefix, Domain: f.Domain, APIPrefix: f.APIPrefix,
	}
	if f.CA != "" {
		c.TLS.CAs = []string{expandPath(f.CA)}
	}
	if c.URL == "" {
		c.URL = nats.DefaultURL
	}
	return c, nil
}

// unknown names what the context asks for and we cannot do.
func (f contextFile) unknown() string {
	switch {
	case f.NSC != "":
		return "the program nsc"
	case f.SocksProxy != "":
		return "a SOCKS proxy"
	case f.WinStore != "" || f.WinMatchBy != "" || f.WinMatch != "" || len(f.WinCAMatch) > 0:
		return "the certificate store of Windows"
	case f.EventPrefix != "":
		return "an event prefix of JetStream"
	}
	for _, v := range []string{f.Creds, f.NKey, f.User, f.Password, f.Token, f.JWT, f.Seed, f.CA, f.Cert, f.Key} {
		for _, scheme := range []string{"op://", "nsc://", "env://", "data:"} {
			if strings.HasPrefix(v, scheme) {
				return "a secret behind " + scheme
			}
		}
	}
	return ""
}

func (f contextFile) credsFile() (string, error) {
	path, found := strings.CutPrefix(f.Creds, "file://")
	if found && !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "~") {
		return "", errors.New("the value of \"creds\" is a file:// address without an absolute path")
	}
	return expandPath(path), nil
}

// expandPath expands variables of the environment and a leading ~, as the nats
// program does.
func expandPath(path string) string {
	path = os.ExpandEnv(path)
	rest, found := strings.CutPrefix(path, "~")
	if !found || rest != "" && rest[0] != '/' {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return home + rest
}

// Fill adds what a context says to what cfg leaves open, and returns the URLs to
// connect to. A login or certificates given beside the context replace its own
// as a whole. An URL beside it wins, with the context's login.
func (ctx Context) Fill(urls string, cfg Config) (string, Config) {
	if len(cfg.Auth.kinds()) == 0 {
		cfg.Auth = ctx.Auth
	}
	if cfg.TLS.empty() {
		cfg.TLS = ctx.TLS
	}
	if cfg.InboxPrefix == "" {
		cfg.InboxPrefix = ctx.InboxPrefix
	}
	if strings.TrimSpace(urls) == "" {
		urls = ctx.URL
	}
	return urls, cfg
}
