package tui

import (
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

// account/read's answers.
func loggedOut() obj { return obj{"account": nil, "userId": nil, "requiresOpenaiAuth": true} }

func loggedIn(email string) obj {
	return obj{"account": obj{"type": "chatgpt", "email": email, "planType": "pro"}, "userId": "u", "requiresOpenaiAuth": true}
}

func (b *bench) accountIs(o obj) {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var s protocol.AccountStatus
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err)
	}
	b.tookAccount(s, nil)
	b.notice = notice{}
}

// device puts a device login on the screen, begun 65 seconds ago.
func (b *bench) device() *loginScreen {
	l := &loginScreen{kind: protocol.LoginDevice}
	b.screen = l
	l.begun(b.model, protocol.LoginStarted{
		Type: protocol.LoginDevice, LoginID: "l-1", VerificationURL: "https://auth.openai.com/codex/device", UserCode: "ABCD-12345",
	})
	b.clock = b.clock.Add(65 * time.Second)
	return l
}

func init() {
	scenes["login-missing"] = func(b *bench) {
		b.open1(opened("t-1", ""))
		b.accountIs(loggedOut())
	}
	scenes["login-expired"] = func(b *bench) {
		b.conversation()
		b.event("error", obj{"threadId": "t-1", "turnId": "u-1", "willRetry": true, "error": obj{
			"message": "Waiting for a login", "codexErrorInfo": "unauthorized",
			"additionalDetails": "the login has expired: the refresh token was already used: another holder of this login used it",
		}})
		b.accountIs(loggedOut())
	}
	scenes["login-choose"] = func(b *bench) {
		b.conversation()
		b.accountIs(loggedIn("ann@example.com"))
		slashLogin(b.model, "")
	}
	scenes["login-device"] = func(b *bench) {
		b.conversation()
		b.accountIs(loggedIn("ann@example.com"))
		b.device()
	}
	scenes["login-failed"] = func(b *bench) {
		b.conversation()
		b.device()
		b.event(protocol.AccountCompleted, obj{"loginId": "l-1", "success": false, "error": "Login was not completed"})
	}
	scenes["login-browser"] = func(b *bench) {
		b.conversation()
		b.cfg.OpenURL = func(string) error { return nil }
		l := &loginScreen{kind: protocol.LoginBrowser}
		b.screen = l
		l.begun(b.model, protocol.LoginStarted{LoginID: "l-1", AuthURL: "https://auth.openai.com/oauth/authorize?response_type=code&client_id=app_EMoamEEZ73f0CkXaXp7hrann&redirect_uri=http%3A%2F%2F127.0.0.1%3A1455%2Fauth%2Fcallback&code_challenge=1mAVBjoHvrBvE5QdMi3YyzX4SCyEaqST10oqjzVTmzo&code_challenge_method=S256&state=6vXW6K5c"})
		l.opened = "Opened in the browser"
	}
	scenes["login-key"] = func(b *bench) {
		b.conversation()
		b.screen = newKeyScreen()
		b.press("sk-canary-1234")
	}
	for _, name := range []string{"login-device", "login-expired"} {
		themed[name] = true
	}
}

func TestKeysAreNotShown(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply(protocol.AccountRead, loggedOut())
	s := start(t, f, 80, 24)
	s.sees("is not logged in", "l log in")
	s.keys("/login key", "<enter>")
	s.sees("key:")
	s.keys("sk-canary")
	s.paste("-pasted\n")
	s.sees("••••••••••••••••")
	f.reply(protocol.AccountRead, obj{"account": obj{"type": "apiKey"}, "requiresOpenaiAuth": true})
	s.keys("<enter>")
	if p := string(f.wait(protocol.AccountStart, 1)); p != `{"type":"apiKey","apiKey":"sk-canary-pasted"}` {
		t.Errorf("sent %s", p)
	}
	s.sees("is logged in: an API key")
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(s.raw.String(), "canary") {
		t.Error("the key reached the terminal")
	}
}

func TestDeviceLogin(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply(protocol.AccountRead, loggedOut())
	f.reply(protocol.AccountStart, obj{"type": "chatgptDeviceCode", "loginId": "l-7", "verificationUrl": "https://issuer.example/codex/device", "userCode": "WXYZ-9876"})
	s := start(t, f, 100, 30)
	s.sees("is not logged in")
	s.keys("l") // the banner's letter
	s.sees("short code to type", "API key", "browser")
	s.keys("<enter>")
	s.sees("https://issuer.example/codex/device", "WXYZ-9876", "waiting, for another 15:00", "▀")
	f.tell(protocol.AccountCompleted, obj{"loginId": "somebody-elses", "success": false, "error": "no"})
	s.sees("WXYZ-9876")
	f.reply(protocol.AccountRead, loggedIn("ann@example.com"))
	f.tell(protocol.AccountCompleted, obj{"loginId": "l-7", "success": true, "error": nil})
	f.tell(protocol.AccountUpdated, obj{"authMode": "chatgpt", "planType": "pro"})
	s.sees("is logged in: ann@example.com (pro)")
	s.not("WXYZ-9876", "is not logged in")
}

func TestLoginIsCancelled(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply(protocol.AccountRead, loggedOut())
	f.reply(protocol.AccountStart, obj{"type": "chatgptDeviceCode", "loginId": "l-7", "verificationUrl": "https://issuer.example/d", "userCode": "WXYZ-9876"})
	s := start(t, f, 80, 24)
	s.sees("is not logged in")
	s.keys("/login device", "<enter>")
	s.sees("WXYZ-9876")
	s.keys("<esc>")
	if p := string(f.wait(protocol.AccountCancel, 1)); p != `{"loginId":"l-7"}` {
		t.Errorf("cancelled with %s", p)
	}
	s.sees("login cancelled")
	f.refuse(protocol.AccountStart, "ChatGPT login is disabled. Use API key login instead.")
	s.keys("/login device", "<enter>")
	s.sees("ChatGPT login is disabled", "r try again")
	s.keys("<esc>")
	s.not("ChatGPT login is disabled")
}

func TestBrowserOfThisMachine(t *testing.T) {
	for name, tc := range map[string]struct {
		url, sees string
		err       error
		opens     int32
	}{
		"opens":           {"https://issuer.example/oauth/authorize?state=x", "Opened in the browser", nil, 1},
		"cannot":          {"https://issuer.example/oauth/authorize?state=x", "No browser opened (no display)", errors.New("no display"), 1},
		"is given a page": {"file:///etc/passwd", "file:///etc/passwd", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t).session(protocol.Session{})
			f.reply(protocol.AccountRead, loggedOut())
			f.reply(protocol.AccountStart, obj{"type": "chatgpt", "loginId": "l-7", "authUrl": tc.url})
			var opens atomic.Int32
			s := start(t, f, 80, 24, func(c *Config) { c.OpenURL = func(string) error { opens.Add(1); return tc.err } })
			s.sees("is not logged in")
			s.keys("/login browser", "<enter>")
			s.sees(tc.sees)
			if n := opens.Load(); n != tc.opens {
				t.Errorf("the browser was opened %d times", n)
			}
		})
	}
}

func TestLogoutAsks(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply(protocol.AccountRead, loggedIn("ann@example.com"))
	s := start(t, f, 80, 24)
	f.wait(protocol.AccountRead, 1)
	s.keys("/logout", "<enter>")
	s.sees("log out", "ann@example.com (pro)", "stay logged in")
	f.reply(protocol.AccountRead, loggedOut())
	s.keys("2")
	f.wait(protocol.AccountLogout, 1)
	s.sees("is not logged in")
}

func TestLoginsAreForAdmins(t *testing.T) {
	f := newFake(t).session(protocol.Session{Principal: protocol.Presence{ID: "c1", Kind: "key", Name: "bo", Role: protocol.RoleOperator, You: true}})
	f.reply(protocol.AccountRead, loggedOut())
	s := start(t, f, 80, 24)
	s.sees("an admin can /login")
	s.keys("/login", "<enter>")
	s.sees("/login needs the role admin")
}

// Codex fails the turn and says nothing else: the screen finds out by itself.
func TestExpiryIsNoticed(t *testing.T) {
	f := newFake(t).stock()
	f.reply(protocol.AccountRead, loggedIn("ann@example.com"))
	s := start(t, f, 120, 24)
	f.wait(protocol.AccountRead, 1)
	f.wait("thread/start", 1)
	s.sees("/ commands")
	f.reply(protocol.AccountRead, loggedOut())
	f.tell("error", obj{"threadId": "t-1", "turnId": "u-1", "willRetry": false, "error": obj{
		"message": "Your access token could not be refreshed because your refresh token was already used.", "codexErrorInfo": "unauthorized",
	}})
	s.sees("login expired: Your access token could not be refreshed", "l log in")
}

// What a host says reaches the terminal without its controls.
func TestHostileLogin(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	b.open1(opened("t-1", ""))
	l := &loginScreen{kind: protocol.LoginDevice}
	b.screen = l
	l.begun(b.model, protocol.LoginStarted{LoginID: "x", VerificationURL: "https://a\x1b]0;pwned\a/\u202e", UserCode: "A\x1b[2J\nB"})
	b.accountIs(loggedIn("a\x1b[31mb"))
	b.event(protocol.AccountCompleted, obj{"loginId": "x", "success": false, "error": "\x1b[2Jgone"})
	got := b.screenText()
	l.failed = ""
	got = ansi.Strip(got + b.screenText())
	if strings.ContainsAny(strings.ReplaceAll(got, "\n", ""), "\x1b\a") || strings.Contains(got, "\u202e") || strings.Contains(got, "pwned") {
		t.Errorf("controls on the screen: %q", got)
	}
}
