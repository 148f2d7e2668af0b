package tui

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"towline/config"
)

// script is a PlainTerminal whose person types these lines.
type script struct {
	mu     sync.Mutex // guards what follows
	lines  []string
	shown  bytes.Buffer
	hidden []bool
	closed int
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func (s *script) Close() error { s.closed++; return nil }

func (s *script) ReadLine(ctx context.Context, echo bool) (string, error) {
	if len(s.lines) == 0 {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	l := s.lines[0]
	s.lines, s.hidden = s.lines[1:], append(s.hidden, !echo)
	return l, nil
}

func plain(lines ...string) (*PlainAsker, *script, *bytes.Buffer) {
	s, out := &script{lines: lines}, new(bytes.Buffer)
	return NewPlainAsker(PlainOptions{Out: out, Terminal: func() (PlainTerminal, error) { return s, nil }}), s, out
}

func TestPlainQuestions(t *testing.T) {
	p, s, out := plain("", "yes", "A", "hunter2", "42", "update")
	ctx := t.Context()
	d, err := p.HostKey(ctx, HostKeyQuestion{Hop: "dev-server", Address: "10.0.1.42:22", Type: "ssh-ed25519", Fingerprint: "SHA256:abc"})
	if d != AcceptSave || err != nil { // neither return nor yes is an answer
		t.Errorf("HostKey = %v, %v", d, err)
	}
	if pw, err := p.Secret(ctx, SecretQuestion{Hop: "dev-server", Kind: Password, Subject: "ana@dev-server", Attempt: 2}); pw != "hunter2" || err != nil {
		t.Errorf("Secret = %q, %v", pw, err)
	}
	if code, err := p.Secret(ctx, SecretQuestion{Hop: "dev-server", Kind: Challenge, Prompt: "Code:\x1b[2J", Echo: true}); code != "42" || err != nil {
		t.Errorf("Secret = %q, %v", code, err)
	}
	if n, err := p.Choose(ctx, InstallOffer{Host: "dev-server", Replaces: "0.4.1"}.Question()); n != 0 || err != nil {
		t.Errorf("Choose = %d, %v", n, err)
	}
	shown := s.shown.String()
	for _, want := range []string{"SHA256:abc", "ssh-ed25519", "that was not right", "Code:", "a = accept and remember", "please type one of"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q was not shown:\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "\x1b") || strings.Contains(shown, "hunter2") || out.Len() > 0 {
		t.Errorf("shown %q, written %q", shown, out)
	}
	if want := []bool{false, false, false, true, false, false}; len(s.hidden) != len(want) || s.hidden[3] != want[3] || s.hidden[4] {
		t.Errorf("hidden: %v", s.hidden)
	}
	if s.closed != 4 {
		t.Errorf("the terminal was closed %d times in 4 questions", s.closed)
	}
}

func TestPlainRefusals(t *testing.T) {
	none := NewPlainAsker(PlainOptions{Terminal: func() (PlainTerminal, error) { return nil, errors.New("no tty") }})
	batch := NewPlainAsker(PlainOptions{Refuse: true, Terminal: func() (PlainTerminal, error) { panic("looked for a terminal") }})
	for name, p := range map[string]*PlainAsker{"no terminal": none, "batch": batch} {
		if d, err := p.HostKey(t.Context(), HostKeyQuestion{}); d != Refuse || !errors.Is(err, ErrNobody) {
			t.Errorf("%s: HostKey = %v, %v", name, d, err)
		}
		if _, err := p.Secret(t.Context(), SecretQuestion{}); !errors.Is(err, ErrNobody) {
			t.Errorf("%s: Secret = %v", name, err)
		}
		if _, err := p.Choose(t.Context(), InstallOffer{}.Question()); !errors.Is(err, ErrNobody) {
			t.Errorf("%s: Choose = %v", name, err)
		}
	}
}

func TestPlainQuestionEndsWithItsContext(t *testing.T) {
	p, _, _ := plain()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("hung up"))
	if _, err := p.Secret(ctx, SecretQuestion{}); err == nil || err.Error() != "hung up" {
		t.Errorf("Secret = %v", err)
	}
}

func TestPlainProgress(t *testing.T) {
	p, _, out := plain()
	_ = steps(t.Context(), p)
	p.Step(Step{Stage: "install", Text: "uploading"})
	for i := range int64(101) {
		p.Progress(i<<20, 100<<20)
	}
	p.Step(Step{Stage: "start", Err: &config.Problem{Stage: "start", Err: errors.New("it died\nwith words")}})
	p.Notice("bastion", "be good\x07\nor else")
	got := out.String()
	for _, want := range []string{
		"✔ resolve: deploy@10.0.1.42:22 via bastion (0.00 s)\n", "✔ bastion authenticate: agent key accepted (0.19 s)\n",
		"✔ app-server: find: towline 0.4.2, running (0.00 s)\n", "  50 %, 50.0 MB of 100.0 MB\n", "✘ app-server: start: it died\n", "bastion: be good\nbastion: or else\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, " of 100.0 MB\n"); n != 11 {
		t.Errorf("%d lines of an upload", n)
	}
	if strings.Contains(got, "offered") {
		t.Error("details nobody asked for")
	}
}
