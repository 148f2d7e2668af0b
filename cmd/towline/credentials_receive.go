package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
)

// newCredentialsReceive is the far end of put and move: what they start on a host.
func newCredentialsReceive() *cobra.Command {
	return &cobra.Command{
		Use:    "receive",
		Short:  "Receive a credential on standard input, for `towline credentials put` and `move`",
		Hidden: true,
		Args:   usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// A login that is being exchanged when the link breaks is exchanged to its end;
			// nobody is told then.
			signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
			defer signal.Reset(syscall.SIGHUP, syscall.SIGPIPE)
			return receive(cmd.Context(), newPiped(os.Stdin, os.Stdout))
		},
	}
}

// receive serves one order.
func receive(ctx context.Context, rw io.ReadWriteCloser) error {
	defer func() { _ = rw.Close() }() // all was said
	paths, cfg, err := setup()
	if err != nil {
		return err
	}
	if err := paths.Ensure(); err != nil {
		return err
	}
	h, err := openReceiving(paths, cfg, func(event string, facts ...slog.Attr) { note(ctx, paths, event, facts...) })
	if err != nil {
		return err
	}
	defer h.close()
	return custody.Serve(ctx, rw, h, custody.Records{Dir: paths.Moves()}, custody.About{Version: version(), Name: hostName()})
}

// receiving is this machine as the one that receives credentials.
type receiving struct {
	creds   credentials
	paths   config.Paths
	account *account.Manager
	wire    *watched
	note    func(event string, facts ...slog.Attr)
	was     secret.Auth // what an adopted login replaced
	again   time.Duration
}

var _ custody.Host = (*receiving)(nil)

// openReceiving opens this machine's credentials for receiving one.
func openReceiving(paths config.Paths, cfg config.Config, note func(string, ...slog.Attr)) (*receiving, error) {
	log := slog.New(slog.DiscardHandler) // standard error is the person's at the other end
	c, err := openCredentials(paths, cfg, nil, log)
	if err != nil {
		return nil, err
	}
	h := &receiving{creds: c, paths: paths, note: note, wire: newWatched(), again: time.Second}
	a := accountConfig(cfg, c, log)
	a.AccessToken = "" // what a variable says is not what is being received
	a.HTTP = h.wire.client()
	a.Audit = func(event string, facts ...any) { note(event, slog.Group("", facts...).Value.Group()...) }
	if h.account, err = account.New(a); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *receiving) close() { h.account.Close() }

// Put implements custody.Host.
func (h *receiving) Put(ctx context.Context, kind custody.Kind, value secret.String, replace bool) (custody.Stored, error) {
	var st custody.Stored
	var err error
	switch kind {
	case custody.KindTowline:
		st, err = h.putToken(value.Reveal())
	case custody.KindAPIKey, custody.KindAccessToken:
		st, err = h.putKey(ctx, kind, value.Reveal(), replace)
	default:
		err = &config.Problem{Stage: custody.StageStore, Err: fmt.Errorf("%q is nothing that can be put here", config.OneLine(string(kind))), Exit: config.ExitUsage}
	}
	if err != nil {
		h.note("credential.put.refused", slog.String("kind", string(kind)), slog.String("why", config.OneLine(err.Error())))
		return custody.Stored{}, err
	}
	h.note("credential.put", slog.String("kind", string(kind)), slog.String("store", st.Store), slog.String("fingerprint", st.Fingerprint))
	return st, nil
}

func (h *receiving) putKey(ctx context.Context, kind custody.Kind, value string, replace bool) (custody.Stored, error) {
	none := custody.Stored{}
	if err := h.room(ctx, secret.Auth{}, replace); err != nil {
		return none, err
	}
	var err error
	if kind == custody.KindAPIKey {
		_, err = h.account.SetAPIKey(ctx, value)
	} else {
		_, err = h.account.SetAccessToken(ctx, value)
	}
	if err != nil {
		return none, err
	}
	// What counts is what the next program finds.
	a, where, err := h.creds.store.Load(ctx)
	if err != nil {
		return none, err
	}
	st := h.stored(a, where)
	switch a.Mode {
	case secret.ModeAPIKey:
		st.Fingerprint = secret.Auth{Mode: a.Mode, APIKey: a.APIKey}.Fingerprint()
	case secret.ModePAT:
		st.Fingerprint = secret.Auth{Mode: a.Mode, PersonalAccessToken: a.PersonalAccessToken}.Fingerprint()
	case secret.ModeAgent:
		st.Fingerprint = secret.Auth{Mode: a.Mode, AgentIdentity: a.AgentIdentity}.Fingerprint()
	}
	if who, err := h.account.Status(ctx); err == nil {
		st.Account = who.Account()
	}
	return st, nil
}

// stored describes what lies in the store.
func (h *receiving) stored(a secret.Auth, where secret.Where) custody.Stored {
	st := custody.Stored{Mode: string(a.Mode), Store: string(where.Kind), Path: where.Path, Fingerprint: a.Fingerprint()}
	if where.Fallback != "" {
		st.Note = "not in the keyring: " + where.Fallback
	}
	if os.Getenv("CODEX_ACCESS_TOKEN") != "" {
		st.Note = strings.TrimPrefix(st.Note+"; CODEX_ACCESS_TOKEN is set there and stands before it", "; ")
	}
	return st
}

// room refuses to lose a login that is here for a, unless that is wanted or a is
// the same login.
func (h *receiving) room(ctx context.Context, a secret.Auth, replace bool) error {
	if h.creds.kind == config.StoreEphemeral {
		return &config.Problem{
			Stage: custody.StageStore, Exit: config.ExitConfig,
			Err:   fmt.Errorf("credentials are kept in the memory of one process here (set by %s), so nothing can be left for another", h.creds.from),
			Hints: []string{"set cli_auth_credentials_store = \"file\", or lend the login: `towline HOST --lend-credentials`"},
		}
	}
	if replace {
		return nil
	}
	was, _, err := h.creds.store.Load(ctx)
	switch {
	case errors.Is(err, secret.ErrNone), err == nil && was.Mode != secret.ModeChatGPT && a.Empty():
		return nil // a key in the place of a key is what put is for
	case err != nil:
		return err
	case sameOwner(was, a):
		return nil // it is a login of theirs in the place of another
	}
	text := cmp.Or(modeNames[string(was.Mode)], "a login")
	if was.Mode == secret.ModeChatGPT {
		text = "a ChatGPT login"
		if was.Tokens != nil {
			if c, err := secret.Claims(was.Tokens.IDToken); err == nil && c.Email != "" {
				text += " of " + c.Email
			}
		}
	}
	return &config.Problem{
		Stage: custody.StageStore, Err: fmt.Errorf("there is %s here already, which would be lost", text), Exit: config.ExitFailure,
		Hints: []string{"see it: `towline credentials status`", "to give that login up, add --replace to the command you typed"},
	}
}

// sameOwner reports whether two ChatGPT logins are of one person in one workspace.
func sameOwner(a, b secret.Auth) bool {
	if a.Mode != secret.ModeChatGPT || b.Mode != a.Mode || a.Tokens == nil || b.Tokens == nil || a.Tokens.AccountID != b.Tokens.AccountID {
		return false
	}
	x, err1 := secret.Claims(a.Tokens.IDToken)
	y, err2 := secret.Claims(b.Tokens.IDToken)
	return err1 == nil && err2 == nil && x.Subject == y.Subject && x.Subject != ""
}

// putToken keeps an access token of another Towline.
func (h *receiving) putToken(token string) (custody.Stored, error) {
	bad := strings.ContainsFunc(token, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar })
	if token == "" || len(token) > maxInput || bad {
		return custody.Stored{}, &config.Problem{Stage: custody.StageStore, Err: errors.New("that is no token"), Exit: config.ExitUsage}
	}
	path := h.paths.ClientToken()
	if err := writeToken(path, token); err != nil {
		return custody.Stored{}, &config.Problem{Stage: custody.StageStore, Err: err, Exit: config.ExitConfig, Hints: []string{"make room, or make the folder writable for you"}}
	}
	back, err := os.ReadFile(path)
	if err != nil {
		return custody.Stored{}, &config.Problem{Stage: custody.StageStore, Err: err, Exit: config.ExitConfig}
	}
	return custody.Stored{Mode: modeTowlineToken, Store: "file", Path: path, Fingerprint: fingerprintOf(custody.KindTowline, string(back))}, nil
}

// modeTowlineToken is what a Towline token is called where a login's mode would be.
const modeTowlineToken = "towlineToken"

// writeToken replaces a private file at once.
func writeToken(path, token string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".client_token") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = io.WriteString(f, token); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Consider implements custody.Host.
func (h *receiving) Consider(ctx context.Context, a secret.Auth, replace bool) error {
	if err := h.creds.policy.CheckStored(a); err != nil {
		return err
	}
	return h.room(ctx, a, replace)
}

// Adopt implements custody.Host.
func (h *receiving) Adopt(ctx context.Context, a secret.Auth, replace bool) error {
	unlock, err := h.creds.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.Consider(ctx, a, replace); err != nil { // a minute may have passed
		return err
	}
	if was, _, err := h.creds.store.Load(ctx); err == nil {
		h.was = was
	}
	_, err = h.creds.store.Save(ctx, a)
	return err
}

// Drop implements custody.Host. What the login had replaced is here again.
func (h *receiving) Drop(ctx context.Context, m custody.Mark) error {
	unlock, err := h.creds.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	a, _, err := h.creds.store.Load(ctx)
	if errors.Is(err, secret.ErrNone) || err == nil && custody.MarkOf(a) != m {
		return nil
	}
	if err != nil {
		return err
	}
	h.note("credential.returned", slog.String("account", m.Account))
	if !h.was.Empty() {
		_, err = h.creds.store.Save(ctx, h.was)
		return err
	}
	_, err = h.creds.store.Delete(ctx)
	return err
}
