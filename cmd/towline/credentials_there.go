package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"towline/appserver/tui"
	"towline/config"
	"towline/config/managed"
	"towline/launcher"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// Limits on what another host says.
const (
	maxReport     = 1 << 20 // bytes of its output
	maxThereSaid  = 4 << 10 // bytes of its standard error
	maxThereItems = 64      // places, holders, …
	thereLimit    = 45 * time.Second
)

// doorCredentials is the command of Towline's own SSH door.
const doorCredentials = "credentials status --json"

// credentialsOn asks a host the same over the connection `towline HOST` makes. It
// opens no app-server there.
func credentialsOn(ctx context.Context, o *hostOptions, host string, asJSON bool, errOut io.Writer) (credentialReport, error) {
	lc, err := o.launcher(host, errOut)
	if err != nil {
		return credentialReport{}, err
	}
	lc.Install = launcher.InstallNever
	if !asJSON { // a script answers nothing
		lc.Ask = person{tui.NewPlainAsker(tui.PlainOptions{Out: errOut})}
	}
	r, err := launcher.Reach(ctx, lc)
	if err != nil {
		return credentialReport{}, err
	}
	defer func() { _ = r.Close() }() // all that was asked is answered
	ctx, cancel := context.WithTimeoutCause(ctx, thereLimit, errors.New("no answer in time"))
	defer cancel()
	if r.Report.Door {
		out, said, err := hear(ctx, func() (remote.Process, error) { return r.Conn.Exec(ctx, doorCredentials, remote.ExecOptions{}) })
		return readReport(host, out, said, err)
	}
	if bin := r.Program(bootstrap.Towline); bin != "" {
		out, said, err := hear(ctx, func() (remote.Process, error) {
			return r.Run(ctx, bootstrap.Program{Path: bin, Args: []string{"credentials", "status", "--json"}, Input: bootstrap.InputAll})
		})
		return readReport(host, out, said, err)
	}
	out, _, err := hear(ctx, func() (remote.Process, error) {
		return r.Run(ctx, bootstrap.Program{Path: "/bin/sh", Args: []string{"-c", codexScript(r.Program(bootstrap.Codex))}, Input: bootstrap.InputAll})
	})
	return codexReport(host, out, err)
}

// hear runs a command without input and returns what it printed.
func hear(ctx context.Context, start func() (remote.Process, error)) (out []byte, said string, err error) {
	p, err := start()
	if err != nil {
		return nil, "", err
	}
	defer context.AfterFunc(ctx, func() { _ = p.Close() })()
	heard := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(p.Stderr(), maxThereSaid))
		_, _ = io.Copy(io.Discard, p.Stderr()) // or the command would wait for us
		heard <- string(b)
	}()
	_ = p.Stdin().Close() // a command that ended already has none
	out, err = io.ReadAll(io.LimitReader(p.Stdout(), maxReport+1))
	if len(out) > maxReport {
		err = errors.New("it says more than a report is long")
	} else {
		err = errors.Join(err, p.Wait())
	}
	_ = p.Close()
	said = <-heard
	if kept, ok := p.(interface{ LastWords() string }); ok {
		said = kept.LastWords()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out, said, err
}

// readReport reads what a Towline there printed. It is from another machine:
// nothing in it is taken for more than text.
func readReport(host string, out []byte, said string, cause error) (credentialReport, error) {
	var r credentialReport
	if err := json.Unmarshal(out, &r); err != nil || r.Program == "" {
		if cause == nil {
			cause = errors.New("it did not answer with a report")
		}
		if text := printable(firstLine(said)); text != "" {
			cause = fmt.Errorf("%w: %s", cause, strings.TrimPrefix(text, "error: "))
		}
		return credentialReport{}, &config.Problem{
			Stage: "status", Err: fmt.Errorf("asking %s about its credentials: %w", host, cause), Exit: config.ExitUnavailable,
			Hints: []string{
				"the Towline there may be too old: `towline connect " + host + " --install`",
				"see what is there: `towline doctor " + host + "`",
			},
		}
	}
	bound(&r)
	r.Host = host
	if r.Policy.Problem != "" {
		return r, &config.Problem{
			Stage: "policy", Err: errors.New("on " + host + ": " + r.Policy.Problem), Exit: config.ExitConfig,
			Hints: []string{"ask whoever manages " + host + " to mend it"},
		}
	}
	return r, nil
}

// bound makes every text of a report one printable line, and every list short.
func bound(r *credentialReport) {
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString(config.OneLine(v.String()))
		case reflect.Pointer:
			if !v.IsNil() && v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem() != reflect.TypeFor[time.Time]() {
				walk(v.Elem())
			}
		case reflect.Slice:
			if v.Len() > maxThereItems {
				v.SetLen(maxThereItems)
			}
			if v.IsNil() { // null would surprise who reads it
				v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			}
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		}
	}
	walk(reflect.ValueOf(r).Elem())
}

// codexScript looks at what a host without Towline shows: names and modes of
// files, never what is in them, and what Codex says of itself.
func codexScript(bin string) string {
	s := `h=${CODEX_HOME:-$HOME/.codex}
echo "home $h"
f=$h/auth.json
if [ -e "$f" ] || [ -h "$f" ]; then echo "file $(ls -ldn "$f" 2>/dev/null | cut -d' ' -f1) $f"; fi
for p in /etc/codex/requirements.toml /etc/codex/managed_config.toml; do [ -e "$p" ] && echo "policy $p"; done
[ -n "${CODEX_ACCESS_TOKEN-}" ] && echo "variable CODEX_ACCESS_TOKEN"
[ -n "${OPENAI_API_KEY-}" ] && echo "variable OPENAI_API_KEY"
[ -n "${CODEX_API_KEY-}" ] && echo "variable CODEX_API_KEY"
[ -S "$h/app-server-control/app-server-control.sock" ] && echo "socket $h/app-server-control/app-server-control.sock"
`
	if bin == "" {
		return s + "echo end\n"
	}
	return s + shellWord(bin) + ` login status </dev/null 2>&1 | while IFS= read -r l; do echo "says $l"; done
` + shellWord(bin) + ` --version 2>/dev/null </dev/null | while IFS= read -r l; do echo "version $l"; done
echo end
`
}

// codexReport makes a report of codexScript's answers.
func codexReport(host string, out []byte, cause error) (credentialReport, error) {
	r := credentialReport{
		Host: host, Program: "codex", Lock: lockUnknown, Places: []placeReport{}, Held: []holderReport{},
		Policy: policyReport{Files: []string{}, Mandates: []managed.Line{}}, Env: []variableReport{}, Notes: []string{},
	}
	ended := false
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		key, text, _ := strings.Cut(sc.Text(), " ")
		text = config.OneLine(text)
		switch key {
		case "home":
			r.CodexHome = text
		case "file":
			mode, name, _ := strings.Cut(text, " ")
			p := placeReport{Kind: config.StoreFile, Path: name, Mode: mode}
			if len(mode) >= 10 && strings.Trim(mode[4:10], "-") != "" && mode[0] == '-' {
				p.Readable, p.Problem = true, "others can read it"
			}
			r.Places = append(r.Places, p)
		case "policy":
			r.Policy.Files = append(r.Policy.Files, text)
		case "variable":
			r.Env = append(r.Env, variableReport{Name: text, In: "the shell"})
		case "socket":
			r.hold("codex", "perhaps a Codex app-server, at "+text)
		case "version":
			r.Program = text
		case "says":
			r.codexSays(text)
		case "end":
			ended = true
		}
	}
	if !ended {
		if cause == nil {
			cause = errors.New("the look at it broke off")
		}
		return credentialReport{}, &config.Problem{
			Stage: "status", Err: fmt.Errorf("asking %s about its credentials: %w", host, cause), Exit: config.ExitUnavailable,
			Hints: []string{"see what is there: `towline doctor " + host + "`"},
		}
	}
	r.Program = strings.Replace(r.Program, "codex-cli ", "codex ", 1)
	if r.LoggedIn {
		r.hold("store", "this host")
	}
	r.Notes = append(r.Notes, "there is no Towline on "+host+": keyring entries, accounts and mandates cannot be seen from here; put it there with `towline connect "+host+" --install`")
	bound(&r)
	return r, nil
}

// codexSays reads a line of `codex login status`.
func (r *credentialReport) codexSays(text string) {
	var mode string
	switch {
	case strings.HasPrefix(text, "Logged in using ChatGPT"):
		mode = "chatgpt"
	case strings.HasPrefix(text, "Logged in using personal access token"):
		mode = "personalAccessToken"
	case strings.HasPrefix(text, "API key configured"): // the line goes on with a part of the key
		mode = "apikey"
	case strings.HasPrefix(text, "Logged in using"):
		mode = "agentIdentity"
	case strings.HasPrefix(text, "Error"):
		r.Notes = append(r.Notes, "codex says: "+text)
		return
	default:
		return
	}
	r.LoggedIn, r.Login = true, &loginReport{Mode: mode}
	for i := range r.Places {
		r.Places[i].Used = true
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
