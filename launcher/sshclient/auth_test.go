package sshclient

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestLockedKeyIsAskedForOnce(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.IdentityFiles = []string{s.EncryptedKey}
	wrong := true
	who := &person{secret: func(q remote.SecretQuestion) (string, error) {
		if wrong {
			wrong = false
			return "not it", nil
		}
		return remotetest.Passphrase, nil
	}}
	secrets := NewSecrets()
	var log eventLog
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets, Events: log.add})
	asked := who.asked()
	if len(asked) != 2 {
		t.Fatalf("asked %d times", len(asked))
	}
	q := asked[1]
	if q.Kind != remote.Passphrase || q.Attempt != 2 || q.Subject != s.EncryptedKey || q.Hop != "dev" || q.Echo || !strings.Contains(q.Prompt, s.EncryptedKey) {
		t.Errorf("asked %+v", q)
	}
	wants(t, log.text(), "waiting=true")
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets})
	if len(who.asked()) != 2 {
		t.Error("a reconnect asked again")
	}
}

// The passphrase is needed only for a key that the server takes, and one question
// serves all hops that take it.
func TestPassphraseOnlyWhenNeeded(t *testing.T) {
	s, bastion := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	locked := filepath.Join(t.TempDir(), "locked")
	remotetest.Keygen(t, locked, "pp")
	tt := target(s)
	tt.IdentityFiles = []string{locked, s.Key}
	who := answers("pp")
	mustDial(t, Config{Target: tt, Ask: who})
	if len(who.asked()) != 0 {
		t.Errorf("asked for a key the server does not take: %+v", who.asked())
	}

	pub := readFile(t, locked+".pub")
	for _, one := range []*remotetest.SSHD{s, bastion} {
		writeFile(t, filepath.Join(one.Dir, "authorized_keys"), pub)
	}
	tt.ProxyJump = []string{"bastion"}
	first := target(bastion)
	first.IdentityFiles = []string{locked}
	mustDial(t, Config{Target: tt, Ask: who, Resolve: resolver(map[string]sshconfig.Target{"bastion": first})})
	if asked := who.asked(); len(asked) != 1 || asked[0].Hop != "bastion" {
		t.Errorf("asked %+v", asked)
	}
}

func TestLockedKeyAndNobodyToAsk(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.IdentityFiles, tt.PasswordAuthentication = []string{s.EncryptedKey}, false
	for name, change := range map[string]func(*Config){
		"nobody":    func(*Config) {},
		"BatchMode": func(c *Config) { c.Target.BatchMode, c.Ask = true, answers(remotetest.Passphrase) },
	} {
		cfg := Config{Target: tt}
		change(&cfg)
		p := mustFail(t, cfg, remote.StageAuth)
		wants(t, config.Explain(p), "locked by a passphrase", "ssh-add '"+s.EncryptedKey+"'")
		if name == "BatchMode" {
			wants(t, p.Error(), "BatchMode")
			if n := len(cfg.Ask.(*person).asked()); n != 0 {
				t.Errorf("asked %d times in BatchMode", n)
			}
		}
	}
	who := answers("never right")
	p := mustFail(t, Config{Target: tt, Ask: who}, remote.StageAuth)
	wants(t, config.Explain(p), "the passphrase of", "was wrong")
	if n := len(who.asked()); n != 3 {
		t.Errorf("asked %d times", n)
	}
}

// Old PEM files hide even the public half of a locked key.
func TestLockedPEMKey(t *testing.T) {
	s := remotetest.StartSSHD(t)
	key := filepath.Join(t.TempDir(), "rsa")
	tool(t, "ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "pemsecret", "-f", key)
	writeFile(t, filepath.Join(s.Dir, "authorized_keys"), readFile(t, key+".pub"))
	for _, withPublic := range []bool{true, false} {
		if !withPublic {
			if err := os.Remove(key + ".pub"); err != nil {
				t.Fatal(err)
			}
		}
		tt := target(s)
		tt.IdentityFiles = []string{key}
		who := answers("pemsecret")
		var log eventLog
		mustDial(t, Config{Target: tt, Ask: who, Events: log.add})
		if n := len(who.asked()); n != 1 {
			t.Errorf("asked %d times", n)
		}
	}
}

// RSA keys sign with SHA-2. As with ssh, a server that takes only the weaker of the
// two without saying so needs PubkeyAcceptedAlgorithms here.
func TestRSAKeysSignWithSHA2(t *testing.T) {
	key := filepath.Join(t.TempDir(), "rsa")
	tool(t, "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key)
	for _, algo := range []string{"rsa-sha2-512", "rsa-sha2-256"} {
		s := remotetest.StartSSHD(t, "PubkeyAcceptedAlgorithms "+algo)
		writeFile(t, filepath.Join(s.Dir, "authorized_keys"), readFile(t, key+".pub"))
		tt := target(s)
		tt.IdentityFiles, tt.PubkeyAcceptedAlgorithms = []string{key}, []string{"ssh-ed25519", algo}
		mustDial(t, Config{Target: tt})
		tt.IdentityAgent, tt.IdentityFiles = startAgent(t, key), []string{key + ".pub"}
		mustDial(t, Config{Target: tt})
	}
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.IdentityFiles, tt.PubkeyAcceptedAlgorithms = []string{key}, []string{"ssh-ed25519"}
	p := mustFail(t, Config{Target: tt}, remote.StageAuth)
	wants(t, p.Error(), "PubkeyAcceptedAlgorithms leaves out")
}

func TestAgent(t *testing.T) {
	s := remotetest.StartSSHD(t)
	sock := startAgent(t, s.StrangerKey, s.Key)
	without := func(change func(*sshconfig.Target)) sshconfig.Target {
		tt := at("dev", s.Port, s.User, "", s.KnownHosts())
		tt.IdentityAgent, tt.IdentitiesOnly = "", false
		change(&tt)
		return tt
	}
	for name, tt := range map[string]sshconfig.Target{
		"SSH_AUTH_SOCK":       without(func(t *sshconfig.Target) {}),
		"IdentityAgent":       without(func(t *sshconfig.Target) { t.IdentityAgent = sock }),
		"IdentityAgent $NAME": without(func(t *sshconfig.Target) { t.IdentityAgent = "${MY_SOCK}" }),
		"only the named one": without(func(t *sshconfig.Target) {
			t.IdentitiesOnly, t.IdentityFiles = true, []string{s.Key + ".pub"}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Target: tt, Environ: env("SSH_AUTH_SOCK", sock, "MY_SOCK", sock)}
			if tt.IdentityAgent != "" {
				cfg.Environ = env("MY_SOCK", sock, "SSH_AUTH_SOCK", "/no/such/agent")
			}
			var log eventLog
			cfg.Events = log.add
			mustDial(t, cfg)
			wants(t, log.text(), "with agent key id "+fingerprint(t, s.Key+".pub"))
			if stranger := strings.Contains(log.text(), "offering agent key id_stranger"); stranger == tt.IdentitiesOnly {
				t.Errorf("the other key was offered: %v\n%s", stranger, log.text())
			}
		})
	}
	p := mustFail(t, Config{Target: without(func(t *sshconfig.Target) { t.IdentityAgent = "none" }), Environ: env("SSH_AUTH_SOCK", sock)}, remote.StageAuth)
	wants(t, config.Explain(p), "permission denied", "ssh-copy-id dev")
	p = mustFail(t, Config{Target: without(func(t *sshconfig.Target) { t.IdentityAgent = "/no/such/agent" })}, remote.StageAuth)
	wants(t, config.Explain(p), "the agent could not be asked", "eval $(ssh-agent)")
}

// The order is ssh's: keys of the agent that an IdentityFile names come first.
func TestOrderOfKeys(t *testing.T) {
	s := remotetest.StartSSHD(t)
	dir := t.TempDir()
	names := []string{"one", "two", "three", "four"}
	for _, n := range names {
		remotetest.Keygen(t, filepath.Join(dir, n), "")
	}
	tt := target(s)
	tt.IdentitiesOnly, tt.IdentityAgent = false, startAgent(t, filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "three"))
	tt.IdentityFiles = []string{filepath.Join(dir, "four"), filepath.Join(dir, "three"), filepath.Join(dir, "two"), s.Key}
	var log eventLog
	mustDial(t, Config{Target: tt, Events: log.add})
	var offered []string
	for _, e := range log.all() {
		if rest, ok := strings.CutPrefix(e.Text, "offering "); ok {
			offered = append(offered, filepath.Base(rest[:strings.LastIndexByte(rest, ' ')]))
		}
	}
	if got := strings.Join(offered, ", "); got != "agent key three, agent key two, agent key one, four, id" {
		t.Errorf("offered %s", got)
	}
}

func TestTooManyKeys(t *testing.T) {
	s := remotetest.StartSSHD(t, "MaxAuthTries 3")
	dir := t.TempDir()
	var keys []string
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		keys = append(keys, filepath.Join(dir, n))
		remotetest.Keygen(t, keys[len(keys)-1], "")
	}
	tt := target(s)
	tt.IdentitiesOnly, tt.IdentityAgent, tt.IdentityFiles = false, startAgent(t, keys...), nil
	p := mustFail(t, Config{Target: tt}, remote.StageAuth)
	wants(t, config.Explain(p), "the server gave up after 3 keys", "Too many authentication failures", "`IdentitiesOnly yes`")
	tt.IdentitiesOnly, tt.IdentityFiles = true, []string{s.Key}
	mustDial(t, Config{Target: tt})
}

func TestLockedAgent(t *testing.T) {
	s := remotetest.StartSSHD(t)
	sock := startAgent(t, s.Key)
	a, err := openAgent(t.Context(), sock)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	tt := target(s)
	tt.IdentityAgent, tt.IdentityFiles = sock, []string{s.Key + ".pub"}
	locked := false
	p := mustFail(t, Config{Target: tt, Events: func(e remote.Event) {
		if strings.HasPrefix(e.Text, "offering") && !locked {
			locked = true
			if err := a.c.Lock([]byte("x")); err != nil {
				t.Error(err)
			}
		}
	}}, remote.StageAuth)
	wants(t, config.Explain(p), "the server takes agent key id, but the agent did not sign", "ssh-add -l")
}

func TestAddKeysToAgent(t *testing.T) {
	s := remotetest.StartSSHD(t)
	sock := startAgent(t)
	for how, adds := range map[string]bool{"no": false, "ask": false, "": false, "yes": true, "300": true, "yes 300": true} {
		tt := target(s)
		tt.IdentityAgent, tt.IdentityFiles, tt.AddKeysToAgent = sock, []string{s.EncryptedKey}, how
		mustDial(t, Config{Target: tt, Ask: answers(remotetest.Passphrase)})
		a, err := openAgent(t.Context(), sock)
		if err != nil {
			t.Fatal(err)
		}
		if (len(a.keys) == 1) != adds {
			t.Errorf("AddKeysToAgent %q: the agent holds %d keys", how, len(a.keys))
		}
		if err := a.c.RemoveAll(); err != nil {
			t.Error(err)
		}
		a.close()
	}
}

func TestUserCertificates(t *testing.T) {
	dir := t.TempDir()
	authority, key := filepath.Join(dir, "authority"), filepath.Join(dir, "id")
	remotetest.Keygen(t, authority, "")
	remotetest.Keygen(t, key, "pp")
	s := remotetest.StartSSHD(t, "TrustedUserCAKeys "+authority+".pub", "AuthorizedKeysFile none")
	sign := func(args ...string) {
		tool(t, "ssh-keygen", append(append([]string{"-q", "-s", authority, "-I", "me", "-n", s.User}, args...), key+".pub")...)
	}
	sign()
	for name, change := range map[string]func(*sshconfig.Target){
		"beside the key": func(t *sshconfig.Target) {},
		"CertificateFile": func(tt *sshconfig.Target) {
			elsewhere := filepath.Join(dir, "elsewhere.pub")
			if err := os.Rename(key+"-cert.pub", elsewhere); err != nil {
				t.Fatal(err)
			}
			tt.CertificateFiles = []string{elsewhere}
		},
	} {
		tt := target(s)
		tt.IdentityFiles = []string{key}
		change(&tt)
		var log eventLog
		mustDial(t, Config{Target: tt, Ask: answers("pp"), Events: log.add})
		if !strings.Contains(log.text(), "with certificate ") {
			t.Errorf("%s: %s", name, log.text())
		}
		sign()
	}

	// The agent may hold the private half, or both.
	plain := filepath.Join(dir, "plain")
	tool(t, "cp", key, plain)
	tool(t, "ssh-keygen", "-q", "-p", "-P", "pp", "-N", "", "-f", plain)
	tt := target(s)
	tt.IdentityAgent, tt.IdentityFiles = startAgent(t, plain), []string{key}
	mustDial(t, Config{Target: tt})
	tool(t, "cp", key+"-cert.pub", plain+"-cert.pub")
	tt.IdentityAgent, tt.IdentityFiles, tt.IdentitiesOnly = startAgent(t, plain), nil, false
	mustDial(t, Config{Target: tt})

	sign("-V", "20200101:20200102")
	tt = target(s)
	tt.IdentityFiles = []string{key}
	p := mustFail(t, Config{Target: tt, Ask: answers("pp")}, remote.StageAuth)
	wants(t, config.Explain(p), "certificate", "expired on 2020-01-0", "renewed")
}

// RSA certificates have algorithm names of their own.
func TestRSACertificate(t *testing.T) {
	dir := t.TempDir()
	authority, key := filepath.Join(dir, "authority"), filepath.Join(dir, "id")
	remotetest.Keygen(t, authority, "")
	tool(t, "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key)
	s := remotetest.StartSSHD(t, "TrustedUserCAKeys "+authority+".pub", "AuthorizedKeysFile none")
	tool(t, "ssh-keygen", "-q", "-s", authority, "-I", "me", "-n", s.User, key+".pub")
	tt := target(s)
	tt.IdentityFiles, tt.PubkeyAcceptedAlgorithms = []string{key}, []string{"ssh-ed25519", "rsa-sha2-512-cert-v01@openssh.com"}
	mustDial(t, Config{Target: tt})
}

func TestTwoKeysInARow(t *testing.T) {
	s := remotetest.StartSSHD(t, "AuthenticationMethods publickey,publickey")
	tt := target(s)
	tt.IdentityFiles = []string{s.StrangerKey, s.Key, s.EncryptedKey}
	var log eventLog
	mustDial(t, Config{Target: tt, Ask: answers(remotetest.Passphrase), Events: log.add})
	wants(t, log.text(), "was right, and the server wants more: publickey")
	tt.IdentityFiles = []string{s.Key}
	p := mustFail(t, Config{Target: tt}, remote.StageAuth)
	wants(t, config.Explain(p), "permission denied", "it takes publickey")
}

func TestIdentityFilesOfNoUse(t *testing.T) {
	s := remotetest.StartSSHD(t)
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	remotetest.Keygen(t, open, "")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	const sk = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAlvnkEU2MhiJUFCYnU5DtwyRAYn8GFq8AuDiWiKiXV9AAAABHNzaDo= k"
	for name, tc := range map[string]struct {
		path string
		want []string
	}{
		"open to others":    {open, []string{"others may read it (mode 0644)", "chmod 600 '" + open + "'"}},
		"not there":         {filepath.Join(dir, "absent"), []string{"there is no ", "check IdentityFile of `Host dev`"}},
		"not a key":         {writeFile(t, filepath.Join(dir, "text"), "hello"), []string{"is no private key we can read", "ssh-keygen -y -f"}},
		"a security key":    {writeFile(t, filepath.Join(dir, "sk"), "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), []string{"is a security key", "ssh-add '", `transport = "system"`}},
		"a folder":          {dir, []string{"is a directory"}},
		"only a public one": {s.StrangerKey + ".pub", []string{"permission denied", "ssh-copy-id dev"}},
	} {
		if name == "a security key" {
			writeFile(t, tc.path+".pub", sk)
		}
		t.Run(name, func(t *testing.T) {
			tt := target(s)
			tt.IdentityFiles = []string{tc.path}
			wants(t, config.Explain(mustFail(t, Config{Target: tt}, remote.StageAuth)), tc.want...)
		})
	}
	tt := target(s)
	tt.IdentityFiles, tt.IdentityFilesDefault = []string{filepath.Join(dir, "absent")}, true
	if p := mustFail(t, Config{Target: tt}, remote.StageAuth); strings.Contains(p.Error(), "absent") {
		t.Errorf("a default file that is not there was worth a word: %v", p)
	}
}

func TestMethodsTheServerWants(t *testing.T) {
	s := remotetest.StartSSHD(t, "PasswordAuthentication no", "KbdInteractiveAuthentication no")
	tt := target(s)
	tt.PubkeyAuthentication = false
	p := mustFail(t, Config{Target: tt, Ask: answers("x")}, remote.StageAuth)
	wants(t, config.Explain(p), "it takes publickey")
	tt = target(s)
	tt.PreferredAuthentications = []string{"password", "hostbased"}
	mustFail(t, Config{Target: tt, Ask: answers("x")}, remote.StageAuth)
	tt.PreferredAuthentications = []string{"gssapi-with-mic", "publickey"}
	mustDial(t, Config{Target: tt})
}

func TestBanner(t *testing.T) {
	banner := writeFile(t, filepath.Join(t.TempDir(), "banner"), "Welcome\x1b[2J to\n  the   machine\n")
	s := remotetest.StartSSHD(t, "Banner "+banner)
	who := &person{}
	mustDial(t, Config{Target: target(s), Ask: who})
	if got := who.told(); got != "dev: Welcome[2J to\nthe machine" {
		t.Errorf("told %q", got)
	}
}

// A login that waits for a person ends when its context does.
func TestQuestionEndsWithItsContext(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.IdentityFiles = []string{s.EncryptedKey}
	ctx, cancel := context.WithCancel(t.Context())
	who := &blocked{person: &person{}, asked: cancel}
	_, err := Dial(ctx, Config{Target: tt, Ask: who})
	p := checkProblem(t, err, remote.StageAuth)
	if !errors.Is(err, context.Canceled) || p.Exit != config.ExitInterrupted {
		t.Errorf("got %v with exit %d", err, p.Exit)
	}
	who = &blocked{person: &person{}, asked: func() {}, err: context.Canceled}
	_, err = Dial(t.Context(), Config{Target: tt, Ask: who})
	wants(t, config.Explain(checkProblem(t, err, remote.StageAuth)), "you did not enter the passphrase", "hint: try again: `towline dev`")
	if strings.Contains(err.Error(), "refused") {
		t.Errorf("nothing was refused: %v", err)
	}
	// What was refused before the question was the reason for it.
	stranger := filepath.Join(t.TempDir(), "stranger")
	remotetest.Keygen(t, stranger, "")
	tt.IdentityFiles = []string{stranger, s.EncryptedKey}
	_, err = Dial(t.Context(), Config{Target: tt, Ask: who})
	wants(t, config.Explain(checkProblem(t, err, remote.StageAuth)), "you did not enter the passphrase", "; the server refused", "stranger")
	if strings.Count(err.Error(), filepath.Base(s.EncryptedKey)) != 1 {
		t.Errorf("the key that was taken is not refused: %v", err)
	}
	tt.IdentityFiles = []string{s.EncryptedKey}
	who.err = errors.New("the screen is gone")
	_, err = Dial(t.Context(), Config{Target: tt, Ask: who})
	wants(t, config.Explain(checkProblem(t, err, remote.StageAuth)), "the screen is gone")
}

// blocked is a person who never answers, or fails to.
type blocked struct {
	*person
	asked func()
	err   error
}

func (b *blocked) Secret(ctx context.Context, _ remote.SecretQuestion) (string, error) {
	b.asked()
	if b.err != nil {
		return "", b.err
	}
	<-ctx.Done()
	return "", ctx.Err()
}

// A link that flaps must not rain questions, and a person who asks for an attempt
// gets them at once.
func TestQuestionsAreRateLimited(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.IdentityFiles, tt.PasswordAuthentication = []string{s.EncryptedKey}, false
	now := time.Now()
	secrets := NewSecrets()
	secrets.now = func() time.Time { return now }
	who := answers("wrong")
	try := func() string {
		return config.Explain(mustFail(t, Config{Target: tt, Ask: who, Secrets: secrets}, remote.StageAuth))
	}
	try()
	if n := len(who.asked()); n != 3 {
		t.Fatalf("asked %d times", n)
	}
	wants(t, try(), "you were asked a short while ago")
	now = now.Add(promptPause / 2)
	try()
	if n := len(who.asked()); n != 3 {
		t.Errorf("asked again after half a pause: %d", n)
	}
	now = now.Add(promptPause)
	try()
	if n := len(who.asked()); n != 6 {
		t.Errorf("not asked after the pause: %d", n)
	}
	now = now.Add(promptPause) // the second pause is longer
	try()
	if n := len(who.asked()); n != 6 {
		t.Errorf("the pause did not grow: %d", n)
	}
	secrets.Invite()
	who.secret = func(remote.SecretQuestion) (string, error) { return remotetest.Passphrase, nil }
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets})
	secrets.Forget()
	mustDial(t, Config{Target: tt, Ask: who, Secrets: secrets})
	if n := len(who.asked()); n != 8 {
		t.Errorf("asked %d times in the end, want 8", n)
	}
}
