// Package bench compares Towline with the programs people use today, in the same
// run on the same machine. It reports ratios; absolute times say more about the
// machine than about us. Run it with `make bench`.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// pairs is how often each comparison is made, in turn A B A B, so that a machine
// whose speed drifts drifts for both.
const pairs = 11

func TestMain(m *testing.M) {
	code := m.Run()
	peer.CleanUp()
	os.Exit(code)
}

// ratio runs a and b in turn and reports median(a)/median(b) and both medians.
func ratio(b *testing.B, name string, fa, fb func() time.Duration) {
	b.Helper()
	var as, bs []time.Duration
	for range b.N {
		fa()
		fb()
		for range pairs {
			as = append(as, fa())
			bs = append(bs, fb())
		}
	}
	ma, mb := median(as), median(bs)
	b.ReportMetric(0, "ns/op") // the ratio is the result
	b.ReportMetric(float64(ma)/float64(mb), name)
	b.ReportMetric(float64(ma.Microseconds())/1000, "towline-ms")
	b.ReportMetric(float64(mb.Microseconds())/1000, "peer-ms")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// client is a program that speaks the protocol and counts what it hears.
type client struct {
	*rpc.Peer
	notes chan note
	done  chan struct{}
}

type note struct {
	method string
	params json.RawMessage
}

func (c *client) Request(_ context.Context, r *rpc.Request) { r.Fail(protocol.Errorf("not here")) }

func (c *client) Notification(_ context.Context, method string, params json.RawMessage) {
	c.notes <- note{method, params}
}

// dial connects and initializes. It retries while nobody listens yet, which is
// what a cold start is measured with.
func dial(b *testing.B, url string) *client {
	b.Helper()
	var s rpc.Stream
	end := time.Now().Add(peer.Patience)
	for {
		var err error
		if s, err = transport.Dial(context.Background(), url); err == nil {
			break
		}
		if time.Now().After(end) {
			b.Fatal(err)
		}
		time.Sleep(500 * time.Microsecond)
	}
	c := &client{notes: make(chan note, 1<<17), done: make(chan struct{})}
	c.Peer = rpc.NewPeer(s, c)
	go func() { defer close(c.done); _ = c.Serve(context.Background()) }()
	if err := c.Call(context.Background(), "initialize", protocol.InitializeParams{
		ClientInfo:   protocol.ClientInfo{Name: "bench", Version: "1"},
		Capabilities: &protocol.Capabilities{ExperimentalAPI: true},
	}, nil); err != nil {
		b.Fatal(err)
	}
	return c
}

func (c *client) end() { c.Close(nil); <-c.done }

// memory is one of the amounts in a process's status, in bytes.
func memory(b *testing.B, pid int, name string) int64 {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb << 10
		}
	}
	b.Fatal("no " + name)
	return 0
}
