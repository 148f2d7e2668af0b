package sshfwd

import (
	"bufio"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"towline/config"
)

// shell is what is sent to the login shell: an absolute path and an option, on
// which all of them agree. The script comes on its standard input.
const shell = "/bin/sh -s"

// carry is the script; its comment says what it does.
//
//go:embed carry.sh
var carry string

const (
	// maxNoise bounds what a login shell's start files may print before the
	// script's answer, in bytes, and maxSaid what is kept of standard error.
	maxNoise = 256 << 10
	maxSaid  = 1 << 10
	// startTimeout is how long a login shell may take until the script answers,
	// when the caller does not say.
	startTimeout = 30 * time.Second
)

// Script is something for the host's /bin/sh to do. Its one answer is a line that
// begins with $tl_m and then "go" and what it has to say, or "no" and why not.
type Script struct {
	Body string            // plain POSIX sh
	Vars map[string]string // set before it runs, by name
}

// compose makes the script one compound command: the shell reads it whole before
// it runs any of it, and the channel is the program's then. The marker is cut in
// two, so that a remote that echoes its input is not taken for an answer.
func (sc Script) compose(nonce string) string {
	var b strings.Builder
	b.WriteString("{\nif [ -n \"${ZSH_VERSION-}\" ]; then emulate sh; fi\n")
	fmt.Fprintf(&b, "tl_m='@towline-%s''%s'\n", nonce[:8], nonce[8:])
	for _, name := range slices.Sorted(maps.Keys(sc.Vars)) {
		fmt.Fprintf(&b, "%s=%s\n", name, quote(sc.Vars[name]))
	}
	for line := range strings.Lines(sc.Body) {
		if t := strings.TrimSpace(line); t != "" && t[0] != '#' {
			b.WriteString(line)
		}
	}
	b.WriteString("exit 0\n}\n")
	return b.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// there asks which of the commands the host has.
func (c *Carrier) there(ctx context.Context) ([]Way, error) {
	s, answer, err := c.start(ctx, "which")
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // it has said all
	var out []Way
	for _, w := range commands {
		if slices.Contains(strings.Fields(answer), string(w)) && (w != Towline || c.o.Towline != "") {
			out = append(out, w)
		}
	}
	return out, nil
}

// run opens a connection through a command.
func (c *Carrier) run(ctx context.Context, w Way) (Conn, error) {
	s, _, err := c.start(ctx, string(w))
	if err != nil {
		return nil, err // not a typed nil
	}
	return s, nil
}

// start runs the script and waits for its answer; what follows on the channel is
// the program's.
func (c *Carrier) start(ctx context.Context, do string) (*stream, string, error) {
	return start(ctx, c.host, carrying(do, c.port, c.o))
}

// carrying is carry.sh with what it is to do.
func carrying(do string, port int, o Options) Script {
	return Script{carry, map[string]string{"tl_do": do, "tl_bin": o.Towline, "tl_port": strconv.Itoa(port), "tl_only": o.path}}
}

// Ask runs a script on the host and gives its answer, which is the host's words and
// not yet fit to be shown. It ends what the script left running.
func Ask(ctx context.Context, h Host, sc Script) (string, error) {
	s, answer, err := start(ctx, h, sc)
	if err != nil {
		return "", err
	}
	return answer, s.Close()
}

func start(ctx context.Context, h Host, sc Script) (*stream, string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("the login shell did not answer in time"))
	defer cancel()
	p, err := h.Exec(ctx, shell)
	if err != nil {
		return nil, "", err
	}
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	nonce := hex.EncodeToString(raw[:])
	s := &stream{p: p, r: bufio.NewReaderSize(p.Stdout(), 32<<10)}
	s.wg.Go(func() { s.listen(p.Stderr()) })
	// A shell that never reads would block the write for ever; the end of the
	// channel ends it.
	s.wg.Go(func() { _, _ = io.WriteString(p.Stdin(), sc.compose(nonce)) })
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	answer, err := s.answer("@towline-" + nonce + " ")
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = s.Close()
		if said := s.complaint(); said != "" && ctx.Err() == nil {
			err = fmt.Errorf("%w (%s)", err, said)
		}
		return nil, "", err
	}
	return s, answer, nil
}

// stream is a command whose standard streams are a connection.
type stream struct {
	p    Process
	r    *bufio.Reader
	once sync.Once
	wg   sync.WaitGroup

	mu   sync.Mutex // guards said
	said []byte
}

// answer reads up to the script's own line. What start files printed before it
// is passed over.
func (s *stream) answer(mark string) (string, error) {
	for n := 0; n < maxNoise; {
		line, err := s.r.ReadSlice('\n')
		n += len(line)
		if _, rest, ok := strings.Cut(string(line), mark); ok && err == nil {
			what, text, _ := strings.Cut(strings.TrimSpace(rest), " ")
			if what == "no" {
				return "", errors.New(config.OneLine(text))
			}
			return text, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", errors.New("the login shell did not run the script")
		}
	}
	return "", errors.New("the login shell prints without end")
}

// listen keeps the beginning of what is said on standard error.
func (s *stream) listen(r io.Reader) {
	buf := make([]byte, 1<<10)
	for {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.said = append(s.said, buf[:min(n, maxSaid-len(s.said))]...)
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// complaint is what was said there, on one line.
func (s *stream) complaint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return config.OneLine(string(s.said))
}

func (s *stream) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s *stream) Write(p []byte) (int, error) { return s.p.Stdin().Write(p) }

// CloseWrite is the end of the command's input.
func (s *stream) CloseWrite() error { return s.p.Stdin().Close() }

func (s *stream) Close() error {
	s.once.Do(func() { _ = s.p.Close() }) // how a command ended that was cut off says nothing
	s.wg.Wait()
	return nil
}

// Hold occupies a port of the host's loopback until release is called: what
// comes there is hung up on at once. It takes towline, python3 or perl there.
func Hold(ctx context.Context, h Host, port int, o Options) (release func(), err error) {
	if port < 1 || port > 65535 {
		return nil, errors.New(strconv.Itoa(port) + " is no port")
	}
	s, _, err := start(ctx, h, carrying("hold", port, o))
	if err != nil {
		return nil, err
	}
	return func() { _ = s.CloseWrite(); _ = s.Close() }, nil
}
