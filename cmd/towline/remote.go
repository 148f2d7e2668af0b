package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpproxy"

	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
)

// remoteFlags are the flags of every command that can talk to an app-server by its
// address, with the names and rules of Codex's.
type remoteFlags struct{ url, tokenEnv, caFile string }

func (o *remoteFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&o.url, "remote", "", "the app-server at `URL`: ws://host:port, wss://host:port, unix:// or unix://PATH")
	f.StringVar(&o.tokenEnv, "remote-auth-token-env", "", "the environment variable `NAME` holds the token for --remote")
	f.StringVar(&o.caFile, "remote-ca", "", "trust the authorities in `FILE` (PEM) too, for wss://")
}

// given reports whether a server is named; a command line that only says how is
// told so by [remoteFlags.check].
func (o *remoteFlags) given() bool { return o.url != "" }

// check refuses flags that make no sense together, before anything is done.
func (o *remoteFlags) check(f *pflag.FlagSet) error {
	wrong := func(text string, hints ...string) error {
		return &config.Problem{Err: errors.New(text), Hints: hints, Exit: config.ExitUsage}
	}
	switch named := f.Changed("remote"); {
	case !named && o.tokenEnv != "":
		return wrong("`--remote-auth-token-env` requires `--remote`.", "name the server: `--remote wss://HOST:PORT`")
	case !named && o.caFile != "":
		return wrong("`--remote-ca` requires `--remote`.", "name the server: `--remote wss://HOST:PORT`")
	case !named:
		return nil
	}
	name, err := transport.ParseRemote(o.url)
	switch {
	case err != nil:
		return err
	case o.tokenEnv != "" && !transport.TokenFits(o.url):
		hint := "use wss://HOST:PORT, so that nobody on the way can read the token"
		if strings.HasPrefix(name, "unix://") {
			hint = "a unix socket needs no token: leave `--remote-auth-token-env` out"
		}
		return wrong("`--remote-auth-token-env` requires a `wss://` or loopback `ws://` remote.", hint)
	case o.caFile != "" && !strings.HasPrefix(name, "wss://"):
		return wrong("`--remote-ca` requires a `wss://` remote.", "leave it out: there is no certificate at "+name)
	}
	return nil
}

// args is what to type, after a command, to reach the same server; "" for this
// machine's daemon.
func (o *remoteFlags) args() string {
	if !o.given() {
		return ""
	}
	name, err := transport.ParseRemote(o.url)
	if err != nil {
		name = o.url
	}
	s := "--remote " + shellWord(name)
	if o.tokenEnv != "" {
		s += " --remote-auth-token-env " + shellWord(o.tokenEnv)
	}
	if o.caFile != "" {
		s += " --remote-ca " + shellWord(o.caFile)
	}
	return s
}

// remoteServer is an app-server by its address, with what it takes to be let in.
type remoteServer struct {
	url  string // as it is dialed
	name string // without user information, for people
	o    transport.DialOptions
}

// open reads the token and the certificates. The token leaves the environment:
// nothing that is started later has it. It may be called once.
func (o *remoteFlags) open(paths config.Paths) (*remoteServer, error) {
	name, err := transport.ParseRemote(o.url)
	if err != nil {
		return nil, err
	}
	s := &remoteServer{url: o.url, name: name}
	if o.tokenEnv != "" {
		if s.o.Token, err = takeToken(o.tokenEnv); err != nil {
			return nil, err
		}
		s.o.TokenName = "$" + printable(o.tokenEnv)
	}
	if name == "unix://" {
		if s.url, err = defaultSocket(paths); err != nil {
			return nil, err
		}
		s.name = s.url
	}
	if strings.HasPrefix(name, "wss://") {
		if s.o.CA, err = trusted(o.caFile, os.Getenv); err != nil {
			return nil, err
		}
	}
	s.o.Proxy = proxyOf(os.Getenv)
	return s, nil
}

// takeToken takes a token out of the environment.
func takeToken(name string) (string, error) {
	v, set := os.LookupEnv(name)
	token := strings.TrimSpace(v)
	what := ""
	switch {
	case !set:
		what = "is not set"
	case token == "":
		what = "is empty"
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		what = "holds something that is no token: it has spaces or other characters within"
	default:
		return token, os.Unsetenv(name)
	}
	return "", &config.Problem{
		Err: fmt.Errorf("environment variable `%s` %s", printable(name), what), Exit: config.ExitUsage,
		Hints: []string{"for example: `export " + printable(name) + "=$(cat TOKEN_FILE)`; the value is a token, not a file's name"},
	}
}

// proxyOf is how the environment says that HTTP proxies are to be used; Codex
// follows the same variables, for ws:// and wss:// alike.
func proxyOf(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	either := func(names ...string) string {
		for _, n := range names {
			if v := getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	all := either("ALL_PROXY", "all_proxy")
	c := httpproxy.Config{
		HTTPProxy: either("HTTP_PROXY", "http_proxy"), HTTPSProxy: either("HTTPS_PROXY", "https_proxy"), NoProxy: either("NO_PROXY", "no_proxy"),
	}
	if c.HTTPProxy == "" {
		c.HTTPProxy = all
	}
	if c.HTTPSProxy == "" {
		c.HTTPSProxy = all
	}
	return c.ProxyFunc()
}

// defaultSocket is what `unix://` means: this home's daemon, or Codex's own.
func defaultSocket(paths config.Paths) (string, error) {
	ours := paths.FindSocket()
	if _, running := paths.Holder(); running || isSocket(ours) {
		return "unix://" + ours, nil
	}
	home := os.Getenv("CODEX_HOME")
	if home == "" {
		home = filepath.Join(os.Getenv("HOME"), ".codex")
	}
	codex := filepath.Join(home, "app-server-control", "app-server-control.sock")
	if isSocket(codex) {
		return "unix://" + codex, nil
	}
	return "", &config.Problem{
		Stage: "dial", Err: fmt.Errorf("no app-server runs here: neither %s nor %s is there", ours, codex), Exit: config.ExitUnavailable,
		Hints: []string{"start one: `towline serve`"},
	}
}

// isSocket reports whether there is a socket, or a link to one.
func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket
}

// dial makes a stream that outlives its links, where the server has those.
func (s *remoteServer) dial(ctx context.Context) (rpc.Stream, error) {
	return transport.Connect(ctx, s.url, s.o)
}

// dialOnce makes one that ends with its link, for a question or two.
func (s *remoteServer) dialOnce(ctx context.Context) (rpc.Stream, error) {
	return transport.DialWith(ctx, s.url, s.o)
}

// kept is dial with a stream for the first call that is there already.
func kept(first rpc.Stream, dial func(context.Context) (rpc.Stream, error)) func(context.Context) (rpc.Stream, error) {
	var mu sync.Mutex // guards first
	return func(ctx context.Context) (rpc.Stream, error) {
		mu.Lock()
		s := first
		first = nil
		mu.Unlock()
		if s != nil {
			return s, nil
		}
		return dial(ctx)
	}
}

// dialNamed opens a connection to the server that is named, or to this home's
// daemon when none is.
func (o *remoteFlags) dialNamed(ctx context.Context, paths config.Paths) (rpc.Stream, error) {
	if !o.given() {
		return dialDaemon(ctx, paths)
	}
	s, err := o.open(paths)
	if err != nil {
		return nil, err
	}
	return s.dialOnce(ctx)
}

// discarded is a log nobody reads: the UI has the terminal.
func discarded() *slog.Logger { return slog.New(slog.DiscardHandler) }
