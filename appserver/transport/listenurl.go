package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"towline/config"
)

// The address of a listener, as Codex takes it: "unix://PATH", "ws://IP:PORT",
// and beside them "wss://IP:PORT". Nothing may follow, names are not looked up,
// and port 0 lets the system choose.

// CheckListen says, in Codex's words, what is wrong with the address of a
// listener; stdio://, off and unix:// without a path are not addresses here.
func CheckListen(raw string) error {
	_, err := parseListen(raw)
	return err
}

// Remote reports whether raw is a listener that other machines reach.
func Remote(raw string) bool {
	a, err := parseListen(raw)
	return err == nil && a.remote()
}

const expectedURL = "expected `stdio://`, `unix://`, `unix://PATH`, `ws://IP:PORT`, `wss://IP:PORT`, or `off`"

func parseListen(raw string) (address, error) {
	if path, ok := strings.CutPrefix(raw, "unix://"); ok {
		switch {
		case path == "":
			return address{}, errors.New("the path of the socket is missing")
		case strings.ContainsRune(path, 0):
			return address{}, errors.New("a socket path cannot hold a zero byte")
		}
		abs, err := filepath.Abs(path)
		return address{via: viaUnix, path: abs}, err
	}
	a := address{via: viaWS}
	rest, ok := strings.CutPrefix(raw, "ws://")
	if !ok {
		a.via = viaWSS
		if rest, ok = strings.CutPrefix(raw, "wss://"); !ok {
			return address{}, fmt.Errorf("unsupported --listen URL `%s`; %s", shown(raw), expectedURL)
		}
	}
	addr, err := netip.ParseAddrPort(rest)
	if err != nil {
		return address{}, fmt.Errorf("invalid websocket --listen URL `%s`; expected `%s://IP:PORT`", shown(raw), a.via)
	}
	a.host, a.addr = rest, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return a, nil
}

// shown is an address for an error: somebody may have put a password in it.
func shown(raw string) string {
	if scheme, rest, ok := strings.Cut(raw, "://"); ok {
		if i := strings.LastIndexByte(rest, '@'); i >= 0 {
			raw = scheme + "://…" + rest[i:]
		}
	}
	return config.OneLine(raw)
}

// remote reports whether other machines reach the listener.
func (a address) remote() bool { return a.via != viaUnix && !a.addr.Addr().IsLoopback() }

// Permitted is the error that [Listen] would refuse raw with before it tries.
func Permitted(raw string, o Options) error {
	_, _, err := prepare(raw, o)
	return err
}

// permitted refuses what must not be opened with these options.
func (a address) permitted(o Options) error {
	if a.remote() && (o.Auth == nil || !o.RequireAuth) {
		return &config.Problem{
			Err: fmt.Errorf("refusing to start non-loopback websocket listener %s without auth; "+
				"configure `--ws-auth capability-token` or `--ws-auth signed-bearer-token`", a.addr),
			Hints: []string{
				"with a secret of your own: `(umask 077; openssl rand -hex 32 > FILE)`, then add `--ws-auth capability-token --ws-token-file FILE`",
				"with tokens of this host: `towline token create --name NAME`, then add `--ws-auth access-token`",
			},
			Exit: config.ExitFailure,
		}
	}
	if a.remote() && a.via == viaWS && !o.DangerousPlaintext {
		return &config.Problem{
			Err: fmt.Errorf("refusing to start plain websocket listener %s beyond loopback: "+
				"whoever is on the way reads the token and everything said", a.addr),
			Hints: []string{
				fmt.Sprintf("add `--ws-tls-cert FILE --ws-tls-key FILE`, or `--ws-acme-domain NAME`, and listen on wss://%s", a.host),
				"when all of that network is yours (a VPN), add `--dangerous-plaintext`",
			},
			Exit: config.ExitFailure,
		}
	}
	if a.via == viaWSS && o.Certificates == nil {
		return &config.Problem{
			Err: fmt.Errorf("wss://%s needs a certificate", a.host),
			Hints: []string{
				"add `--ws-tls-cert FILE --ws-tls-key FILE`",
				"or `--ws-acme-domain NAME`, which gets one for a name that leads here on port 443",
			},
			Exit: config.ExitFailure,
		}
	}
	return nil
}
