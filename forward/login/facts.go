package login

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"towline/config"
	"towline/forward/sshfwd"
)

//go:embed facts.sh
var factsScript string

// facts are what there is to know of the host before a login begins there. The
// zero value knows nothing.
type facts struct {
	uid     string
	managed bool           // a policy that Codex does not read is there
	auth    bool           // auth.json is there
	ports   map[int]Holder // who listens; none for a free port
}

// look asks the host. What cannot be learned stays unknown: a login that would
// have worked does not fail for it.
func (b *broker) look(ctx context.Context) facts {
	if b.c.Door {
		return facts{}
	}
	text, err := sshfwd.Ask(ctx, b.c.Host, sshfwd.Script{Body: factsScript, Vars: map[string]string{
		"tl_ports": fmt.Sprintf("%d %d", b.c.ports[0], b.c.ports[1]), "tl_home": b.c.CodexHome,
	}})
	if err != nil {
		b.c.Log.Info("nothing is known of the host's ports", "err", err)
		return facts{}
	}
	return parseFacts(text)
}

// parseFacts reads the answer of facts.sh. Words it does not know are passed over.
func parseFacts(text string) facts {
	f := facts{ports: map[int]Holder{}}
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "uid":
			f.uid = config.OneLine(value)
			continue
		case "managed":
			f.managed = value == "yes"
			continue
		case "auth":
			f.auth = value == "yes"
			continue
		}
		port, err := strconv.Atoi(key)
		parts := strings.SplitN(value, "/", 3)
		if err != nil || len(parts) != 3 || len(f.ports) >= 8 {
			continue
		}
		h := Holder{User: "uid " + config.OneLine(parts[0]), Mine: parts[0] == f.uid && f.uid != ""}
		if h.Mine || parts[0] == "-" {
			h.User = ""
		}
		if n, err := strconv.Atoi(parts[1]); err == nil && n > 0 {
			h.PID = n
		}
		if parts[2] != "-" {
			h.Program = config.OneLine(parts[2])
		}
		f.ports[port] = h
	}
	return f
}
