package config

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// AppServer sets up further listeners. The daemon's own socket is always there.
type AppServer struct {
	// Listen are unix://PATH, ws://IP:PORT and wss://IP:PORT.
	Listen []string `toml:"listen"`
	// DangerousPlaintext allows ws:// on other addresses than loopback: tokens and
	// all that is said can be read on the way.
	DangerousPlaintext bool `toml:"dangerous_plaintext"`
	// AllowedHosts are further names clients may dial the listeners by, besides
	// their addresses, this machine's name and those in the certificate.
	AllowedHosts []string         `toml:"allowed_hosts"`
	TLS          AppServerTLS     `toml:"tls"`
	Limits       AppServerLimits  `toml:"limits"`
	Metrics      AppServerMetrics `toml:"metrics"`
	Auth         AppServerAuth    `toml:"auth"`
}

// AppServerTLS says where the certificate of wss:// listeners comes from: files, or
// an authority that is asked with ACME. A domain agrees to the authority's terms.
type AppServerTLS struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`

	ACMEDomains   []string `toml:"acme_domains"`
	ACMEEmail     string   `toml:"acme_email"`
	ACMEDirectory string   `toml:"acme_directory"` // empty: Let's Encrypt
	ACMECache     string   `toml:"acme_cache"`     // a folder
	ACMECA        string   `toml:"acme_ca"`        // what the directory itself is trusted by
}

// AppServerLimits bound what each listener holds; zero is the default of each.
type AppServerLimits struct {
	Connections      int    `toml:"connections"`
	Pending          int    `toml:"pending"` // without a finished handshake
	PerSource        int    `toml:"per_source"`
	PendingPerSource int    `toml:"pending_per_source"`
	PerPrincipal     int    `toml:"per_principal"`
	Handshake        string `toml:"handshake"` // how long one may take
}

// AppServerMetrics says where metrics are told.
type AppServerMetrics struct {
	// Listen is IP:PORT or https://IP:PORT; empty is nowhere.
	Listen string `toml:"listen"`
	// TokenFile holds the bearer token; other addresses than loopback need one.
	TokenFile string `toml:"token_file"`
}

// HandshakeTime is Handshake as a time; zero is the default.
func (l AppServerLimits) HandshakeTime() time.Duration {
	d, _ := time.ParseDuration(l.Handshake) // validated
	return d
}

// expandPaths makes the files absolute.
func (a *AppServer) expandPaths(base string) {
	for _, f := range []*string{&a.TLS.Cert, &a.TLS.Key, &a.TLS.ACMECache, &a.TLS.ACMECA, &a.Metrics.TokenFile} {
		*f = expand(*f, base)
	}
	a.Auth.expandPaths(base)
}

func (a *AppServer) validate(bad func(key, format string, args ...any)) {
	const table = "app_server."
	for i, l := range a.Listen {
		if !strings.HasPrefix(l, "ws://") && !strings.HasPrefix(l, "wss://") && !strings.HasPrefix(l, "unix://") {
			bad(fmt.Sprintf(table+"listen[%d]", i), "%q is none of ws://IP:PORT, wss://IP:PORT, unix://PATH", l)
		}
	}
	for i, h := range a.AllowedHosts {
		if h == "" || strings.ContainsAny(h, "*/ \t") {
			bad(fmt.Sprintf(table+"allowed_hosts[%d]", i), "%q is not the name of a host", h)
		}
	}
	t := a.TLS
	switch {
	case (t.Cert == "") != (t.Key == ""):
		bad(table+"tls", "cert and key belong together")
	case t.Cert != "" && len(t.ACMEDomains) > 0:
		bad(table+"tls", "cert and acme_domains exclude each other")
	}
	l := a.Limits
	for _, n := range []struct {
		key string
		n   int
	}{{"connections", l.Connections}, {"pending", l.Pending}, {"per_source", l.PerSource}, {"pending_per_source", l.PendingPerSource}, {"per_principal", l.PerPrincipal}} {
		if n.n < 0 || n.n > 1<<20 {
			bad(table+"limits."+n.key, "%d is not between 0, the default, and %d", n.n, 1<<20)
		}
	}
	if l.Handshake != "" {
		if d, err := time.ParseDuration(l.Handshake); err != nil || d < time.Second || d > 5*time.Minute {
			bad(table+"limits.handshake", "%q is not a time between 1s and 5m", l.Handshake)
		}
	}
	if m := a.Metrics.Listen; m != "" {
		if _, _, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(m, "https://"), "http://")); err != nil {
			bad(table+"metrics.listen", "%q is neither IP:PORT nor https://IP:PORT", m)
		}
	}
	a.Auth.validate(bad)
}
