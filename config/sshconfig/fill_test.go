package sshconfig

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// resolved resolves dev from the given user and system files, without ssh, so
// that the answer is the same on every machine; what fills a Target is the same.
func resolved(t *testing.T, user, system string) Target {
	t.Helper()
	o := home(t, map[string]string{".ssh/config": user, "system": system})
	o.SystemFile, o.Program = filepath.Join(o.Home, "system"), NoProgram
	got, err := Resolve(t.Context(), o, "dev")
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDefaultsAreSSHs(t *testing.T) {
	got := resolved(t, "", "")
	if !got.IdentityFilesDefault || len(got.IdentityFiles) < 5 || !strings.HasSuffix(got.IdentityFiles[0], "/.ssh/id_rsa") || !filepath.IsAbs(got.IdentityFiles[0]) {
		t.Errorf("identities %v", got.IdentityFiles)
	}
	if len(got.UserKnownHosts) != 2 || !filepath.IsAbs(got.UserKnownHosts[0]) || len(got.GlobalKnownHosts) != 2 {
		t.Errorf("known hosts %v, %v", got.UserKnownHosts, got.GlobalKnownHosts)
	}
	want := Target{
		Alias: "dev", HostName: "dev", User: "me", Port: 22, AddKeysToAgent: "no", ForwardAgent: "no",
		StrictHostKeyChecking: "ask", UpdateHostKeys: true, VerifyHostKeyDNS: "no", ConnectionAttempts: 1, ServerAliveCountMax: 3,
		TCPKeepAlive: true, AddressFamily: "any", PasswordAuthentication: true, KbdInteractiveAuthentication: true,
		PubkeyAuthentication: true, NumberOfPasswordPrompts: 3, ControlMaster: "no", IdentityFilesDefault: true, Source: SourceLibrary,
		SetEnv: map[string]string{},
	}
	want.IdentityFiles, want.UserKnownHosts, want.GlobalKnownHosts = got.IdentityFiles, got.UserKnownHosts, got.GlobalKnownHosts
	want.Options, want.Warnings = got.Options, got.Warnings
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// The distribution's default for everybody is no reason to leave the process;
// somebody's decision is.
func TestWhenKerberosNeedsTheSystemsSSH(t *testing.T) {
	const debian = "Host *\n    SendEnv LANG LC_*\n    HashKnownHosts yes\n    GSSAPIAuthentication yes\n"
	for name, tc := range map[string]struct {
		user, system string
		on, need     bool
	}{
		"nowhere":              {"Host dev\n", "", false, false},
		"Debian's default":     {"Host dev\n User me\n", debian, true, false},
		"copied under Host *":  {"Host *\n GSSAPIAuthentication yes\n", "", true, false},
		"above every Host":     {"GSSAPIAuthentication yes\n", "", true, false},
		"for this host":        {"Host dev\n GSSAPIAuthentication yes\n", debian, true, true},
		"for its domain":       {"Host d*\n GSSAPIAuthentication yes\n", "", true, true},
		"for another host":     {"Host other\n GSSAPIAuthentication yes\n", debian, true, false},
		"for all but this":     {"Host * !dev\n GSSAPIAuthentication yes\n", debian, true, false},
		"off for this host":    {"Host dev\n GSSAPIAuthentication no\nHost d*\n GSSAPIAuthentication yes\n", debian, false, false},
		"delegation":           {"Host *\n GSSAPIDelegateCredentials yes\n", debian, true, true},
		"delegation without":   {"Host *\n GSSAPIDelegateCredentials yes\n", "", false, false},
		"preferred":            {"Host *\n PreferredAuthentications gssapi-with-mic,publickey\n", debian, true, true},
		"preferred after keys": {"Host *\n PreferredAuthentications publickey,gssapi-with-mic\n", debian, true, false},
		"the only way":         {"Host *\n PubkeyAuthentication no\n PasswordAuthentication no\n KbdInteractiveAuthentication no\n", debian, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := resolved(t, tc.user, tc.system)
			if got.GSSAPIAuthentication != tc.on || slices.Contains(got.NeedsSystem, "GSSAPIAuthentication") != tc.need {
				t.Errorf("on %v, needs %v", got.GSSAPIAuthentication, got.NeedsSystem)
			}
		})
	}
}

func TestWhatNeedsTheSystemsSSH(t *testing.T) {
	for line, want := range map[string]string{
		"PKCS11Provider /usr/lib/p.so":         "PKCS11Provider",
		"PKCS11Provider none":                  "",
		"SecurityKeyProvider /usr/lib/sk.so":   "SecurityKeyProvider",
		"SecurityKeyProvider internal":         "",
		"ProxyCommand x\nProxyUseFdpass yes":   "ProxyUseFdpass",
		"ProxyUseFdpass yes":                   "", // without a command it means nothing
		"KnownHostsCommand /bin/keys %H":       "KnownHostsCommand",
		"KnownHostsCommand none":               "",
		"VerifyHostKeyDNS yes":                 "VerifyHostKeyDNS",
		"VerifyHostKeyDNS ask":                 "",
		"HostbasedAuthentication yes":          "HostbasedAuthentication",
		"RevokedHostKeys ~/.ssh/revoked":       "RevokedHostKeys",
		"GSSAPIKeyExchange yes":                "GSSAPIKeyExchange",
		"Tunnel yes":                           "",
		"RemoteCommand x\nLocalForward 1 a:2":  "",
		"ControlMaster auto\nControlPath ~/%C": "",
	} {
		if got := strings.Join(resolved(t, line+"\n", "").NeedsSystem, " "); got != want {
			t.Errorf("%q needs %q, want %q", line, got, want)
		}
	}
}

func TestWhatOurChannelLeavesOut(t *testing.T) {
	got := resolved(t, `
RemoteCommand tmux new -A
RequestTTY force
LocalForward 8080 localhost:80
RemoteForward 9000 localhost:9000
DynamicForward 1080
PermitLocalCommand yes
LocalCommand echo hi
ExitOnForwardFailure yes
Tunnel yes
ForwardX11 yes
SessionType none
StdinNull yes
ForkAfterAuthentication yes
`, "")
	want := []string{
		"RemoteCommand tmux new -A", "LocalCommand echo hi", "PermitLocalCommand yes", "RequestTTY force", "SessionType none",
		"LocalForward 8080 localhost:80", "RemoteForward 9000 localhost:9000", "DynamicForward 1080", "ExitOnForwardFailure yes",
		"ForwardX11 yes", "Tunnel yes", "StdinNull yes", "ForkAfterAuthentication yes",
	}
	if diff := cmp.Diff(want, got.Ignored); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
	quiet := resolved(t, "RequestTTY no\nRemoteCommand none\nTunnel no\nExitOnForwardFailure no\nPermitLocalCommand no\nSessionType default\nForwardX11 no\n", "")
	if len(quiet.Ignored) != 0 {
		t.Errorf("nothing is set, but %q is left out", quiet.Ignored)
	}
}

func TestValuesInEverySpelling(t *testing.T) {
	for line, check := range map[string]func(Target) bool{
		"StrictHostKeyChecking off":        func(t Target) bool { return t.StrictHostKeyChecking == "no" },
		"StrictHostKeyChecking Yes":        func(t Target) bool { return t.StrictHostKeyChecking == "yes" },
		"StrictHostKeyChecking Accept-New": func(t Target) bool { return t.StrictHostKeyChecking == "accept-new" },
		"StrictHostKeyChecking maybe":      func(t Target) bool { return t.StrictHostKeyChecking == "ask" },
		"AddKeysToAgent 1h":                func(t Target) bool { return t.AddKeysToAgent == "yes 3600" },
		"AddKeysToAgent confirm 90s":       func(t Target) bool { return t.AddKeysToAgent == "confirm 90" },
		"AddKeysToAgent yes":               func(t Target) bool { return t.AddKeysToAgent == "yes" },
		"ForwardAgent $MY_AGENT":           func(t Target) bool { return t.ForwardAgent == "$MY_AGENT" },
		"ForwardAgent ~/agent": func(t Target) bool {
			return strings.HasSuffix(t.ForwardAgent, "/agent") && filepath.IsAbs(t.ForwardAgent)
		},
		"ForwardAgent ${SET}/a":           func(t Target) bool { return t.ForwardAgent == "value/a" },
		"ForwardAgent true":               func(t Target) bool { return t.ForwardAgent == "yes" },
		"IdentityAgent none":              func(t Target) bool { return t.IdentityAgent == "none" },
		"IdentityAgent SSH_AUTH_SOCK":     func(t Target) bool { return t.IdentityAgent == "" },
		"IdentityAgent $SSH_AUTH_SOCK":    func(t Target) bool { return t.IdentityAgent == "/agent" },
		"IdentityAgent $NOT_SET":          func(t Target) bool { return t.IdentityAgent == "none" },
		"IdentityAgent \"~/a b/%r\"":      func(t Target) bool { return strings.HasSuffix(t.IdentityAgent, "/a b/me") },
		"IdentityFile none":               func(t Target) bool { return len(t.IdentityFiles) == 0 && !t.IdentityFilesDefault },
		"IdentityFile ~/.ssh/id_ed25519":  func(t Target) bool { return len(t.IdentityFiles) == 1 && !t.IdentityFilesDefault },
		"PubkeyAuthentication host-bound": func(t Target) bool { return t.PubkeyAuthentication },
		"ConnectTimeout 1w2d3h4m5s":       func(t Target) bool { return t.ConnectTimeout == 9*24*time.Hour+3*time.Hour+4*time.Minute+5*time.Second },
		"ConnectTimeout 1m30s":            func(t Target) bool { return t.ConnectTimeout == 90*time.Second },
		"ServerAliveInterval 15":          func(t Target) bool { return t.ServerAliveInterval == 15*time.Second },
		"SetEnv A=b=c \"D=e f\"":          func(t Target) bool { return t.SetEnv["A"] == "b=c" && t.SetEnv["D"] == "e f" },
		"UserKnownHostsFile none":         func(t Target) bool { return len(t.UserKnownHosts) == 0 && !t.UpdateHostKeys },
		"ControlPath none":                func(t Target) bool { return t.ControlPath == "" },
		"ControlMaster autoask":           func(t Target) bool { return t.ControlMaster == "autoask" },
		"HostName none":                   func(t Target) bool { return t.HostName == "none" },
		"Ciphers -*cbc*": func(t Target) bool {
			return t.Ciphers == nil && strings.Contains(strings.Join(t.Warnings, "\n"), "Ciphers -*cbc*")
		},
	} {
		o := home(t, map[string]string{".ssh/config": line + "\n"})
		o.Program = NoProgram
		got, err := Resolve(t.Context(), o, "dev")
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if !check(got) {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

// An unset variable costs the option, as with ssh, and is said.
func TestUnsetVariableLeavesTheIdentityOut(t *testing.T) {
	got := resolved(t, "IdentityFile ${NOT_SET}/key\nIdentityFile ${SET}/key\n", "")
	if !slices.Equal(got.IdentityFiles, []string{"value/key"}) || !strings.Contains(strings.Join(got.Warnings, "\n"), "the variable ${NOT_SET} is not set, so it is left out") {
		t.Errorf("identities %q, warnings %q", got.IdentityFiles, got.Warnings)
	}
}

func TestTokens(t *testing.T) {
	k := tokens{
		home: "/home/me", localUser: "me", localHost: "laptop.example.com", name: "dev", host: "192.0.2.1", user: "deploy", port: "2222",
		keyAlias: "", jump: "gate",
	}
	for in, want := range map[string]string{
		"%%": "%", "%d/x": "/home/me/x", "%h:%p": "192.0.2.1:2222", "%r@%n": "deploy@dev", "%u": "me", "%L %l": "laptop laptop.example.com",
		"%k": "dev", "%j": "gate", "%T": "NONE", "100%%h": "100%h", "": "", "%i": userID(),
	} {
		if got, err := k.expand(in, ""); err != nil || got != want {
			t.Errorf("%q is %q (%v), want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"%", "a%", "%Z", "%\x1b", "%é"} {
		if got, err := k.expand(in, ""); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
	if _, err := k.expand("%d", proxyTokens); err == nil {
		t.Error("a ProxyCommand takes no home folder")
	}
	// What a value brings in is not expanded again.
	k.home = "/home/%h"
	o := Options{Home: "/home/100%%", Getenv: func(string) string { return "%h${SET}" }}
	for in, want := range map[string]string{"%d": "/home/%h", "${X}/%n": "%h${SET}/dev"} {
		if got, err := k.path(in, o); err != nil || got != want {
			t.Errorf("%q is %q (%v), want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"${X", "${}", "~nobody-of-that-name/x"} {
		o := Options{Home: "/h", Getenv: func(string) string { return "" }}
		if got, err := k.path(in, o); err == nil {
			t.Errorf("%q is %q", in, got)
		}
	}
	if _, err := k.expand(strings.Repeat("%h", maxExpanded), ""); err == nil {
		t.Error("no bound on what tokens make")
	}
}

// %C names a socket that ssh and we must agree on.
func TestConnectionHashIsSSHs(t *testing.T) {
	needSSH(t)
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("Host dev\n HostName 192.0.2.1\n User u\n Port 2222\n ControlPath /x/%C\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{UserFile: path}
	want, err := Resolve(t.Context(), o, "dev")
	if err != nil {
		t.Fatal(err)
	}
	o.Program = NoProgram
	got, err := Resolve(t.Context(), o, "dev")
	if err != nil || got.ControlPath != want.ControlPath || len(got.ControlPath) != len("/x/")+40 {
		t.Errorf("ssh has %s, we have %s (%v)", want.ControlPath, got.ControlPath, err)
	}
}
