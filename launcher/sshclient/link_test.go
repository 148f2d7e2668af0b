package sshclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	glider "github.com/gliderlabs/ssh"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// stalled is a live connection to s through a link that has just gone quiet.
func stalled(t *testing.T, change func(*sshconfig.Target)) (*Client, *remotetest.Relay) {
	t.Helper()
	s := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, s.Addr)
	tt := target(s)
	tt.HostKeyAlias = "stalled"
	tt.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), "stalled "+readFile(t, s.HostKey+".pub"))}
	tt.Port = relay.Port()
	change(&tt)
	c := mustDial(t, Config{Target: tt})
	if got := echoes(t, c, "echo up"); got != "up" {
		t.Fatalf("got %q", got)
	}
	relay.Stall(true)
	return c, relay
}

func TestDeadPeerIsNoticed(t *testing.T) {
	c, _ := stalled(t, func(tt *sshconfig.Target) { tt.ServerAliveInterval, tt.ServerAliveCountMax = 300*time.Millisecond, 2 })
	p, err := c.Exec(t.Context(), "echo never", remote.ExecOptions{})
	if err == nil {
		t.Fatalf("a command started on a dead link: %v", p.Close())
	}
	<-c.Done()
	problem := checkProblem(t, c.Err(), remote.StageReady)
	wants(t, config.Explain(problem), "nothing was heard from it for 600ms", "towline dev")
	if !errors.Is(c.Err(), errDeadPeer) {
		t.Errorf("got %v", c.Err())
	}
}

// A dead bastion takes the target's connection along, and is named.
func TestDeadHopIsNoticed(t *testing.T) {
	bastion, s := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, bastion.Addr)
	first, last := target(bastion), target(s)
	first.HostKeyAlias = "bastion"
	first.UserKnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "known"), "bastion "+readFile(t, bastion.HostKey+".pub"))}
	first.Port, first.ServerAliveInterval, first.ServerAliveCountMax = relay.Port(), 300*time.Millisecond, 2
	last.ProxyJump = []string{"bastion"}
	c := mustDial(t, Config{Target: last, Resolve: resolver(map[string]sshconfig.Target{"bastion": first})})
	relay.Stall(true)
	<-c.Done()
	wants(t, config.Explain(checkProblem(t, c.Err(), remote.StageReady)), "bastion (127.0.0.1", "nothing was heard")
}

// What is asked of a dead link ends with its context, long before the keepalive.
func TestStalledLinkDoesNotHang(t *testing.T) {
	c, relay := stalled(t, func(*sshconfig.Target) {})
	for name, ask := range map[string]func(context.Context) error{
		"Exec":     func(ctx context.Context) error { _, err := c.Exec(ctx, "true", remote.ExecOptions{}); return err },
		"DialTCP":  func(ctx context.Context) error { _, err := c.DialTCP(ctx, "127.0.0.1:22"); return err },
		"DialUnix": func(ctx context.Context) error { _, err := c.DialUnix(ctx, "/nowhere"); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := ask(ctx)
		cancel()
		checkProblem(t, err, map[bool]string{true: remote.StageShell, false: remote.StageReady}[name == "Exec"])
		wants(t, err.Error(), "it took too long")
	}
	relay.Stall(false) // the late answers find nobody, and harm nothing
	if got := echoes(t, c, "echo back"); got != "back" {
		t.Errorf("got %q", got)
	}
	relay.Stall(true)
	if err := c.Close(); err != nil { // does not wait for the peer
		t.Error(err)
	}
}

// A server that stops answering in the middle of the handshake is given up, at
// the stage it had reached.
func TestHandshakeThatStalls(t *testing.T) {
	s := remotetest.StartSSHD(t)
	halfway := server(t, func(c net.Conn) {
		up, err := net.Dial("tcp", s.Addr)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
		_, _ = io.CopyN(c, up, 300) // its version, and part of its offer
		_, _ = io.Copy(io.Discard, up)
	})
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	undecided := startOther(t, glider.PublicKeyAuth(func(glider.Context, glider.PublicKey) bool { <-over; return false }))
	for stage, port := range map[string]int{remote.StageHostKey: halfway, remote.StageAuth: undecided.port} {
		t.Run(stage, func(t *testing.T) {
			tt := undecided.target()
			tt.Port, tt.ConnectTimeout, tt.IdentityFiles = port, 250*time.Millisecond, []string{s.Key}
			p := mustFail(t, Config{Target: tt}, stage)
			wants(t, config.Explain(p), "no answer within "+map[string]string{remote.StageHostKey: "250ms", remote.StageAuth: "2.5s"}[stage], "ssh -v dev")
		})
	}
}

func TestAgentForwarding(t *testing.T) {
	s := remotetest.StartSSHD(t)
	sock := startAgent(t, s.StrangerKey)
	want := fingerprint(t, s.StrangerKey+".pub")
	for how, forwards := range map[string]bool{"no": false, "yes": true, sock: true, "$MY_AGENT": true, "": false} {
		t.Run("ForwardAgent "+how, func(t *testing.T) {
			tt := target(s)
			tt.ForwardAgent, tt.IdentityAgent = how, ""
			c := mustDial(t, Config{Target: tt, Environ: env("SSH_AUTH_SOCK", sock, "MY_AGENT", sock)})
			if got := echoes(t, c, "echo $SSH_AUTH_SOCK"); got != "" {
				t.Errorf("a command that asked for none has an agent: %s", got)
			}
			p, err := c.Exec(bounded(t), "echo sock=$SSH_AUTH_SOCK; ssh-add -l; ssh-add -l", remote.ExecOptions{ForwardAgent: true})
			if err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(p.Stdout())
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(string(out), want); (got == 2) != forwards {
				t.Errorf("the agent was seen %d times: %s", got, out)
			}
			_ = p.Close()
		})
	}
}

// An agent that has gone away is an answer to the remote, not a hang.
func TestForwardedAgentThatIsGone(t *testing.T) {
	s := remotetest.StartSSHD(t)
	tt := target(s)
	tt.ForwardAgent = filepath.Join(t.TempDir(), "gone")
	c := mustDial(t, Config{Target: tt})
	p, err := c.Exec(bounded(t), "ssh-add -l 2>&1; echo done", remote.ExecOptions{ForwardAgent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if out, err := io.ReadAll(p.Stdout()); !strings.Contains(string(out), "done") || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestPing(t *testing.T) {
	c, relay := stalled(t, func(*sshconfig.Target) {})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a dead link answered: %v", err)
	}
	relay.Stall(false)
	if err := c.Ping(bounded(t)); err != nil {
		t.Errorf("a live link did not: %v", err)
	}
	_ = c.Close()
	if err := c.Ping(t.Context()); err == nil {
		t.Error("a closed one did")
	}
}

// Output nobody read is still there after the command has ended.
func TestOutputAfterTheEnd(t *testing.T) {
	s := remotetest.StartSSHD(t)
	c := mustDial(t, Config{Target: target(s)})
	p, err := c.Exec(bounded(t), "echo out; echo err >&2; exit 3", remote.ExecOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var exit *remote.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Status != 3 {
		t.Errorf("ended with %v", err)
	}
	out, _ := io.ReadAll(p.Stdout())
	errs, _ := io.ReadAll(p.Stderr())
	if string(out) != "out\n" || string(errs) != "err\n" {
		t.Errorf("stdout %q, stderr %q", out, errs)
	}
}

// Close ends a Read that is under way, also when the far end never answers.
func TestCloseEndsARead(t *testing.T) {
	c, _ := stalled(t, func(*sshconfig.Target) {})
	l := c.last
	b := newInbox()
	hung, release := net.Pipe()
	l.spawn(func() { b.fill(hung) })
	ended := make(chan error, 1)
	go func() {
		_, err := b.Read(make([]byte, 1))
		ended <- err
	}()
	b.close(net.ErrClosed)
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	_ = release.Close()
}

func TestInboxDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox()
		in, out := net.Pipe()
		go b.fill(in)
		b.setDeadline(time.Now().Add(time.Hour))
		began := time.Now()
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		b.setDeadline(time.Time{})
		go func() { _, _ = out.Write([]byte("late")); _ = out.Close() }()
		if all, err := io.ReadAll(b); string(all) != "late" || err != nil {
			t.Errorf("got %q, %v", all, err)
		}
		b.close(net.ErrClosed)
		_ = in.Close()
	})
}

// The inbox holds no more than it should, and loses nothing.
func TestInboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox()
		data := bytes.Repeat([]byte("0123456789abcdef"), inboxSize/4)
		src := bytes.NewReader(data)
		go b.fill(src)
		synctest.Wait()
		if held := len(data) - src.Len(); held > inboxSize+2*pumpSize {
			t.Errorf("%d bytes were taken in", held)
		}
		if all, err := io.ReadAll(b); !bytes.Equal(all, data) || err != nil {
			t.Errorf("%d of %d bytes, %v", len(all), len(data), err)
		}
	})
}

// A guard stands still while a person is waited for.
func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fired atomic.Bool
		g := newGuard(time.Minute, func() { fired.Store(true) })
		resume := g.pause()
		also := g.hold()
		time.Sleep(time.Hour)
		resume()
		resume() // twice is once
		time.Sleep(time.Hour)
		if fired.Load() {
			t.Fatal("fired while somebody was being waited for")
		}
		if g.waiting() || !g.didWait() {
			t.Error("a person is being waited for still, or never was")
		}
		also()
		time.Sleep(time.Minute - time.Second)
		g.progress()
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		if fired.Load() {
			t.Fatal("fired in spite of progress")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !fired.Load() {
			t.Error("never fired")
		}
		g.stop()
	})
}
