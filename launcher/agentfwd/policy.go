package agentfwd

import (
	"strings"

	"towline/config/sshconfig"
)

// Policy is what the configuration allows of forwarding: the zero value nothing.
type Policy struct {
	// Socket is the local agent to serve to the remote; "" forwards nothing.
	Socket string
}

// PolicyFor reads ForwardAgent of the target: nothing unless it is turned on,
// and then the agent it names, or else the one used for logging in. getenv is
// os.Getenv.
func PolicyFor(t sshconfig.Target, getenv func(string) string) Policy {
	switch f := t.ForwardAgent; {
	case f == "" || strings.EqualFold(f, "no") || strings.EqualFold(f, "false"):
		return Policy{}
	case strings.EqualFold(f, "yes") || strings.EqualFold(f, "true"):
		switch a := t.IdentityAgent; a {
		case "", "SSH_AUTH_SOCK":
			return Policy{Socket: getenv("SSH_AUTH_SOCK")}
		case "none":
			return Policy{}
		default:
			return Policy{Socket: variable(a, getenv)}
		}
	default:
		return Policy{Socket: variable(f, getenv)}
	}
}

// variable is the value of $NAME or ${NAME}, and s itself otherwise.
func variable(s string, getenv func(string) string) string {
	name, ok := strings.CutPrefix(s, "$")
	if !ok {
		return s
	}
	return getenv(strings.TrimSuffix(strings.TrimPrefix(name, "{"), "}"))
}
