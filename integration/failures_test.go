package integration

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"towline/integration/peer"
	"towline/launcher"
)

// failure is one way in which a connection does not come about, and what a
// person is told.
type failure struct {
	// arrange breaks things and names the host to connect to.
	arrange func(t *testing.T, l *peer.Laptop) string
	stage   string
	says    []string // in the cause
	hints   []string // in the hints, each somewhere
}

// expand puts what only arrange knows into a pattern: {addr}, {old}, …
type facts map[string]string

func (f facts) expand(s string) string {
	for k, v := range f {
		s = strings.ReplaceAll(s, "{"+k+"}", v)
	}
	return s
}

// Every failure a person meets before the UI says at which stage, why, and what
// to type next; the same to a script that connects as to doctor.
func TestEveryFailureNamesStageCauseAndCure(t *testing.T) {
	t.Parallel()
	known := facts{}
	for name, f := range failures(known) {
		t.Run(name, func(t *testing.T) {
			clear(known)
			l := peer.NewLaptop(t)
			host := f.arrange(t, l)
			r := l.Towline("connect", "--json", "--no-install", "--", host)
			if r.Code == 0 || !strings.HasPrefix(lastError(r.Stderr), "error: "+f.stage) {
				t.Errorf("connect ended with %d and said\n%s", r.Code, r.Stderr)
			}
			holds(t, "connect", known, f, r.Stderr, r.Stderr)

			d := doctor(t, l, host)
			bad := failedAt(d)
			if bad == nil {
				t.Fatalf("doctor finds nothing wrong: %+v", d)
			}
			if bad.Stage != f.stage {
				t.Errorf("doctor fails at %q: %+v", bad.Stage, bad)
			}
			holds(t, "doctor", known, f, bad.Cause, strings.Join(bad.Next, "\n"))
		})
	}
}

// lastError is the text from its last error on.
func lastError(stderr string) string {
	if i := strings.LastIndex("\n"+stderr, "\nerror: "); i >= 0 {
		return stderr[i:]
	}
	return ""
}

func holds(t *testing.T, who string, known facts, f failure, cause, hints string) {
	t.Helper()
	for _, want := range f.says {
		if want = known.expand(want); !strings.Contains(cause, want) {
			t.Errorf("%s does not say %q; it says\n%s", who, want, cause)
		}
	}
	for _, want := range f.hints {
		if want = known.expand(want); !strings.Contains(hints, want) {
			t.Errorf("%s does not advise %q; it advises\n%s", who, want, hints)
		}
	}
}

// usual is a server that everything is right with, as "dev".
func usual(t *testing.T, l *peer.Laptop, a peer.Account, o peer.OpenSSH) (*peer.Server, *peer.User) {
	t.Helper()
	u := peer.NewUser(t, a)
	s := peer.StartOpenSSH(t, o)
	l.Reach("dev", s, u)
	return s, u
}

func failures(known facts) map[string]failure {
	dev := func(a peer.Account, o peer.OpenSSH) func(*testing.T, *peer.Laptop) string {
		return func(t *testing.T, l *peer.Laptop) string {
			usual(t, l, a, o)
			return "dev"
		}
	}
	return map[string]failure{
		// resolve
		"a broken line": {
			func(t *testing.T, l *peer.Laptop) string {
				l.Configure("Host dev\n  HostName 127.0.0.1\n  Prot 22\n")
				return "dev"
			},
			"resolve",
			[]string{"line 3", "rot"},
			[]string{"line 3", ".ssh/config"},
		},
		"a name that is an option": {
			func(*testing.T, *peer.Laptop) string { return "--=x" },
			"resolve",
			[]string{"-"},
			[]string{"towline hosts"},
		},

		// dial
		"nobody listens": {
			func(t *testing.T, l *peer.Laptop) string {
				ln, err := net.Listen("tcp", peer.Loopback(t)+":0") //nolint:noctx // closed at once
				if err != nil {
					t.Fatal(err)
				}
				known["addr"] = ln.Addr().String()
				_ = ln.Close()
				l.Alias("dev", &peer.Server{Addr: known["addr"]}, l.User)
				return "dev"
			},
			"dial",
			[]string{"{addr}", "refused"},
			[]string{"sshd runs"},
		},
		"no such name": {
			func(_ *testing.T, l *peer.Laptop) string {
				l.Configure("Host dev\n  HostName no-such-host.invalid\n")
				return "dev"
			},
			"dial",
			[]string{"no-such-host.invalid"},
			[]string{"HostName"},
		},
		"a server that says nothing": {
			func(t *testing.T, l *peer.Laptop) string {
				known["addr"] = silent(t)
				l.Alias("dev", &peer.Server{Addr: known["addr"]}, l.User, "ConnectTimeout 1")
				return "dev"
			},
			"dial",
			[]string{"dev", "{addr}", "within 1s"},
			[]string{"what listens"},
		},
		"a jump host that is not there": {
			func(t *testing.T, l *peer.Laptop) string {
				s := peer.StartOpenSSH(t, peer.OpenSSH{})
				l.Reach("dev", s, l.User, "ProxyJump bastion")
				l.Configure("Host bastion\n  HostName 127.0.0.1\n  Port 1\n")
				return "dev"
			},
			"dial",
			[]string{"bastion", "127.0.0.1:1", "refused"},
			[]string{"sshd runs"},
		},
		"a jump host that may not forward": {
			func(t *testing.T, l *peer.Laptop) string {
				u := peer.NewUser(t, peer.Account{})
				l.Reach("bastion", peer.StartOpenSSH(t, peer.OpenSSH{NoForwarding: true}), u)
				l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{}), u, "ProxyJump bastion")
				return "dev"
			},
			"dial",
			[]string{"bastion", "prohibited"},
			[]string{"AllowTcpForwarding"},
		},
		"a proxy command that fails": {
			func(t *testing.T, l *peer.Laptop) string {
				l.Reach("dev", peer.StartOpenSSH(t, peer.OpenSSH{}), l.User, "ProxyCommand sh -c 'echo the tunnel is closed >&2; exit 3'")
				return "dev"
			},
			"dial",
			[]string{"the tunnel is closed"},
			[]string{"by hand: `sh -c"},
		},

		// host key
		"an unknown host key": {
			func(t *testing.T, l *peer.Laptop) string {
				u := peer.NewUser(t, peer.Account{})
				s := peer.StartOpenSSH(t, peer.OpenSSH{})
				l.Alias("dev", s, u)
				u.Authorize(l.Key.Line)
				known["key"] = s.HostKey.Fingerprint
				return "dev"
			},
			"host key",
			[]string{"{key}", "ed25519"},
			[]string{"compare the fingerprint"},
		},
		"an unknown host key, strictly": {
			func(t *testing.T, l *peer.Laptop) string {
				u := peer.NewUser(t, peer.Account{})
				s := peer.StartOpenSSH(t, peer.OpenSSH{})
				l.Alias("dev", s, u, "StrictHostKeyChecking yes")
				known["key"] = s.HostKey.Fingerprint
				return "dev"
			},
			"host key",
			[]string{"{key}"},
			[]string{"StrictHostKeyChecking"},
		},
		"a changed host key": {
			func(t *testing.T, l *peer.Laptop) string {
				u := peer.NewUser(t, peer.Account{})
				s := peer.StartOpenSSH(t, peer.OpenSSH{})
				old := peer.NewKey(t, peer.Ed25519, "old", "")
				l.Knows(&peer.Server{Addr: s.Addr, HostKey: old})
				l.Alias("dev", s, u)
				host, port, _ := net.SplitHostPort(s.Addr)
				known["key"], known["old"], known["name"] = s.HostKey.Fingerprint, old.Fingerprint, "["+host+"]:"+port
				known["file"] = l.Path(".ssh/known_hosts")
				return "dev"
			},
			"host key",
			[]string{"{key}", "{old}", "{file}:1"},
			[]string{"ssh-keygen -R '{name}'"},
		},
		"a revoked host key": {
			func(t *testing.T, l *peer.Laptop) string {
				s, _ := usual(t, l, peer.Account{}, peer.OpenSSH{})
				l.Append(".ssh/known_hosts", "@revoked * "+s.HostKey.Public()+"\n")
				known["key"] = s.HostKey.Fingerprint
				return "dev"
			},
			"host key",
			[]string{"revoked", "{key}"},
			[]string{"do not connect"},
		},

		// authenticate
		"no key fits": {
			func(t *testing.T, l *peer.Laptop) string {
				u := peer.NewUser(t, peer.Account{})
				s := peer.StartOpenSSH(t, peer.OpenSSH{})
				l.Alias("dev", s, u)
				l.Knows(s)
				known["user"] = u.Name
				return "dev"
			},
			"authenticate",
			[]string{"publickey", "id_ed25519"},
			[]string{"{user}", "ssh-copy-id"},
		},
		"no key at all": {
			func(t *testing.T, l *peer.Laptop) string {
				usual(t, l, peer.Account{}, peer.OpenSSH{})
				if err := os.Remove(l.Path(".ssh/id_ed25519")); err != nil {
					t.Fatal(err)
				}
				return "dev"
			},
			"authenticate",
			[]string{"publickey"},
			[]string{"ssh-keygen"},
		},
		"a key with a passphrase and nobody to ask": {
			func(t *testing.T, l *peer.Laptop) string {
				_, u := usual(t, l, peer.Account{}, peer.OpenSSH{})
				locked := peer.NewKey(t, peer.Ed25519, "locked", "correct horse")
				l.Install("id_ed25519", locked)
				u.Authorize(locked.Line)
				return "dev"
			},
			"authenticate",
			[]string{"id_ed25519", "passphrase"},
			[]string{"ssh-add"},
		},
		"a password and nobody to ask": {
			func(t *testing.T, l *peer.Laptop) string {
				usual(t, l, peer.Account{Password: true}, peer.OpenSSH{Passwords: true, AuthenticationMethods: "password"})
				return "dev"
			},
			"authenticate",
			[]string{"password"},
			[]string{"terminal", "towline dev"},
		},
		"a key file others can read": {
			func(t *testing.T, l *peer.Laptop) string {
				usual(t, l, peer.Account{}, peer.OpenSSH{})
				if err := os.Chmod(l.Path(".ssh/id_ed25519"), 0o644); err != nil { //nolint:gosec // that is the failure
					t.Fatal(err)
				}
				return "dev"
			},
			"authenticate",
			[]string{"id_ed25519", "others may read"},
			[]string{"chmod 600"},
		},
		"an expired certificate": {
			func(t *testing.T, l *peer.Laptop) string {
				ca := peer.NewKey(t, peer.Ed25519, "user-ca", "")
				u := peer.NewUser(t, peer.Account{})
				s := peer.StartOpenSSH(t, peer.OpenSSH{UserCA: &ca})
				l.Alias("dev", s, u)
				l.Knows(s)
				l.Write(".ssh/id_ed25519-cert.pub", l.Key.Certificate(t, ca, gossh.UserCert, time.Now().Add(-time.Hour), u.Name)+"\n", 0o644)
				return "dev"
			},
			"authenticate",
			[]string{"certificate", "expired"},
			[]string{"certificate"},
		},
		"the wrong user": {
			func(t *testing.T, l *peer.Laptop) string {
				s, _ := usual(t, l, peer.Account{}, peer.OpenSSH{})
				l.Configure("Host other\n  HostName " + strings.TrimSuffix(s.Addr, ":2222") + "\n  Port 2222\n  User nobody-of-that-name\n")
				return "other"
			},
			"authenticate",
			[]string{"permission denied"},
			[]string{"user name", "nobody-of-that-name"},
		},

		// shell
		"a login shell that lets nobody in": {
			dev(peer.Account{Shell: "/usr/sbin/nologin"}, peer.OpenSSH{}),
			"shell",
			[]string{"not available"},
			[]string{"chsh"},
		},
		"a forced command": {
			dev(peer.Account{}, peer.OpenSSH{ForceCommand: "echo only backups here"}),
			"shell",
			[]string{"only backups here"},
			[]string{"echo ok"},
		},
		"a start file that ends the shell": {
			dev(peer.Account{Files: map[string]string{".bashrc": "echo nothing to see; exit 0\n"}}, peer.OpenSSH{}),
			"shell",
			[]string{"nothing to see"},
			[]string{"ssh dev"},
		},
		"a start file that eats the script": {
			dev(peer.Account{Files: map[string]string{".bashrc": "cat >/dev/null\n"}}, peer.OpenSSH{}),
			"shell",
			[]string{"said nothing"},
			[]string{"ssh dev", "rc files"},
		},
		"a server without sessions": {
			dev(peer.Account{}, peer.OpenSSH{Config: "MaxSessions 0"}),
			"shell",
			[]string{"open"},
			[]string{"MaxSessions"},
		},

		// probe, find
		"nothing there": {
			dev(peer.Account{}, peer.OpenSSH{}),
			"find",
			[]string{"towline", "codex"},
			[]string{"--install"},
		},
		"a native Windows host": {
			func(t *testing.T, l *peer.Laptop) string {
				u := peer.NewUser(t, peer.Account{Shell: "/bin/dash"})
				l.Reach("dev", peer.StartGoHost(t, peer.GoHost{User: u, Version: "OpenSSH_for_Windows_9.5", Say: "'/bin/sh' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n"}), u)
				return "dev"
			},
			"shell",
			[]string{"Windows"},
			[]string{"WSL"},
		},
	}
}

// silent is the address of something that accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", peer.Loopback(t)+":0") //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var held []net.Conn
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
		for _, c := range held {
			_ = c.Close()
		}
	})
	return ln.Addr().String()
}

// doctor is what `towline doctor HOST --json` finds.
func doctor(t *testing.T, l *peer.Laptop, host string) launcher.Diagnosis {
	t.Helper()
	r := l.Towline("doctor", "--json", "--", host)
	var d launcher.Diagnosis
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		t.Fatalf("doctor ended with %d and printed\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if d.OK != (r.Code == 0) {
		t.Errorf("ok is %v and the status %d", d.OK, r.Code)
	}
	return d
}

// failedAt is the first finding that failed.
func failedAt(d launcher.Diagnosis) *launcher.Finding {
	for i, f := range d.Findings {
		if f.Status == launcher.FindingFailed {
			return &d.Findings[i]
		}
	}
	return nil
}
