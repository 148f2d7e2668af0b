package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
)

// stagePut is the stage of what is wrong with what shall be put.
const stagePut = "put"

// putOptions are the flags of `towline credentials put`.
type putOptions struct {
	reachOptions
	apiKey, accessToken, towlineToken bool
	replace                           bool
}

func newCredentialsPut() *cobra.Command {
	var o putOptions
	c := &cobra.Command{
		Use:   "put HOST",
		Short: "Put an API key or a token on a host",
		Long: "put reads a key or token from standard input, or asks for it, and gives it to HOST\n" +
			"over the SSH connection `towline HOST` makes. There it is checked against what the\n" +
			"owner of the machine demands, verified where that can be done, and stored where\n" +
			"Codex keeps credentials. It is in no command line, environment or file on the way;\n" +
			"a link that is cut stores nothing.\n\n" +
			"Without a flag the key or token that this machine is logged in with is put there.\n" +
			"A ChatGPT login is not copied: see `towline credentials move --help`.",
		Example: "  printenv OPENAI_API_KEY | towline credentials put dev-server --api-key\n" +
			"  towline credentials put dev-server --access-token     (asks, and shows nothing)\n" +
			"  printenv TOWLINE_TOKEN | towline credentials put build --towline-token\n" +
			"  printenv OPENAI_API_KEY | towline credentials put dev-server --api-key --json",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := putCredential(cmd.Context(), &o, args[0], cmd.ErrOrStderr())
			return told(cmd.OutOrStdout(), cmd.ErrOrStderr(), o.asJSON, args[0], st, err)
		},
	}
	o.hostOptions.flags(c)
	f := c.Flags()
	f.BoolVar(&o.apiKey, "api-key", false, "an API key")
	f.BoolVar(&o.accessToken, "access-token", false, "an access token (CODEX_ACCESS_TOKEN)")
	f.BoolVar(&o.towlineToken, "towline-token", false, "an access token of a Towline, which HOST then uses as its client")
	f.BoolVar(&o.replace, "replace", false, "give up a login that is on HOST for it")
	f.BoolVar(&o.install, "install", false, "put this version of Towline there first, without asking")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	return c
}

// given is what shall be put.
type given struct {
	kind        custody.Kind
	value       secret.String
	fingerprint string // what the host must find there afterwards
}

// putResult is what `--json` prints, and the error's place when there is one.
type putResult struct {
	OK   bool   `json:"ok"`
	Host string `json:"host"`
	custody.Stored
}

// putCredential is the whole of put.
func putCredential(ctx context.Context, o *putOptions, host string, errOut io.Writer) (custody.Stored, error) {
	what, err := o.given(ctx, host, errOut)
	if err != nil {
		return custody.Stored{}, err
	}
	at, err := o.reach(ctx, host, errOut)
	if err != nil {
		return custody.Stored{}, err
	}
	defer func() { _ = at.Close() }() // what was to be said was answered
	r := receiver{at}
	if !r.hasTowline() {
		return putWithCodex(ctx, at, what, o.replace)
	}
	s, err := r.open(ctx)
	if err != nil {
		return custody.Stored{}, err
	}
	st, err := custody.Put(ctx, s, host, what.kind, what.value, what.fingerprint, o.replace)
	return st, r.explain(err, s)
}

// given finds out what to put, and asks for it.
func (o *putOptions) given(ctx context.Context, host string, errOut io.Writer) (given, error) {
	n := 0
	for _, set := range []bool{o.apiKey, o.accessToken, o.towlineToken} {
		if set {
			n++
		}
	}
	switch {
	case n > 1:
		return given{}, wrongPut(errors.New("--api-key, --access-token and --towline-token exclude each other"), "name one of them")
	case o.apiKey:
		return o.read(ctx, custody.KindAPIKey, "API key", "printenv OPENAI_API_KEY | towline credentials put "+host+" --api-key", host, errOut)
	case o.accessToken:
		return o.read(ctx, custody.KindAccessToken, "access token", "printenv CODEX_ACCESS_TOKEN | towline credentials put "+host+" --access-token", host, errOut)
	case o.towlineToken:
		return o.read(ctx, custody.KindTowline, "Towline token", "printenv TOWLINE_TOKEN | towline credentials put "+host+" --towline-token", host, errOut)
	}
	return ownCredential(ctx, host)
}

// read takes a key or token from standard input, or from a person.
func (o *putOptions) read(ctx context.Context, kind custody.Kind, what, example, host string, errOut io.Writer) (given, error) {
	var text string
	var err error
	if term.IsTerminal(int(os.Stdin.Fd())) && !o.asJSON {
		text, err = askSecret(ctx, os.Stdin, os.Stderr, upperFirst(what)+" for "+printable(host)+" (it is not shown): ")
	} else {
		if !o.asJSON {
			fmt.Fprintf(errOut, "Reading the %s from standard input …\n", what)
		}
		text, err = readSecret(ctx, os.Stdin)
	}
	if err != nil {
		return given{}, err
	}
	if text == "" {
		return given{}, wrongPut(errors.New("no "+what+" was given"), "pipe it in: `"+example+"`")
	}
	return checked(kind, text, host)
}

func wrongPut(err error, hints ...string) error {
	return &config.Problem{Stage: stagePut, Err: err, Hints: hints, Exit: config.ExitUsage}
}

// checked refuses what is clearly something else than was said, before it leaves
// this machine. It never quotes it.
func checked(kind custody.Kind, text, host string) (given, error) {
	switch a, err := secret.Parse([]byte(text)); {
	case strings.HasPrefix(text, "{") && err == nil && a.Mode == secret.ModeChatGPT:
		return given{}, notCopied(host)
	case strings.HasPrefix(text, "{"), strings.ContainsAny(text, " \t\r\n\x00"):
		return given{}, wrongPut(errors.New("that is more than a key or token"), "give it alone, on one line")
	case kind == custody.KindAPIKey && strings.HasPrefix(text, "at-"):
		return given{}, wrongPut(errors.New("that is an access token, no API key"), "use --access-token")
	case kind == custody.KindAccessToken && strings.HasPrefix(text, "sk-"):
		return given{}, wrongPut(errors.New("that is an API key, no access token"), "use --api-key")
	}
	g := given{kind: kind, value: secret.String(text)}
	g.fingerprint = fingerprintOf(kind, text)
	return g, nil
}

// fingerprintOf is the same at both ends: of what is put here, and of what was
// read back there.
func fingerprintOf(kind custody.Kind, text string) string {
	switch kind {
	case custody.KindAPIKey:
		return secret.Auth{Mode: secret.ModeAPIKey, APIKey: text}.Fingerprint()
	case custody.KindAccessToken:
		if strings.HasPrefix(text, "at-") {
			return secret.Auth{Mode: secret.ModePAT, PersonalAccessToken: text}.Fingerprint()
		}
		quoted, _ := json.Marshal(text) // a string always marshals
		return secret.Auth{Mode: secret.ModeAgent, AgentIdentity: quoted}.Fingerprint()
	}
	sum := sha256.Sum256([]byte("towline client token fingerprint 1:" + text))
	return hex.EncodeToString(sum[:8])
}

// ownCredential is what this machine is logged in with, where that may be copied.
func ownCredential(ctx context.Context, host string) (given, error) {
	paths, cfg, err := setup()
	if err != nil {
		return given{}, err
	}
	c, _, err := openForPerson(paths, cfg)
	if err != nil {
		return given{}, err
	}
	a, _, err := c.store.Load(ctx)
	switch {
	case errors.Is(err, secret.ErrNone):
		return given{}, wrongPut(errors.New("this machine is not logged in, so say what to put on "+printable(host)),
			"an API key: `printenv OPENAI_API_KEY | towline credentials put "+host+" --api-key`",
			"an access token: `printenv CODEX_ACCESS_TOKEN | towline credentials put "+host+" --access-token`",
			"log in on the host instead: `towline login "+host+"`")
	case err != nil:
		return given{}, err
	}
	switch {
	case a.Mode == secret.ModeAPIKey:
		return checked(custody.KindAPIKey, a.APIKey, host)
	case a.Mode == secret.ModePAT:
		return checked(custody.KindAccessToken, a.PersonalAccessToken, host)
	case a.Mode == secret.ModeChatGPT:
		return given{}, notCopied(host)
	}
	return given{}, wrongPut(fmt.Errorf("a login with %q is not one that can be put elsewhere", printable(string(a.Mode))), "log in on the host: `towline login "+host+"`")
}

// notCopied is the answer to whoever would copy a ChatGPT login.
func notCopied(host string) error {
	return &config.Problem{
		Stage: stagePut, Exit: config.ExitFailure,
		Err: errors.New("a ChatGPT login is not copied: its refresh token is spent by whoever uses it first, and the other loses the login"),
		Hints: []string{
			"log in on the host, through your browser here: `towline login " + host + "`",
			"move this login there; it is gone here then: `towline credentials move " + host + "`",
			"lend it for as long as you are connected: `towline " + host + " --lend-credentials`",
		},
	}
}

// givenNames are the modes as things that a host has.
var givenNames = map[string]string{
	string(secret.ModeAPIKey): "API key", string(secret.ModeChatGPT): "ChatGPT login",
	string(secret.ModePAT): "personal access token", string(secret.ModeAgent): "agent identity",
}

// told says what became of a put or move, for a person or a script.
func told(out, errOut io.Writer, asJSON bool, host string, st custody.Stored, err error) error {
	if asJSON {
		enc := json.NewEncoder(out)
		if err != nil {
			return errors.Join(err, enc.Encode(problemJSON(err)))
		}
		return enc.Encode(putResult{OK: true, Host: host, Stored: st})
	}
	if err != nil {
		return err
	}
	name := cmp.Or(givenNames[st.Mode], st.Mode)
	var b strings.Builder
	fmt.Fprintf(&b, "%s has the %s now", printable(host), name)
	if st.Account != "" {
		fmt.Fprintf(&b, ", of %s", st.Account)
	}
	fmt.Fprintf(&b, "\n  store        %s\n", strings.TrimSpace(st.Store+" "+st.Path))
	fmt.Fprintf(&b, "  fingerprint  %s\n", st.Fingerprint)
	if st.Note != "" {
		fmt.Fprintf(&b, "  note         %s\n", st.Note)
	}
	_, werr := io.WriteString(errOut, b.String())
	return werr
}

// noTowline is for a host without one, and what only Towline can do.
func noTowline(host, what string) error {
	return &config.Problem{
		Stage: "find", Err: fmt.Errorf("%s has no Towline, which %s needs", printable(host), what), Exit: config.ExitUnavailable,
		Hints: []string{"add --install to put this program there (no sudo, no internet needed)"},
	}
}
