package sshclient

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
)

// Bounds of what is shown in an error: of a peer's words, of a hint, of all.
const (
	maxWords   = 1024
	maxHint    = 2048
	maxProblem = 8192
)

// errHungUp means that the peer ended the connection before the login was done.
var errHungUp = errors.New("the connection was closed by the other side")

// printable is a peer's or a file's text fit for one line of a terminal: without
// control and formatting characters, white space folded, and no longer than n
// bytes.
func printable(s string, n int) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
		if b.Len() >= n {
			b.WriteString("…")
			break
		}
	}
	return b.String()
}

// printableLines is printable for text whose lines matter: banners, stderr.
func printableLines(s string, n int) string {
	var lines []string
	for line := range strings.Lines(s) {
		if p := printable(line, n); p != "" {
			lines = append(lines, p)
			n -= len(p)
		}
		if n <= 0 {
			break
		}
	}
	return strings.Join(lines, "\n")
}

// problem makes err, which happened to h in stage, the error a person sees. A
// *config.Problem passes as it is.
func (h *hop) problem(stage string, err error, words string, exit int, hints ...string) *config.Problem {
	var p *config.Problem
	if errors.As(err, &p) {
		return p
	}
	for i := range hints { // they name hosts and files, which hold what they hold
		hints[i] = printable(hints[i], maxHint)
	}
	return &config.Problem{
		Stage: stage,
		Err:   &HopError{Hop: h.label, Host: h.target.HostName, Port: h.port(), Words: printable(words, maxWords), Err: err},
		Hints: hints,
		Exit:  exit,
	}
}

// cut is the problem of a context that ended: a person gave up, or the whole
// attempt took too long.
func (h *hop) cut(stage string, ctx context.Context) *config.Problem {
	err := context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return h.problem(stage, errors.New("it took too long"), "", config.ExitUnavailable, h.verbose())
	}
	return h.problem(stage, err, "", config.ExitInterrupted, "try again: `towline "+h.run.name()+"`")
}

// verbose is the hint of last resort: ssh itself, talking.
func (h *hop) verbose() string { return "run `ssh -v " + h.label + " true` to see it step by step" }

// dialProblem explains why no byte stream to h came about.
func (h *hop) dialProblem(err error) *config.Problem {
	var (
		dns    *net.DNSError
		refuse *ssh.OpenChannelError
		where  = h.label
	)
	alias := h.target.Alias != "" && h.target.Alias != h.target.HostName
	switch {
	case errors.As(err, &dns):
		hint := "check the spelling, or add `Host " + where + "` with a HostName to ~/.ssh/config"
		if alias {
			hint = "check HostName of `Host " + h.target.Alias + "` in ~/.ssh/config, and that a VPN it needs is up"
		}
		text := "the name " + printable(h.target.HostName, 255) + " was not found"
		if !dns.IsNotFound {
			text = "the name " + printable(h.target.HostName, 255) + " could not be looked up: " + printable(dns.Err, 200)
		}
		return h.problem(remote.StageDial, &described{text, err}, "", config.ExitUnavailable, hint)
	case errors.As(err, &refuse):
		return h.refusedByHop(refuse)
	case errors.Is(err, syscall.ECONNREFUSED):
		return h.problem(remote.StageDial, &described{"connection refused: the machine is up, and nothing listens there", err}, "", config.ExitUnavailable,
			"check the port; on "+where+", whether sshd runs: `systemctl status ssh`")
	case isTimeout(err):
		return h.problem(remote.StageDial, &described{"no answer within " + h.patience().String(), err}, "", config.ExitUnavailable,
			"check that the machine is up and that the network or VPN lets you there: `nc -vz "+h.target.HostName+" "+itoa(h.port())+"`",
			"set ConnectTimeout in ~/.ssh/config when it is only slow")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return h.problem(remote.StageDial, &described{"no route to it from here", err}, "", config.ExitUnavailable,
			"check your network, or the VPN this host needs")
	}
	return h.problem(remote.StageDial, err, "", config.ExitUnavailable, h.verbose())
}

// refusedByHop explains why the machine before h did not open the way to it.
func (h *hop) refusedByHop(err *ssh.OpenChannelError) *config.Problem {
	via := h.via.label
	words := refusal(err)
	if err.Reason == ssh.Prohibited {
		return h.problem(remote.StageDial, &described{via + " does not allow forwarding, so it cannot be a jump host", err}, words, config.ExitUnavailable,
			"allow it on "+via+": `AllowTcpForwarding yes` in its sshd_config",
			"or use `ProxyCommand ssh "+via+" nc %h %p` for "+h.label)
	}
	return h.problem(remote.StageDial, &described{via + " could not reach it", err}, words, config.ExitUnavailable,
		"try it from there: `ssh "+via+" nc -vz "+h.target.HostName+" "+itoa(h.port())+"`")
}

// refusal is why a server opened no channel, in the protocol's words and its own.
func refusal(err *ssh.OpenChannelError) string {
	return err.Reason.String() + ": " + err.Message
}

// described replaces an error's text and keeps its identity.
type described struct {
	text string
	err  error
}

func (d *described) Error() string { return d.text }
func (d *described) Unwrap() error { return d.err }

// isTimeout reports whether err is about time.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// isEnd reports whether err is an ordinary end of a stream.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// disconnected takes apart an SSH_MSG_DISCONNECT. The library keeps its type to
// itself, so its documented text is all there is.
func disconnected(err error) (words string, ok bool) {
	for ; err != nil; err = errors.Unwrap(err) {
		rest, found := strings.CutPrefix(err.Error(), "ssh: disconnect, reason ")
		if _, words, colon := strings.Cut(rest, ": "); found && colon {
			return words, true
		}
	}
	return "", false
}
