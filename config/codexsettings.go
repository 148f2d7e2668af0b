package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// CodexSettings is what of Codex's own configuration counts for credentials.
// Everything else in there is Codex's business.
type CodexSettings struct {
	Store            Setting // cli_auth_credentials_store, at top level or under [auth]
	OwnStore         string  // the same as Codex itself reads it, at top level only; "" for its default
	ForcedLogin      Setting // forced_login_method: "api" or "chatgpt"
	ForcedWorkspaces []string
	ForcedWorkspace  Setting // where ForcedWorkspaces was said, "" for nowhere; Value is unused
	ChatGPTBaseURL   Setting // chatgpt_base_url
}

// codexFile is the shape of it, read tolerantly.
type codexFile struct {
	Store     string `toml:"cli_auth_credentials_store"`
	Forced    string `toml:"forced_login_method"`
	Workspace any    `toml:"forced_chatgpt_workspace_id"`
	BaseURL   string `toml:"chatgpt_base_url"`
	Auth      struct {
		Store string `toml:"cli_auth_credentials_store"`
	} `toml:"auth"`
}

// LoadCodex reads Codex's config.toml of a home, over the system-wide one. An
// absent file says nothing. root stands before the system's path in tests.
func LoadCodex(home, root string) (CodexSettings, error) {
	var out CodexSettings
	paths := []string{filepath.Join(root, "/etc/codex/config.toml")}
	if home != "" {
		paths = append(paths, filepath.Join(home, "config.toml"))
	}
	for _, path := range paths {
		if err := out.read(path); err != nil {
			return CodexSettings{}, &Problem{
				Stage: "config", Err: err, Exit: ExitConfig,
				Hints: []string{"mend it as Codex wants it; `codex login status` names the same line"},
			}
		}
	}
	return out, nil
}

func (s *CodexSettings) read(path string) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(raw) > maxFile {
		return fmt.Errorf("%s has %d bytes; at most %d are read", path, len(raw), maxFile)
	}
	var f codexFile
	if err := toml.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("%s: %w", path, explain(err))
	}
	set := func(to *Setting, v string) {
		if v != "" {
			*to = Setting{Value: v, From: path}
		}
	}
	set(&s.Store, f.Auth.Store)
	set(&s.Store, f.Store)
	if f.Store != "" {
		s.OwnStore = f.Store
	}
	if err := validStore(s.Store.Value); err != nil {
		return fmt.Errorf("%s: cli_auth_credentials_store: %w", path, err)
	}
	set(&s.ForcedLogin, f.Forced)
	set(&s.ChatGPTBaseURL, f.BaseURL)
	if v := s.ForcedLogin.Value; v != "" && v != "api" && v != "chatgpt" {
		return fmt.Errorf("%s: forced_login_method: %q is none of api, chatgpt", path, v)
	}
	if f.Workspace != nil {
		ids, err := WorkspaceIDs(f.Workspace)
		if err != nil {
			return fmt.Errorf("%s: forced_chatgpt_workspace_id: %w", path, err)
		}
		s.ForcedWorkspaces, s.ForcedWorkspace = ids, Setting{}
		if len(ids) > 0 { // nothing is forced by saying nothing
			s.ForcedWorkspace.From = path
		}
	}
	return nil
}

// WorkspaceIDs reads forced_chatgpt_workspace_id: one id or a list of them. Like
// Codex it refuses several in one text.
func WorkspaceIDs(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := e.(string)
		switch {
		case !ok:
			return nil, errors.New("neither a text nor a list of texts")
		case strings.Contains(s, ","):
			return nil, errors.New(`write several as a list: ["…", "…"]`)
		}
		if s = strings.TrimSpace(s); s != "" { // an empty text forces nothing
			out = append(out, s)
		}
	}
	return out, nil
}
