package bearer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
)

// attempt is what is sent, and what Codex makes of it at any moment now.
type attempt struct {
	header []string
	want   string
}

func hs512(head, body string) string {
	signed := b64([]byte(head)) + "." + b64([]byte(body))
	m := hmac.New(sha512.New, []byte(secret))
	m.Write([]byte(signed))
	return signed + "." + b64(m.Sum(nil))
}

// bearerOf are attempts with one token each.
func bearerOf(want string, tokens ...string) (out []attempt) {
	for _, t := range tokens {
		out = append(out, attempt{[]string{"Bearer " + t}, want})
	}
	return out
}

// signedAttempts are the document's table for signed tokens, and the edges that
// Codex's library has besides. now is within a second of the truth.
func signedAttempts(now int64) map[string][]attempt {
	exp := fmt.Sprintf(`"exp":%d`, now+600)
	at := func(name string, d int64) string { return fmt.Sprintf(`{%s,"%s":%d}`, exp, name, now+d) }
	head := func(h string) string { return hs256(secret, h, "{"+exp+"}") }
	ok := signed("{" + exp + "}")
	part := strings.Split(ok, ".")
	return map[string][]attempt{
		"good": bearerOf("ok", ok, signed(`{`+exp+`,"iss":"x","aud":["y"]}`), signed(`{`+exp+`,"iat":99999999999}`),
			signed(`{"exp":9223372036854775807}`), signed(at("nbf", 20)), signed(`{"exp":`+fmt.Sprint(now-20)+`}`),
			signed(`{`+exp+`,"nbf":null,"iss":null,"aud":null}`), signed(`{`+exp+`,"aud":[]}`), signed(` {`+exp+`} `)),
		"headers of a good one": bearerOf("ok", head(`{"alg":"HS256"}`), head(`{"alg":"HS256","typ":"dpop+jwt"}`), head(`{"alg":"HS256","typ":null}`),
			head(`{"alg":"HS256","kid":"../../etc/passwd"}`), head(`{"alg":"HS256","crit":["b64"]}`), head(`{"alg":"HS256","other":1,"other":2}`)),
		"headers of a bad one": bearerOf("401 "+sayJWT, head(`{"typ":"JWT"}`), head(`{"alg":null}`), head(`{"alg":"hs256"}`), head(`{"alg":"none"}`), head(`{"alg":"HS384"}`),
			head(`{"alg":"HS256","typ":1}`), head(`{"alg":"HS256","kid":1}`), head(`{"alg":"HS256","cty":1}`), head(`{"alg":"HS256","jku":1}`), head(`{"alg":"HS256","x5u":1}`),
			head(`{"alg":"HS256","x5t":1}`), head(`{"alg":"HS256","x5t#S256":1}`), head(`{"alg":"HS256","x5c":1}`), head(`{"alg":"HS256","x5c":[1]}`), head(`{"alg":"HS256","jwk":1}`),
			head(`{"alg":"HS256","alg":"HS256"}`), head(`{"alg":"HS256","kid":"a","kid":"a"}`), head(`["HS256"]`), head(`{"alg":"RS256"}`), head(`"HS256"`)),
		"odd and good": bearerOf("ok",
			head(`{"alg":"HS256","crit":1}`),
			head(`{"alg":"HS256","enc":1}`),
			head(`{"alg":"HS256","enc":"A128GCM"}`),
			head(`{"alg":"HS256","zip":1}`),
			head(`{"alg":"HS256","nonce":1}`),
			head(`{"alg":"HS256","url":1}`),
			head(`{"alg":"HS256","jwk":null,"x5c":null,"kid":null}`),
			head(`{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}`),
			head(`{"alg":"HS256","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}}`),
			head(`{"alg":"HS256","x5c":["a"]}`),
			head(`{"alg":"HS256","other":"\ud800"}`),
			head(`{"alg":"HS256","other":`+strings.Repeat("[", 300)+strings.Repeat("]", 300)+`}`),
			head(`{"\u0061lg":"HS256"}`),
			head(`{"alg":"\u0048S256"}`),
			head("{\"alg\":\"HS256\",\"other\":\"\xff\"}"),
			signed(`{`+exp+`,"sub":1}`),
			signed(`{`+exp+`,"jti":1,"iat":"x"}`),
			signed(`{`+exp+`,"sub":"\ud800"}`),
			signed(`{`+exp+`,"x":1e999}`),
			signed(`{`+exp+`,"x":`+strings.Repeat("[", 300)+strings.Repeat("]", 300)+`}`),
			signed("{"+exp+",\"x\":\"\xff\"}"),
			signed(`{"\u0065xp":`+fmt.Sprint(now+600)+`}`),
			signed(`{`+exp+`,"sub":"`+strings.Repeat("x", 9000)+`"}`),
		),
		"odd and bad": bearerOf("401 "+sayJWT,
			head(`{"alg":"HS256","jwk":{}}`),
			head(`{"alg":"HS256","kid":"\ud800"}`),
			signed(`{"exp":-0}`),
			signed(`{"exp":1e3}`),
			signed(`{`+exp+`,"sub":"a","sub":"b"}`),
			signed(`{`+exp+`,"iss":"\ud800"}`),
			signed(`{`+exp+`,"aud":{"a":"b"}}`),
			signed(`{`+exp+`,"iss":["a"]}`),
			signed(`[`+fmt.Sprint(now+600)+`]`),
			signed(`[`+fmt.Sprint(now+600)+`,null,null,null]`),
		),
		"odd and late": bearerOf("401 "+sayExpired,
			signed(`{"exp":-5}`),
		),
		"bad": bearerOf("401 "+sayJWT,
			signed(`{}`), signed(`{"exp":"`+fmt.Sprint(now+600)+`"}`), signed(`{"exp":`+fmt.Sprint(now+600)+`.5}`), signed(`{"exp":`+fmt.Sprint(now+600)+`.0}`),
			signed(`{"exp":null}`), signed(`{"exp":true}`), signed(`{"exp":9223372036854775808}`), signed(`{"exp":1e30}`), signed(`{`+exp+`,`+exp+`}`),
			signed(`{`+exp+`,"nbf":"1"}`), signed(`{`+exp+`,"nbf":1.5}`), signed(`{`+exp+`,"iss":1}`), signed(`{`+exp+`,"aud":1}`), signed(`{`+exp+`,"aud":[1]}`), signed(`{`+exp+`,"aud":["a",null]}`),
			signed(`{`+exp+`,"iss":"a","iss":"a"}`), signed(`{`+exp), signed(`x`), signed(`{`+exp+`} x`),
			hs256(secret+"x", plainHead, "{"+exp+"}"), hs512(plainHead, "{"+exp+"}"), hs512(`{"alg":"HS512"}`, "{"+exp+"}"),
			part[0]+"."+part[1]+".", part[0]+"."+part[1], ok+".", ok+"=", "."+ok, part[0]+"."+b64([]byte(`{"exp":9999999999}`))+"."+part[2],
			b64([]byte(`{"alg":"none"}`))+"."+part[1]+".", "a.b.c", "..", "x", "twl_x", strings.Repeat("a", 3000)),
		"late and early": append(bearerOf("401 "+sayExpired, signed(`{"exp":`+fmt.Sprint(now-40)+`}`), signed(`{"exp":0}`), signed(`{"exp":-9223372036854775808}`)),
			bearerOf("401 "+sayNotYet, signed(at("nbf", 40)), signed(`{`+exp+`,"nbf":9223372036854775807}`))...),
		"header": {
			{nil, "401 " + sayMissing},
			{[]string{""}, "401 " + sayHeader},
			{[]string{"Bearer"}, "401 " + sayHeader},
			{[]string{"Bearer "}, "401 " + sayHeader},
			{[]string{"Basic dXNlcjpwYXNz"}, "401 " + sayHeader},
			{[]string{ok}, "401 " + sayHeader},
			{[]string{"Bearer\t" + ok}, "401 " + sayHeader},
			{[]string{"Bearer " + ok + "\xe9"}, "401 " + sayHeader},
			{[]string{"bEARER    " + ok + "  "}, "ok"},
			{[]string{"Bearer \t" + ok}, "ok"},
			{[]string{"Bearer " + ok + " x"}, "401 " + sayJWT},
		},
	}
}

func namedAttempts(now int64) []attempt {
	c := func(iss, aud string) string {
		return signed(fmt.Sprintf(`{"exp":%d,"iss":%s,"aud":%s}`, now+600, iss, aud))
	}
	out := bearerOf("ok", c(`"I"`, `"A"`), c(`"I"`, `["B","A"]`))
	out = append(out, bearerOf("401 "+sayIssuer, c(`"i"`, `"A"`), c(`null`, `"A"`), c(`"I "`, `"x"`))...)
	out = append(out, bearerOf("401 "+sayAudience, c(`"I"`, `"AA"`), c(`"I"`, `[]`), c(`"I"`, `null`))...)
	return append(out, bearerOf("401 "+sayExpired, signed(fmt.Sprintf(`{"exp":%d,"iss":"x"}`, now-40)))...)
}

func capabilityAttempts() []attempt {
	return append([]attempt{
		{nil, "401 " + sayMissing},
		{[]string{""}, "401 " + sayHeader},
		{[]string{"Token let me in"}, "401 " + sayHeader},
		{[]string{"bearer   let me in "}, "ok"},
		{[]string{"Bearer let me  in"}, "401 " + sayToken},
	}, append(bearerOf("ok", "let me in"), bearerOf("401 "+sayToken, "let me", "a.b.c", "twl_x", strings.Repeat("x", 3000))...)...)
}

func flag(s string) *string { return &s }

// fromFlags is an Authenticator by Codex's flags, and the flags.
func fromFlags(t *testing.T, f Flags) (*Authenticator, []string) {
	t.Helper()
	c, err := FromFlags(f)
	if err != nil {
		t.Fatal(err)
	}
	c.Now, c.Log, c.Lockout = time.Now, slog.New(slog.DiscardHandler), Lockout{LoopbackFree: 1 << 20}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--ws-auth", f.Auth[0]}
	for name, v := range map[string]*string{
		"token-file": f.TokenFile, "token-sha256": f.TokenSHA256, "shared-secret-file": f.SharedSecretFile, "issuer": f.Issuer, "audience": f.Audience,
	} {
		if v != nil {
			args = append(args, "--ws-"+name, *v)
		}
	}
	return a, args
}

// The same attempts, here and at the real Codex where there is one.
func TestAnswersAsCodexDoes(t *testing.T) {
	now := time.Now().Unix()
	var all []attempt
	for _, list := range signedAttempts(now) {
		all = append(all, list...)
	}
	secretFile, tokenFile := write(t, "secret", " "+secret+"\n"), write(t, "token", "\nlet me in \n")
	sum := sha256.Sum256([]byte("let me in"))
	for name, tc := range map[string]struct {
		flags Flags
		list  []attempt
	}{
		"signed": {Flags{Auth: []string{ModeSigned}, SharedSecretFile: &secretFile}, all},
		"signed, by and for somebody": {
			Flags{Auth: []string{ModeSigned}, SharedSecretFile: &secretFile, Issuer: flag(" I "), Audience: flag("A")}, namedAttempts(now),
		},
		"signed, by and for nobody": {
			Flags{Auth: []string{ModeSigned}, SharedSecretFile: &secretFile, Issuer: flag(" "), Audience: flag("")},
			bearerOf("ok", signed(fmt.Sprintf(`{"exp":%d,"iss":"x"}`, now+600))),
		},
		"capability file":   {Flags{Auth: []string{ModeCapability}, TokenFile: &tokenFile}, capabilityAttempts()},
		"capability digest": {Flags{Auth: []string{ModeCapability}, TokenSHA256: flag(" " + strings.ToUpper(hex.EncodeToString(sum[:])))}, capabilityAttempts()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, args := fromFlags(t, tc.flags)
			for i, at := range tc.list {
				if _, err := try(t, a, at.header...); outcome(err) != at.want {
					t.Errorf("%d: %.300q: got %s, want %s", i, at.header, outcome(err), at.want)
				}
			}
			for _, binary := range codexes(t) {
				addr := startCodex(t, binary, args)
				for i, at := range tc.list {
					_, err := try(t, a, at.header...)
					if theirs := upgrade(t, addr, at.header); theirs != outcome(err) {
						t.Errorf("%d: %.300q: Codex %s, here %s", i, at.header, theirs, outcome(err))
					}
				}
			}
		})
	}
}

// A second header is the one difference: Codex reads the first.
func TestSecondHeaderIsRefused(t *testing.T) {
	a := open(t, Config{Capability: []Capability{{Name: "x", File: write(t, "f", "let me in"), Role: protocol.RoleObserver}}})
	if _, err := try(t, a, "Bearer let me in", "Bearer let me in"); outcome(err) != "401 "+sayHeader {
		t.Error(outcome(err))
	}
}

// codexes are the real ones, none where a person has none.
func codexes(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TOWLINE_TEST_CODEX names no Codex to compare with")
		}
		t.Log("not compared with Codex: TOWLINE_TEST_CODEX names none")
		return nil
	}
	return filepath.SplitList(list)
}

var listening = regexp.MustCompile(`ws://(127\.0\.0\.1:\d+)`)

func startCodex(t *testing.T, binary string, args []string) string {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(binary, append([]string{"app-server", "--listen", "ws://127.0.0.1:0"}, args...)...) //nolint:noctx // ended below
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + home, "NO_COLOR=1"}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		var all bytes.Buffer
		for s := bufio.NewScanner(out); s.Scan(); {
			all.Write(append(s.Bytes(), '\n'))
			if m := listening.FindSubmatch(s.Bytes()); m != nil && len(found) == 0 {
				found <- string(m[1])
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	select {
	case addr := <-found:
		return addr
	case <-ended:
		t.Fatalf("%s ended before it listened", binary)
	case <-time.After(patience):
		t.Fatalf("%s does not listen", binary)
	}
	return ""
}

// upgrade asks for a WebSocket, with the headers byte for byte.
func upgrade(t *testing.T, addr string, header []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	var b strings.Builder
	b.WriteString("GET / HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n")
	for _, h := range header {
		b.WriteString("Authorization: " + h + "\r\n")
	}
	if _, err := io.WriteString(c, b.String()+"\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return "ok"
	}
	raw, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", string(raw))
}
