package bootstrap

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"towline/launcher/remote"
)

//go:embed script/*.sh
var scripts embed.FS

const (
	// maxLine bounds one line of the remote's output, maxNoise all of what is
	// not ours: rc files that print without end are told apart from slow ones.
	maxLine  = 64 << 10
	maxNoise = 4 << 20
	// maxAnswers and maxAnswerBytes bound one script's answers.
	maxAnswers     = 20000
	maxAnswerBytes = 8 << 20
	// endTimeout is how long a command that said its last word may take to end.
	endTimeout = 3 * time.Second
	// lastWordsTimeout is how long reading them may take once it has ended.
	lastWordsTimeout = time.Second
)

var (
	errSilent = errors.New("no answer in time")
	errNoise  = errors.New("the login shell prints without end")
)

// answer is one line a script said.
type answer struct {
	key  string
	text string // printable
	at   time.Time
}

// fields splits the text at spaces into at most n parts, the rest in the last.
func (a answer) fields(n int) []string {
	out := strings.SplitN(a.text, " ", n)
	for len(out) < n {
		out = append(out, "")
	}
	return out
}

// talk is one script at work at the other end of a channel. One goroutine uses
// it; close ends it in any state.
type talk struct {
	p      remote.Process
	r      *bufio.Reader
	mark   []byte
	began  bool     // the script has said hello
	count  int      // of answers
	size   int      // of answers, in bytes
	noise  *excerpt // what else came on standard output
	stderr *excerpt
	o      Options
	server string

	quiet   *time.Timer   // fires when nothing came for too long
	unhook  func() bool   // from the context of start
	mu      sync.Mutex    // guards what follows
	silence time.Duration // that is too long
	why     error         // why the channel was closed from this side

	wg   sync.WaitGroup // the writer of the script, the reader of stderr
	once sync.Once

	heard sync.Once
	ended error         // valid once heard
	said  chan struct{} // closed when standard error has been read to its end
}

// start sends a script, with vars set, for the login shell to have run. What it
// answers is read with next.
func start(ctx context.Context, r Remote, o Options, name string, vars []variable, eo remote.ExecOptions) (*talk, error) {
	nonce := random()
	text, err := compose(name, nonce, o.prelude, vars)
	if err != nil {
		return nil, err
	}
	p, err := r.Exec(ctx, Command, eo)
	if err != nil {
		return nil, refusal(ctx, o, err)
	}
	t := listen(ctx, p, o, nonce)
	if s, ok := r.(interface{ Server() string }); ok {
		t.server = s.Server()
	}
	// A shell that never reads would block the write for ever; the end of the
	// channel ends it.
	t.wg.Go(func() { _, _ = io.WriteString(t.p.Stdin(), text) })
	return t, nil
}

// listen is for the answers of a process to a script with that nonce.
func listen(ctx context.Context, p remote.Process, o Options, nonce string) *talk {
	t := &talk{p: p, mark: []byte(marker(nonce) + " "), noise: &excerpt{}, stderr: &excerpt{}, o: o, silence: o.ShellTimeout, said: make(chan struct{})}
	t.quiet = time.AfterFunc(o.ShellTimeout, func() { t.abort(errSilent) })
	t.unhook = context.AfterFunc(ctx, func() { t.abort(context.Cause(ctx)) })
	t.r = bufio.NewReaderSize(beating{p.Stdout(), t.beat}, 32<<10)
	t.wg.Go(func() {
		defer close(t.said)
		_, _ = io.Copy(t.stderr, beating{p.Stderr(), t.beat})
	})
	return t
}

// variable is set before a script runs. Its value is quoted.
type variable struct{ name, value string }

// compose wraps a script so that the shell reads it whole before it runs any of
// it: what follows on the channel is then not the shell's. The marker is cut in
// two, so that a remote that echoes its input is not mistaken for an answer.
func compose(name, nonce, prelude string, vars []variable) (string, error) {
	lib, err := scripts.ReadFile("script/lib.sh")
	if err != nil {
		return "", err
	}
	body, err := scripts.ReadFile("script/" + name + ".sh")
	if err != nil {
		return "", err
	}
	half := len(nonce) / 2
	var b strings.Builder
	b.WriteString("{\nif [ -n \"${ZSH_VERSION-}\" ]; then emulate sh; fi\n")
	fmt.Fprintf(&b, "tl_m='%s''%s'\n", marker(nonce[:half]), nonce[half:])
	fmt.Fprintf(&b, "tl_k='towline-''%s'\n", random())
	b.Write(strip(lib))
	b.WriteString(prelude)
	for _, v := range vars {
		if strings.ContainsRune(v.value, 0) {
			return "", fmt.Errorf("%s holds a zero byte", v.name)
		}
		if v.name == "" {
			b.WriteString(v.value) // a whole line of script
			continue
		}
		fmt.Fprintf(&b, "%s=%s\n", v.name, shellQuote(v.value))
	}
	b.Write(strip(body))
	b.WriteString("exit 0\n}\n")
	return b.String(), nil
}

// strip leaves out whole lines of comment: they are for us, not for the wire.
func strip(script []byte) []byte {
	var out []byte
	for line := range bytes.Lines(script) {
		if t := bytes.TrimSpace(line); len(t) == 0 || t[0] == '#' {
			continue
		}
		out = append(out, bytes.TrimLeft(line, "\t")...)
	}
	return out
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var bareWord = regexp.MustCompile(`^[A-Za-z0-9_./@%+,:=-]+$`)

// word is text of a remote's as one word of a command that a person is told to
// type here.
func word(s string) string {
	if bareWord.MatchString(s) {
		return s
	}
	return shellQuote(s)
}

func marker(nonce string) string { return "@towline-" + nonce }

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// next is the script's next answer. Whatever else was printed is passed over.
// Errors are *config.Problem.
func (t *talk) next() (answer, error) {
	for {
		line, err := t.line()
		at := t.o.Now()
		// A prompt or banner without an end of line may stand before the marker.
		before, rest, ours := bytes.Cut(line, t.mark)
		if len(before) > 0 {
			_, _ = t.noise.Write(before)
			_, _ = t.noise.Write([]byte("\n"))
		}
		switch {
		case err != nil && t.aborted() == nil && t.noise.len() <= maxNoise:
			return answer{}, t.lost(err)
		case t.noise.len() > maxNoise:
			t.abort(errNoise)
			return answer{}, t.lost(errNoise)
		case err != nil:
			return answer{}, t.lost(t.aborted())
		case !ours:
			continue
		}
		t.size += len(rest)
		if t.count++; t.count > maxAnswers || t.size > maxAnswerBytes {
			t.abort(errNoise)
			return answer{}, t.lost(errNoise)
		}
		if !t.began {
			t.began = true
			t.mu.Lock()
			// The script has deadlines of its own for all it does.
			t.silence += 2*programsFactor*t.o.ItemTimeout + t.o.EnvTimeout
			t.mu.Unlock()
		}
		key, text, _ := strings.Cut(strings.TrimRight(string(rest), "\r\n"), " ")
		return answer{key: printable(key), text: strings.TrimSpace(printable(text)), at: at}, nil
	}
}

// line reads to the end of a line; what exceeds maxLine of it is dropped.
func (t *talk) line() ([]byte, error) {
	var out []byte
	for {
		part, err := t.r.ReadSlice('\n')
		if room := maxLine - len(out); len(part) > room {
			part = part[:max(room, 0)]
		}
		out = append(out, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return out, err
		}
		if t.noise.len()+int64(len(out)) > maxNoise {
			return out, errNoise
		}
		if len(out) >= maxLine {
			_, _ = t.noise.Write(out)
			out = out[:0]
		}
	}
}

// beat says that something came: silence is counted from now.
func (t *talk) beat() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.quiet != nil && t.why == nil {
		t.quiet.Reset(t.silence)
	}
}

// abort closes the channel because of why; the first reason stays.
func (t *talk) abort(why error) {
	t.mu.Lock()
	if t.why == nil {
		t.why = why
	}
	t.mu.Unlock()
	_ = t.p.Close()
}

func (t *talk) aborted() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// free takes the deadlines off: the channel belongs to somebody else now, who
// still must call close. It fails when one of them has struck.
func (t *talk) free() error {
	t.unhook()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.still()
	return t.why
}

// still stops counting silence. The caller holds mu.
func (t *talk) still() {
	if t.quiet != nil {
		t.quiet.Stop()
		t.quiet = nil
	}
}

// status is how the command ended; it is ended if it does not by itself.
func (t *talk) status() error {
	done := make(chan error, 1)
	go func() { done <- t.p.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(endTimeout):
		_ = t.p.Close()
		return <-done
	}
}

// hearOut waits for the command to end, for a while, and notes how it did. That
// its last words have come does not mean that they have been read.
func (t *talk) hearOut() {
	t.heard.Do(func() {
		t.ended = t.status()
		late := time.NewTimer(lastWordsTimeout)
		defer late.Stop()
		select {
		case <-t.said:
		case <-late.C: // something it started goes on, with the same standard error
		}
	})
}

// close ends the channel and waits for what start began. Idempotent.
func (t *talk) close() {
	t.once.Do(func() {
		t.unhook()
		t.mu.Lock()
		t.still()
		t.mu.Unlock()
		_ = t.p.Close()
		t.wg.Wait()
	})
}

// beating is a Reader that tells when something came.
type beating struct {
	io.Reader
	beat func()
}

func (b beating) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if n > 0 {
		b.beat()
	}
	return n, err
}
