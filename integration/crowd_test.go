package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"towline/integration/peer"
)

const (
	// idleClients is the "10,000 idle clients".
	idleClients = 10_000
	// dialers come in together, as one address each may have a few thousand ports.
	dialers = 50
	// strays are goroutines and files that come and go by themselves.
	strays = 40
	// leftover is the same for bytes: garbage, and what maps keep of their size.
	leftover = 32 << 20
)

// Ten thousand clients that say nothing keep nobody from work, and leave nothing
// behind. It runs alone: among the files that other tests open and close in this
// process, the host would look for long for each of these connections.
func TestTenThousandIdleClients(t *testing.T) {
	peer.NeedFiles(t, idleClients+1000)
	metrics := "127.0.0.1:" + peer.LowPort(t)
	h := peer.Start(t, peer.HostConfig{Args: []string{
		"--listen", "ws://127.0.0.1:0", "--max-connections", fmt.Sprint(idleClients + 200), "--metrics-listen", metrics,
	}})
	work := peer.DialWire(t, h.WS())
	admitted(t, work)
	_ = work.SetDeadline(time.Now().Add(4 * peer.Patience))
	works := func() time.Duration {
		t.Helper()
		start := time.Now()
		_, _ = work.Write(probe)
		if got := work.Heard(); got != "stays" {
			t.Fatal(got)
		}
		return time.Since(start)
	}
	alone := works()
	before, files := settled(t, work, metrics), openFiles(t, h)

	start := time.Now()
	crowd := crowdOf(t, h.WS())
	took := time.Since(start)
	there := settled(t, work, metrics)
	among := works()
	for _, w := range []*peer.Wire{crowd[0], crowd[len(crowd)/2], crowd[len(crowd)-1]} {
		_, _ = w.Write(probe)
		if got := w.Heard(); got != "stays" {
			t.Errorf("one of the crowd: %s", got)
		}
	}
	t.Logf("%d clients came in within %v; each has %.1f KiB of memory (%.1f of heap) and %.2f goroutines; an answer takes %v, and took %v alone",
		len(crowd), took, (there["process_resident_memory_bytes"]-before["process_resident_memory_bytes"])/1024/idleClients,
		(there["go_memstats_heap_alloc_bytes"]-before["go_memstats_heap_alloc_bytes"])/1024/idleClients,
		(there["go_goroutines"]-before["go_goroutines"])/idleClients, among, alone)
	for _, w := range crowd {
		_ = w.Close()
	}
	after := before
	for end := time.Now().Add(peer.Patience); ; time.Sleep(50 * time.Millisecond) {
		after = settled(t, work, metrics)
		if after["go_goroutines"] <= before["go_goroutines"]+strays && openFiles(t, h) <= files+strays &&
			after["go_memstats_heap_alloc_bytes"] <= before["go_memstats_heap_alloc_bytes"]+leftover {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("what is left of them: %v goroutines, %v files, %v bytes of heap; before they came %v, %v, %v",
				after["go_goroutines"], openFiles(t, h), after["go_memstats_heap_alloc_bytes"],
				before["go_goroutines"], files, before["go_memstats_heap_alloc_bytes"])
		}
	}
	works()
}

func openFiles(t *testing.T, h *peer.Host) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// settled is what a daemon says of itself once it has collected its garbage twice,
// for which it is given work.
func settled(t *testing.T, w *peer.Wire, metrics string) map[string]float64 {
	t.Helper()
	const rounds = "go_gc_duration_seconds_count"
	big := peer.Frame(text, sized(1<<20))
	m := peer.Metrics(t, metrics)
	for first, end := m[rounds], time.Now().Add(peer.Patience); m[rounds] < first+2; m = peer.Metrics(t, metrics) {
		if time.Now().After(end) {
			t.Fatalf("it collects no garbage, or does not say so: %v", m)
		}
		for range 8 {
			_, _ = w.Write(big)
			_, _ = w.Write(probe)
			if got := w.Heard(); got != "answer, stays" {
				t.Fatal(got)
			}
		}
	}
	return m
}

// crowdOf has idleClients come in and say no more than they must.
func crowdOf(t *testing.T, url string) []*peer.Wire {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*peer.Patience)
	defer cancel()
	out := make([]*peer.Wire, idleClients)
	t.Cleanup(func() {
		for _, w := range out {
			if w != nil {
				_ = w.Close()
			}
		}
	})
	hello := peer.Frame(text, []byte(`{"id":"probe","method":"initialize","params":{"clientInfo":{"name":"idle","version":"1"}}}`))
	done := peer.Frame(text, []byte(`{"method":"initialized"}`))
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for i := d; i < idleClients; i += dialers {
				w, err := peer.WireFrom(ctx, fmt.Sprintf("127.0.0.%d", 2+d%8), url)
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				out[i] = w
				_, _ = io.WriteString(w, peer.Handshake(w.Host))
				if got := w.Answer(); got != "101" {
					t.Errorf("client %d: %s", i, got)
					return
				}
				_, _ = w.Write(append(hello, done...))
				if got := w.Heard(); got != "stays" {
					t.Errorf("client %d: %s", i, got)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return out
}
