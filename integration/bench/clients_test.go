package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"towline/integration/peer"
)

// raw is a WebSocket client that costs as little as one can: what is measured is
// the server. It sends with a mask of zeroes and takes frames as they come.
type raw struct {
	c  net.Conn
	r  *bufio.Reader
	id int
}

// open connects to unix://PATH or ws://HOST:PORT and initializes.
func open(url string) (*raw, error) {
	network, addr := "unix", strings.TrimPrefix(url, "unix://")
	if rest, ok := strings.CutPrefix(url, "ws://"); ok {
		network, addr = "tcp", rest
	}
	nc, err := net.Dial(network, addr) //nolint:noctx // a benchmark's own
	if err != nil {
		return nil, err
	}
	c := &raw{c: nc, r: bufio.NewReaderSize(nc, 4096)}
	_, err = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	for line := []byte{'x'}; err == nil && len(bytes.TrimSpace(line)) > 0; {
		line, err = c.r.ReadSlice('\n')
	}
	if err == nil {
		err = c.send(`{"id":0,"method":"initialize","params":{"clientInfo":{"name":"bench","version":"1"},"capabilities":{"experimentalApi":true}}}`)
	}
	if err == nil {
		_, err = c.until(`"id":0`)
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *raw) send(msg string) error {
	b := []byte{0x81}
	switch n := len(msg); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n)) //nolint:gosec // checked
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	_, err := c.c.Write(append(append(b, 0, 0, 0, 0), msg...))
	return err
}

// frame reads one; its bytes are good until the next where they fit the buffer.
func (c *raw) frame() ([]byte, error) {
	head, err := c.r.Peek(2)
	if err != nil {
		return nil, err
	}
	n, skip := int(head[1]&0x7f), 2
	switch n {
	case 126:
		if head, err = c.r.Peek(4); err != nil {
			return nil, err
		}
		n, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	case 127:
		if head, err = c.r.Peek(10); err != nil {
			return nil, err
		}
		n, skip = int(binary.BigEndian.Uint64(head[2:])), 10 //nolint:gosec // of a server we started
	}
	_, _ = c.r.Discard(skip) // it was peeked at
	if n <= c.r.Size() {
		b, err := c.r.Peek(n)
		_, _ = c.r.Discard(len(b))
		return b, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.r, b)
	return b, err
}

// until reads up to the first message that contains the mark.
func (c *raw) until(mark string) ([]byte, error) {
	for {
		b, err := c.frame()
		if err != nil || bytes.Contains(b, []byte(mark)) {
			return b, err
		}
	}
}

func (c *raw) call(b *testing.B, method, params string) []byte {
	b.Helper()
	c.id++
	id := strconv.Itoa(c.id)
	if err := c.send(`{"id":"r` + id + `","method":"` + method + `","params":` + params + `}`); err != nil {
		b.Fatal(err)
	}
	msg, err := c.until(`"id":"r` + id + `"`)
	if err != nil {
		b.Fatal(err)
	}
	if bytes.HasPrefix(msg, []byte(`{"error"`)) || bytes.Contains(msg, []byte(`,"error":{"code"`)) {
		b.Fatalf("%s: %s", method, msg)
	}
	return bytes.Clone(msg)
}

// server is one daemon of the comparison with both of its doors.
type server struct {
	name     string
	unix, ws string
	pid      int
	cwd      string
}

func freePort(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// servers starts the native engine in a whole daemon, and Codex. Codex has one
// listener a process.
func servers(b *testing.B, baseURL string) (towline, codexUnix, codexWS server) {
	b.Helper()
	codex := peer.Codexes(b)[0]
	home, cwd := b.TempDir(), b.TempDir()
	conf := "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n"
	if baseURL != "" {
		conf = fmt.Sprintf("[engine]\nkind = \"native\"\n[engine.native]\nbase_url = %q\napi_key_env = \"BENCH_KEY\"\n", baseURL)
	} else {
		baseURL = "http://127.0.0.1:9/v1"
	}
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	start := func(name, url string, env []string, args ...string) (server, *exec.Cmd) {
		cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // ended below
		cmd.Env, cmd.Dir = env, cwd
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		for end := time.Now().Add(peer.Patience); ; time.Sleep(5 * time.Millisecond) {
			if c, err := open(url); err == nil {
				_ = c.c.Close()
				break
			}
			if time.Now().After(end) {
				b.Fatalf("%s does not answer at %s", name, url)
			}
		}
		return server{name: name, pid: cmd.Process.Pid, cwd: cwd}, cmd
	}
	port := freePort(b)
	towline, _ = start("towline", "ws://"+port, append(peer.Environ(b), "TOWLINE_HOME="+home, "BENCH_KEY=k"),
		peer.Binary(b), "app-server", "--listen", "ws://"+port)
	towline.ws, towline.unix = "ws://"+port, "unix://"+filepath.Join(home, "run", "towline.sock")
	sock := filepath.Join(b.TempDir(), "s")
	codexUnix, _ = start("codex", "unix://"+sock, peer.CodexEnv(b, baseURL, cwd), codex.Bin, "app-server", "--listen", "unix://"+sock)
	codexUnix.unix = "unix://" + sock
	port = freePort(b)
	codexWS, _ = start("codex", "ws://"+port, peer.CodexEnv(b, baseURL, cwd), codex.Bin, "app-server", "--listen", "ws://"+port)
	codexWS.ws = "ws://" + port
	return towline, codexUnix, codexWS
}

// BenchmarkClientsConnect is connecting, initializing and closing, one after the
// other and by eight at once: how many in a second, over Codex. Goal: at least 3.
// One after the other the client and the two wake-ups of each exchange are most of
// the time: a server that only accepts, answers with fixed bytes and closes gets 2.65.
func BenchmarkClientsConnect(b *testing.B) {
	t, cu, cw := servers(b, "")
	rate := func(url string, workers int) float64 {
		const n = 400
		var g errgroup.Group
		start := time.Now()
		for range workers {
			g.Go(func() error {
				for range n / workers {
					c, err := open(url)
					if err != nil {
						return err
					}
					_ = c.c.Close()
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		return n / time.Since(start).Seconds()
	}
	for name, urls := range map[string][2]string{"unix": {t.unix, cu.unix}, "ws": {t.ws, cw.ws}} {
		for _, workers := range []int{1, 8} {
			var ours, theirs []float64
			for range b.N {
				rate(urls[0], workers)
				for range pairs {
					ours, theirs = append(ours, rate(urls[0], workers)), append(theirs, rate(urls[1], workers))
				}
			}
			slices.Sort(ours)
			slices.Sort(theirs)
			by := fmt.Sprintf("%s-%d", name, workers)
			b.ReportMetric(ours[len(ours)/2]/theirs[len(theirs)/2], by+"-ratio")
			b.ReportMetric(ours[len(ours)/2], by+"-towline/s")
			b.ReportMetric(theirs[len(theirs)/2], by+"-codex/s")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkClientsRequest is one small request and its answer. Goals: p50 and p99
// at most 0.6 of Codex's.
func BenchmarkClientsRequest(b *testing.B) {
	t, cu, cw := servers(b, "")
	for name, urls := range map[string][2]string{"unix": {t.unix, cu.unix}, "ws": {t.ws, cw.ws}} {
		var times [2][]time.Duration
		var clients [2]*raw
		for i, url := range urls {
			c, err := open(url)
			if err != nil {
				b.Fatal(err)
			}
			clients[i] = c
		}
		for range b.N {
			for range 20 {
				for i, c := range clients {
					for range 250 {
						start := time.Now()
						c.call(b, "thread/loaded/list", "{}")
						times[i] = append(times[i], time.Since(start))
					}
				}
			}
		}
		for i := range times {
			slices.Sort(times[i])
			_ = clients[i].c.Close()
		}
		at := func(i, percent int) time.Duration { return times[i][len(times[i])*percent/100] }
		b.ReportMetric(float64(at(0, 50))/float64(at(1, 50)), name+"-p50")
		b.ReportMetric(float64(at(0, 99))/float64(at(1, 99)), name+"-p99")
		b.ReportMetric(float64(at(0, 50).Microseconds()), name+"-us")
		b.ReportMetric(float64(at(1, 50).Microseconds()), name+"-codex-us")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkClientsFanOut is one streamed answer to many clients: messages that
// arrive in a second, over Codex. Goal: at least 5.
func BenchmarkClientsFanOut(b *testing.B) {
	for _, n := range []int{1, 20, 200} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			t, _, cw := servers(b, floodOf(b, pieces(n)))
			var ours, theirs []float64
			for range b.N {
				fanOut(b, t.ws, t.cwd, n)
				for range 3 {
					ours, theirs = append(ours, fanOut(b, t.ws, t.cwd, n)), append(theirs, fanOut(b, cw.ws, cw.cwd, n))
				}
			}
			slices.Sort(ours)
			slices.Sort(theirs)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ours[1]/theirs[1], "ratio")
			b.ReportMetric(ours[1], "towline-msg/s")
			b.ReportMetric(theirs[1], "codex-msg/s")
		})
	}
}

// pieces is how many one answer to n clients has: a run takes seconds with either.
func pieces(n int) int { return max(deltas/n, 1000) }

// floodOf is flood with as many pieces.
func floodOf(b *testing.B, pieces int) string {
	b.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, `data: {"type":"response.output_item.added","item":{"type":"message","id":"m","role":"assistant","content":[]}}`+"\n\n")
		for i := range pieces {
			_, _ = fmt.Fprintf(w, "data: {\"type\":\"response.output_text.delta\",\"delta\":\"word%d \"}\n\n", i)
		}
		_, _ = fmt.Fprint(w, `data: {"type":"response.output_item.done","item":{"type":"message","id":"m","role":"assistant","content":[{"type":"output_text","text":"all"}]}}`+"\n\n"+
			`data: {"type":"response.completed","response":{"id":"r"}}`+"\n\n")
	}))
	b.Cleanup(srv.Close)
	return srv.URL + "/v1"
}

// fanOut has n clients on one thread hear one answer to its end, and says how many
// of its pieces arrived in a second.
func fanOut(b *testing.B, url, cwd string, n int) float64 {
	b.Helper()
	clients := make([]*raw, n)
	for i := range clients {
		c, err := open(url)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = c.c.Close() }()
		c.r = bufio.NewReaderSize(c.c, 64<<10)
		clients[i] = c
	}
	var opened struct {
		Result struct {
			Thread struct {
				ID string `json:"id"`
			} `json:"thread"`
		} `json:"result"`
	}
	if err := json.Unmarshal(clients[0].call(b, "thread/start", fmt.Sprintf(`{"cwd":%q,"ephemeral":false}`, cwd)), &opened); err != nil {
		b.Fatal(err)
	}
	id := opened.Result.Thread.ID
	turn := fmt.Sprintf(`{"threadId":%q,"input":[{"type":"text","text":"go"}]}`, id)
	// A thread is resumed by others once it has a turn.
	clients[0].call(b, "turn/start", turn)
	if _, err := clients[0].until(`"method":"turn/completed"`); err != nil {
		b.Fatal(err)
	}
	for _, c := range clients[1:] {
		c.call(b, "thread/resume", fmt.Sprintf(`{"threadId":%q,"excludeTurns":true}`, id))
	}
	heard := make([]int, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := time.Now()
	if err := clients[0].send(`{"id":"go","method":"turn/start","params":` + turn + `}`); err != nil {
		b.Fatal(err)
	}
	for i, c := range clients {
		wg.Go(func() {
			for errs[i] == nil {
				msg, err := c.frame()
				switch {
				case err != nil:
					errs[i] = err
				case bytes.Contains(msg[:min(len(msg), 64)], []byte(`item/agentMessage/delta`)) || bytes.HasSuffix(msg, []byte(`item/agentMessage/delta"}`)):
					heard[i]++
				case bytes.Contains(msg, []byte(`"turn/completed"`)):
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	total := 0
	for i, n := range heard {
		total += n
		if n < pieces(len(clients)) {
			errs = append(errs, fmt.Errorf("client %d heard %d of %d", i, n, pieces(len(clients))))
		}
	}
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return float64(total) / took.Seconds()
}

// BenchmarkClientsMemory is what an initialized client that does nothing costs the
// server, at a thousand. Goal: at most 0.2 of Codex's.
func BenchmarkClientsMemory(b *testing.B) {
	for range b.N {
		t, _, cw := servers(b, "")
		const n = 1000
		cost := func(url string, pid int) float64 {
			var held []*raw
			defer func() {
				for _, c := range held {
					_ = c.c.Close()
				}
			}()
			fill := func(n int) {
				for range n {
					c, err := open(url)
					if err != nil {
						b.Fatal(err)
					}
					held = append(held, c)
				}
			}
			fill(10) // what comes with the first is not theirs
			before := memory(b, pid, "VmRSS:")
			fill(n)
			time.Sleep(3 * time.Second) // buffers of the beginning are given back
			return float64(memory(b, pid, "VmRSS:")-before) / n
		}
		ours, theirs := cost(t.ws, t.pid), cost(cw.ws, cw.pid)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ours/theirs, "ratio")
		b.ReportMetric(ours/1024, "towline-KiB")
		b.ReportMetric(theirs/1024, "codex-KiB")
	}
}
