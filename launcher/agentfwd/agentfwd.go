// Package agentfwd keeps a forwarded SSH agent reachable on the remote under one
// path that stays the same across reconnects and clients.
//
// sshd gives each connection's agent a socket of its own, with a random name, and
// removes it when the connection goes. A daemon that outlives connections can
// therefore not be told such a path. [Hold] opens one channel with agent
// forwarding and keeps, for as long as that channel lives, a symbolic link
//
//	RUNTIME/agent.sock -> RUNTIME/agents/ID -> the connection's own socket
//
// RUNTIME being Towline's private folder on the remote ($TOWLINE_HOME/run,
// $XDG_RUNTIME_DIR/towline, or under $HOME). Each connection has an ID; who came
// or claimed last is served, and when it leaves the link goes to the latest of
// the others, or away. The remote end is a few lines of POSIX sh that notice the
// end of the channel by the end of their input, so a cut link needs no cleaning
// up by anyone.
//
// Serving the local agent to the remote is the connection's work, as with ssh;
// this is about the path only.
package agentfwd

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"towline/config"
	"towline/launcher/remote"
)

// ErrNotAllowed is returned by Hold when the configuration does not forward.
var ErrNotAllowed = errors.New("agent forwarding is not turned on for this host")

const (
	setupTime = 30 * time.Second // for the login shell to run our script
	leaveTime = 5 * time.Second  // for the remote to take its links away
	maxOutput = 1 << 20          // bytes a login shell may say
)

// Options for Hold.
type Options struct {
	// Policy says whether there is an agent to forward; see PolicyFor.
	Policy Policy
}

// Holder keeps the stable path pointing at this connection's agent. Its methods
// may be called concurrently.
type Holder struct {
	p      remote.Process
	marker string
	path   string

	ready chan struct{} // one for each "ready" the remote says; room for one
	done  chan struct{} // the keeper is gone
	once  sync.Once
	claim sync.Mutex // one claim at a time; taken before mu
	wg    sync.WaitGroup

	mu  sync.Mutex // guards err
	err error
}

// Hold makes the remote's stable agent path lead here until the connection ends
// or Close. Call it again on each new connection. It returns ErrNotAllowed when
// nothing is forwarded, and a *config.Problem when the remote does not play
// along; either costs the agent only, not the connection.
func Hold(ctx context.Context, c remote.Conn, o Options) (*Holder, error) {
	if o.Policy.Socket == "" {
		return nil, ErrNotAllowed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, setupTime, errors.New("the login shell did not run our script in time"))
	defer cancel()
	marker, id := "towline-"+rand.Text(), strings.ToLower(rand.Text()[:16])
	text := script(marker, id)
	p, err := c.Exec(ctx, command(text), remote.ExecOptions{ForwardAgent: true})
	if err != nil {
		return nil, problem(err)
	}
	h := &Holder{p: p, marker: marker, ready: make(chan struct{}, 1), done: make(chan struct{})}
	words := make(chan string, 1)
	go h.read(words) // ends with the process; Close waits for it
	sent := make(chan error, 1)
	go func() { // likewise
		_, err := io.WriteString(p.Stdin(), text)
		sent <- err
	}()
	var said string
	select {
	case said = <-words:
		err = nil
	case <-h.done:
		err = errors.New("the login shell did not run our script")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = p.Close()
		<-h.done
		<-sent
		return nil, problem(err)
	}
	<-sent // it was read, since it answered
	if refused, ok := strings.CutPrefix(said, "refused "); ok {
		_ = h.Close()
		return nil, problem(errors.New(refused))
	}
	h.path = strings.TrimPrefix(said, "ready ")
	return h, nil
}

func problem(err error) error {
	return &config.Problem{
		Stage: remote.StageShell, Err: fmt.Errorf("forward the agent: %w", err),
		Hints: []string{
			"check AllowAgentForwarding in the host's sshd_config",
			"or set `ForwardAgent no` for it in ~/.ssh/config to do without",
		},
	}
}

// read takes what the keeper says. The first of its lines goes to first.
func (h *Holder) read(first chan<- string) {
	var errs sync.WaitGroup
	errs.Go(func() { _, _ = io.Copy(io.Discard, h.p.Stderr()) })
	r := bufio.NewReaderSize(h.p.Stdout(), 4096)
	for left, told := maxOutput, false; left > 0; {
		line, err := r.ReadSlice('\n')
		left -= len(line)
		if word, rest, ok := parseLine(string(line), h.marker); ok {
			left = maxOutput
			switch {
			case !told:
				told = true
				first <- word + " " + printable(rest)
			case word == "ready":
				select {
				case h.ready <- struct{}{}:
				default:
				}
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	_ = h.p.Close()
	errs.Wait()
	err := h.p.Wait()
	if err == nil {
		err = errors.New("the remote gave the agent's path up")
	}
	h.mu.Lock()
	if h.err == nil {
		h.err = err
	}
	h.mu.Unlock()
	close(h.done)
}

// printable makes text of a remote's fit for a screen and a variable.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, s)
}

// Path is the stable socket path on the remote: what SSH_AUTH_SOCK should be
// there.
func (h *Holder) Path() string { return h.path }

// Claim makes this client's agent the one that is served, when another client
// came later. Call it when a person does something at this client.
func (h *Holder) Claim(ctx context.Context) error {
	h.claim.Lock()
	defer h.claim.Unlock()
	select {
	case <-h.ready: // of a claim that was given up on
	default:
	}
	h.mu.Lock()
	if err := h.err; err != nil {
		h.mu.Unlock()
		return err
	}
	h.wg.Go(func() { _, _ = io.WriteString(h.p.Stdin(), "claim\n") }) // ends with the process at the latest
	h.mu.Unlock()
	select {
	case <-h.ready:
		return nil
	case <-h.done:
		return h.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done is closed when the path leads here no longer; Err then says why.
func (h *Holder) Done() <-chan struct{} { return h.done }

// Err is nil until Done is closed.
func (h *Holder) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Close gives the path back, and waits a while for the remote to have done so.
// Idempotent.
func (h *Holder) Close() error {
	h.once.Do(func() {
		h.mu.Lock()
		if h.err == nil {
			h.err = errClosed
		}
		h.mu.Unlock()
		_ = h.p.Stdin().Close()
		t := time.NewTimer(leaveTime)
		defer t.Stop()
		select {
		case <-h.done:
		case <-t.C:
			_ = h.p.Close()
		}
	})
	<-h.done
	h.wg.Wait()
	return nil
}

var errClosed = errors.New("the agent's path was given back")
