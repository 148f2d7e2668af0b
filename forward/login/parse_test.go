package login

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// page is what 0.169.0 prints, but for its random parts.
const page = "https://auth.openai.com/oauth/authorize?response_type=code&client_id=app_EMoamEEZ73f0CkXaXp7hrann&redirect_uri=http%3A%2F%2F127.0.0.1%3A1455%2Fauth%2Fcallback&code_challenge=abc&code_challenge_method=S256&state=S-t_4te&scope=openid&originator=codex_cli_rs"

func TestCodexOutput(t *testing.T) {
	port := 1455
	for name, tc := range map[string]struct {
		said string
		want []Event
		why  string
		save bool
	}{
		"browser": {
			"WARNING: proceeding, even though we could not create PATH aliases: x\nStarting local login server on http://localhost:1455.\nIf your browser did not open, navigate to this URL to authenticate:\n\n" + page + "\n\nOn a remote or headless machine? Use `codex login --device-auth` instead.\nSuccessfully logged in\n",
			[]Event{{Event: EventURL, URL: page, Port: &port}},
			"", true,
		},
		"device, in colours": {
			"\nWelcome to Codex [v\x1b[90m0.169.0\x1b[0m]\n\x1b[90mOpenAI's command-line coding agent\x1b[0m\n\nFollow these steps to sign in with ChatGPT using device code authorization:\n\n1. Open this link in your browser and sign in to your account\n   \x1b[94mhttps://auth.openai.com/codex/device\x1b[0m\n\n2. Enter this one-time code \x1b[90m(expires in 15 minutes)\x1b[0m\n   \x1b[94mQCYO-8SRIZ\x1b[0m\n",
			[]Event{{Event: EventDevice, URL: "https://auth.openai.com/codex/device", Code: "QCYO-8SRIZ"}},
			"", false,
		},
		"taken over":  {"Error logging in: Login cancelled\n", nil, "Login cancelled", false},
		"both busy":   {"Error logging in: Port 127.0.0.1:1457 is already in use\n", nil, "Port 127.0.0.1:1457 is already in use", false},
		"policy":      {"ChatGPT login is disabled. Use API key login instead.\n", nil, "ChatGPT login is disabled. Use API key login instead.", false},
		"a key":       {"Reading API key from stdin...\nAPI key saved. Authentication is checked when you send a request.\n", nil, "Reading API key from stdin...", true},
		"hostile url": {"https://evil.example/?redirect_uri=http://evil.example:80/\n", nil, "", false},
		"escapes":     {"Error logging in: \x1b]0;owned\x07\x1b[2Jno\n", nil, "no", false},
	} {
		t.Run(name, func(t *testing.T) {
			var o codexOutput
			var got []Event
			for line := range strings.Lines(tc.said) {
				if e, ok := o.line(line); ok {
					got = append(got, e)
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if tc.why != "" && o.complaint() != tc.why || o.saved != tc.save {
				t.Errorf("complaint %q, saved %v", o.complaint(), o.saved)
			}
		})
	}
}

func TestParseEvent(t *testing.T) {
	for name, tc := range map[string]struct {
		line string
		want Event
		ok   bool
	}{
		"step":         {`{"event":"step","text":"a\u001b[2Jb\nc"}`, Event{Event: EventStep, Text: "a[2Jb c"}, true},
		"done":         {`{"event":"done","account":"a@b.c","mode":"chatgpt","store":"file","path":"/h/.codex/auth.json"}`, Event{Event: EventDone, Account: "a@b.c", Mode: "chatgpt", Store: "file", Path: "/h/.codex/auth.json"}, true},
		"failed":       {`{"event":"failed","stage":"device","error":"no","hints":["1","2"]}`, Event{Event: EventFailed, Stage: "device", Error: "no", Hints: []string{"1", "2"}}, true},
		"hostile url":  {`{"event":"url","url":"javascript:alert(1)"}`, Event{Event: EventURL}, true},
		"ours to say":  {`{"event":"url","url":"https://x/","opened":true,"host":"other"}`, Event{Event: EventURL, URL: "https://x/"}, true},
		"unknown":      {`{"event":"reboot"}`, Event{}, false},
		"no json":      {"Welcome to Debian", Event{}, false},
		"broken":       {`{"event":"step"`, Event{}, false},
		"a list":       {`["event"]`, Event{}, false},
		"wrong types":  {`{"event":"url","port":"1455"}`, Event{}, false},
		"empty":        {"", Event{}, false},
		"unknown more": {`{"event":"step","text":"x","colour":"red"}`, Event{Event: EventStep, Text: "x"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseEvent([]byte(tc.line))
			if d := cmp.Diff(tc.want, got); ok != tc.ok || d != "" {
				t.Errorf("ok %v\n%s", ok, d)
			}
		})
	}
}

func TestParseAuthorize(t *testing.T) {
	with := func(redirect string) string {
		return "https://auth.openai.com/oauth/authorize?state=s&redirect_uri=" + redirect
	}
	a, err := parseAuthorize(page)
	if err != nil || a.Port != 1455 || a.Path != "/auth/callback" || a.state != "S-t_4te" {
		t.Fatalf("%+v, %v", a, err)
	}
	for name, s := range map[string]string{
		"elsewhere":        with("http%3A%2F%2Fevil.example%3A1455%2Fauth%2Fcallback"),
		"https":            with("https%3A%2F%2F127.0.0.1%3A1455%2F"),
		"no port":          with("http%3A%2F%2F127.0.0.1%2F"),
		"user":             with("http%3A%2F%2Fa%40127.0.0.1%3A1455%2F"),
		"loopback no more": with("http%3A%2F%2F127.0.0.1.evil.example%3A1455%2F"),
		"no state":         "https://auth.openai.com/?redirect_uri=http%3A%2F%2F127.0.0.1%3A1455%2F",
		"plain http":       strings.Replace(page, "https://", "http://", 1),
		"a file":           "file:///etc/passwd?redirect_uri=http%3A%2F%2F127.0.0.1%3A1455%2F&state=s",
		"credentials":      strings.Replace(page, "https://", "https://user:pw@", 1),
		"bad query":        "https://x/?redirect_uri=%zz",
	} {
		if a, err := parseAuthorize(s); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// What a person pastes reaches the host only when it is this login's redirect.
func TestCallback(t *testing.T) {
	a := authorize{Port: 1455, Path: "/auth/callback", state: "S-t_4te"}
	for name, tc := range map[string]struct{ pasted, want, err string }{
		"as it is":      {"http://127.0.0.1:1455/auth/callback?code=c0de&state=S-t_4te", "/auth/callback?code=c0de&state=S-t_4te", ""},
		"localhost":     {"  http://localhost:1455/auth/callback?state=S-t_4te&code=c0de#frag \n", "/auth/callback?code=c0de&state=S-t_4te", ""},
		"without http":  {"localhost:1455/auth/callback?code=c0de&state=S-t_4te", "/auth/callback?code=c0de&state=S-t_4te", ""},
		"quoted":        {`"http://[::1]:1455/auth/callback?code=c0de&state=S-t_4te"`, "/auth/callback?code=c0de&state=S-t_4te", ""},
		"denied":        {"http://127.0.0.1:1455/auth/callback?error=access_denied&state=S-t_4te", "/auth/callback?error=access_denied&state=S-t_4te", ""},
		"other state":   {"http://127.0.0.1:1455/auth/callback?code=c0de&state=other", "", "state does not match"},
		"no state":      {"http://127.0.0.1:1455/auth/callback?code=c0de", "", "state does not match"},
		"two states":    {"http://127.0.0.1:1455/auth/callback?code=c0de&state=S-t_4te&state=x", "", "state does not match"},
		"no code":       {"http://127.0.0.1:1455/auth/callback?state=S-t_4te", "", "no code"},
		"other port":    {"http://127.0.0.1:1457/auth/callback?code=c0de&state=S-t_4te", "", "another login"},
		"other path":    {"http://127.0.0.1:1455/cancel?code=c0de&state=S-t_4te", "", "another login"},
		"another host":  {"http://evil.example:1455/auth/callback?code=c0de&state=S-t_4te", "", "not the address"},
		"the page":      {page, "", "not the address"},
		"https":         {"https://127.0.0.1:1455/auth/callback?code=c0de&state=S-t_4te", "", "not the address"},
		"smuggled line": {"http://127.0.0.1:1455/auth/callback?code=c0de%0d%0aX:+y&state=S-t_4te", "/auth/callback?code=c0de%0D%0AX%3A+y&state=S-t_4te", ""},
		"rubbish":       {"http://[::1", "", "no address"},
		"long":          {"http://" + strings.Repeat("x", maxLine), "", "too long"},
		"empty":         {"", "", "not the address"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := a.callback(tc.pasted)
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q, %v", got, err)
			}
			if err != nil && strings.Contains(err.Error(), "c0de") {
				t.Errorf("the error has the code: %v", err)
			}
		})
	}
}

func TestParseFacts(t *testing.T) {
	got := parseFacts("uid=1000 managed=yes auth=yes 1455=1000/812/codex 1457=free junk x=y 99=1/2")
	if !got.managed || !got.auth || got.uid != "1000" || len(got.ports) != 1 {
		t.Errorf("%+v", got)
	}
	if h := got.ports[1455]; h.String() != "codex (pid 812)" || !h.Mine {
		t.Errorf("%+v", h)
	}
	got = parseFacts("uid=1000 managed=no auth=- 1455=33/-/-")
	if h := got.ports[1455]; h.String() != "another program (user uid 33)" || h.Mine {
		t.Errorf("%+v", h)
	}
}

func TestParseSystemTools(t *testing.T) {
	h := parseLsof("p812\nccodex\nu501\nLana\nf11\np900\ncother\n", 501)
	if h.String() != "codex (pid 812, user ana)" || !h.Mine {
		t.Errorf("lsof: %+v", h)
	}
	const netstat = "\r\nActive Connections\r\n\r\n  Proto  Local Address          Foreign Address        State           PID\r\n" +
		"  TCP    0.0.0.0:135            0.0.0.0:0              LISTENING       1044\r\n" +
		"  TCP    127.0.0.1:50000        127.0.0.1:1455         HERGESTELLT     77\r\n" +
		"  TCP    127.0.0.1:1455         0.0.0.0:0              ABHÖREN         4321\r\n"
	if pid := parseNetstat(netstat, 1455); pid != 4321 {
		t.Errorf("netstat: %d", pid)
	}
	program, user := parseTasklist(`"codex.exe","4321","Console","1","12,345 K","Running","BOX\ana","0:00:01","N/A"` + "\r\n")
	if program != "codex.exe" || user != `BOX\ana` {
		t.Errorf("tasklist: %q, %q", program, user)
	}
	if program, _ := parseTasklist("INFO: No tasks are running which match the specified criteria.\r\n"); program != "" {
		t.Errorf("tasklist: %q", program)
	}
}

func TestHolderIsRecognised(t *testing.T) {
	for name, tc := range map[string]struct {
		h           Holder
		login, ours bool
		host        string
	}{
		"codex":          {Holder{Program: "codex"}, true, false, ""},
		"codex by name":  {Holder{Program: "codex-x86_64-unknown-linux-musl"}, true, false, ""},
		"codex of exe":   {Holder{Program: "codex.exe"}, true, false, ""},
		"an imitation":   {Holder{Program: "codex-helper"}, false, false, ""},
		"ours":           {Holder{Program: "towline", Args: []string{"towline", "login", "-v", "gpu", "--no-browser"}}, true, true, "gpu"},
		"ours, an alias": {Holder{Program: "towline", Args: []string{"towline", "login", "-F", "other", "gpu"}}, true, true, "gpu"},
		"ours, renamed":  {Holder{Program: "tl", self: true, Args: []string{"tl", "login", "gpu"}}, true, true, "gpu"},
		"ours, here":     {Holder{Program: "towline", Args: []string{"towline", "login"}}, true, true, ""},
		"a daemon":       {Holder{Program: "towline", Args: []string{"towline", "serve"}}, false, false, ""},
		"foreign":        {Holder{Program: "idea", Args: []string{"idea", "login", "x"}}, false, false, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.h.isLogin() != tc.login || tc.h.ours() != tc.ours || tc.h.host() != tc.host {
				t.Errorf("login %v, ours %v, host %q", tc.h.isLogin(), tc.h.ours(), tc.h.host())
			}
		})
	}
}

func TestSecretsHideThemselves(t *testing.T) {
	const canary = "sk-canary"
	s := Secret(canary)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "config", Config{Secret: s})
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %q", s, Config{Secret: s}, s, s), log.String()} {
		if strings.Contains(text, canary) {
			t.Errorf("%q", text)
		}
	}
	for name, bad := range map[string]Secret{
		"empty": "", "two words": "a b", "an option": "-n", "escape": `a\n`, "a line": "a\nb", "control": "a\x1b", "long": Secret(strings.Repeat("x", 61<<10)),
	} {
		if err := bad.check(); err == nil || bad != "" && strings.Contains(err.Error(), string(bad)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Secret("sk-proj-A_b.c~0/+=").check(); err != nil {
		t.Error(err)
	}
	if got := withoutSecrets(append(os.Environ(), "OPENAI_API_KEY="+canary, "CODEX_ACCESS_TOKEN="+canary)); strings.Contains(strings.Join(got, "\n"), canary) {
		t.Error("a browser gets the key")
	}
}

func FuzzCodexOutput(f *testing.F) {
	f.Add(page + "\nSuccessfully logged in\n")
	f.Add("https://x/codex/device\n\x1b[94mQCYO-8SRIZ\x1b[0m\n")
	f.Add("Error logging in: \x1b]8;;\x07\n")
	f.Fuzz(func(t *testing.T, said string) {
		var o codexOutput
		for line := range strings.Lines(said) {
			if e, ok := o.line(line); ok {
				tidy(t, e)
			}
		}
		if strings.ContainsFunc(o.complaint(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("complaint %q", o.complaint())
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add(`{"event":"url","url":"https://x/","port":1455}`)
	f.Add(`{"event":"failed","error":"\u001b","hints":["\u0000"]}`)
	f.Fuzz(func(t *testing.T, line string) {
		if e, ok := parseEvent([]byte(line)); ok {
			tidy(t, e)
		}
	})
}

// tidy holds that an event can be shown.
func tidy(t *testing.T, e Event) {
	t.Helper()
	for _, s := range append([]string{e.URL, e.CompleteURL, e.Code, e.Text, e.Account, e.Path, e.Error, e.Stage}, e.Hints...) {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			t.Errorf("%q has control characters", s)
		}
	}
	if e.URL != "" && !strings.HasPrefix(e.URL, "http") || e.Opened || e.Host != "" {
		t.Errorf("%+v", e)
	}
}

func FuzzCallback(f *testing.F) {
	f.Add("http://127.0.0.1:1455/auth/callback?code=c0de&state=S-t_4te")
	f.Add("localhost:1455/auth/callback?error=x&state=S-t_4te")
	a := authorize{Port: 1455, Path: "/auth/callback", state: "S-t_4te"}
	f.Fuzz(func(t *testing.T, pasted string) {
		target, err := a.callback(pasted)
		if err != nil {
			if target != "" {
				t.Errorf("%q with %v", target, err)
			}
			return
		}
		if !strings.HasPrefix(target, "/auth/callback?") || !strings.Contains(target, "state=S-t_4te") || strings.ContainsAny(target, " \r\n") {
			t.Errorf("target %q", target)
		}
	})
}

func FuzzParseAuthorize(f *testing.F) {
	f.Add(page)
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := parseAuthorize(s); err == nil && (a.Port < 1 || a.Port > 65535 || a.state == "" || !strings.HasPrefix(a.Path, "/")) {
			t.Errorf("%+v", a)
		}
	})
}

func FuzzSystemTools(f *testing.F) {
	f.Add("p812\nccodex\nu501\nLana\n")
	f.Add(`"codex.exe","4321","Console"`)
	f.Add("uid=1 1455=1/2/three")
	f.Fuzz(func(t *testing.T, out string) {
		program, _ := parseTasklist(out)
		for _, h := range []Holder{parseLsof(out, 0), {PID: parseNetstat(out, 1455)}, {Program: program}, parseFacts(out).ports[1455]} {
			if strings.ContainsFunc(h.String(), func(r rune) bool { return r < ' ' || r == 0x7f }) || h.PID < 0 {
				t.Errorf("%q", h)
			}
		}
	})
}
