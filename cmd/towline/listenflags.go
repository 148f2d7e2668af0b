package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"towline/appserver"
	"towline/appserver/access/bearer"
	"towline/appserver/metrics"
	"towline/appserver/protocol"
	"towline/appserver/transport"
	"towline/config"
)

// Addresses of --listen that are none of a listener of its own.
const (
	stdioURL = "stdio://"
	unixURL  = "unix://" // the daemon's own socket
	offURL   = "off"
)

// listenFlags are the flags of app-server and serve about listeners. Those that
// Codex has mean what they mean there.
type listenFlags struct {
	listen []string

	auth                                        []string
	tokenFile, tokenSHA256, secretFile          string
	issuer, audience, role                      string
	skew                                        string
	cert, key                                   string
	acmeDomains                                 []string
	acmeEmail, acmeDirectory, acmeCache, acmeCA string
	plaintext                                   bool
	hosts                                       []string
	maxConnections                              int
	metricsListen, metricsToken                 string

	set *pflag.FlagSet // tells which were given
}

func (l *listenFlags) flags(c *cobra.Command, listen []string, addresses string) {
	f := c.Flags()
	l.set = f
	f.StringArrayVar(&l.listen, "listen", listen, "serve at `URL`: "+addresses+" (repeatable)")
	f.StringArrayVar(&l.auth, "ws-auth", nil, "who may come in by ws and wss: `MODE` capability-token, signed-bearer-token or access-token (repeatable)")
	f.StringVar(&l.tokenFile, "ws-token-file", "", "`FILE` with the capability token")
	f.StringVar(&l.tokenSHA256, "ws-token-sha256", "", "SHA-256 of the capability token, in `HEX`")
	f.StringVar(&l.secretFile, "ws-shared-secret-file", "", "`FILE` with the secret that signed bearer tokens (JWT, HS256) are signed with")
	f.StringVar(&l.issuer, "ws-issuer", "", "what a signed bearer token's `ISSUER` must be")
	f.StringVar(&l.audience, "ws-audience", "", "what a signed bearer token's `AUDIENCE` must hold")
	f.StringVar(&l.skew, "ws-max-clock-skew-seconds", "", "by how many `SECONDS` clocks may differ (default 30)")
	f.StringVar(&l.role, "ws-role", "", "`ROLE` of whoever comes by --ws-auth: observer, approver, operator or admin (default operator)")
	f.StringVar(&l.cert, "ws-tls-cert", "", "`FILE` with the certificate of wss://, and what it was signed by; read again when it changes")
	f.StringVar(&l.key, "ws-tls-key", "", "`FILE` with its key, which nobody else can read")
	f.StringArrayVar(&l.acmeDomains, "ws-acme-domain", nil, "get a certificate for `NAME`, whose port 443 leads to a wss:// listener here; agrees to the authority's terms (repeatable)")
	f.StringVar(&l.acmeEmail, "ws-acme-email", "", "`ADDRESS` for the authority's notices")
	f.StringVar(&l.acmeDirectory, "ws-acme-directory", "", "`URL` of the authority's directory (default: Let's Encrypt)")
	f.StringVar(&l.acmeCache, "ws-acme-cache", "", "`DIR` to keep certificates in (default: acme in the state folder)")
	f.StringVar(&l.acmeCA, "ws-acme-ca", "", "`FILE` with what the authority's own address is trusted by (default: the system)")
	f.BoolVar(&l.plaintext, "dangerous-plaintext", false, "allow ws:// beyond loopback: tokens and all that is said can be read on the way")
	f.StringArrayVar(&l.hosts, "allowed-host", nil, "`NAME` that clients may dial the listeners by, besides addresses and names in the certificate (repeatable)")
	f.IntVar(&l.maxConnections, "max-connections", 0, "most connections of one listener at once (default: 10240, or what the system has descriptors for)")
	f.StringVar(&l.metricsListen, "metrics-listen", "", "tell metrics to Prometheus at `ADDR`: IP:PORT or https://IP:PORT")
	f.StringVar(&l.metricsToken, "metrics-token-file", "", "`FILE` with the bearer token for metrics; needed beyond loopback")
}

// helpWidth is how wide help may be.
const helpWidth = 80

// foldUsages breaks what flags say about themselves where a terminal ends: some of
// these have long names and much to say.
func foldUsages(f *pflag.FlagSet) {
	column := 0
	f.VisitAll(func(f *pflag.Flag) {
		if name, _ := pflag.UnquoteUsage(f); !f.Hidden {
			column = max(column, len("      --   ")+len(f.Name)+len(name)+1)
		}
	})
	f.VisitAll(func(f *pflag.Flag) {
		var b strings.Builder
		used := 0
		for i, w := range strings.Fields(f.Usage) {
			n := len(strings.Trim(w, "`"))
			switch {
			case i == 0:
			case used+1+n > helpWidth-column:
				b.WriteByte('\n')
				used = 0
			default:
				b.WriteByte(' ')
				used++
			}
			b.WriteString(w)
			used += n
		}
		f.Usage = b.String()
	})
}

// addresses sorts out what --listen says: the listeners besides the daemon's own
// socket, whether standard input and output are one, and whether what the
// configuration names is left closed.
func (l *listenFlags) addresses(own string) (urls []string, stdio, off bool, err error) {
	for _, url := range l.listen {
		switch {
		case url == stdioURL:
			stdio = true
		case url == offURL:
			off = true
		case url == unixURL || url == own: // always there
		case slices.Contains(urls, url) && !strings.HasSuffix(url, ":0"):
			return nil, false, false, l.usageError("--listen %s is there twice", config.OneLine(url))
		default:
			if err := transport.CheckListen(url); err != nil {
				return nil, false, false, l.usageError("invalid value '%s' for '--listen <URL>': %w", config.OneLine(url), err)
			}
			urls = append(urls, url)
		}
	}
	if off && len(l.listen) > 1 {
		return nil, false, false, l.usageError("--listen off stands alone")
	}
	return urls, stdio, off, nil
}

// usageError is one of the command line, exit status 2.
func (l *listenFlags) usageError(format string, args ...any) error {
	name := "app-server"
	if l.set != nil {
		name = l.set.Name()
	}
	return &config.Problem{Err: fmt.Errorf(format, args...), Hints: []string{"see `towline " + name + " --help`"}, Exit: config.ExitUsage}
}

// over is the configuration with what the flags say in its place.
func (l *listenFlags) over(c config.AppServer) config.AppServer {
	text := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	if l.cert != "" || l.key != "" {
		c.TLS.Cert, c.TLS.Key, c.TLS.ACMEDomains = l.cert, l.key, nil
	}
	if len(l.acmeDomains) > 0 {
		c.TLS.ACMEDomains = l.acmeDomains
		if l.cert == "" && l.key == "" {
			c.TLS.Cert, c.TLS.Key = "", ""
		}
	}
	text(&c.TLS.ACMEEmail, l.acmeEmail)
	text(&c.TLS.ACMEDirectory, l.acmeDirectory)
	text(&c.TLS.ACMECache, l.acmeCache)
	text(&c.TLS.ACMECA, l.acmeCA)
	c.DangerousPlaintext = c.DangerousPlaintext || l.plaintext
	c.AllowedHosts = append(slices.Clone(c.AllowedHosts), l.hosts...)
	if l.maxConnections != 0 {
		c.Limits.Connections = l.maxConnections
	}
	text(&c.Metrics.Listen, l.metricsListen)
	text(&c.Metrics.TokenFile, l.metricsToken)
	return c
}

// credentials is what the flags say about who may come in; tokens is whether
// access tokens are all that is needed.
func (l *listenFlags) credentials() (c bearer.Config, tokens bool, err error) {
	f := bearer.Flags{Auth: l.auth}
	if l.role != "" {
		if f.Role, err = protocol.ParseRole(l.role); err != nil {
			return c, false, l.usageError("invalid value '%s' for '--ws-role <ROLE>': %w", config.OneLine(l.role), err)
		}
		if !slices.Contains(l.auth, bearer.ModeCapability) && !slices.Contains(l.auth, bearer.ModeSigned) {
			return c, false, l.usageError("--ws-role is for --ws-auth capability-token or signed-bearer-token; an access token has a role of its own")
		}
	}
	given := func(name string, v *string) *string {
		if l.set == nil || !l.set.Changed(name) {
			return nil
		}
		return v
	}
	f.TokenFile, f.TokenSHA256 = given("ws-token-file", &l.tokenFile), given("ws-token-sha256", &l.tokenSHA256)
	f.SharedSecretFile = given("ws-shared-secret-file", &l.secretFile)
	f.Issuer, f.Audience = given("ws-issuer", &l.issuer), given("ws-audience", &l.audience)
	if given("ws-max-clock-skew-seconds", &l.skew) != nil {
		n, err := strconv.ParseUint(l.skew, 10, 64)
		if err != nil {
			return c, false, l.usageError("invalid value '%s' for '--ws-max-clock-skew-seconds <SECONDS>': invalid digit found in string", config.OneLine(l.skew))
		}
		f.MaxClockSkew = &n
	}
	c, err = bearer.FromFlags(f)
	return c, slices.Contains(l.auth, bearer.ModeAccess), err
}

// check finds what is wrong with the flags before anything is opened.
func (l *listenFlags) check() error {
	_, _, err := l.credentials()
	if l.maxConnections < 0 {
		err = errors.Join(err, l.usageError("--max-connections %d: at least 1", l.maxConnections))
	}
	return err
}

// listeners is what the daemon needs to know of c, and of the flags about who may
// come in.
func (l *listenFlags) listeners(c config.AppServer, log *slog.Logger) (out appserver.Listeners, m metrics.ServerConfig, err error) {
	configured, err := bearer.FromConfig(c.Auth)
	if err != nil {
		return out, m, err
	}
	flags, tokens, err := l.credentials()
	if err != nil {
		return out, m, err
	}
	out = appserver.Listeners{
		Auth: configured.And(flags), AccessTokens: tokens || c.Auth.AccessTokens,
		DangerousPlaintext: c.DangerousPlaintext, Hosts: c.AllowedHosts,
		Limits: transport.Limits{
			MaxConns: c.Limits.Connections, MaxPending: c.Limits.Pending, PerSource: c.Limits.PerSource,
			PendingPerSource: c.Limits.PendingPerSource, PerPrincipal: c.Limits.PerPrincipal, Handshake: c.Limits.HandshakeTime(),
		},
	}
	secure := func(url string) bool { return strings.HasPrefix(url, "wss://") }
	t := c.TLS
	// Without a listener for it, a certificate is neither looked at nor asked for.
	if (slices.ContainsFunc(c.Listen, secure) || strings.HasPrefix(c.Metrics.Listen, "https://")) &&
		(t.Cert != "" || t.Key != "" || len(t.ACMEDomains) > 0) {
		out.Certificates, err = transport.OpenCertificates(transport.CertConfig{
			CertFile: t.Cert, KeyFile: t.Key, Log: log,
			ACME: transport.ACME{
				Domains: t.ACMEDomains, Email: t.ACMEEmail, Directory: t.ACMEDirectory, CacheDir: t.ACMECache, CAFile: t.ACMECA,
			},
		})
	}
	m = metrics.ServerConfig{Listen: c.Metrics.Listen, TokenFile: c.Metrics.TokenFile, Certificates: out.Certificates}
	return out, m, err
}

// webSocketBanner says where WebSocket listeners are, as Codex does on standard
// error: scripts look for the second line.
func webSocketBanner(out io.Writer, urls []string) error {
	var b strings.Builder
	for _, url := range urls {
		scheme, addr, _ := strings.Cut(url, "://")
		web := map[string]string{"ws": "http", "wss": "https"}[scheme]
		if web == "" {
			continue
		}
		note := "binds localhost only (use SSH port-forwarding for remote access)"
		if transport.Remote(url) {
			note = "websocket auth is required for non-localhost listeners"
		}
		fmt.Fprintf(&b, "towline app-server (WebSockets)\n  listening on: %s\n  readyz: %s://%s/readyz\n  healthz: %s://%s/healthz\n  note: %s\n",
			url, web, addr, web, addr, note)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// wayIn is the line that says what comes in at url.
func wayIn(url string, credential bool) string {
	switch {
	case transport.Remote(url):
		return fmt.Sprintf("  others     %s, with a credential\n", url)
	case credential:
		return fmt.Sprintf("  codex      codex --remote %s --remote-auth-token-env NAME\n", url)
	}
	return fmt.Sprintf("  codex      codex --remote %s\n", url)
}
