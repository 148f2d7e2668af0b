//go:build linux

package bootstrap

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"towline/launcher/remote"
)

// noise is what rc files print: colours, a fortune, no end of line, and a line
// that looks like an answer to a script that uses no markers.
const noise = `echo "motd: welcome"; printf "\033[31mred\033[0m\007"; echo "@towline- hello 0"; printf "no end of line"`

// Tools that only an interactive login of the shell puts into PATH are found,
// whatever its rc files print, by every login shell.
func TestEveryLoginShellLeadsToWhatItsRcFilesKnow(t *testing.T) {
	posix := noise + "\nPATH=$PATH:$HOME/tools; export PATH\n"
	for name, tc := range map[string]struct {
		shell string
		files map[string]string
	}{
		"bash": {"bash", map[string]string{
			".bash_profile": "[ -f ~/.bashrc ] && . ~/.bashrc\n",
			".bashrc":       "case $- in *i*) ;; *) return ;; esac\n" + posix,
		}},
		"zsh":  {"zsh", map[string]string{".zshrc": posix}},
		"dash": {"dash", map[string]string{".profile": posix}},
		"ksh":  {"ksh", map[string]string{".profile": posix}},
		"mksh": {"mksh", map[string]string{".profile": posix}},
		"fish": {"fish", map[string]string{".config/fish/config.fish": "status is-interactive; or exit\n" + noise + "\nset -x PATH $PATH $HOME/tools\n"}},
		"tcsh": {"tcsh", map[string]string{".tcshrc": "if (! $?prompt) exit\necho motd\nsetenv PATH ${PATH}:$HOME/tools\n"}},
		"nu":   {"nu", map[string]string{".config/nushell/env.nu": "print motd\n$env.PATH = ($env.PATH | append ($env.HOME + '/tools'))\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, tc.shell)
			for file, text := range tc.files {
				l.write(t, file, text, 0o600)
			}
			l.fake(t, "tools/towline", "1.2.3")
			rep := probe(t, l, options(t))
			c := find(rep, "tools/towline")
			if c == nil || c.From != "PATH" || c.Version != "1.2.3" || c.Fault != "" {
				t.Fatalf("found %+v; environment from the %s (%s), searched %v", rep.Candidates, rep.EnvFrom, rep.EnvNote, rep.PathSearched)
			}
			if rep.EnvFrom != "login shell, interactive" || rep.EnvNote != "" {
				t.Errorf("environment from the %s (%s)", rep.EnvFrom, rep.EnvNote)
			}
			if rep.Home != l.home || rep.Shell != l.shell || rep.OS != runtime.GOOS || rep.UID != os.Getuid() {
				t.Errorf("report %+v", rep)
			}
		})
	}
}

// busybox is what Alpine and routers have for /bin/sh, everything else included.
func TestScriptsRunUnderOtherShells(t *testing.T) {
	for name, argv := range map[string][]string{
		"busybox": {"busybox", "sh", "-s"}, "dash": {"dash", "-s"}, "bash": {"bash", "-s"}, "bash as sh": {"bash", "--posix", "-s"},
		"ksh": {"ksh", "-s"}, "mksh": {"mksh", "-s"}, "zsh": {"zsh", "-s"}, "zsh as sh": {"zsh", "--emulate", "sh", "-s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			if _, err := exec.LookPath(argv[0]); err != nil {
				lacking(t, argv[0])
			}
			l.wrap = func(string) *exec.Cmd { return exec.Command(argv[0], argv[1:]...) } //nolint:noctx // Exec's business
			l.fake(t, ".local/bin/codex", MinCodex)
			l.write(t, ".bash_profile", "export MARK=\"it's; a \\$value\"\n", 0o600)
			o := options(t)
			rep := probe(t, l, o)
			if c := find(rep, ".local/bin/codex"); c == nil || c.Version != MinCodex {
				t.Fatalf("found %+v", rep.Candidates)
			}
			if rep.EnvFrom != "login shell, interactive" || len(rep.Items) < 30 {
				t.Errorf("environment from the %s, %d questions answered", rep.EnvFrom, len(rep.Items))
			}
			for _, it := range rep.Items {
				if it.Late {
					t.Errorf("%s was not answered in time", it.Name)
				}
			}
			// open.sh and what it hands over.
			l.write(t, ".local/bin/codex", "#!/bin/sh\n[ \"$1\" = app-server ] && { printf '%s|%s\\n' \"$MARK\" \"$EXTRA\"; exec cat; }\n", 0o700)
			s, _, err := Open(t.Context(), l, rep, Choice{Action: Stdio, Candidate: *find(rep, ".local/bin/codex"), Env: map[string]string{"EXTRA": "a'b"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close(nil) }()
			for _, want := range []string{"it's; a $value|a'b", `{"id":1}`} {
				if err := s.Write(t.Context(), []byte(`{"id":1}`)); err != nil {
					t.Fatal(err)
				}
				if got, err := s.Read(t.Context()); err != nil || string(got) != want {
					t.Errorf("read %q, %v; want %q", got, err, want)
				}
			}
		})
	}
}

// An rc file that puts another shell in the place of the login shell: bash reads
// $BASH_ENV in every session, as it reads .bashrc in one of sshd's.
func TestRcFilesThatReplaceTheShell(t *testing.T) {
	for name, tc := range map[string]struct{ needs, rc, want, hint string }{
		"zsh carries on":   {"zsh", "[ -n \"$ZSH_VERSION\" ] || exec zsh\n", "", ""},
		"dash carries on":  {"dash", "[ -n \"$ONCE\" ] || ONCE=1 exec dash\n", "", ""},
		"fish cannot":      {"fish", "exec fish\n", "did not run our script", "[ -t 0 ]"},
		"cat says it back": {"cat", "exec cat\n", "did not run our script within", "ssh dev true"},
		"tmux":             {"tmux", "exec tmux\n", "starts tmux", "[ -t 0 ]"},
		"exit":             {"true", "exit 3\n", "(exit status 3)", "must print ok"},
		"true":             {"true", "echo bye; exec true\n", "bye", "must print ok"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(tc.needs); err != nil {
				lacking(t, tc.needs)
			}
			l := newLocal(t, "bash")
			l.env = append(l.env, "BASH_ENV="+l.write(t, "env.sh", "echo rc\n"+tc.rc, 0o600))
			o := options(t)
			o.ShellTimeout = 6 * time.Second
			rep, err := Probe(t.Context(), l, o)
			if tc.want == "" {
				if err != nil || rep.Kernel == "" {
					t.Fatalf("Probe: %v, %+v", err, rep)
				}
				return
			}
			refused(t, err, remote.StageShell, tc.want, tc.hint)
			if !strings.Contains(err.Error(), "rc") {
				t.Errorf("%v does not show what came instead", err)
			}
		})
	}
}

// What answers instead of a shell is named.
func TestWhatIsNoShellIsToldHonestly(t *testing.T) {
	say := func(script string) []string { return []string{"sh", "-c", script} }
	for name, tc := range map[string]struct {
		argv       []string
		server     string
		want, hint string
	}{
		"nologin":   {say("echo 'This account is currently not available.'; exit 1"), "", "no login shell (nologin)", "chsh"},
		"false":     {say("exit 1"), "", "ended without running our script (exit status 1)", "echo ok"},
		"sftp only": {say("echo 'This service allows sftp connections only.'; exit 1"), "", "files only", "ForceCommand"},
		"git":       {say("echo \"fatal: unrecognized command '/bin/sh -s'\" >&2; echo 'git-shell' >&2; exit 128"), "", "for git only", "account"},
		"rbash":     {say("echo \"rbash: /bin/sh: restricted: cannot specify '/' in command names\" >&2; exit 127"), "", "restricted", "ordinary shell"},
		"menu":      {say("printf '\\033[2J1) mail\\r\\n2) quit\\r\\n'; exit 0"), "", "it said: 1) mail / 2) quit", "echo ok"},
		"cmd.exe":   {say("echo 'The system cannot find the path specified.' >&2; exit 1"), "", "Windows", "WSL"},
		"cmd.exe, in German": {
			say("echo 'Das System kann den angegebenen Pfad nicht finden.' >&2; exit 1"), "SSH-2.0-OpenSSH_for_Windows_9.5", "Windows", "WSL",
		},
		"PowerShell":      {say("echo \"/bin/sh: The term '/bin/sh' is not recognized as the name of a cmdlet, function\" >&2; exit 1"), "", "Windows", "WSL"},
		"Git for Windows": {say("exec sh -s"), "", "Windows", "WSL"},
		"expired":         {say("echo 'WARNING: Your password has expired.' >&2; exit 1"), "", "password has expired", "ssh dev"},
		"endless":         {say("while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done"), "", "prints without end", "[ -t 1 ]"},
		"endless line":    {say("while :; do printf aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done"), "", "prints without end", "[ -t 1 ]"},
		"silent":          {say("exec sleep 600"), "", "said nothing for", "wait"},
		"prompt":          {say("printf 'Choose a cluster: '; exec sleep 600"), "", "within 6s; it said: Choose a cluster:", "ssh dev true"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			l.server = tc.server
			l.wrap = func(string) *exec.Cmd { return exec.Command(tc.argv[0], tc.argv[1:]...) } //nolint:noctx // Exec's business
			o := options(t)
			o.ShellTimeout = 6 * time.Second
			stage := remote.StageShell
			if name == "Git for Windows" {
				stage, o.ShellTimeout = remote.StageProbe, patience
				o.prelude = "uname() { if [ \"$1\" = -s ]; then echo MINGW64_NT-10.0; else command uname \"$@\"; fi; }\n"
			}
			_, err := Probe(t.Context(), l, o)
			refused(t, err, stage, tc.want, tc.hint)
		})
	}
}

// What the rc files do to their environment is survived, and reported.
func TestTroubleInRcFilesCostsOnlyTheEnvironment(t *testing.T) {
	for name, tc := range map[string]struct{ profile, from, note string }{
		"waits for ever":    {"sleep 600\n", "plain shell", "took longer than 4 s"},
		"asks":              {"read -r answer; [ -n \"$answer\" ] || echo 'nothing typed'\n", "login shell, interactive", ""},
		"asks the terminal": {"read -r answer </dev/tty\n", "login shell, interactive", ""},
		"exits":             {"exit 1\n", "plain shell", "did not run what it was given"},
		"leaves a process":  {"sleep 5 &\n", "login shell, interactive", ""},
		"execs fish":        {"case $- in *i*) exec fish ;; esac\n", "fish, as rc files have it", "bash -l -i -c did not run"},
		"execs zsh":         {"case $- in *i*) [ -x /bin/zsh ] && exec /bin/zsh -l ;; esac\n", "zsh, as rc files have it", ""},
		"execs what is not": {"case $- in *i*) exec true ;; esac\n", "login shell", "bash -l -i -c did not run"},
		"readonly":          {"readonly PATH=$PATH; export HOME\n", "login shell, interactive", ""},
		"guarded":           {"[ -n \"$TOWLINE_RESOLVING_ENVIRONMENT\" ] || sleep 600\n", "login shell, interactive", ""},
		"takes our names":   {"export tl_m=x tl_k=y M=z K=z\n", "login shell, interactive", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			l.write(t, ".bash_profile", tc.profile, 0o600)
			l.fake(t, ".local/bin/codex", MinCodex)
			o := options(t)
			o.EnvTimeout = 4 * time.Second
			if tc.note == "" || strings.Contains(tc.note, "run") {
				o.EnvTimeout = patience / 3
			}
			rep := probe(t, l, o)
			if rep.EnvFrom != tc.from || !strings.Contains(rep.EnvNote, tc.note) {
				t.Errorf("environment from the %s: %s", rep.EnvFrom, rep.EnvNote)
			}
			if find(rep, ".local/bin/codex") == nil {
				t.Errorf("not found in a well-known folder; searched %v", rep.PathSearched)
			}
		})
	}
}

func TestBrokenPathIsReportedAndSurvived(t *testing.T) {
	for _, path := range []string{"/nonexistent", "", "relative:."} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, "bash")
			l.env = []string{"PATH=" + path}
			l.write(t, ".bash_profile", "PATH='"+path+"'\n", 0o600)
			l.fake(t, ".local/bin/codex", MinCodex)
			rep := probe(t, l, options(t))
			if !rep.PathBroken {
				t.Error("the report does not say so")
			}
			if c := find(rep, ".local/bin/codex"); c == nil || c.Version != MinCodex {
				t.Errorf("found %+v", rep.Candidates)
			}
			for _, d := range rep.PathSearched {
				if !filepath.IsAbs(d) {
					t.Errorf("looked in %q, which means a different folder wherever one is", d)
				}
			}
		})
	}
}
