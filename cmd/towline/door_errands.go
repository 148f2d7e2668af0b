package main

import (
	"net"
	"net/url"
	"os"
	"strconv"

	"towline/sshd"
)

// errandVariables are what a command that the SSH door runs finds of the daemon's
// environment: where things are, how to get out, and whom to log in to. No key or
// token is among them; one that stands before the stored login is the daemon's.
var errandVariables = []string{
	"HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "USERPROFILE", "SystemRoot",
	"TOWLINE_HOME", "CODEX_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
	"DBUS_SESSION_BUS_ADDRESS", "CREDENTIALS_DIRECTORY",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	"CODEX_APP_SERVER_LOGIN_ISSUER", "CODEX_APP_SERVER_LOGIN_CLIENT_ID", "CODEX_AUTHAPI_BASE_URL",
	"CODEX_REFRESH_TOKEN_URL_OVERRIDE", "CODEX_REVOKE_TOKEN_URL_OVERRIDE",
}

// usualPath is where programs are when nobody says.
const usualPath = "/usr/local/bin:/usr/bin:/bin"

// errands is how the door runs this program for `ssh HOST login` and the like.
func errands() (sshd.Self, error) {
	self, err := selfPath()
	if err != nil {
		return sshd.Self{}, err
	}
	out := sshd.Self{Path: self, Dir: "/"}
	if home, err := os.UserHomeDir(); err == nil {
		out.Dir = home
	}
	path := os.Getenv("PATH")
	if path == "" {
		path = usualPath
	}
	out.Env = append(out.Env, "PATH="+path)
	for _, name := range errandVariables {
		if v, ok := os.LookupEnv(name); ok {
			out.Env = append(out.Env, name+"="+v)
		}
	}
	return out, nil
}

// listens reports whether the daemon itself listens on a port, for something else
// than a login.
func (h *host) listens(port uint16) bool {
	addrs := []string{h.sshAddr()}
	for _, l := range h.server.Addresses() {
		if u, err := url.Parse(l); err == nil {
			addrs = append(addrs, u.Host)
		}
	}
	for _, a := range addrs {
		if _, p, err := net.SplitHostPort(a); err == nil && p == strconv.Itoa(int(port)) {
			return true
		}
	}
	return false
}
