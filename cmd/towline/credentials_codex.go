package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"

	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
	"towline/launcher"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

const (
	// codexTime bounds one run of Codex on a host.
	codexTime = 90 * time.Second
	// maxCodexSaid bounds what is read of it.
	maxCodexSaid = 64 << 10
)

// putWithCodex puts a key or token on a host that has a Codex and no Towline:
// Codex stores it by its own rules, reading it from its standard input.
func putWithCodex(ctx context.Context, at *launcher.Reached, what given, replace bool) (custody.Stored, error) {
	none := custody.Stored{}
	codex := at.Program(bootstrap.Codex)
	if !path.IsAbs(codex) {
		return none, noTowline(at.Host, "putting a credential there")
	}
	flag := map[custody.Kind]string{custody.KindAPIKey: "--with-api-key", custody.KindAccessToken: "--with-access-token"}[what.kind]
	if flag == "" {
		return none, noTowline(at.Host, "a Towline token")
	}
	was, err := codexLogin(ctx, at, codex)
	if err != nil {
		return none, err
	}
	if was.chatgpt && !replace {
		return none, inTheWay(at.Host, "a ChatGPT login")
	}
	said, err := runCodex(ctx, at, bootstrap.Program{Path: codex, Args: []string{"login", flag}, Input: bootstrap.InputLine}, what.value)
	if err != nil {
		return none, err
	}
	if said.status != 0 {
		return none, &config.Problem{
			Stage: custody.StageStore, Exit: config.ExitFailure,
			Err:   fmt.Errorf("codex on %s did not take it: %s", printable(at.Host), cmp.Or(said.text, fmt.Sprintf("exit status %d", said.status))),
			Hints: []string{"see what is there: `towline credentials status " + at.Host + "`"},
		}
	}
	now, err := codexLogin(ctx, at, codex)
	if err != nil {
		return none, err
	}
	if !now.is(what) {
		return none, &config.Problem{
			Stage: custody.StageStore, Err: fmt.Errorf("codex on %s does not say that it has it: %s", printable(at.Host), cmp.Or(now.text, "nothing")), Exit: config.ExitFailure,
			Hints: []string{"see what is there: `towline credentials status " + at.Host + "`", "the environment there may set another: CODEX_ACCESS_TOKEN"},
		}
	}
	mode := string(secret.ModeAPIKey)
	if what.kind == custody.KindAccessToken {
		mode = string(secret.ModePAT)
	}
	return custody.Stored{
		Mode: mode, Store: "codex", Path: printable(cmp.Or(at.Report.Env["CODEX_HOME"], at.Report.Home+"/.codex")), Fingerprint: what.fingerprint,
		Note: "stored by codex itself, and confirmed by `codex login status` there",
	}, nil
}

// inTheWay: what is on the host would be lost.
func inTheWay(host, what string) error {
	return &config.Problem{
		Stage: custody.StageStore, Err: fmt.Errorf("%s has %s, which would be lost", printable(host), what), Exit: config.ExitFailure,
		Hints: []string{"see it: `towline credentials status " + host + "`", "add --replace to give it up"},
	}
}

// codexState is what `codex login status` says.
type codexState struct {
	text    string
	chatgpt bool
	token   bool
	key     string // masked by Codex: its beginning, stars, its end
}

var maskedKey = regexp.MustCompile(`API key[^-]* - (\S{1,64})`)

func codexLogin(ctx context.Context, at *launcher.Reached, codex string) (codexState, error) {
	said, err := runCodex(ctx, at, bootstrap.Program{Path: codex, Args: []string{"login", "status"}, Input: bootstrap.InputNone}, "")
	if err != nil {
		return codexState{}, err
	}
	return readCodexState(said.text), nil
}

func readCodexState(text string) codexState {
	st := codexState{text: config.OneLine(text)}
	st.chatgpt = strings.Contains(text, "Logged in using ChatGPT")
	st.token = strings.Contains(text, "access token") || strings.Contains(text, "agent identity")
	if m := maskedKey.FindStringSubmatch(text); m != nil {
		st.key = m[1]
	}
	return st
}

// is reports whether Codex has what was put, as far as it says.
func (s codexState) is(what given) bool {
	if what.kind != custody.KindAPIKey {
		return s.token
	}
	head, end, ok := strings.Cut(s.key, "***")
	key := what.value.Reveal()
	return ok && strings.HasPrefix(key, head) && strings.HasSuffix(key, end) || s.key == "***"
}

// codexSaid is how a run of Codex ended.
type codexSaid struct {
	text   string
	status int
}

// runCodex runs Codex on a host, with input as its only line where it reads one.
// What it said does not hold the input.
func runCodex(ctx context.Context, at *launcher.Reached, pr bootstrap.Program, input secret.String) (codexSaid, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, codexTime, fmt.Errorf("no answer within %v", codexTime))
	defer cancel()
	p, err := at.Run(ctx, pr)
	if err != nil {
		return codexSaid{}, err
	}
	s := newStream(p)
	defer func() { _ = s.Close() }() // it has ended, or shall
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if pr.Input == bootstrap.InputLine {
		if _, err := io.WriteString(s, input.Reveal()+"\n"); err != nil {
			return codexSaid{}, codexCut(at, err)
		}
		_ = s.Stdin().Close() // it has read its line
	}
	out, err := io.ReadAll(io.LimitReader(s, maxCodexSaid))
	if err != nil {
		return codexSaid{}, codexCut(at, err)
	}
	err = s.Wait()
	var exit *remote.ExitError
	said := codexSaid{}
	switch {
	case ctx.Err() != nil:
		return said, codexCut(at, context.Cause(ctx))
	case errors.As(err, &exit):
		said.status = exit.Status
	case err != nil:
		return said, codexCut(at, err)
	}
	text := string(out) + " " + s.complaint()
	if v := input.Reveal(); v != "" {
		text = strings.ReplaceAll(text, v, secret.Redacted)
	}
	said.text = config.OneLine(text)
	return said, nil
}

func codexCut(at *launcher.Reached, err error) error {
	if lost := at.Lost(); lost != nil {
		return lost
	}
	return &config.Problem{
		Stage: custody.StageStore, Err: fmt.Errorf("codex on %s: %w", printable(at.Host), err), Exit: config.ExitUnavailable,
		Hints: []string{"see what is there: `towline credentials status " + at.Host + "`"},
	}
}
