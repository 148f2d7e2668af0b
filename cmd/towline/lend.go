package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/appserver/engine/codex"
	"towline/appserver/rpc"
	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
	"towline/forward/egress"
	"towline/launcher"
	"towline/launcher/bootstrap"
	"towline/launcher/lend"
)

// modelTargets is the word for the addresses that a model's client needs, in
// --lend-network.
const modelTargets = "model"

// maxGrace is how long a host keeps anything for a client that is away.
const maxGrace = 24 * time.Hour

// lendOptions are the flags for lending, and what they mean once checked.
type lendOptions struct {
	credentials bool
	grace       time.Duration
	network     []string

	manager *account.Manager // of this machine's login; nil unless it is lent
	account string           // whose, for people
	list    egress.List
}

func (o *lendOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.credentials, "lend-credentials", false, "let the host work with this machine's ChatGPT login, which stays here")
	f.DurationVar(&o.grace, "lend-grace", lend.Grace, "how long the host may go on with a lent login when this machine is lost")
	f.StringSliceVar(&o.network, "lend-network", nil, "let the host reach its model through this machine; more `ADDR:PORT`s can be named")
	f.Lookup("lend-network").NoOptDefVal = modelTargets
}

// wanted reports whether anything is to be lent.
func (o *lendOptions) wanted() bool { return o.credentials || len(o.network) > 0 }

// args are the flags again, for a command line that leads back here.
func (o *lendOptions) args() string {
	var s string
	if o.credentials {
		s += " --lend-credentials"
		if o.grace != lend.Grace {
			s += " --lend-grace " + o.grace.String()
		}
	}
	if len(o.network) > 0 {
		s += " --lend-network"
		if o.network[0] != modelTargets || len(o.network) > 1 {
			s += "=" + shellWord(strings.Join(o.network, ","))
		}
	}
	return s
}

// prepare finds out what may be lent, before the host is asked anything: what the
// owner of this machine allows, whether there is a login that can be lent, and
// which addresses are.
func (o *lendOptions) prepare(ctx context.Context, host string, log *slog.Logger, errOut *os.File) error {
	if o.credentials && (o.grace < time.Second || o.grace > maxGrace) {
		return wrongUse("connect", fmt.Sprintf("--lend-grace must be from 1s to %v", maxGrace), "15m is usual: `--lend-grace 15m`")
	}
	if !o.wanted() {
		return nil
	}
	paths, cfg, err := setup()
	if err != nil {
		return err
	}
	c, err := openCredentials(paths, cfg, nil, log)
	if err != nil {
		return err
	}
	if len(o.network) > 0 {
		if err := c.policy.CheckLendNetwork(); err != nil {
			return err
		}
		if o.list, err = lentTargets(cfg, c, o.network); err != nil {
			return err
		}
	}
	if !o.credentials {
		return nil
	}
	if err := c.policy.CheckLendCredentials(); err != nil {
		return err
	}
	if err := c.policy.CheckLogin(managed.LoginChatGPT); err != nil {
		return err
	}
	if _, o.manager, err = openAccount(log, errOut); err != nil {
		return err
	}
	st, err := o.manager.Status(ctx)
	if err == nil {
		err = lendable(st, host)
	}
	if err != nil {
		o.close()
		return err
	}
	o.account = st.Account()
	return nil
}

func (o *lendOptions) close() {
	if o.manager != nil {
		o.manager.Close()
		o.manager = nil
	}
}

// lendable says why a login cannot be lent: what is lent must end by itself.
func lendable(st account.Status, host string) error {
	no := func(text string, hints ...string) error {
		return &config.Problem{Stage: lend.Stage, Err: errors.New(text), Hints: hints, Exit: config.ExitUsage}
	}
	switch {
	case !st.LoggedIn:
		return no("this machine has no login to lend", "log in here first: `towline login`", "or log the host in: `towline login "+host+"`")
	case st.Mode == secret.ModeAPIKey:
		return no("this machine is logged in with an API key: it does not end by itself, so lending it would hand it over for good",
			"put it there on purpose: `towline credentials put "+host+" --api-key`",
			"or log in with ChatGPT here, which can be lent: `towline login`")
	case st.Mode != secret.ModeChatGPT:
		return no("this machine is logged in with an access token that does not end by itself, so lending it would hand it over for good",
			"put it there on purpose: `towline credentials put "+host+" --access-token`",
			"or log in with ChatGPT here, which can be lent: `towline login`")
	case st.Ended != nil:
		return no("this machine's login is over: "+st.Ended.Error(), "log in again: `towline login`")
	}
	return nil
}

// lentTargets is what --lend-network lends: what the model's client needs, as this
// machine's own configuration names it, and what was typed. An address of this
// machine's own loopback is lent only when it was typed.
func lentTargets(cfg config.Config, c credentials, typed []string) (egress.List, error) {
	var l egress.List
	usual := []string{"https://api.openai.com", "https://chatgpt.com", account.OpenAIIssuer}
	for _, u := range usual {
		if t, err := egress.TargetOf(u); err == nil {
			l = l.Add(false, t)
		}
	}
	for _, u := range []string{
		cfg.Auth.Issuer, os.Getenv("CODEX_APP_SERVER_LOGIN_ISSUER"), c.codex.ChatGPTBaseURL.Value, cfg.Engine.Native.BaseURL,
		codex.ProviderURL(codex.Config{CodexHome: c.home}),
	} {
		t, err := egress.TargetOf(u)
		if _, known := l.Find(t); err == nil && !known && !t.Loopback() {
			l = l.Add(true, t)
		}
	}
	for _, s := range typed {
		if s == modelTargets {
			continue
		}
		t, err := egress.ParseTarget(s)
		if err != nil {
			return nil, wrongUse("connect", fmt.Sprintf("--lend-network: %q: %v", s, err), "name it as host:port, such as `--lend-network=llm.example.com:443`")
		}
		l = l.Add(true, t)
	}
	return l, nil
}

// lent is what is lent to one host while a connection to it lasts.
type lent struct {
	session *launcher.Session
	dial    func(ctx context.Context) (rpc.Stream, error)
	loan    *lend.Loan
	network *lentEgress
	note    string // a sentence for people
	word    string // the same, in a word or two
}

// begin lends over a session. say hears what happens, from any goroutine. What it
// returns is to be closed before the session.
func (o *lendOptions) begin(ctx context.Context, s *launcher.Session, host string, log *slog.Logger, say func(text string)) (_ *lent, err error) {
	l := &lent{session: s, dial: s.Dial}
	if !o.wanted() {
		return l, nil
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	var notes, words []string
	// The network first: the host may need it to find out whose the login is.
	if len(o.network) > 0 {
		if l.network, err = lendNetwork(ctx, s, host, o.list, log, say); err != nil {
			return nil, err
		}
		notes, words = append(notes, "its model is reached through this machine"), append(words, "network lent")
	}
	if o.credentials {
		if err := o.lendLogin(ctx, l, host, log, say); err != nil {
			return nil, err
		}
		notes, words = append(notes, "it works with this machine's login, "+printable(o.account)+", which stays here"), append(words, "login lent")
	}
	l.note, l.word = strings.Join(notes, "; "), strings.Join(words, ", ")
	return l, nil
}

func (o *lendOptions) lendLogin(ctx context.Context, l *lent, host string, log *slog.Logger, say func(string)) error {
	lc := lend.Config{
		Host: host, Source: loginSource{o.manager}, Version: version(), Log: log,
		Events: func(st lend.State) {
			if st.Err != nil {
				say("the login lent to " + host + ": " + printable(st.Err.Error()))
			}
		},
	}
	if l.session.Info().Opened.Kind == bootstrap.Codex {
		// One stream is one process there, which ends with it.
		l.dial = func(ctx context.Context) (rpc.Stream, error) {
			s, err := l.session.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return lend.Beside(ctx, lc, s)
		}
		return nil
	}
	lc.Dial = func(ctx context.Context) (rpc.Stream, error) { return l.session.DialKeeping(ctx, o.grace) }
	var err error
	l.loan, err = lend.Open(ctx, lc)
	return err
}

// close takes back what was lent.
func (l *lent) close() {
	if l.loan != nil {
		_ = l.loan.Close() // it has told what it could
	}
	if l.network != nil {
		l.network.close()
	}
}

// end is close, and the session's.
func (l *lent) end() error {
	l.close()
	return l.session.Close()
}

// loginSource is this machine's login as a lender sees it.
type loginSource struct{ m *account.Manager }

var _ lend.Source = loginSource{}

// Token implements lend.Source.
func (s loginSource) Token(ctx context.Context) (lend.Tokens, error) {
	b, err := s.m.Token(ctx)
	if err != nil {
		return lend.Tokens{}, noLogin(err)
	}
	return s.tokens(ctx, b)
}

// Refresh implements lend.Source.
func (s loginSource) Refresh(ctx context.Context, rejected lend.Tokens) (lend.Tokens, error) {
	b, err := s.m.Rejected(ctx, account.Bearer{
		Token: rejected.AccessToken, AccountID: rejected.AccountID, Mode: secret.ModeChatGPT, Expires: rejected.Expires,
	})
	if err != nil {
		return lend.Tokens{}, noLogin(err)
	}
	return s.tokens(ctx, b)
}

// Changed implements lend.Source.
func (s loginSource) Changed() <-chan struct{} { return s.m.Changed() }

func (s loginSource) tokens(ctx context.Context, b account.Bearer) (lend.Tokens, error) {
	if b.Mode != secret.ModeChatGPT {
		return lend.Tokens{}, fmt.Errorf("%w: it is logged in with something that does not end by itself now", lend.ErrNoLogin)
	}
	t := lend.Tokens{AccessToken: b.Token, AccountID: b.AccountID, Expires: b.Expires}
	if st, err := s.m.Status(ctx); err == nil {
		t.Plan, t.Account = st.Plan, st.Account()
	}
	return t, nil
}

// noLogin marks an error after which only a person can make a login again.
func noLogin(err error) error {
	if errors.Is(err, account.ErrNotLoggedIn) || errors.Is(err, account.ErrLoginExpired) {
		return fmt.Errorf("%w: %w", lend.ErrNoLogin, err)
	}
	return err
}
