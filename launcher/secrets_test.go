package launcher

import (
	"context"
	"errors"
	"testing"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

// person is an Asker with prepared answers, which counts what it is asked.
type person struct {
	answers []string
	decide  remote.Decision
	asked   int
	notices []string
}

func (p *person) HostKey(context.Context, remote.HostKeyQuestion) (remote.Decision, error) {
	p.asked++
	return p.decide, nil
}

func (p *person) Secret(context.Context, remote.SecretQuestion) (string, error) {
	p.asked++
	if len(p.answers) == 0 {
		return "", remote.ErrNobody
	}
	a := p.answers[0]
	p.answers = p.answers[1:]
	return a, nil
}

func (p *person) Notice(_, text string) { p.notices = append(p.notices, text) }

func TestAReconnectAsksNobody(t *testing.T) {
	p := &person{answers: []string{"hunter2", "correct horse"}}
	k := newKeeper(p)
	password := remote.SecretQuestion{Hop: "dev", Kind: remote.Password, Subject: "ana@dev", Attempt: 1}
	jump := remote.SecretQuestion{Hop: "bastion", Kind: remote.Challenge, Subject: "ana@bastion", Prompt: "Password: ", Attempt: 1}
	for range 3 {
		for want, q := range map[string]remote.SecretQuestion{"hunter2": password} {
			if got, err := k.Secret(t.Context(), q); err != nil || got != want {
				t.Fatalf("%s: %q, %v", q.Hop, got, err)
			}
		}
		if got, err := k.Secret(t.Context(), jump); err != nil || got != "correct horse" {
			t.Fatalf("bastion: %q, %v", got, err)
		}
		k.attempt(true)
	}
	if p.asked != 2 {
		t.Errorf("a person was asked %d times", p.asked)
	}
}

func TestARefusedSecretIsAskedForAgain(t *testing.T) {
	p := &person{answers: []string{"old", "new"}}
	k := newKeeper(p)
	q := remote.SecretQuestion{Hop: "dev", Kind: remote.Password, Subject: "ana@dev", Attempt: 1}
	if _, err := k.Secret(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	q.Attempt = 2
	if got, err := k.Secret(t.Context(), q); err != nil || got != "new" {
		t.Fatalf("after a refusal: %q, %v", got, err)
	}
	q.Attempt = 1
	if got, err := k.Secret(t.Context(), q); err != nil || got != "new" || p.asked != 2 {
		t.Errorf("later: %q, %v, asked %d times", got, err, p.asked)
	}
}

func TestOneTimeCodesAreNeverSentTwice(t *testing.T) {
	p := &person{answers: []string{"123456", "654321"}}
	k := newKeeper(p)
	q := remote.SecretQuestion{Hop: "dev", Kind: remote.Challenge, Subject: "ana@dev", Prompt: "Verification code: ", Attempt: 1}
	for _, want := range []string{"123456", "654321"} {
		if got, err := k.Secret(t.Context(), q); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	for prompt, want := range map[string]bool{
		"Password: ": true, "Password for ana@dev:": true, "One-time password (OATH): ": false, "Duo passcode: ": false,
		"New password: ": false, "Press 1 for a push": false,
	} {
		if got := keepable(remote.SecretQuestion{Kind: remote.Challenge, Prompt: prompt}); got != want {
			t.Errorf("keepable(%q) = %v", prompt, got)
		}
	}
}

func TestAFlappingLinkDoesNotPester(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := &person{answers: []string{"1", "2", "3", "4", "5"}}
	k := newKeeper(p)
	k.now = func() time.Time { return now }
	q := remote.SecretQuestion{Hop: "dev", Kind: remote.Challenge, Subject: "ana@dev", Prompt: "Code: ", Attempt: 1}
	ask := func() error { _, err := k.Secret(t.Context(), q); return err }
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	k.attempt(true)
	if err := ask(); err != nil {
		t.Fatal("the first reconnect may ask: ", err)
	}
	k.attempt(true)
	if err := ask(); !errors.Is(err, remote.ErrNobody) {
		t.Fatalf("asked again at once: %v", err)
	}
	k.attempt(false) // the person pressed r
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	k.attempt(true)
	_ = ask()
	now = now.Add(askAgain)
	if err := ask(); err != nil || p.asked != 5 {
		t.Fatalf("a minute later: %v, asked %d times", err, p.asked)
	}
}

func TestAHostKeyAcceptedOnceHoldsForTheSession(t *testing.T) {
	p := &person{decide: remote.AcceptOnce}
	k := newKeeper(p)
	q := remote.HostKeyQuestion{Hop: "dev", Address: "dev:22", Fingerprint: "SHA256:aaa"}
	for range 2 {
		if d, err := k.HostKey(t.Context(), q); err != nil || d != remote.AcceptOnce {
			t.Fatalf("%v, %v", d, err)
		}
	}
	if p.asked != 1 {
		t.Errorf("asked %d times", p.asked)
	}
	q.Fingerprint = "SHA256:bbb"
	d, err := k.HostKey(t.Context(), q)
	var problem *config.Problem
	if d != remote.Refuse || !errors.As(err, &problem) || problem.Stage != remote.StageHostKey || len(problem.Hints) == 0 || p.asked != 1 {
		t.Errorf("another key: %v, %v, asked %d times", d, err, p.asked)
	}
}
