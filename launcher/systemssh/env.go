package systemssh

import (
	"path"
	"slices"
	"strings"

	"towline/config/sshconfig"
)

// sentEnv are the variables a channel gets, as ssh sends them: those of SetEnv,
// and those of ours that SendEnv names. A server takes what AcceptEnv lets it.
func sentEnv(t sshconfig.Target, environ []string) []string {
	var out []string
	for _, name := range sortedKeys(t.SetEnv) {
		out = append(out, name+"="+t.SetEnv[name])
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if _, set := t.SetEnv[name]; !set && name != "" && sends(t.SendEnv, name) && len(out) < maxEnv {
			out = append(out, e)
		}
	}
	return out
}

// maxEnv bounds the variables sent with each command.
const maxEnv = 128

func sends(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name) // names hold no slash
		return err == nil && ok
	})
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
