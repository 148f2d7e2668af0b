//go:build linux

package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

// What a host says may end as one word of a command in a hint, never as more.
func TestSecurityHintsHoldNoCommandOfTheHost(t *testing.T) {
	evil := "/x'; touch /tmp/owned; $(id) `id` #"
	in := &installer{rep: Report{InstallDir: evil}, o: Options{Host: "dev"}.withDefaults()}
	for _, reason := range []string{"lock", "write", "run", "mkdir", "checksum", "none", "open", "other"} {
		for _, hint := range config.Hints(in.failed(reason, evil)) {
			if !strings.Contains(hint, "touch") {
				continue
			}
			_, command, _ := strings.Cut(hint, "`")
			command = command[:strings.LastIndex(command, "`")]
			out, err := exec.Command("/bin/sh", "-c", "ssh() { for w; do last=$w; done; printf %s \"$last\"; }; "+command).Output()
			if err != nil || !strings.HasPrefix(string(out), evil) {
				t.Errorf("%s: the hint %q runs more than ssh: %q, %v", reason, hint, out, err)
			}
		}
	}
}

// A host that answers without end, or with huge answers, costs little memory.
func TestSecurityAnswersAreBounded(t *testing.T) {
	rep := Report{Env: map[string]string{}}
	in := newIntake(&rep)
	for i := range maxAnswers {
		in.take(answer{key: "begin", text: fmt.Sprint("q", i), at: time.Now()})
	}
	if len(in.begun) > 2*maxSearched {
		t.Errorf("%d questions are kept", len(in.begun))
	}
	nonce := random()
	flood := strings.NewReader(strings.Repeat(marker(nonce)+" env X "+strings.Repeat("x", maxLine/2)+"\n", 2*maxAnswerBytes/(maxLine/2)))
	tk := listen(t.Context(), &cannedProcess{flood}, Options{}.withDefaults(), nonce)
	defer tk.close()
	for {
		if _, err := tk.next(); err != nil {
			if !strings.Contains(err.Error(), "without end") && !errors.Is(err, errNoise) {
				t.Errorf("it ends with %v", err)
			}
			break
		}
	}
	if flood.Len() == 0 {
		t.Error("all of it was read")
	}
}

// Whoever can rename a folder above the install folder can swap what is run.
func TestSecurityNothingIsInstalledBelowAFolderOpenToOthers(t *testing.T) {
	l := newLocal(t, "sh")
	shared := filepath.Join(l.home, "shared")
	if err := errors.Join(os.MkdirAll(filepath.Join(shared, "mine"), 0o700), os.Chmod(shared, 0o777), os.Symlink(filepath.Join(shared, "mine"), filepath.Join(l.home, "link"))); err != nil { //nolint:gosec // what is tested
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(shared, "mine", "towline"), filepath.Join(l.home, "link", "towline")} {
		o := options(t)
		o.InstallDir = dir
		rep := probe(t, l, o)
		_, err := Install(t.Context(), l, rep, pretend(t, "1.0.0", 1<<10), nil)
		refused(t, err, remote.StageInstall, "lies in a folder that others can write to", "folder of your own")
	}
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil { //nolint:gosec // as /tmp is
		t.Fatal(err)
	}
	o := options(t)
	o.InstallDir = filepath.Join(shared, "mine", "towline")
	install(t, l, probe(t, l, o), pretend(t, "1.0.0", 1<<10))
}

// Folders that are searched although they are not on the PATH may be somebody
// else's. The probe runs nothing of theirs.
func TestSecurityOthersProgramsAreNotRun(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	l := newLocal(t, "sh")
	ran := filepath.Join(l.home, "ran")
	l.fake(t, "go/bin/codex", "0.169.0")
	for _, path := range []string{".local/bin/towline", "bin/towline", ".cargo/bin/towline"} {
		l.write(t, path, "#!/bin/sh\necho ran >>'"+ran+"'\n", 0o755)
	}
	if err := errors.Join(
		os.Chown(filepath.Join(l.home, ".local/bin"), 65534, 65534),
		os.Chown(filepath.Join(l.home, "bin/towline"), 65534, 65534),
		os.Chmod(filepath.Join(l.home, ".cargo/bin"), 0o777), //nolint:gosec // what is tested
	); err != nil {
		t.Fatal(err)
	}
	rep := probe(t, l, options(t))
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program that somebody else put there was run")
	}
	if find(rep, "go/bin/codex") == nil {
		t.Error("the person's own is not found any more")
	}
}
