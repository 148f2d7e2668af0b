package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"towline/config"
)

func newTry() *cobra.Command {
	var home string
	c := &cobra.Command{
		Use:   "try",
		Short: "Look around: a host of its own, offline, and ssh into it",
		Long: "try starts a host on loopback with a state folder, a key and a sample project\n" +
			"of its own, opens a real `ssh` to it, and stops it when you leave. The agent\n" +
			"is the rehearsal model: it answers, runs commands and edits files by rote, and\n" +
			"nothing leaves this machine. What you did is still there the next time.",
		Example: "  towline try\n  towline try --home /tmp/look",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if home == "" {
				paths, err := config.Locate(os.Getenv)
				if err != nil {
					return err
				}
				home = filepath.Join(paths.State, "try")
			}
			return try(cmd.Context(), home, cmd.OutOrStdout())
		},
	}
	c.Flags().StringVar(&home, "home", "", "`DIR` to keep its state in (default: try, under Towline's state folder)")
	return c
}

// trial is the folder of try. The host's home and the project lie side by side:
// the agent's commands see the project only.
type trial struct{ dir string }

func (t trial) path(name string) string { return filepath.Join(t.dir, name) }

func (t trial) home() string { return t.path("host") }

func (t trial) inHome(name string) string { return filepath.Join(t.home(), name) }

func try(ctx context.Context, home string, out io.Writer) error {
	client, err := exec.LookPath("ssh")
	if err != nil {
		return &config.Problem{
			Stage: "try", Err: errors.New("the OpenSSH client (ssh) is not installed"),
			Hints: []string{"install it: `apt install openssh-client`, `dnf install openssh-clients`, `brew install openssh`"}, Exit: config.ExitUnavailable,
		}
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		return &config.Problem{Stage: "try", Err: errors.New("the UI needs a terminal"), Hints: []string{"run it from an interactive shell"}, Exit: config.ExitUsage}
	}
	abs, err := filepath.Abs(home)
	if err != nil {
		return err
	}
	t := trial{dir: abs}
	if err := t.prepare(); err != nil {
		return &config.Problem{Stage: "try", Err: err, Hints: []string{"name another folder with --home"}}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	serving, r, err := t.start(ctx, self)
	if err != nil {
		return err
	}
	defer serving.stop()
	if err := t.knowHost(r); err != nil {
		return err
	}
	args := t.sshArgs(r.SSH)
	fmt.Fprintf(out, "towline: a host of its own on %s (rehearsal: an offline model, nothing leaves this machine)\n$ ssh %s\n", r.SSH, strings.Join(args, " "))
	c := exec.CommandContext(ctx, client, args...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	err = c.Run()
	fmt.Fprintf(out, "towline: the host stops; its threads stay in %s\n", t.dir)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() != 0 {
		return &config.Problem{Stage: "ssh", Err: fmt.Errorf("ssh ended with status %d", exit.ExitCode()), Hints: []string{"the host's log is " + t.path("serve.log")}}
	}
	return err
}

// prepare makes what is missing: folders, a key and its authorisation, the
// configuration, and a project to work on.
func (t trial) prepare() error {
	for _, d := range []string{t.dir, t.home(), t.path("project")} {
		if err := config.PrivateDir(d); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"host/config.toml": "# Made by `towline try`.\n[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n[ssh]\nlisten = \"127.0.0.1:0\"\n",
		"project/README.md": "# A sample project\n\nMade by `towline try` for the rehearsal model to work on. Ask it to:\n\n" +
			"- show you around\n- run ls -l outside the sandbox\n- edit greeting.txt\n- count to 30 slowly\n",
		"project/greeting.txt": "Hello from the other machine.\n",
	} {
		if _, err := os.Stat(t.path(name)); err == nil {
			continue
		}
		if err := os.WriteFile(t.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if _, err := os.Stat(t.inHome("id_ed25519")); err == nil {
		return nil
	}
	public, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(secret, "towline-try")
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " you (towline try)\n"
	if err := os.WriteFile(t.inHome("authorized_keys"), []byte(line), 0o600); err != nil {
		return err
	}
	return os.WriteFile(t.inHome("id_ed25519"), pem.EncodeToMemory(block), 0o600)
}

// serving is the running host. It lives as long as stdin is open, so that it
// ends even when this program is killed.
type serving struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// stop ends the host and waits for it.
func (s serving) stop() {
	_ = s.stdin.Close()
	_ = s.cmd.Wait()
}

// start runs `serve` on the trial's home and waits until it is ready.
func (t trial) start(ctx context.Context, self string) (serving, ready, error) {
	logFile, err := os.OpenFile(t.path("serve.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return serving{}, ready{}, err
	}
	defer func() { _ = logFile.Close() }() // the child has its own
	// Not bound to ctx: Ctrl-C in ssh must not end the host before ssh has.
	c := exec.Command(self, "serve", "--json", "--stop-with-stdin", "--project", t.path("project"), "--come-back", strings.Join(os.Args, " ")) //nolint:noctx // see above; stop ends it
	c.Env = append(os.Environ(), "TOWLINE_HOME="+t.home())
	c.Stderr = logFile
	c.SysProcAttr = ownGroup()
	stdout, err := c.StdoutPipe()
	if err != nil {
		return serving{}, ready{}, err
	}
	stdin, err := c.StdinPipe()
	if err != nil {
		return serving{}, ready{}, err
	}
	if err := c.Start(); err != nil {
		return serving{}, ready{}, &config.Problem{Stage: "try", Err: err}
	}
	s := serving{c, stdin}
	line := make(chan []byte, 1)
	go func() {
		b, _ := bufio.NewReader(stdout).ReadBytes('\n') // an early end is an empty line
		line <- b
	}()
	var r ready
	select {
	case b := <-line:
		if err := json.Unmarshal(b, &r); err == nil && r.Ready {
			return s, r, nil
		}
	case <-time.After(20 * time.Second):
	case <-ctx.Done():
	}
	s.stop()
	said, _ := os.ReadFile(t.path("serve.log"))
	return serving{}, ready{}, &config.Problem{
		Stage: "try", Err: fmt.Errorf("the host did not start:\n%s", strings.TrimSpace(string(said))),
		Hints: []string{"start it by hand: `TOWLINE_HOME=" + t.home() + " towline serve`"}, Exit: config.ExitUnavailable,
	}
}

// knowHost writes the host key where ssh looks for it, so that the first
// connection is verified, not trusted.
func (t trial) knowHost(r ready) error {
	raw, err := os.ReadFile(t.inHome("host_ed25519"))
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		return err
	}
	addr, port, err := net.SplitHostPort(r.SSH)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("[%s]:%s %s", addr, port, ssh.MarshalAuthorizedKey(signer.PublicKey()))
	return os.WriteFile(t.inHome("known_hosts"), []byte(line), 0o600)
}

// sshArgs is a command line a person could type: it shares nothing with their
// own ssh configuration or agent.
func (t trial) sshArgs(addr string) []string {
	host, port, _ := net.SplitHostPort(addr) // checked by knowHost
	return []string{
		"-F", "none", "-t", "-p", port, "-i", t.inHome("id_ed25519"),
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "UserKnownHostsFile=" + t.inHome("known_hosts"), "-o", "StrictHostKeyChecking=yes",
		"-o", "SendEnv=COLORTERM", host,
	}
}
