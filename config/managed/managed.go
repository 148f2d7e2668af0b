// Package managed is what the owner of a machine decided for everybody on it: where
// credentials may be kept, which ways to log in there are, whether a credential
// may be lent, which access tokens there may be. It reads
//
//	/etc/towline/requirements.toml
//	/etc/codex/requirements.toml
//	/etc/codex/managed_config.toml    (Codex's older form)
//
// and merges them: the strictest wins, and every mandate remembers the file it
// came from, which every refusal names. The package decides and says why; it
// moves no credential. Begin with [Load]; the zero Policy mandates nothing.
package managed

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"towline/config"
	"towline/config/secret"
)

// stagePolicy is the stage of every refusal.
const stagePolicy = "policy"

// Ways to log in, as Codex names them. A personal access token and an agent
// identity are issued for a ChatGPT account and count as LoginChatGPT.
const (
	LoginAPI     = "api"
	LoginChatGPT = "chatgpt"
)

// Mandate is one decision and the file that made it; several are joined by " and ".
type Mandate[T any] struct {
	Set   bool
	Value T
	From  string
}

// Policy is the sum of the managed files. All of its methods may be called
// concurrently.
type Policy struct {
	Store           Mandate[string]   // a config.Store constant
	LoginMethods    Mandate[[]string] // LoginAPI, LoginChatGPT
	Workspaces      Mandate[[]string] // ChatGPT workspaces (account ids)
	RemoteControl   Mandate[bool]
	LendCredentials Mandate[bool]
	LendNetwork     Mandate[bool]
	AuditOnFailure  Mandate[string] // config.AuditRefuse or config.AuditContinue
	// Files are those that were there and read.
	Files []string

	tokens []tokenRules // of each file that has any

	broken error // a file could not be used: everything is refused

	forcedLogin, forcedWorkspace bool // Codex's managed_config.toml says so
	// What Codex's own two files mandate, as Codex reads them.
	codexStore      Mandate[string]
	codexWorkspaces Mandate[[]string]
}

// Err is why the policy could not be read, nil when it could.
func (p Policy) Err() error { return p.broken }

// refuse is a refusal that names the file.
func refuse(from, format string, args ...any) error {
	return &config.Problem{
		Stage: stagePolicy, Err: fmt.Errorf("%s (set by %s)", fmt.Sprintf(format, args...), from),
		Hints: []string{"see what is allowed here: `towline credentials status`"}, Exit: config.ExitDenied,
	}
}

// CheckLogin says whether one may log in that way: LoginAPI or LoginChatGPT.
// Errors are *config.Problem.
func (p Policy) CheckLogin(method string) error {
	if p.broken != nil {
		return p.broken
	}
	m := p.LoginMethods
	if !m.Set || slices.Contains(m.Value, method) {
		return nil
	}
	name := map[string]string{LoginAPI: "an API key", LoginChatGPT: "a ChatGPT account"}
	if len(m.Value) == 0 {
		return refuse(m.From, "no way to log in is allowed on this machine")
	}
	return refuse(m.From, "logging in with %s is not allowed on this machine, only with %s", cmp.Or(name[method], method), cmp.Or(name[m.Value[0]], m.Value[0]))
}

// CheckWorkspace says whether a ChatGPT login of that workspace (account id) may
// be used. Errors are *config.Problem.
func (p Policy) CheckWorkspace(id string) error {
	if p.broken != nil {
		return p.broken
	}
	m := p.Workspaces
	if !m.Set || id != "" && slices.Contains(m.Value, id) {
		return nil
	}
	if id == "" {
		return refuse(m.From, "this login names no workspace, and only some are allowed on this machine")
	}
	return refuse(m.From, "the workspace %s is not allowed on this machine, only %s", config.OneLine(id), strings.Join(m.Value, ", "))
}

// CheckRemoteControl says whether this machine may be reached through a relay.
// Errors are *config.Problem.
func (p Policy) CheckRemoteControl() error {
	return p.allowed(p.RemoteControl, "remote control is not allowed on this machine")
}

// CheckLendCredentials says whether a credential of this machine may be lent to
// a host, and whether this machine as the host may use a lent one.
func (p Policy) CheckLendCredentials() error {
	return p.allowed(p.LendCredentials, "lending credentials is not allowed on this machine")
}

// CheckLendNetwork says whether a host may reach the model through this machine,
// and whether this machine as the host may do so through another.
func (p Policy) CheckLendNetwork() error {
	return p.allowed(p.LendNetwork, "lending the network is not allowed on this machine")
}

func (p Policy) allowed(m Mandate[bool], text string) error {
	if p.broken != nil {
		return p.broken
	}
	if m.Set && !m.Value {
		return refuse(m.From, "%s", text)
	}
	return nil
}

// StoreKind is where credentials are to be kept, given what people configured,
// and who says so: a mandated store replaces the configured one.
func (p Policy) StoreKind(configured config.Setting) (kind, source string, err error) {
	if p.broken != nil {
		return "", "", p.broken
	}
	if p.Store.Set {
		return p.Store.Value, p.Store.From, nil
	}
	if configured.Value == "" {
		return config.StoreFile, "the default", nil
	}
	return configured.Value, configured.From, nil
}

// errUnusable is what a file that cannot be used means for everything else.
var errUnusable = errors.New("the policy of this machine cannot be read, so nothing it could forbid is done")

// CheckStored says whether a credential that is already here may be used: one
// that came before the mandate did must not outlive it. Errors are *config.Problem.
func (p Policy) CheckStored(a secret.Auth) error {
	switch a.Mode {
	case secret.ModeNone:
		return p.broken
	case secret.ModeAPIKey:
		return p.CheckLogin(LoginAPI)
	case secret.ModeChatGPT, secret.ModePAT, secret.ModeAgent:
		if err := p.CheckLogin(LoginChatGPT); err != nil {
			return err
		}
	}
	if a.Mode != secret.ModeChatGPT || a.Tokens == nil {
		return p.broken // the workspace of the others is known to the issuer only
	}
	return p.CheckWorkspace(a.Tokens.AccountID)
}

// CheckKind says whether a credential may lie in a store of that kind. Errors are
// *config.Problem.
func (p Policy) CheckKind(kind secret.Kind) error {
	if p.broken != nil {
		return p.broken
	}
	if p.Store.Set && !p.mayLieIn(string(kind)) {
		return refuse(p.Store.From, "credentials must be in the store %q on this machine, not in %q", p.Store.Value, string(kind))
	}
	return nil
}

// CheckPlace says whether a credential may lie where it lies now. What is no store
// (a journal, Codex's own encrypted file) is held to whether it can be read there.
// Errors are *config.Problem.
func (p Policy) CheckPlace(at secret.Place) error {
	switch at.Kind {
	case secret.KindFile, secret.KindKeyring, secret.KindEncrypted, secret.KindEphemeral:
		return p.CheckKind(at.Kind)
	}
	switch {
	case p.broken != nil:
		return p.broken
	case !p.Store.Set || !at.Plain && p.Store.Value != config.StoreEphemeral || p.mayLieIn(config.StoreFile):
		return nil
	}
	return refuse(p.Store.From, "credentials must be in the store %q on this machine, and there is a %s", p.Store.Value, string(at.Kind))
}

// CodexStore is the store that the files Codex reads itself mandate, "" for none.
func (p Policy) CodexStore() string { return p.codexStore.Value }

// CodexSeesToWorkspaces reports whether Codex, by the files it reads itself, lets
// nobody in whom [Policy.CheckWorkspace] would not.
func (p Policy) CodexSeesToWorkspaces() bool {
	if p.broken != nil || !p.Workspaces.Set {
		return p.broken == nil
	}
	m := p.codexWorkspaces
	return m.Set && !slices.ContainsFunc(m.Value, func(id string) bool { return p.CheckWorkspace(id) != nil })
}

// Line is one mandate for showing: its key, its value as in TOML, and the file.
type Line struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// Lines lists every mandate there is.
func (p Policy) Lines() []Line {
	out := []Line{}
	if m := p.Store; m.Set {
		out = append(out, Line{"cli_auth_credentials_store", strconv.Quote(m.Value), m.From})
	}
	for _, l := range []struct {
		key string
		m   Mandate[[]string]
	}{{"allowed_login_methods", p.LoginMethods}, {"allowed_chatgpt_workspaces", p.Workspaces}} {
		if l.m.Set {
			out = append(out, Line{l.key, quotedList(l.m.Value), l.m.From})
		}
	}
	for _, l := range []struct {
		key string
		m   Mandate[bool]
	}{{"allow_remote_control", p.RemoteControl}, {"allow_lend_credentials", p.LendCredentials}, {"allow_lend_network", p.LendNetwork}} {
		if l.m.Set {
			out = append(out, Line{l.key, strconv.FormatBool(l.m.Value), l.m.From})
		}
	}
	if m := p.AuditOnFailure; m.Set {
		out = append(out, Line{"audit_on_failure", strconv.Quote(m.Value), m.From})
	}
	return append(out, p.tokenLines()...)
}
