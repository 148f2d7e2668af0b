//go:build unix

package transport

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"towline/appserver/rpc"
)

// eachCodex runs f with every real codex there is and an environment for it.
func eachCodex(t *testing.T, f func(t *testing.T, bin string, env []string)) {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		lacking(t, "the real codex: set TOWLINE_TEST_CODEX to its binaries, separated by colons")
	}
	for bin := range strings.SplitSeq(list, ":") {
		t.Run(regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(bin), func(t *testing.T) {
			home := t.TempDir()
			codexHome := filepath.Join(home, ".codex")
			conf := "check_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n"
			if err := errors.Join(os.Mkdir(codexHome, 0o700), os.WriteFile(filepath.Join(codexHome, "config.toml"), []byte(conf), 0o600)); err != nil {
				t.Fatal(err)
			}
			f(t, bin, []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + codexHome, "TMPDIR=" + t.TempDir(),
				"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
			})
		})
	}
}

// start runs a codex command until the test ends.
func start(t *testing.T, env []string, bin string, args ...string) (cmd *exec.Cmd, in io.WriteCloser, out, errs io.Reader) {
	t.Helper()
	cmd = exec.Command(bin, args...)
	cmd.Env = env
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	errs, err3 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, in, out, errs
}

func initialize(t *testing.T, s rpc.Stream) {
	t.Helper()
	got := roundTrip(t, s, `{"id":1,"method":"initialize","params":{"clientInfo":{"name":"test","version":"1"}}}`)
	if !strings.Contains(got, `"userAgent":"test/`) {
		t.Fatalf("initialize: %s", got)
	}
}

func TestDialsTheRealCodexOnBothSockets(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string, env []string) {
		t.Run("ws", func(t *testing.T) {
			_, _, _, errs := start(t, env, bin, "app-server", "--listen", "ws://127.0.0.1:0")
			var url string
			for sc := bufio.NewScanner(errs); url == "" && sc.Scan(); {
				url = regexp.MustCompile(`ws://127\.0\.0\.1:\d+`).FindString(sc.Text())
			}
			go func() { _, _ = io.Copy(io.Discard, errs) }() // ends with the process
			initialize(t, dial(t, url))
		})
		t.Run("unix", func(t *testing.T) {
			// Too long a path for the kernel: Codex leaves a link there, as we do.
			path := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20), "sock")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil { // Codex makes one level only
				t.Fatal(err)
			}
			start(t, env, bin, "app-server", "--listen", "unix://"+path)
			var s rpc.Stream
			for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
				var err error
				if s, err = Dial(t.Context(), "unix://"+path); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() { _ = s.Close(nil) })
			initialize(t, s)
			// Codex resets a connection that sends a frame beyond 16 MiB.
			big, err := json.Marshal(map[string]any{"id": "big", "method": "thread/read", "params": map[string]any{
				"threadId": "x", "unknown": strings.Repeat("x", 17<<20),
			}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := s.Write(ctx, big); err != nil {
				t.Fatal(err)
			}
			for {
				msg, err := s.Read(ctx)
				if err != nil {
					t.Fatalf("the large message ended the connection: %v", err)
				}
				if strings.Contains(string(msg), `"big"`) {
					return
				}
			}
		})
	})
}

// codex app-server proxy carries bytes between its standard streams and a
// socket: through it, our listener must look like Codex's.
func TestRealCodexProxyReachesOurSocket(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string, env []string) {
		for name, dir := range map[string]string{"short": shortDir(t), "long": filepath.Join(shortDir(t), strings.Repeat("deep/", 30))} {
			t.Run(name, func(t *testing.T) {
				l := open(t, "unix://"+filepath.Join(dir, "s", "sock"), Options{}, echo)
				_, in, out, _ := start(t, env, bin, "app-server", "proxy", "--sock", strings.TrimPrefix(l.URL(), "unix://"))
				if _, err := io.WriteString(in, upgrade("localhost")); err != nil {
					t.Fatal(err)
				}
				r := bufio.NewReader(out)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
					t.Fatalf("%+v", resp)
				}
				// One masked text frame "hi" with the mask zero, and its echo unmasked.
				if _, err := in.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 4)
				if _, err := io.ReadFull(r, got); err != nil || string(got) != "\x81\x02hi" {
					t.Errorf("% x, %v", got, err)
				}
			})
		}
	})
}

// Codex in our way is a live server like any other, and we are one to it.
func TestRealCodexAndWeDoNotTakeEachOthersSocket(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string, env []string) {
		l := open(t, socketURL(t), Options{}, echo)
		out, err := func() ([]byte, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin, "app-server", "--listen", l.URL())
			cmd.Env = env
			return cmd.CombinedOutput()
		}()
		if err == nil || !strings.Contains(string(out), "already in use") {
			t.Errorf("%v: %s", err, out)
		}
		roundTrip(t, dial(t, l.URL()), "1")

		path := filepath.Join(shortDir(t), "d", "theirs")
		start(t, env, bin, "app-server", "--listen", "unix://"+path)
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			if s, err := Dial(t.Context(), "unix://"+path); err == nil {
				_ = s.Close(nil)
				break
			} else if time.Now().After(end) {
				t.Fatal(err)
			}
		}
		if _, err := Listen(t.Context(), "unix://"+path, Options{}); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("Listen = %v", err)
		}
	})
}
