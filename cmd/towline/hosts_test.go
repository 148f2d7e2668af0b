package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/config"
	"towline/config/sshconfig"
)

func rows(n int) hostList {
	l := hostList{Faults: []hostFault{}}
	for i := range n {
		l.Hosts = append(l.Hosts, hostRow{Name: fmt.Sprintf("h%d", i), File: "/c", Line: i + 1})
	}
	return l
}

// A host that takes long keeps nobody else's row back.
func TestCheckedHostsAreShownAsTheyAreDone(t *testing.T) {
	release := make(chan struct{})
	see := func(ctx context.Context, _ sshconfig.Options, alias string, _ config.Host) hostCheck {
		if alias == "h0" {
			select {
			case <-release:
			case <-time.After(30 * time.Second):
				t.Error("the quick host's row never came")
			}
			return hostCheck{Stage: "dial", Error: "no answer from 192.0.2.1:22", Hints: []string{"run `towline doctor h0`"}}
		}
		return hostCheck{Reachable: true, Found: "towline 1.2.3, running"}
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := showHosts(t.Context(), w, rows(3), sshconfig.Options{}, config.Config{}, see, false)
		_ = w.Close() // a pipe's end says nothing
		done <- err
	}()
	var lines []string
	for s := bufio.NewScanner(r); s.Scan(); {
		lines = append(lines, s.Text())
		if len(lines) == 3 { // the titles and the two quick ones
			close(release)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	all := strings.Join(lines, "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[3], "h0 ") || !strings.HasSuffix(lines[3], "dial: no answer from 192.0.2.1:22") ||
		!strings.Contains(lines[4], "hint: run `towline doctor h0`") || strings.Count(all, "towline 1.2.3, running") != 2 {
		t.Errorf("got\n%s", all)
	}
}

func TestHostsAreCheckedAFewAtATime(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{}) // closed once as many as may run do
	see := func(context.Context, sshconfig.Options, string, config.Host) hostCheck {
		mu.Lock()
		if now++; now > most {
			if most = now; most == checksAtOnce {
				close(full)
			}
		}
		mu.Unlock()
		select {
		case <-full:
		case <-time.After(30 * time.Second):
			t.Error("they are not checked together")
		}
		mu.Lock()
		now--
		mu.Unlock()
		return hostCheck{Reachable: true}
	}
	var out bytes.Buffer
	if err := showHosts(t.Context(), &out, rows(40), sshconfig.Options{}, config.Config{}, see, true); err != nil {
		t.Fatal(err)
	}
	if most != checksAtOnce {
		t.Errorf("%d were checked at once, want %d", most, checksAtOnce)
	}
	var got hostList
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for i, r := range got.Hosts { // in the list's order, whenever each was done
		if r.Name != fmt.Sprintf("h%d", i) || r.Check == nil || !r.Check.Reachable {
			t.Fatalf("host %d is %+v", i, r)
		}
	}
}

func TestAnInterruptedCheckEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	see := func(ctx context.Context, _ sshconfig.Options, _ string, _ config.Host) hostCheck {
		cancel()
		<-ctx.Done()
		return hostCheck{Error: "interrupted"}
	}
	err := showHosts(ctx, io.Discard, rows(20), sshconfig.Options{}, config.Config{}, see, false)
	if config.ExitCode(err) != config.ExitInterrupted {
		t.Errorf("got %v", err)
	}
}

// Whoever reads the list may go away.
func TestAHostListNobodyReadsEnds(t *testing.T) {
	r, w := io.Pipe()
	_ = r.Close() // so that writing fails
	see := func(context.Context, sshconfig.Options, string, config.Host) hostCheck { return hostCheck{} }
	if err := showHosts(t.Context(), w, rows(20), sshconfig.Options{}, config.Config{}, see, false); err == nil {
		t.Error("no error")
	}
}

func TestCheckIsOfferedOnlyWhenItCanBeDone(t *testing.T) {
	if newHosts(nil).Flags().Lookup("check") != nil {
		t.Error("--check without anything to check with")
	}
	see := func(context.Context, sshconfig.Options, string, config.Host) hostCheck { return hostCheck{} }
	if newHosts(see).Flags().Lookup("check") == nil {
		t.Error("no --check")
	}
}
