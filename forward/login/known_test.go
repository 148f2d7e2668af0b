package login

import "testing"

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
