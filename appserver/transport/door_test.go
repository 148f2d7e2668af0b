//go:build unix

package transport

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"towline/config"
)

// answered is what a server says to a request written by hand: status, header and,
// when the connection is not upgraded, body.
func answered(t *testing.T, url, request string) (*http.Response, string) {
	t.Helper()
	c := rawDial(t, url)
	_, _ = io.WriteString(c, request)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	var body []byte
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ = io.ReadAll(resp.Body)
	}
	_ = resp.Body.Close()
	return resp, string(body)
}

// What Codex 0.169.0 answers, byte for byte, but where a comment says otherwise.
func TestHTTPAnswers(t *testing.T) {
	const notLoopback = "refused: the Host header names something else than this listener (allowed_hosts adds names; see the log)"
	ws := open(t, "ws://127.0.0.1:0", Options{Hosts: []string{"Build.Example.com"}}, echo)
	unix := open(t, socketURL(t), Options{}, echo)
	for name, tc := range map[string]struct {
		request string
		status  int
		body    string
		only    string // "ws" or "unix"; "" both
	}{
		"readyz":               {"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 200, "", "ws"},
		"healthz":              {"GET /healthz?x HTTP/1.1\r\nHost: x\r\n\r\n", 200, "", "ws"},
		"head healthz":         {"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 200, "", "ws"},
		"post readyz":          {"POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "", "ws"},
		"readyz and more":      {"GET /readyz/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "Connection header did not include 'upgrade'", "ws"},
		"readyz, upgraded":     {strings.Replace(upgrade("localhost"), "GET /", "GET /readyz", 1), 200, "", "ws"},
		"no readyz":            {"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "Connection header did not include 'upgrade'", "unix"},
		"origin":               {upgrade("127.0.0.1", "Origin: http://127.0.0.1"), 403, "", ""}, // Codex: not on unix
		"empty origin":         {upgrade("127.0.0.1", "X: y", "Origin:  "), 403, "", ""},
		"origin and readyz":    {"GET /readyz HTTP/1.1\r\nHost: x\r\nOrigin: null\r\n\r\n", 403, "", ""},
		"rebound name":         {upgrade("attacker.example:80"), 403, notLoopback, "ws"}, // Codex: 101
		"address of elsewhere": {upgrade("192.0.2.1"), 403, notLoopback, "ws"},           // Codex: 101
		"allowed name":         {upgrade("build.example.com:443"), 101, "", "ws"},
		"allowed, with a dot":  {upgrade("build.example.com."), 101, "", "ws"},
		"localhost":            {upgrade("LocalHost:1"), 101, "", "ws"},
		"loopback 6":           {upgrade("[::1]:99"), 101, "", "ws"},
		"other loopback":       {upgrade("127.8.8.8"), 101, "", "ws"},
		"any host on unix":     {upgrade("whatever"), 101, "", "unix"},
		"any path":             {strings.Replace(upgrade("localhost"), "GET /", "GET /rpc?x=1", 1), 101, "", ""},
		"among others":         {upgrade("localhost", "Connection: keep-alive, Upgrade"), 101, "", ""},
		"post":                 {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405, "Request method must be `GET`", ""},
		"options":              {"OPTIONS / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "Request method must be `GET`", ""},
		"post upgrade":         {strings.Replace(upgrade("localhost"), "GET", "POST", 1), 405, "Request method must be `GET`", ""},
		"plain get":            {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "Connection header did not include 'upgrade'", ""},
		"no upgrade":           {upgrade("localhost", "Upgrade: "), 400, "`Upgrade` header did not include 'websocket'", ""},
		"wrong upgrade":        {upgrade("localhost", "Upgrade: h2c"), 400, "`Upgrade` header did not include 'websocket'", ""},
		"two upgrades":         {upgrade("localhost", "Upgrade: websocket, h2c"), 400, "`Upgrade` header did not include 'websocket'", ""},
		"wrong version":        {upgrade("localhost", "Sec-WebSocket-Version: 8"), 400, "`Sec-WebSocket-Version` header did not include '13'", ""},
		"no version":           {upgrade("localhost", "Sec-WebSocket-Version: "), 400, "`Sec-WebSocket-Version` header did not include '13'", ""},
		"no key":               {upgrade("localhost", "Sec-WebSocket-Key: "), 400, "`Sec-WebSocket-Key` header missing", ""},
		"bad key":              {upgrade("localhost", "Sec-WebSocket-Key: x"), 400, "*", ""},            // Codex: 101, against RFC 6455 4.2.1
		"huge header":          {upgrade("localhost", "X: "+strings.Repeat("x", 64<<10)), 431, "*", ""}, // Codex takes 64 KiB
		"compression offered": {upgrade("localhost", "Sec-WebSocket-Extensions: permessage-deflate",
			"X-Codex-App-Server-Compression: zstd-stream-v1", "Sec-WebSocket-Protocol: a, b"), 101, "", ""},
		"a header nobody looks at": {upgrade("localhost", "Authorization: Bearer x"), 101, "", ""},
	} {
		for via, l := range map[string]*Listener{"ws": ws, "unix": unix} {
			if tc.only != "" && tc.only != via {
				continue
			}
			t.Run(name+"/"+via, func(t *testing.T) {
				t.Parallel()
				resp, body := answered(t, l.URL(), tc.request)
				if resp.StatusCode != tc.status || tc.body != "*" && body != tc.body {
					t.Errorf("%d %q, want %d %q", resp.StatusCode, body, tc.status, tc.body)
				}
				if ct := resp.Header.Get("Content-Type"); tc.body != "" && tc.body != "*" && ct != "text/plain; charset=utf-8" {
					t.Errorf("Content-Type %q", ct)
				}
				for _, h := range []string{"Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "X-Codex-App-Server-Compression"} {
					if v := resp.Header.Get(h); v != "" {
						t.Errorf("%s: %s", h, v)
					}
				}
			})
		}
	}
}

func TestListenRefuses(t *testing.T) {
	const noAuth = "refusing to start non-loopback websocket listener "
	for url, tc := range map[string]struct {
		want string
		exit int
	}{
		"ws://0.0.0.0:9205":             {noAuth + "0.0.0.0:9205 without auth; configure `--ws-auth capability-token` or `--ws-auth signed-bearer-token`", config.ExitFailure},
		"ws://[::]:0":                   {noAuth + "[::]:0 without auth", config.ExitFailure},
		"ws://192.0.2.1:80":             {noAuth, config.ExitFailure},
		"wss://192.0.2.1:80":            {noAuth, config.ExitFailure},
		"ws://[::ffff:192.0.2.1]:80":    {noAuth, config.ExitFailure},
		"ws://localhost:0":              {"invalid websocket --listen URL `ws://localhost:0`; expected `ws://IP:PORT`", config.ExitUsage},
		"ws://127.0.0.1":                {"expected `ws://IP:PORT`", config.ExitUsage},
		"ws://127.0.0.1:0/":             {"expected `ws://IP:PORT`", config.ExitUsage},
		"ws://127.0.0.1:0/path":         {"expected `ws://IP:PORT`", config.ExitUsage},
		"ws://127.0.0.1:0?x":            {"expected `ws://IP:PORT`", config.ExitUsage},
		"ws://127.0.0.1:99999":          {"expected `ws://IP:PORT`", config.ExitUsage},
		"wss://localhost:0":             {"expected `wss://IP:PORT`", config.ExitUsage},
		"wss://127.0.0.1:0":             {"needs a certificate", config.ExitFailure},
		"http://127.0.0.1:0":            {"unsupported --listen URL `http://127.0.0.1:0`", config.ExitUsage},
		"unix://":                       {"missing", config.ExitUsage},
		"":                              {"unsupported --listen URL ``", config.ExitUsage},
		"ws://u:secret@192.0.2.1:x":     {"`ws://…@192.0.2.1:x`", config.ExitUsage},
		"http://u:secret@127.0.0.1:80/": {"`http://…@127.0.0.1:80/`", config.ExitUsage},
	} {
		l, err := Listen(t.Context(), url, Options{})
		if l != nil {
			_ = l.Close()
		}
		var p *config.Problem
		if !errors.As(err, &p) || !strings.Contains(err.Error(), tc.want) || p.Exit != tc.exit || len(p.Hints) == 0 {
			t.Errorf("Listen(%q) = %v (exit %d), want %q (exit %d)", url, err, config.ExitCode(err), tc.want, tc.exit)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("Listen(%q) tells a password: %v", url, err)
		}
	}
}
