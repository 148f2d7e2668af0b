package transport

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// kept is a log that a test reads while it is written to.
type kept struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.Write(p)
}

func (k *kept) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.String()
}

// Whoever reaches a listener can be refused as often as he likes. He must not be able
// to fill the disk with that.
func TestSecurityRefusalsDoNotFillTheLog(t *testing.T) {
	log := new(kept)
	l := open(t, "ws://127.0.0.1:0", Options{Log: slog.New(slog.NewTextHandler(log, nil))}, echo)
	host := strings.TrimPrefix(l.URL(), "ws://")
	const tries = 200
	for range tries {
		for _, request := range []string{upgrade(host, "Origin: https://evil.example"), upgrade("evil.example")} {
			c := rawDial(t, l.URL())
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			if status := statusOf(t, c); status != 403 {
				t.Fatalf("answered %d", status)
			}
			_ = c.Close()
		}
	}
	said := strings.Count(log.String(), "refused a")
	if said == 0 || said > tries {
		t.Errorf("%d lines of %d refusals", said, 2*tries)
	}
}
