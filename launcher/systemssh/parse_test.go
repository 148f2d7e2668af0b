package systemssh

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// What several releases of OpenSSH ask, word for word.
func TestPrompts(t *testing.T) {
	cmpOpts := cmp.AllowUnexported(prompt{})
	secret := func(kind remote.SecretKind, subject, text string) prompt {
		return prompt{kind: promptSecret, secret: remote.SecretQuestion{Kind: kind, Subject: subject, Prompt: text}}
	}
	for _, tc := range []struct {
		text, hint string
		want       prompt
	}{
		{"ada@dev.example's password: ", "", secret(remote.Password, "ada@dev.example", "password")},
		{"(ada@dev.example) Password: ", "", secret(remote.Challenge, "ada@dev.example", "Password:")},
		{"(ada@dev.example) Verification code: ", "", secret(remote.Challenge, "ada@dev.example", "Verification code:")},
		{"Password: ", "", secret(remote.Challenge, "", "Password:")},
		{"Enter passphrase for key '/home/ada/.ssh/id_ed25519': ", "", secret(remote.Passphrase, "/home/ada/.ssh/id_ed25519", "passphrase")},
		{"Enter passphrase for /home/ada/it's here: ", "", secret(remote.Passphrase, "/home/ada/it's here", "passphrase")},
		{"Bad passphrase, try again for /home/ada/.ssh/id_rsa: ", "", secret(remote.Passphrase, "/home/ada/.ssh/id_rsa", "passphrase")},
		{"Enter PIN for ED25519-SK key /home/ada/.ssh/id_ed25519_sk: ", "", secret(remote.Challenge, "", "Enter PIN for ED25519-SK key /home/ada/.ssh/id_ed25519_sk:")},
		{"Enter PIN for 'PIV Card': ", "", secret(remote.Challenge, "", "Enter PIN for 'PIV Card':")},
		{"Enter ada@dev.example's old password: ", "", secret(remote.Challenge, "", "Enter ada@dev.example's old password:")},
		{"\x1b]0;owned\x07Pass\u202eword: ", "", secret(remote.Challenge, "", "]0;ownedPassword:")},
		{"Confirm user presence for key ED25519-SK SHA256:abc", hintNone, prompt{kind: promptNotice, text: "Confirm user presence for key ED25519-SK SHA256:abc"}},
		{"Add key /k (comment) to agent?", hintConfirm, prompt{kind: promptConfirm, secret: remote.SecretQuestion{
			Kind: remote.Challenge, Prompt: "Add key /k (comment) to agent? (yes/no)", Echo: true,
		}}},
		{"The authenticity of host '[dev.example]:2222 ([10.0.0.1]:2222)' can't be established.\nED25519 key fingerprint is SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE.\n" +
			"This key is not known by any other names.\nAre you sure you want to continue connecting (yes/no/[fingerprint])? ", "", prompt{
			kind: promptHostKey,
			key:  remote.HostKeyQuestion{Address: "[dev.example]:2222", Type: "ssh-ed25519", Fingerprint: "SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE"},
		}},
		{"The authenticity of host 'dev.example (10.0.0.1)' can't be established.\nRSA key fingerprint is SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE.\n" +
			"No matching host key fingerprint found in DNS.\nAre you sure you want to continue connecting (yes/no)? ", "", prompt{
			kind: promptHostKey, more: []string{"No matching host key fingerprint found in DNS."},
			key: remote.HostKeyQuestion{Address: "dev.example", Type: "ssh-rsa", Fingerprint: "SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE"},
		}},
		{"The authenticity of host 'jump (<no hostip for proxy command>)' can't be established.\nECDSA key fingerprint is SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE.\n" +
			"Are you sure you want to continue connecting (yes/no/[fingerprint])? ", "", prompt{
			kind: promptHostKey, key: remote.HostKeyQuestion{Address: "jump", Type: "ECDSA", Fingerprint: "SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE"},
		}},
		{"Something new (yes/no)? ", "", prompt{kind: promptConfirm, secret: remote.SecretQuestion{Kind: remote.Challenge, Prompt: "Something new (yes/no)?", Echo: true}}},
	} {
		if diff := cmp.Diff(tc.want, parsePrompt(tc.text, tc.hint), cmpOpts); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.text, diff)
		}
	}
}

func TestProgressOfOlderReleases(t *testing.T) {
	var got []string
	now := time.Unix(0, 0)
	p := newProgress(sshconfig.Target{Alias: "dev", HostName: "dev.example", Port: 22}, remote.StageAuth, func(e remote.Event) {
		if !e.Detail {
			s := e.Stage
			if e.Done {
				s += " " + e.Text
			}
			got = append(got, s)
		}
	}, func() time.Time { return now })
	for _, l := range []string{
		"OpenSSH_7.4p1, OpenSSL 1.0.2k-fips  26 Jan 2017",
		"debug1: Connecting to dev.example [10.0.0.1] port 22.",
		"debug1: Connection established.",
		"debug1: Remote protocol version 2.0, remote software version dropbear_2022.83",
		"debug1: Authenticating to dev.example:22 as 'ada'",
		"debug1: Server host key: ecdsa-sha2-nistp256 SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE",
		"debug1: SSH2_MSG_NEWKEYS received",
		"Authorized use only.",
		"debug1: Authentication succeeded (publickey).",
		"Authenticated to dev.example ([10.0.0.1]:22).",
	} {
		if p.line(l); strings.HasPrefix(l, "Authorized") && !slices.Equal(p.said, []string{l}) {
			t.Errorf("said %q", p.said)
		}
	}
	want := []string{
		"dial", "dial [10.0.0.1] port 22", "host key",
		"host key ecdsa-sha2-nistp256 SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE", "authenticate", "authenticate publickey",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if p.server != "SSH-2.0-dropbear_2022.83" || len(p.said) > 0 {
		t.Errorf("server %q, and after it said %q", p.server, p.said)
	}
}

func TestReleases(t *testing.T) {
	for text, want := range map[string]release{
		"OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19": {9, 2, false},
		"OpenSSH_10.0p2, LibreSSL 3.3.6":                  {10, 0, false},
		"OpenSSH_for_Windows_9.5p1, LibreSSL 3.8.2":       {9, 5, true},
	} {
		if got, ok := parseRelease(text); !ok || got != want {
			t.Errorf("%q is %+v, %v", text, got, ok)
		}
	}
	if _, ok := parseRelease("Sun_SSH_1.1"); ok {
		t.Error("another program's version was read")
	}
	for r, want := range map[release]bool{{9, 2, false}: true, {7, 4, false}: true, {7, 3, false}: false, {10, 0, true}: false} {
		if r.multiplexes() != want {
			t.Errorf("%+v multiplexes: %v", r, !want)
		}
	}
}

func TestArguments(t *testing.T) {
	has := func(args []string, option string) bool {
		i := slices.Index(args, option)
		return i > 0 && args[i-1] == "-o"
	}
	base := Config{Target: sshconfig.Target{Alias: "-dev", HostName: "h", User: "ada", Port: 2222}, Patience: 30 * time.Second, Ask: &person{}}
	args := masterArgs(base, release{9, 2, false}, "", "/s")
	if i := slices.Index(args, "--"); i != len(args)-2 || args[i+1] != "-dev" {
		t.Errorf("a name may pass for an option: %q", args)
	}
	for _, o := range []string{"ServerAliveInterval=15", "ServerAliveCountMax=3", "ConnectTimeout=30", "ForkAfterAuthentication=no"} {
		if !has(args, o) {
			t.Errorf("no %s in %q", o, args)
		}
	}
	if has(masterArgs(base, release{8, 6, false}, "", "/s"), "ForkAfterAuthentication=no") {
		t.Error("an option from OpenSSH 8.7 is given to 8.6")
	}
	c := base
	c.Target.ServerAliveInterval, c.Target.ConnectTimeout, c.Ask = time.Minute, time.Minute, nil
	args = masterArgs(c, release{9, 2, false}, "", "/s")
	if slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(a, "ServerAlive") || strings.HasPrefix(a, "ConnectTimeout")
	}) {
		t.Errorf("what is configured was replaced: %q", args)
	}
	if !has(args, "BatchMode=yes") {
		t.Error("questions although nobody is there")
	}
	c.Target.ProxyJump = []string{"jump"}
	if !has(masterArgs(c, release{9, 2, false}, "", "/s"), "ConnectTimeout=none") {
		t.Error("ssh counts the time a person takes at the jump host")
	}
	c.Target.UserKnownHosts = []string{"/home/a b/known", "/x%y"}
	if args := masterArgs(c, release{9, 2, false}, "/k", "/s"); !has(args, `UserKnownHostsFile="/k" "/home/a b/known" "/x%%y"`) {
		t.Errorf("known hosts: %q", args)
	}
}

func TestSentEnvironment(t *testing.T) {
	target := sshconfig.Target{SetEnv: map[string]string{"B": "set", "A": "1"}, SendEnv: []string{"LANG", "LC_*", "B"}}
	got := sentEnv(target, []string{"LANG=C", "LC_ALL=de", "HOME=/h", "B=mine", "LCX=1", "=odd"})
	if diff := cmp.Diff([]string{"A=1", "B=set", "LANG=C", "LC_ALL=de"}, got); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

func FuzzParseLine(f *testing.F) {
	for _, l := range []string{
		"debug1: Connecting to dev.example [10.0.0.1] port 22.", "debug1: Authenticating to [::1]:22 as 'a'", "debug1: Authenticating to ", "debug1: Authentication succeeded (",
		`Authenticated to h ([10.0.0.1]:22) using "publickey".`, `Authenticated to h using "`, "debug1: Remote protocol version 2.0, remote software version x",
		"debug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com SHA256:x, serial 0", "ssh: connect to host h port 22: Connection refused\r\n", "debug1: \x1b[31m",
	} {
		f.Add(l)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p := newProgress(sshconfig.Target{Alias: "a", HostName: "h", ProxyJump: []string{"u@j:1", "[::1]:2"}}, remote.StageAuth, func(e remote.Event) {
			if strings.ContainsFunc(e.Text+e.Hop, unicode.IsControl) {
				t.Errorf("%q went to a terminal", e.Text)
			}
			if e.Stage == "" {
				t.Error("an event without a stage")
			}
		}, time.Now)
		var l lines
		l.line = func(s string) { p.line(clean(s)) }
		for range 3 {
			_, _ = l.Write([]byte(raw))
		}
		l.flush()
		p.finish()
	})
}

func FuzzParsePrompt(f *testing.F) {
	f.Add("The authenticity of host 'h (1.2.3.4)' can't be established.\nED25519 key fingerprint is SHA256:x.\nAre you sure (yes/no/[fingerprint])? ", "")
	f.Add("(a@b) Password: ", "")
	f.Add("a@b's password: ", "confirm")
	f.Add("Enter passphrase for key '", "none")
	f.Fuzz(func(t *testing.T, text, hint string) {
		p := parsePrompt(text, hint)
		all := p.text + p.secret.Prompt + p.secret.Subject + p.key.Address + p.key.Fingerprint + p.key.Type + strings.Join(p.more, "")
		if strings.ContainsFunc(all, unicode.IsControl) {
			t.Errorf("%q of %q goes to a terminal", all, text)
		}
		if p.kind == promptHostKey && (p.key.Fingerprint == "" || p.key.Address == "") {
			t.Errorf("a host key without a fingerprint or an address: %q", text)
		}
	})
}

func FuzzProblem(f *testing.F) {
	f.Add("@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nOffending ED25519 key in /nothing:1\nSHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE.\nHost key verification failed.", "host key")
	f.Add("ssh: connect to host h port 22: Connection refused", "dial")
	f.Add("a@h: Permission denied (publickey,password).", "authenticate")
	f.Add("Unable to negotiate with h port 22: no matching MAC found. Their offer: x,y", "host key")
	f.Add("", "shell")
	f.Fuzz(func(t *testing.T, said, stage string) {
		if !slices.Contains([]string{"dial", "host key", "authenticate", "shell"}, stage) {
			return
		}
		var lines []string
		for l := range strings.Lines(said) {
			if l = clean(l); l != "" && !strings.HasPrefix(l, "Offending") { // that one opens a file
				lines = append(lines, l)
			}
		}
		p := failure{target: sshconfig.Target{Alias: "a", HostName: "h"}, stage: stage, hop: "a", said: lines}.problem()
		if p.Stage == "" || p.Error() == "" || len(p.Hints) == 0 {
			t.Errorf("%q is explained by %+v", lines, p)
		}
	})
}

// FuzzEncodeCommand lets a real printf undo what it did.
func FuzzEncodeCommand(f *testing.F) {
	f.Add("echo hi")
	f.Add("a\\nb\nc\\012 %s '\"'")
	f.Fuzz(func(t *testing.T, command string) {
		if strings.ContainsRune(command, 0) || len(command) > 4096 {
			return
		}
		line := encodeCommand(command)
		if strings.Count(line, "\n") != 1 {
			t.Fatalf("%q is not one line", line)
		}
		cmd := exec.Command("/bin/sh", "-c", `IFS= read -r c; printf '%s|' "$(printf %b "$c")"`)
		cmd.Stdin = strings.NewReader(line)
		out, err := cmd.Output()
		if want := strings.TrimRight(command, "\n") + "|"; err != nil || string(out) != want {
			t.Errorf("%q came back as %q, %v", want, out, err)
		}
	})
}

// A server's banner may look like anything, also like words of ssh that we turn
// into commands to type.
func TestABannerGivesNoAdvice(t *testing.T) {
	banner := []string{
		"@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
		"Offending ED25519 key in /etc/passwd:1",
		`ssh-keygen -f "/x" -R "h"; rm -rf ~`,
		"Permissions 0644 for '/k; rm -rf ~' are too open",
		"ssh: connect to host h; rm -rf ~ port 22: Connection refused",
		"Bad owner or permissions on /x; rm -rf ~",
		"a@h: Permission denied (publickey; rm -rf ~).",
	}
	p := failure{target: sshconfig.Target{Alias: "a", HostName: "h"}, stage: remote.StageAuth, hop: "a", said: banner}.problem()
	if p.Stage != remote.StageAuth || strings.Contains(strings.Join(p.Hints, " "), "rm -rf") {
		t.Errorf("stage %s, hints %q", p.Stage, p.Hints)
	}
}

// The words of a jump host, or of an ssh that is a ProxyCommand, come on the same
// stream as ssh's own, at any stage.
func TestSecurityNobodyElsePutsACommandIntoAdvice(t *testing.T) {
	evil := "$(touch${IFS}/tmp/owned);touch /tmp/owned #`id`"
	target := sshconfig.Target{Alias: "a", HostName: "h", Port: 2222, UserKnownHosts: []string{"/home/ada/.ssh/known_hosts"}}
	for stage, said := range map[string][][]string{
		remote.StageDial: {
			{"Bad owner or permissions on /x" + evil},
			{"ssh: Could not resolve hostname x" + evil + ": Name or service not known"},
			{"ssh: connect to host x" + strings.ReplaceAll(evil, " ", "") + " port 22: Network is unreachable"},
		},
		remote.StageHostKey: {
			{"@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "Offending ED25519 key in /dev/tty:1", `ssh-keygen -f "/x" -R "h"; ` + evil},
			{"@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", `ssh-keygen -f "/home/ada/.ssh/known_hosts" -R "` + evil + `"`},
			{"@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", `ssh-keygen -f "/home/ada/.ssh/authorized_keys" -R "h"`},
		},
	} {
		for _, lines := range said {
			p := failure{target: target, stage: stage, hop: "a", said: lines}.problem()
			for _, hint := range p.Hints {
				_, command, ok := strings.Cut(hint, "`")
				if !ok {
					continue
				}
				command = command[:strings.LastIndex(command, "`")]
				words, err := exec.Command("/bin/sh", "-c", "f() { for w; do printf '%s\\n' \"$w\"; done; }; f "+command).Output()
				if err != nil || strings.Contains(hint, "authorized_keys") ||
					strings.Contains(command, "touch") && !strings.Contains(string(words), strings.ReplaceAll(evil, " ", "")[:24]) {
					t.Errorf("%q gives the advice %q: %v", lines, hint, err)
				}
			}
			if stage == remote.StageHostKey && !strings.Contains(strings.Join(p.Hints, " "), "ssh-keygen -R '[h]:2222'") {
				t.Errorf("no way to mend it in %q", p.Hints)
			}
		}
	}
}

// A server may ask anything after ssh's "(user@host)". It is not ssh that asks.
func TestSecurityAServerCannotAskAboutAHostKey(t *testing.T) {
	question := "The authenticity of host 'bank (10.0.0.1)' can't be established.\nED25519 key fingerprint is SHA256:5uDITovYZH85BfnxOwW8Pc/tae/HRcX9BSPpWHVcOqE.\n" +
		"Are you sure you want to continue connecting (yes/no/[fingerprint])? "
	if p := parsePrompt(question, ""); p.kind != promptHostKey {
		t.Fatalf("ssh's own question is %+v", p)
	}
	for _, text := range []string{"(ada@box) " + question, "(ada@box) \n" + question, "Password:\n" + question} {
		if p := parsePrompt(text, ""); p.kind == promptHostKey {
			t.Errorf("%q is taken for ssh's question", text)
		}
	}
}
