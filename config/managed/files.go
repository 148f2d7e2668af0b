package managed

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"towline/config"
)

// towlineFile is /etc/towline/requirements.toml. Unknown keys are errors.
type towlineFile struct {
	Store           string     `toml:"cli_auth_credentials_store"`
	LoginMethods    *[]string  `toml:"allowed_login_methods"`
	Workspaces      *[]string  `toml:"allowed_chatgpt_workspaces"`
	RemoteControl   *bool      `toml:"allow_remote_control"`
	LendCredentials *bool      `toml:"allow_lend_credentials"`
	LendNetwork     *bool      `toml:"allow_lend_network"`
	AuditOnFailure  string     `toml:"audit_on_failure"`
	Tokens          tokenTable `toml:"tokens"`
}

// codexRequirements is what of Codex's requirements.toml counts here.
type codexRequirements struct {
	Store         string    `toml:"cli_auth_credentials_store"`
	LoginMethods  *[]string `toml:"allowed_login_methods"`
	Workspaces    *[]string `toml:"allowed_chatgpt_workspaces"`
	RemoteControl *bool     `toml:"allow_remote_control"`
}

// codexManaged is what of Codex's managed_config.toml counts here.
type codexManaged struct {
	Store      string `toml:"cli_auth_credentials_store"`
	Forced     string `toml:"forced_login_method"`
	Workspaces any    `toml:"forced_chatgpt_workspace_id"`
}

func readTowline(p *Policy, path string, raw []byte) error {
	var f towlineFile
	d := toml.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return config.ExplainTOML(err, config.KeysOf(f))
	}
	return p.add(path, f, config.StoreEncrypted)
}

func readRequirements(p *Policy, path string, raw []byte) error {
	var f codexRequirements
	if err := toml.Unmarshal(raw, &f); err != nil {
		return config.ExplainTOML(err, nil)
	}
	return p.add(path, towlineFile{Store: f.Store, LoginMethods: f.LoginMethods, Workspaces: f.Workspaces, RemoteControl: f.RemoteControl})
}

func readManagedConfig(p *Policy, path string, raw []byte) error {
	var f codexManaged
	if err := toml.Unmarshal(raw, &f); err != nil {
		return config.ExplainTOML(err, nil)
	}
	t := towlineFile{Store: f.Store}
	if f.Forced != "" {
		t.LoginMethods, p.forcedLogin = &[]string{f.Forced}, true
	}
	if f.Workspaces != nil {
		ids, err := config.WorkspaceIDs(f.Workspaces)
		if err != nil {
			return fmt.Errorf("forced_chatgpt_workspace_id: %w", err)
		}
		if len(ids) > 0 { // nothing is forced by saying nothing
			t.Workspaces = &ids
		}
		p.forcedWorkspace = true
	}
	return p.add(path, t)
}

// strictness orders the stores, from what keeps a secret least to itself.
var strictness = []string{config.StoreFile, config.StoreAuto, config.StoreEncrypted, config.StoreKeyring, config.StoreEphemeral}

// add merges one file's mandates: of two stores the stricter, of two lists what is
// in both, of two permissions the refusal. also are stores only this file may name.
func (p *Policy) add(path string, f towlineFile, also ...string) error {
	var errs []error
	if s := f.Store; s != "" {
		known := append([]string{config.StoreFile, config.StoreKeyring, config.StoreAuto, config.StoreEphemeral}, also...)
		if !slices.Contains(known, s) {
			errs = append(errs, fmt.Errorf("cli_auth_credentials_store: %q is none of %s", s, strings.Join(known, ", ")))
		}
		switch was, now := slices.Index(strictness, p.Store.Value), slices.Index(strictness, s); {
		case now > was:
			p.Store = Mandate[string]{Set: true, Value: s, From: path}
		case now == was:
			p.Store.From += " and " + path
		}
	}
	if m := f.LoginMethods; m != nil {
		for _, v := range *m {
			if v != LoginAPI && v != LoginChatGPT {
				errs = append(errs, fmt.Errorf("allowed_login_methods: %q is none of %s, %s", v, LoginAPI, LoginChatGPT))
			}
		}
		narrow(&p.LoginMethods, *m, path)
	}
	if m := f.Workspaces; m != nil {
		if slices.Contains(*m, "") {
			errs = append(errs, errors.New("allowed_chatgpt_workspaces: an empty name is no workspace"))
		}
		narrow(&p.Workspaces, *m, path)
	}
	refuseIf(&p.RemoteControl, f.RemoteControl, path)
	refuseIf(&p.LendCredentials, f.LendCredentials, path)
	refuseIf(&p.LendNetwork, f.LendNetwork, path)
	switch f.AuditOnFailure {
	case "":
	case config.AuditRefuse, config.AuditContinue:
		// Refusing is the stricter one.
		if m := &p.AuditOnFailure; !m.Set || f.AuditOnFailure == config.AuditRefuse && m.Value != config.AuditRefuse {
			*m = Mandate[string]{Set: true, Value: f.AuditOnFailure, From: path}
		}
	default:
		errs = append(errs, fmt.Errorf("audit_on_failure: %q is none of %s, %s", f.AuditOnFailure, config.AuditRefuse, config.AuditContinue))
	}
	errs = append(errs, p.addTokens(path, f.Tokens))
	return errors.Join(errs...)
}

// narrow leaves in m what list allows too, and remembers path when that is less.
func narrow(m *Mandate[[]string], list []string, path string) {
	if !m.Set {
		*m = Mandate[[]string]{Set: true, Value: slices.Compact(slices.Sorted(slices.Values(list))), From: path}
		return
	}
	both := slices.DeleteFunc(slices.Clone(m.Value), func(v string) bool { return !slices.Contains(list, v) })
	switch {
	case len(both) < len(m.Value) && len(both) == len(slices.Compact(slices.Sorted(slices.Values(list)))):
		m.From = path // it alone says as much
	default:
		m.From += " and " + path
	}
	m.Value = both
}

func refuseIf(m *Mandate[bool], v *bool, path string) {
	switch {
	case v == nil || m.Set && !m.Value && *v:
	case m.Set && m.Value == *v:
		m.From += " and " + path
	default:
		*m = Mandate[bool]{Set: true, Value: *v, From: path}
	}
}
