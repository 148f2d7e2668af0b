package login

import (
	"slices"
	"testing"
)

// A host that is not what it seems must not make the browser here open what only
// this machine, or its network, can reach.
func TestSecurityHostsDoNotOpenPagesOfThisNetwork(t *testing.T) {
	for page, want := range map[string]bool{
		"https://auth.openai.com/oauth/authorize?x=y": true,
		"https://login.example.com:8443/":             true,
		"https://93.184.216.34/":                      true,
		"http://auth.openai.com/":                     false,
		"http://127.0.0.1:9999/delete?redirect_uri=http%3A%2F%2F127.0.0.1%3A1455%2F&state=s": false,
		"https://localhost/":            false,
		"https://127.0.0.1/":            false,
		"https://[::1]:8443/":           false,
		"https://192.168.1.1/reboot":    false,
		"https://[fe80::1]/":            false,
		"https://169.254.169.254/":      false,
		"https://router/":               false,
		"https://router./":              false,
		"https://auth.openai.com@evil/": false,
		"":                              false,
	} {
		if _, ok := outside(page); ok != want {
			t.Errorf("%q: %v, want %v", page, ok, want)
		}
	}
}

// A browser, and all it starts, gets none of the secrets a pipeline puts into the
// environment.
func TestSecurityBrowsersInheritNoSecrets(t *testing.T) {
	kept := []string{"PATH=/bin", "DISPLAY=:0", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/bus", "XAUTHORITY=/x", "SSH_AUTH_SOCK=/s"}
	env := append(slices.Clone(kept), "CODEX_ACCESS_TOKEN=c", "OPENAI_API_KEY=c", "CODEX_API_KEY=c", "TOWLINE_TOKEN=c", "TOWLINE_ASKPASS_TOKEN=c",
		"GITHUB_TOKEN=c", "AWS_SECRET_ACCESS_KEY=c", "Client_Secret=c", "PG_PASSWORD=c")
	if got := withoutSecrets(env); !slices.Equal(got, kept) {
		t.Errorf("%q, want %q", got, kept)
	}
}
