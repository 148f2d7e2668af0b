package config

import (
	"strings"
	"testing"
	"time"
)

func TestListenersOfTheConfiguration(t *testing.T) {
	p := Paths{Config: "/c", State: "/s"}
	c, err := Parse([]byte(`
[app_server]
listen = ["wss://0.0.0.0:443", "ws://127.0.0.1:0", "unix:///run/x"]
dangerous_plaintext = true
allowed_hosts = ["build.example.com"]
[app_server.tls]
cert = "tls/cert.pem"
key = "/etc/key.pem"
[app_server.limits]
connections = 20000
per_source = 1
handshake = "30s"
[app_server.metrics]
listen = "https://0.0.0.0:9464"
token_file = "metrics"
`), p)
	if err != nil {
		t.Fatal(err)
	}
	a := c.AppServer
	if a.TLS.Cert != "/c/tls/cert.pem" || a.TLS.Key != "/etc/key.pem" || a.TLS.ACMECache != "/s/acme" || a.Metrics.TokenFile != "/c/metrics" {
		t.Errorf("%+v", a)
	}
	if a.Limits.Connections != 20000 || a.Limits.HandshakeTime() != 30*time.Second || !a.DangerousPlaintext || len(a.AllowedHosts) != 1 {
		t.Errorf("%+v", a)
	}
}

func TestListenersThatCannotWork(t *testing.T) {
	for text, want := range map[string]string{
		`listen = ["http://x"]`:                         "app_server.listen[0]",
		`allowed_hosts = ["*"]`:                         "app_server.allowed_hosts[0]",
		`allowed_hosts = [""]`:                          "app_server.allowed_hosts[0]",
		`tls.cert = "x"`:                                "belong together",
		`tls = {cert="x",key="y",acme_domains=["a.b"]}`: "exclude each other",
		`limits.connections = -1`:                       "app_server.limits.connections",
		`limits.pending = 2000000`:                      "app_server.limits.pending",
		`limits.handshake = "soon"`:                     "app_server.limits.handshake",
		`limits.handshake = "1h"`:                       "app_server.limits.handshake",
		`metrics.listen = "everywhere"`:                 "app_server.metrics.listen",
		`metrics.lisen = "127.0.0.1:1"`:                 `did you mean "app_server.metrics.listen"`,
	} {
		_, err := Parse([]byte("[app_server]\n"+text+"\n"), Paths{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
