package sshclient

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"
)

const (
	maxProxyWords = 4 << 10         // of a ProxyCommand's stderr that is kept
	proxyGrace    = 2 * time.Second // for a ProxyCommand to end by itself once its input ended
)

// proxy is a ProxyCommand as a connection. It runs without a terminal: a proxy
// that asks questions there would fight the screen for the keyboard.
type proxy struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	words  *tail
	exited chan struct{} // closed once the process was waited for
	close  func() error
}

// startProxy runs command by the person's shell, as ssh does.
func startProxy(shell, command string) (*proxy, error) {
	cmd := proxyShell(shell, command)
	p := &proxy{cmd: cmd, words: &tail{limit: maxProxyWords}, exited: make(chan struct{})}
	cmd.Stderr = p.words
	// Wait must not hang on a grandchild that keeps stderr open.
	cmd.WaitDelay = proxyGrace
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe: Wait would close it with bytes still unread.
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close(), w.Close())
	}
	_ = w.Close() // the child has its own
	p.in, p.out = in, out
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
	}()
	p.close = sync.OnceValue(p.end)
	return p, nil
}

func (p *proxy) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err != nil && n == 0 {
		// Whoever asks next wants to know what the command said, and how it ended.
		select {
		case <-p.exited:
		case <-time.After(proxyGrace):
		}
	}
	return n, err
}

func (p *proxy) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close ends the command and everything it started, and waits for it.
func (p *proxy) Close() error { return p.close() }

func (p *proxy) end() error {
	_ = p.in.Close()
	err := p.out.Close()
	for _, end := range []func(*exec.Cmd){terminateProxy, killProxy} {
		select {
		case <-p.exited:
			return err
		default:
			end(p.cmd)
		}
		select {
		case <-p.exited:
		case <-time.After(proxyGrace):
		}
	}
	<-p.exited
	return err
}

// said is what the command wrote to stderr, and its status when it failed.
func (p *proxy) said() string {
	s := p.words.String()
	select {
	case <-p.exited:
		if st := p.cmd.ProcessState; st != nil && !st.Success() && s == "" {
			return st.String()
		}
	default:
	}
	return s
}

// proxyAddr is a proxy's address: there is none.
type proxyAddr struct{}

func (proxyAddr) Network() string { return "proxy" }
func (proxyAddr) String() string  { return "proxy" }

func (p *proxy) LocalAddr() net.Addr  { return proxyAddr{} }
func (p *proxy) RemoteAddr() net.Addr { return proxyAddr{} }

// Deadlines do not exist here; a guard closes the connection instead.

func (p *proxy) SetDeadline(time.Time) error      { return errNoDeadline }
func (p *proxy) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (p *proxy) SetWriteDeadline(time.Time) error { return errNoDeadline }

var errNoDeadline = fmt.Errorf("ssh: %w", errors.ErrUnsupported)

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	mu    sync.Mutex
	b     []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - t.limit; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
