package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
	"towline/forward/custody"
)

// Limits of looking at credentials.
const (
	// lookLimit bounds everything that is asked on this machine, keyring included.
	lookLimit = 20 * time.Second
	// askLimit bounds what a running app-server is asked.
	askLimit = 3 * time.Second
)

// credentialReport is what `towline credentials status --json` prints, and what
// it reads from another host. It never holds a secret. Scripts rely on it.
type credentialReport struct {
	Host      string `json:"host"`      // as it was asked for, else this machine's name
	Program   string `json:"program"`   // who looked: "towline 0.5.0", or "codex 0.169.0" where there is no Towline
	CodexHome string `json:"codexHome"` // the folder the login belongs to
	LoggedIn  bool   `json:"loggedIn"`  // there is one that may be used

	Login  *loginReport     `json:"login"`  // what is used now; null without one
	Store  storeReport      `json:"store"`  // where a login goes
	Places []placeReport    `json:"places"` // everywhere one lies now
	Held   []holderReport   `json:"heldBy"` // who can use it now
	Lock   string           `json:"refreshLock"`
	Policy policyReport     `json:"policy"`
	Env    []variableReport `json:"environment"` // variables that stand before what is stored; never their values
	Notes  []string         `json:"notes"`
}

// loginReport is one credential, without what makes it one.
type loginReport struct {
	Mode        string     `json:"mode"` // apikey, chatgpt, personalAccessToken, agentIdentity, chatgptAuthTokens (lent), towlineToken
	Email       string     `json:"email,omitempty"`
	Plan        string     `json:"plan,omitempty"`
	AccountID   string     `json:"accountId,omitempty"` // the ChatGPT workspace
	Workspace   string     `json:"workspace,omitempty"` // its name, when the token says it
	Issuer      string     `json:"issuer,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"` // of the access token
	LastRefresh *time.Time `json:"lastRefresh,omitempty"`
	Renews      bool       `json:"renews"` // a refresh token is there
}

type storeReport struct {
	Kind string `json:"kind"`
	From string `json:"from"` // the file that says so, or "the default"
}

// placeReport is one place a credential lies in.
type placeReport struct {
	Kind     string       `json:"kind"` // file, keyring, encrypted, journal, leftover, codex-secrets, moving, client
	Path     string       `json:"path"`
	Used     bool         `json:"used"`
	Mode     string       `json:"fileMode,omitempty"` // where Codex alone is there: as ls prints it
	Problem  string       `json:"problem,omitempty"`  // open to others, locked, damaged
	Forbids  string       `json:"forbidden,omitempty"`
	Login    *loginReport `json:"login"` // null when it cannot be read
	Readable bool         `json:"openToOthers,omitempty"`
}

// holderReport is a program, or another machine, that the login is with.
type holderReport struct {
	Who  string `json:"who"` // store, environment, lender, codex, towline
	Text string `json:"text"`
}

type policyReport struct {
	Files    []string       `json:"files"`
	Mandates []managed.Line `json:"mandates"`
	Problem  string         `json:"problem,omitempty"` // the policy cannot be read: nothing is allowed
}

type variableReport struct {
	Name string `json:"name"`
	In   string `json:"in"` // "the shell", "the daemon"
}

// States of the refresh lock.
const (
	lockFree    = "free"
	lockHeld    = "held"
	lockUnknown = "unknown"
)

func credentialsStatusCommand() *cobra.Command {
	var o hostOptions
	var asJSON bool
	c := &cobra.Command{
		Use:   "status [HOST]",
		Short: "Say where credentials lie, whose they are and who holds them",
		Long: "status lists every place of this machine, or of HOST, in which a credential lies,\n" +
			"with its account, expiry and last refresh, who holds it, what the owner of the\n" +
			"machine demands and which file says so. It never shows a secret, changes nothing,\n" +
			"and asks no issuer.",
		Example: "  towline credentials status\n  towline credentials status dev-server\n  towline credentials status --json | jq .login.expires",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r credentialReport
			var err error
			if len(args) == 1 {
				r, err = credentialsOn(cmd.Context(), &o, args[0], asJSON, cmd.ErrOrStderr())
			} else {
				r, err = credentialsHere(cmd.Context())
			}
			if r.Program == "" { // nothing was found out
				return err
			}
			return errors.Join(r.write(cmd.OutOrStdout(), asJSON), err)
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// credentialsHere looks at this machine. What could be found out comes with the
// error too.
func credentialsHere(ctx context.Context) (credentialReport, error) {
	paths, cfg, err := setup()
	if err != nil {
		return credentialReport{}, err
	}
	return lookAtCredentials(ctx, paths, cfg)
}

// lookAtCredentials is what `towline credentials status` tells of this machine;
// the SSH door prints it as well.
func lookAtCredentials(ctx context.Context, paths config.Paths, cfg config.Config) (credentialReport, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r := credentialReport{
		Host: hostName(), Program: "towline " + version(), Lock: lockUnknown,
		Places: []placeReport{}, Held: []holderReport{}, Env: []variableReport{}, Notes: []string{},
		Policy: policyReport{Files: []string{}, Mandates: []managed.Line{}},
	}
	c, err := openCredentials(paths, cfg, nil, slog.New(slog.DiscardHandler))
	r.CodexHome, r.Store = c.home, storeReport{Kind: c.kind, From: c.from}
	if err != nil {
		if c.policy.Err() == nil {
			return credentialReport{}, err
		}
		// Everything is refused, but what lies where is still worth knowing.
		r.Policy.Problem = oneProblem(err)
		var openErr error
		c.store, openErr = secret.Open(secret.Options{CodexHome: c.home, Environ: os.Getenv, StateDir: paths.State})
		if openErr != nil {
			return credentialReport{}, errors.Join(err, openErr)
		}
	}
	r.Policy.Files = append(r.Policy.Files, c.policy.Files...)
	r.Policy.Mandates = c.policy.Lines()
	r.places(ctx, c)
	r.besides(ctx, paths, c)
	r.lock(c.store)
	r.environment(paths)
	r.override(c)
	r.holders(ctx, paths, c.home)
	if note := codexNote(c); note != "" && err == nil {
		r.Notes = append(r.Notes, note)
	}
	r.LoggedIn = r.Login != nil && r.Policy.Problem == ""
	for _, p := range r.Places {
		if p.Used && (p.Forbids != "" || p.Problem != "") {
			r.LoggedIn = false
		}
	}
	return r, err
}

// override is for the variable that stands before what is stored.
func (r *credentialReport) override(c credentials) {
	token := os.Getenv("CODEX_ACCESS_TOKEN")
	if token == "" || r.Policy.Problem != "" {
		return
	}
	if err := c.policy.CheckLogin(managed.LoginChatGPT); err != nil {
		r.Notes = append(r.Notes, "CODEX_ACCESS_TOKEN is not used: "+oneProblem(err))
		return
	}
	mode := secret.ModeAgent
	if strings.HasPrefix(token, "at-") {
		mode = secret.ModePAT
	}
	r.instead(&loginReport{Mode: string(mode)})
	r.hold("environment", "CODEX_ACCESS_TOKEN, in the environment of this command")
}

// instead makes l the login that is used, in place of any stored one.
func (r *credentialReport) instead(l *loginReport) {
	r.Login = l
	for i := range r.Places {
		r.Places[i].Used = false
	}
}

// oneProblem is an error's cause without its stage.
func oneProblem(err error) string {
	var p *config.Problem
	if errors.As(err, &p) {
		err = p.Err
	}
	return printable(err.Error())
}

// places lists where credentials lie. The one in use is the login.
func (r *credentialReport) places(ctx context.Context, c credentials) {
	for _, at := range c.store.Places(ctx) {
		p := placeReport{Kind: string(at.Kind), Path: printable(at.Path), Used: at.Used && r.Policy.Problem == "", Readable: at.Readable}
		if at.Err != nil {
			p.Problem = oneProblem(at.Err)
		} else {
			p.Login = describeLogin(at.Auth)
		}
		if at.Readable && p.Problem == "" {
			p.Problem = "others can read it"
		}
		if r.Policy.Problem == "" {
			if err := c.policy.CheckPlace(at); err != nil {
				p.Forbids = oneProblem(err)
			} else if err := c.policy.CheckStored(at.Auth); err != nil && at.Err == nil {
				p.Forbids = oneProblem(err)
			}
		}
		if p.Used && p.Login != nil {
			r.Login = p.Login
		}
		r.Places = append(r.Places, p)
	}
}

// Places that are no store of a login.
const (
	placeMoving = "moving" // a login on its way to another machine, kept aside
	placeClient = "client" // what this machine shows to another Towline
)

// besides lists what lies in Towline's own folder.
func (r *credentialReport) besides(ctx context.Context, paths config.Paths, c credentials) {
	m, err := custody.Ledger{Path: paths.Moving()}.Pending()
	switch {
	case err != nil:
		r.Places = append(r.Places, placeReport{Kind: placeMoving, Path: paths.Moving(), Problem: oneProblem(err)})
	case m != nil:
		p := placeReport{Kind: placeMoving, Path: paths.Moving(), Login: &loginReport{
			Mode: string(secret.ModeChatGPT), Email: printable(m.Email), AccountID: printable(m.Account), Fingerprint: m.Fingerprint,
		}}
		if kept, err := openAside(paths, c, 0, nil); err == nil {
			for _, at := range kept.Places(ctx) { // one, or none when it has left
				p.Path = at.Path
				if err := c.policy.CheckPlace(at); err != nil && r.Policy.Problem == "" {
					p.Forbids = oneProblem(err)
				}
			}
		}
		r.Places = append(r.Places, p)
		r.Notes = append(r.Notes, "this login is being moved to "+printable(m.Host)+" since "+m.Since.Local().Format(time.DateTime)+
			"; bring that to an end: `towline credentials move "+shellWord(printable(m.Host))+"`")
	}
	raw, err := os.ReadFile(paths.ClientToken())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	p := placeReport{Kind: placeClient, Path: paths.ClientToken(), Login: &loginReport{Mode: modeTowlineToken, Fingerprint: fingerprintOf(custody.KindTowline, string(raw))}}
	if err == nil {
		err = config.PrivateFile(p.Path)
	}
	if err != nil {
		p.Login, p.Problem = nil, oneProblem(err)
	}
	r.Places = append(r.Places, p)
}

// describeLogin is a credential without what makes it one.
func describeLogin(a secret.Auth) *loginReport {
	l := &loginReport{Mode: string(a.Mode), Fingerprint: a.Fingerprint()}
	if !a.LastRefresh.IsZero() {
		l.LastRefresh = &a.LastRefresh
	}
	t := a.Tokens
	if a.Mode != secret.ModeChatGPT || t == nil {
		return l
	}
	l.AccountID, l.Issuer, l.Renews = printable(t.AccountID), printable(t.Issuer), t.RefreshToken != ""
	// Claims nobody can read are claims not shown: the login may work all the same.
	if id, err := secret.Claims(t.IDToken); err == nil {
		l.Email, l.Plan, l.Workspace = id.Email, id.Plan, id.Workspace
		if l.AccountID == "" {
			l.AccountID = id.AccountID
		}
	}
	if access, err := secret.Claims(t.AccessToken); err == nil && !access.Expires.IsZero() {
		l.Expires = &access.Expires
	}
	return l
}

// lock looks whether somebody refreshes the login just now.
func (r *credentialReport) lock(s *secret.Store) {
	switch busy, err := s.Refreshing(); {
	case err != nil:
		r.Notes = append(r.Notes, "whether the login is being refreshed cannot be seen: "+oneProblem(err))
	case busy:
		r.Lock = lockHeld
	default:
		r.Lock = lockFree
	}
}

// overrides are the variables that stand before what is stored, or beside it.
var overrides = []string{"CODEX_ACCESS_TOKEN", "OPENAI_API_KEY", "CODEX_API_KEY"}

// environment names the variables that change which credential is used, here and
// where the daemon was started.
func (r *credentialReport) environment(paths config.Paths) {
	for _, name := range overrides {
		if os.Getenv(name) != "" {
			r.Env = append(r.Env, variableReport{Name: name, In: "the shell"})
		}
	}
	h, ok := paths.Holder()
	if !ok {
		return
	}
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.PID), "environ"))
	if err != nil {
		return // another system, or a daemon that hides it
	}
	for kv := range strings.SplitSeq(string(raw), "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		for _, o := range overrides {
			if name == o && value != "" {
				r.Env = append(r.Env, variableReport{Name: name, In: "the daemon"})
			}
		}
	}
}

// modeLent is what an app-server calls tokens a client lends it.
const modeLent = "chatgptAuthTokens"

// holders finds out who the login is with: the store, a machine that lends it, and
// the app-servers that run on this one.
func (r *credentialReport) holders(ctx context.Context, paths config.Paths, home string) {
	for _, p := range r.Places {
		if p.Used {
			r.hold("store", "this host, in its "+p.Kind)
		}
	}
	if h, ok := paths.Holder(); ok {
		text := "Towline's daemon (pid " + strconv.Itoa(h.PID) + ")"
		lent, err := lentTo(ctx, paths)
		if err != nil {
			text += ", which does not say what it uses"
		}
		if lent != nil {
			r.lent(lent.Account, fmt.Sprintf("lent by %s (%s, over %s); Towline's daemon has it in memory only",
				printable(lent.By.Name), printable(lent.By.Client), printable(lent.By.Via)))
		}
		r.hold("towline", text)
	}
	sock := filepath.Join(home, "app-server-control", "app-server-control.sock")
	if mode, err := authMode(ctx, "unix://"+sock); err == nil {
		if mode == modeLent && r.Login != nil && r.Login.Mode != modeLent {
			r.lent("", "lent by a client of Codex's; its app-server has it in memory only")
		}
		r.hold("codex", "a Codex app-server, at "+printable(sock))
	}
}

func (r *credentialReport) hold(who, text string) {
	r.Held = append(r.Held, holderReport{Who: who, Text: text})
}

// lent says that what is used is somebody else's.
func (r *credentialReport) lent(account, text string) {
	r.instead(&loginReport{Mode: modeLent, AccountID: printable(account)})
	r.hold("lender", text)
}

// lentTo is the account that somebody lends the daemon, nil for none.
func lentTo(ctx context.Context, paths config.Paths) (*protocol.Lent, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	st, err := readStatus(ctx, paths)
	return st.Lent, err
}

// authMode asks a running app-server what it uses. It answers without a secret.
func authMode(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	s, err := transport.Dial(ctx, url)
	if err != nil {
		return "", err
	}
	p := rpc.NewPeer(s, deaf{})
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Serve(ctx) }()
	defer func() { p.Close(nil); <-done }()
	if err := p.Call(ctx, "initialize", map[string]any{"clientInfo": map[string]string{"name": "towline-credentials", "version": version()}}, nil); err != nil {
		return "", err
	}
	var answer struct {
		Method string `json:"authMethod"`
	}
	err = p.Call(ctx, "getAuthStatus", map[string]bool{"includeToken": false, "refreshToken": false}, &answer)
	return answer.Method, err
}

// write prints the report, for a script or for a person.
func (r *credentialReport) write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err := io.WriteString(w, r.text(time.Now()))
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
