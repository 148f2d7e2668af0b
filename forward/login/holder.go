package login

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"towline/config"
)

// Holder is the process that listens on a port of this machine, as far as it can
// be seen. The zero Holder is one that cannot be seen at all.
type Holder struct {
	PID     int    // 0 when unknown
	Program string // its name; "" when unknown
	User    string // whose it is; "" when unknown
	Mine    bool   // it is a process of this user's
	Args    []string

	self    bool // it runs this very program
	guessed bool // it hides its files, and is only likely to be it
}

// String names it for a line: "codex (pid 812, user ana)".
func (h Holder) String() string {
	name := config.OneLine(h.Program)
	if name == "" {
		name = "another program"
	}
	var more []string
	if h.PID > 0 {
		more = append(more, "pid "+strconv.Itoa(h.PID))
	}
	if h.User != "" {
		more = append(more, "user "+config.OneLine(h.User))
	}
	if len(more) == 0 {
		return name
	}
	return name + " (" + strings.Join(more, ", ") + ")"
}

// host is the host that h, another `towline login HOST`, logs in; "" when h is
// none, or logs this machine in.
func (h Holder) host() string {
	args := h.Args
	if len(args) < 3 || args[1] != "login" {
		return ""
	}
	for i := 2; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-F" || a == "--transport" || a == "--ssh-config":
			i++
		case strings.HasPrefix(a, "-"):
		default:
			return config.OneLine(a)
		}
	}
	return ""
}

// isLogin reports whether it is a login by what it is called.
func (h Holder) isLogin() bool {
	return h.ours() || isCodex(h.Program)
}

// ours reports whether it is another `towline login`.
func (h Holder) ours() bool {
	name := strings.TrimSuffix(filepath.Base(h.Program), ".exe")
	return (h.self || name == "towline") && len(h.Args) > 1 && h.Args[1] == "login"
}

// isCodex knows Codex's program by its name, with or without the platform it was
// built for.
func isCodex(program string) bool {
	name := strings.TrimSuffix(filepath.Base(program), ".exe")
	return name == "codex" || strings.HasPrefix(name, "codex-") && strings.Count(name, "-") >= 3
}

// FindHolder says who listens on a port of this machine's loopback. It takes
// milliseconds, bounded by ctx; what cannot be seen stays empty.
func FindHolder(ctx context.Context, port int) Holder {
	ctx, cancel := context.WithTimeout(ctx, 2*probeWait)
	defer cancel()
	h := findHolder(ctx, port)
	if h.guessed && isCodex(h.Program) && ask(ctx, port) != aLogin {
		h = Holder{User: h.User, Mine: h.Mine} // a Codex that does something else
	}
	return h
}

// answers are what may be at a port.
type answer int

const (
	silent  answer = iota // nothing came in time
	hungUp                // it closed the connection without a word
	foreign               // something else
	aLogin                // a login of Codex's or Towline's
)

// ask looks at what answers at a port of this machine, with one harmless request.
func ask(ctx context.Context, port int) answer {
	resp, err := get(ctx, port, "/towline")
	if err == nil {
		_ = resp.Body.Close()
	}
	return answered(resp, err)
}

// answered is what an answer to that says of who gave it: Codex's server names
// itself, and Towline's sends these two headers with whatever it says.
func answered(resp *http.Response, err error) answer {
	var ne net.Error
	switch {
	case err == nil && resp.StatusCode == http.StatusNotFound && (strings.HasPrefix(resp.Header.Get("Server"), "tiny-http") ||
		resp.Header.Get("Cache-Control") == "no-store" && resp.Header.Get("Referrer-Policy") == "no-referrer"):
		return aLogin
	case err == nil:
		return foreign
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return silent
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
		return hungUp
	}
	return foreign
}

// cancelText is what a login answers one that takes its port over.
const cancelText = "Login cancelled"

// cancel asks a login of this machine to end, as a login that wants its port does,
// and reports whether it agreed.
func cancel(ctx context.Context, port int) bool {
	resp, err := get(ctx, port, "/cancel")
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }() // read-only
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode == http.StatusOK && strings.Contains(string(body), cancelText)
}

// get is one request on a connection of its own, which the answer's body owns.
func get(ctx context.Context, port int, target string) (*http.Response, error) {
	ctx, stop := context.WithTimeout(ctx, probeWait)
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		stop()
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	unhook := context.AfterFunc(ctx, func() { _ = c.Close() })
	end := func() { unhook(); stop(); _ = c.Close() }
	resp, err := exchange(c, port, target)
	if err != nil {
		end()
		return nil, err
	}
	resp.Body = bodyOf{resp.Body, end}
	return resp, nil
}

// bodyOf is an answer's body that takes its connection along.
type bodyOf struct {
	io.ReadCloser
	end func()
}

func (b bodyOf) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// maxHead bounds the head of an answer, and what of its body is read.
const maxHead = 64 << 10

// exchange asks over an open connection, and reads the answer's head.
func exchange(c io.ReadWriter, port int, target string) (*http.Response, error) {
	req := "GET " + target + " HTTP/1.1\r\nHost: " + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(c, req); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(io.LimitReader(c, maxHead)), &http.Request{Method: http.MethodGet})
}

// parseLsof reads `lsof -F pcLu` about one port: one field a line, known by its
// first letter, those of a process after its p.
func parseLsof(out string, uid int) Holder {
	var h Holder
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		switch value := line[1:]; line[0] {
		case 'p':
			if h.PID != 0 {
				return h // the first will do
			}
			if n, err := strconv.Atoi(value); err == nil && n > 0 {
				h.PID = n
			}
		case 'c':
			h.Program = config.OneLine(value)
		case 'L':
			h.User = config.OneLine(value)
		case 'u':
			h.Mine = value == strconv.Itoa(uid)
		}
	}
	return h
}

// parseNetstat finds the process that listens on a port in the output of
// Windows' `netstat -ano -p TCP`: protocol, local, foreign, state, process.
func parseNetstat(out string, port int) (pid int) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "TCP" || !strings.HasSuffix(f[1], fmt.Sprintf(":%d", port)) || !strings.HasSuffix(f[2], ":0") {
			continue
		}
		if n, err := strconv.Atoi(f[4]); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// parseTasklist gives the program and user of the one line of Windows' `tasklist
// /V /NH /FO CSV`: name, id, session, its number, memory, state, user, ….
func parseTasklist(out string) (program, user string) {
	rec, err := csv.NewReader(strings.NewReader(out)).Read()
	if err != nil || len(rec) < 2 {
		return "", ""
	}
	if _, err := strconv.Atoi(rec[1]); err != nil {
		return "", "" // a sentence that there is none
	}
	if len(rec) > 6 && rec[6] != "N/A" {
		user = config.OneLine(rec[6])
	}
	return config.OneLine(rec[0]), user
}
