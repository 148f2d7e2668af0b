package native_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/coder/websocket"
	"github.com/creack/pty"

	"towline/appserver/rpc"
)

// listen serves the engine over WebSocket on loopback, without the gate, and
// returns the ws:// address a stock client takes. Everything it says is checked.
func (h *host) listen() string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		down := rpc.NewWebSocket(ws)
		up, err := h.eng.Connect(r.Context())
		if err != nil {
			_ = down.Close(err)
			return
		}
		carry(r, down, record(h.t, up))
	}))
	h.t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http")
}

// carry copies messages both ways until either end leaves.
func carry(r *http.Request, a, b rpc.Stream) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pump(r, a, b)
		_ = b.Close(rpc.ErrClosed)
	}()
	pump(r, b, a)
	_ = a.Close(rpc.ErrClosed)
	<-done
}

func pump(r *http.Request, from, to rpc.Stream) {
	for {
		msg, err := from.Read(r.Context())
		if err != nil {
			return
		}
		if to.Write(r.Context(), msg) != nil {
			return
		}
	}
}

// screen is a stock client in a terminal of its own.
type screen struct {
	t   *testing.T
	tty *os.File
	mu  sync.Mutex
	vt  *vt.Emulator
	new chan struct{} // capacity 1: something was drawn
}

// show starts codex with args in a terminal and follows what it draws.
func show(t *testing.T, bin, cwd string, args ...string) *screen {
	t.Helper()
	home := t.TempDir()
	config := fmt.Sprintf("check_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n"+
		"[tui]\nscreen_reader_detection_done = true\n[projects.%q]\ntrust_level = \"trusted\"\n", cwd)
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = cwd
	cmd.Env = []string{"CODEX_HOME=" + home, "HOME=" + home, "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "LANG=C.UTF-8", "TMPDIR=" + t.TempDir()}
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 110})
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, tty: tty, vt: vt.NewEmulator(110, 40), new: make(chan struct{}, 1)}
	var work sync.WaitGroup
	work.Go(s.draw)
	work.Go(func() { // what the terminal answers to questions about itself
		buf := make([]byte, 1024)
		for {
			n, err := s.vt.Read(buf)
			if err != nil {
				return
			}
			if _, err := tty.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		_ = tty.Close()
		// Emulator.Close is not safe next to a Read, closing its pipe is.
		_ = s.vt.InputPipe().(io.Closer).Close()
		work.Wait()
	})
	return s
}

func (s *screen) draw() {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.tty.Read(buf)
		if n > 0 {
			s.mu.Lock()
			_, _ = s.vt.Write(buf[:n])
			s.mu.Unlock()
			select {
			case s.new <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vt.String()
}

// see waits until text is on the screen.
func (s *screen) see(text string) {
	s.t.Helper()
	late := time.After(patience)
	for !strings.Contains(s.text(), text) {
		select {
		case <-s.new:
		case <-late:
			s.t.Fatalf("%q does not appear on\n%s", text, s.text())
		}
	}
}

// keys types; a line is given to the composer before its Enter, because the
// client takes what comes in one piece for a paste.
func (s *screen) keys(text string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) say(line string) {
	s.t.Helper()
	s.keys(line)
	s.see("› " + line)
	time.Sleep(150 * time.Millisecond) // the client's own guard against pasted newlines
	s.keys("\r")
}

func TestTheStockClient(t *testing.T) {
	for _, schema := range needSchemas(t) {
		t.Run(schema.version, func(t *testing.T) {
			t.Parallel()
			h := start(t, nil)
			url := h.listen()
			s := show(t, schema.bin, h.cwd, "--remote", url)
			s.see("Ask Codex to do anything")
			s.say("hello")
			s.see("Rehearsal model · Hello!")
			s.see("Worked for")

			s.say("show me around")
			s.see("Would you like to run the following command?")
			s.keys("y")
			s.see("That was the tour")
			if _, err := os.Stat(filepath.Join(h.cwd, "towline-tour.md")); err != nil {
				t.Error(err)
			}

			s.say("create hello.go")
			s.see("Added hello.go (+8 -0)")

			s.say("slow")
			s.see("This answer comes slowly")
			s.keys("\x1b")
			s.see("Conversation interrupted")

			s.say("/new")
			c := h.connect()
			s.say("hello again")
			s.see("Rehearsal model · Hello!")
			// A second window on the first thread shows what was said there.
			var list struct {
				Data []struct{ ID, Preview string }
			}
			c.read(c.call("thread/list", map[string]any{"sortDirection": "asc"}), &list)
			if len(list.Data) == 0 || list.Data[0].Preview != "hello" {
				t.Fatalf("threads = %+v", list)
			}
			again := show(t, schema.bin, h.cwd, "resume", list.Data[0].ID, "--remote", url)
			again.see("Conversation interrupted")
			again.say("/compact")
			again.see("Context compacted")
		})
	}
}
