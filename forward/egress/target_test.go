package egress

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestTargetOf(t *testing.T) {
	for in, want := range map[string]string{
		"https://api.openai.com/v1":         "api.openai.com:443",
		"http://LLM.corp.example.:8080/v1":  "llm.corp.example:8080",
		"wss://chatgpt.com/backend-api":     "chatgpt.com:443",
		"http://[::1]:9/":                   "[::1]:9",
		"http://[::ffff:10.0.0.1]/":         "10.0.0.1:80",
		"https://user:secret@x.example/":    "x.example:443",
		"ftp://x.example/":                  "",
		"https://":                          "",
		"https://x.example:0/":              "",
		"https://x.example:99999/":          "",
		"https://exa mple/":                 "",
		"https://x_y.example/":              "x_y.example:443",
		"https://ümlaut.example/":           "",
		"https://-x.example/":               "",
		"https://x..example/":               "",
		"https://0x7f000001/":               "",
		"https://127.1/":                    "",
		"https://1.2.3.4.5/":                "",
		"https://x.example%00.evil.example": "",
	} {
		got, err := TargetOf(in)
		if want == "" {
			if err == nil {
				t.Errorf("%s: %v", in, got)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: %v", in, err)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
}

func TestWhatARulePermits(t *testing.T) {
	for _, tc := range []struct {
		rule, addr     string
		builtin, named bool
	}{
		{"api.example:443", "93.184.216.34", true, true},
		{"api.example:443", "2606:2800:220:1::1", true, true},
		{"api.example:443", "10.1.2.3", false, true},
		{"api.example:443", "192.168.1.1", false, true},
		{"api.example:443", "fd00::1", false, true},
		{"api.example:443", "100.64.0.1", false, true},
		{"api.example:443", "127.0.0.1", false, false},
		{"api.example:443", "::1", false, false},
		{"api.example:443", "::ffff:127.0.0.1", false, false},
		{"api.example:443", "169.254.169.254", false, false},
		{"api.example:443", "fe80::1", false, false},
		{"api.example:443", "0.0.0.0", false, false},
		{"api.example:443", "224.0.0.1", false, false},
		{"api.example:443", "255.255.255.255", false, false},
		{"api.example:443", "64:ff9b::7f00:1", false, false},
		{"api.example:443", "64:ff9b::a9fe:a9fe", false, false},
		{"api.example:443", "2002:7f00:1::1", false, false},
		{"api.example:443", "::7f00:1", false, false},
		{"api.example:443", "::a9fe:a9fe", false, false},
		{"localhost:8080", "127.0.0.1", false, true},
		{"localhost:8080", "::1", false, true},
		{"localhost:8080", "10.0.0.1", false, true},
		{"127.0.0.1:8080", "127.0.0.1", false, true},
		{"127.0.0.1:8080", "127.0.0.2", false, false},
		{"10.0.0.1:8080", "10.0.0.1", false, true},
		{"10.0.0.1:8080", "10.0.0.2", false, false},
		{"[::1]:8080", "::1", false, true},
		{"169.254.1.1:80", "169.254.1.1", false, true},
	} {
		target, a := mustTarget(t, tc.rule), netip.MustParseAddr(tc.addr)
		if got := (Rule{Target: target}).permits(a); got != tc.builtin {
			t.Errorf("%s to %s, built in: %v", tc.rule, tc.addr, got)
		}
		if got := (Rule{Target: target, Named: true}).permits(a); got != tc.named {
			t.Errorf("%s to %s, named: %v", tc.rule, tc.addr, got)
		}
	}
}

func TestAList(t *testing.T) {
	a, b := mustTarget(t, "a.example:443"), mustTarget(t, "B.example:443")
	l := List{}.Add(false, a, b).Add(true, a)
	if len(l) != 2 || !l[0].Named || l[1].Named || strings.Join(l.Strings(), " ") != "a.example:443 b.example:443" {
		t.Errorf("%+v", l)
	}
	if _, err := NewServer(ServerConfig{List: make(List, maxTargets+1)}); err == nil {
		t.Error("a list without end is taken")
	}
}

// Whatever a host asks for, it gets what is on the list, by its own name, or
// nothing.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"api.openai.com:443", "API.OpenAI.com.:443", "[::1]:80", "[::ffff:1.2.3.4]:80", "127.1:80", "2130706433:80", "0x7f.0.0.1:80",
		"a@b:80", "a:080", "a:+80", "a b:80", "a\x00b:80", "[fe80::1%lo]:80", "a..b:1", "-a:1", "a/b:1", ":1", "a:", "☃:1", "a.example:443\r\nHost: b:1",
	} {
		f.Add(s)
	}
	list := List{}.Add(false, Target{"api.openai.com", 443}).Add(true, Target{"10.0.0.1", 80})
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			return
		}
		again, err := ParseTarget(got.String())
		if err != nil || again != got {
			t.Fatalf("%q is %q, which is %q, %v", s, got, again, err)
		}
		host, _, err := net.SplitHostPort(s)
		if err != nil {
			t.Fatalf("%q has no host, yet is %q", s, got)
		}
		if _, ok := list.Find(got); ok {
			want := strings.ToLower(strings.TrimSuffix(host, "."))
			if a, err := netip.ParseAddr(host); err == nil {
				want = a.Unmap().String()
			}
			if want != got.Host {
				t.Fatalf("%q is taken for %q", s, got)
			}
		}
		if strings.ContainsFunc(got.Host, func(r rune) bool {
			return r > 'z' || r < '-' || r == '/' || r >= ';' && r <= '^' || r == '`'
		}) {
			t.Fatalf("%q leaves %q", s, got.Host)
		}
	})
}
