package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"

	"towline/config"
)

// certificate CERT KEY makes a certificate for loopback, signed by itself.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate CERT KEY")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	ts.Check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(errors.Join(
		os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	))
}

func TestFlagsOfListenersWinOverTheConfiguration(t *testing.T) {
	c := config.AppServer{
		AllowedHosts: []string{"a"}, TLS: config.AppServerTLS{Cert: "c", Key: "k", ACMECache: "/cache"},
		Limits: config.AppServerLimits{Connections: 5, PerSource: 6}, Metrics: config.AppServerMetrics{Listen: "127.0.0.1:1", TokenFile: "f"},
	}
	var none listenFlags
	if got := none.over(c); got.TLS.Cert != "c" || got.Limits.Connections != 5 || got.Metrics.Listen != "127.0.0.1:1" || got.DangerousPlaintext {
		t.Errorf("no flags: %+v", got)
	}
	l := listenFlags{
		acmeDomains: []string{"x.y"}, acmeEmail: "e@f", acmeDirectory: "d", acmeCA: "ca", plaintext: true,
		hosts: []string{"b"}, maxConnections: 7, metricsListen: "127.0.0.1:2",
	}
	got := l.over(c)
	if got.TLS.Cert != "" || got.TLS.Key != "" || !slices.Equal(got.TLS.ACMEDomains, []string{"x.y"}) || got.TLS.ACMECache != "/cache" || got.TLS.ACMEEmail != "e@f" {
		t.Errorf("an authority instead of files: %+v", got.TLS)
	}
	if !got.DangerousPlaintext || !slices.Equal(got.AllowedHosts, []string{"a", "b"}) || got.Limits.Connections != 7 || got.Limits.PerSource != 6 ||
		got.Metrics.Listen != "127.0.0.1:2" || got.Metrics.TokenFile != "f" {
		t.Errorf("%+v", got)
	}
	c.TLS = config.AppServerTLS{ACMEDomains: []string{"x.y"}}
	l = listenFlags{cert: "c2", key: "k2"}
	if got := l.over(c).TLS; got.Cert != "c2" || len(got.ACMEDomains) != 0 {
		t.Errorf("files instead of an authority: %+v", got)
	}
}

func TestAddressesOfListen(t *testing.T) {
	for args, want := range map[string]string{
		"":            "[] false false",
		"stdio://":    "[] true false",
		"off":         "[] false true",
		"unix://":     "[] false false",
		"unix:///own": "[] false false",
		"ws://127.0.0.1:0 ws://127.0.0.1:0 wss://[::]:443 unix:///x stdio://": "[ws://127.0.0.1:0 ws://127.0.0.1:0 wss://[::]:443 unix:///x] true false",
		"ws://127.0.0.1:1 ws://127.0.0.1:1":                                   "twice",
		"off unix://":                                                         "stands alone",
		"ws://x:1":                                                            "expected `ws://IP:PORT`",
	} {
		l := listenFlags{listen: strings.Fields(args)}
		urls, stdio, off, err := l.addresses("unix:///own")
		got := ""
		if err == nil {
			got = strings.Join([]string{"[" + strings.Join(urls, " ") + "]", strconv.FormatBool(stdio), strconv.FormatBool(off)}, " ")
		} else if config.ExitCode(err) == config.ExitUsage {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %q, %v; want %q", args, got, err, want)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.String("a-rather-long-name-of-a-flag", "", "`VALUE` of which there is a lot to say that does not fit into what is left of a line")
	f.Bool("short", false, "little")
	foldUsages(f)
	help := f.FlagUsages()
	for line := range strings.Lines(help) {
		if len(strings.TrimRight(line, "\n")) > helpWidth {
			t.Errorf("%d wide: %s", len(line), line)
		}
	}
	if !strings.Contains(strings.Join(strings.Fields(help), " "), "VALUE of which there is a lot to say that does not fit into what is left of a line") {
		t.Errorf("words are lost:\n%s", help)
	}
}

func TestSettingsOfCodexAreForCodex(t *testing.T) {
	o := codexFlags{overrides: []string{"a=1", "b=2"}, enable: []string{"x"}, disable: []string{"y"}, strict: true, analytics: true}
	if got, want := strings.Join(o.args(), " "), "-c a=1 -c b=2 --enable x --disable y --strict-config --analytics-default-enabled"; got != want {
		t.Errorf("%s", got)
	}
	if o.fit(config.EngineCodex) != nil || (codexFlags{}).fit(config.EngineNative) != nil {
		t.Error("refused")
	}
	if err := o.fit(config.EngineNative); config.ExitCode(err) != config.ExitUsage {
		t.Errorf("%v", err)
	}
}
