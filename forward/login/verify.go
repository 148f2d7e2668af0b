package login

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"towline/config"
	"towline/forward/sshfwd"
)

// verify asks the host whether it is logged in now, as whom, and where that lies.
func (b *broker) verify(ctx context.Context) (Event, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusWait, errors.New("the host does not say whether it is logged in"))
	defer cancel()
	out := Event{Event: EventDone}
	if b.program() == Codex {
		said, err := b.output(ctx, Command{Program: Codex, Args: []string{"login", "status"}})
		if ctx.Err() != nil {
			return out, problem(config.ExitUnavailable, context.Cause(ctx), "ask it: `ssh "+b.c.Name+" codex login status`")
		}
		mode, ok := codexStatus(said)
		if !ok {
			return out, b.notKept(said, err)
		}
		out.Mode = mode
	}
	if b.c.hasTowline() {
		named, err := b.towlineStatus(ctx)
		switch {
		case err == nil && named.LoggedIn:
			return named.event(), nil
		case b.program() == Towline && err != nil:
			return out, err
		case b.program() == Towline:
			return out, b.notKept(named.Problem, nil)
		}
	}
	if b.facts = b.look(ctx); b.c.CodexHome != "" && b.facts.ports != nil {
		out.Store = "keyring"
		if b.facts.auth {
			out.Store, out.Path = "file", b.c.CodexHome+"/auth.json"
		}
	}
	if out.Mode == modeChatGPT {
		out.Account, out.Plan = b.whose(ctx)
	}
	return out, nil
}

// notKept is the Problem of a login that went well and is not there.
func (b *broker) notKept(said string, err error) error {
	text := "the login went well, but " + b.c.Name + " says that it is not logged in"
	var o codexOutput
	for line := range strings.Lines(said) {
		o.line(line)
	}
	if why := o.complaint(); why != "" && why != "Not logged in" {
		text += ": " + why
	} else if err == nil || why != "" {
		text += ": where it keeps credentials, nothing stays (cli_auth_credentials_store = \"ephemeral\"?)"
	}
	return problem(config.ExitFailure, errors.New(text), "see what is there: `towline credentials status "+b.c.Name+"`",
		"or lend yours for as long as you are connected: `towline "+b.c.Name+" --lend-credentials`")
}

// The modes of a login, in auth.json's words.
const (
	modeChatGPT = "chatgpt"
	modeAPIKey  = "apikey"
	modePAT     = "personalAccessToken"
	modeAgent   = "agentIdentity"
)

// codexStatus reads what `codex login status` says.
func codexStatus(said string) (mode string, ok bool) {
	for line := range strings.Lines(said) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "Logged in using ChatGPT"):
			return modeChatGPT, true
		case strings.HasPrefix(line, "API key configured"), strings.HasPrefix(line, "Logged in using an API key"):
			return modeAPIKey, true
		case strings.HasPrefix(line, "Logged in using personal access token"):
			return modePAT, true
		case strings.HasPrefix(line, "Logged in using access token"), strings.HasPrefix(line, "Logged in using agent identity"):
			return modeAgent, true
		case strings.HasPrefix(line, "Logged in"):
			return "", true
		}
	}
	return "", false
}

// status is what `towline login status --json` prints, as far as it is needed.
type status struct {
	LoggedIn    bool   `json:"loggedIn"`
	Mode        string `json:"mode"`
	Account     string `json:"account"`
	Workspace   string `json:"workspace"`
	Plan        string `json:"plan"`
	Store       string `json:"store"`
	Path        string `json:"path"`
	Fingerprint string `json:"fingerprint"`
	Problem     string `json:"problem"`
}

func (s status) event() Event {
	return Event{
		Event: EventDone, Mode: config.OneLine(s.Mode), Account: config.OneLine(s.Account), Workspace: config.OneLine(s.Workspace), Plan: config.OneLine(s.Plan),
		Store: config.OneLine(s.Store), Path: config.OneLine(s.Path), Fingerprint: config.OneLine(s.Fingerprint),
	}
}

func (b *broker) towlineStatus(ctx context.Context) (status, error) {
	said, err := b.output(ctx, Command{Program: Towline, Args: []string{"login", "status", "--json"}})
	st, ok := parseStatus(said)
	if !ok {
		if err == nil {
			err = errors.New("it printed no status")
		}
		return st, problem(config.ExitUnavailable, fmt.Errorf("%s does not say whether it is logged in: %w", b.c.Name, err), "ask it: `towline credentials status "+b.c.Name+"`")
	}
	return st, nil
}

// parseStatus finds the object in what was said; other lines may stand around it.
func parseStatus(said string) (status, bool) {
	var st status
	i := strings.Index(said, "{")
	if i < 0 || json.NewDecoder(strings.NewReader(said[i:])).Decode(&st) != nil {
		return status{}, false
	}
	return st, true
}

// output runs a program of the host to its end and gives what it said.
func (b *broker) output(ctx context.Context, c Command) (string, error) {
	p, err := b.c.Host.Run(ctx, c)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Close() }() // it has ended, or is given up
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	defer stop()
	raw, err := io.ReadAll(io.LimitReader(p.Stdout(), maxOutput))
	if err == nil {
		err = p.Wait()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return string(raw), err
}

// whose asks Codex itself whose ChatGPT login it has, by its app-server's
// protocol: it says so nowhere else. It may not know without the network; the
// login is good all the same.
func (b *broker) whose(ctx context.Context) (account, plan string) {
	ctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	p, err := b.c.Host.Run(ctx, Command{Program: Codex, Args: []string{"app-server"}, Input: Open})
	if err != nil {
		return "", ""
	}
	defer func() { _ = p.Close() }() // it answered, or does not
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	defer stop()
	account, plan, err = askAccount(p)
	if err != nil {
		b.c.Log.Info("codex does not say whose login it is", "err", err)
	}
	return account, plan
}

// askAccount speaks with an app-server, one JSON message a line.
func askAccount(p sshfwd.Process) (account, plan string, err error) {
	_, err = io.WriteString(p.Stdin(), `{"id":1,"method":"initialize","params":{"clientInfo":{"name":"towline","title":"Towline","version":"1"}}}`+"\n"+
		`{"method":"initialized"}`+"\n"+`{"id":2,"method":"account/read","params":{"refreshToken":false}}`+"\n")
	if err != nil {
		return "", "", err
	}
	r := bufio.NewReaderSize(io.LimitReader(p.Stdout(), maxOutput), maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", "", err
		}
		if account, plan, ok := parseAccount(line); ok {
			return account, plan, nil
		}
	}
}

// parseAccount reads the answer to account/read. Other messages are not ok.
func parseAccount(line []byte) (account, plan string, ok bool) {
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Result struct {
			Account *struct {
				Email    string `json:"email"`
				PlanType string `json:"planType"`
			} `json:"account"`
		} `json:"result"`
	}
	if json.Unmarshal(bytes.TrimSpace(line), &m) != nil || m.Method != "" || string(m.ID) != "2" {
		return "", "", false
	}
	if m.Result.Account == nil {
		return "", "", true
	}
	return config.OneLine(m.Result.Account.Email), config.OneLine(m.Result.Account.PlanType), true
}
