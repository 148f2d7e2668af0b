// Package managed is what the owner of a machine decided for everybody on it: where
// credentials may be kept, which ways to log in there are, whether a credential
// may be lent. It reads
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
	"strings"

	"towline/config"
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
	// Files are those that were there and read.
	Files []string

	broken error // a file could not be used: everything is refused

	forcedLogin, forcedWorkspace bool // Codex's managed_config.toml says so
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
