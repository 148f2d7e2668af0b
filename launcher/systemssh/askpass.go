package systemssh

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// The way of a question: ssh runs SSH_ASKPASS, a link to this program, with the
// prompt as its argument. That process connects to the socket the environment
// names, and one JSON object goes each way, a line each:
//
//	-> {"token":…, "prompt":…, "hint":…, "parent":…}   hint: $SSH_ASKPASS_PROMPT, parent: ssh's process id
//	<- {"answer":…, "ok":true}
//
// The answer goes to ssh on standard output. The socket lies in a folder of mode
// 0700 and is gone, with the token, when the login is over.

// AskpassCommand is the hidden command ssh's questions arrive with.
const AskpassCommand = "__askpass"

const (
	askpassName   = "towline-askpass" // what ssh is told to run
	askpassSocket = "TOWLINE_ASKPASS_SOCKET"
	askpassToken  = "TOWLINE_ASKPASS_TOKEN" // the name of it; not a secret
	askpassHint   = "SSH_ASKPASS_PROMPT"

	maxPrompt = 64 << 10 // bytes of a question or an answer
)

// AskpassArgs turns the command line ssh starts this program with, to ask a
// question, into that of [AskpassCommand]. Others it returns as they are.
func AskpassArgs(args []string) []string {
	if len(args) == 0 || strings.TrimSuffix(filepath.Base(args[0]), ".exe") != askpassName {
		return args
	}
	return []string{args[0], AskpassCommand, "--", strings.Join(args[1:], " ")}
}

type askRequest struct {
	Token  string `json:"token"`
	Prompt string `json:"prompt"`
	Hint   string `json:"hint,omitempty"`
	Parent int    `json:"parent"`
}

type askReply struct {
	Answer string `json:"answer"`
	OK     bool   `json:"ok"`
}

// Askpass is the other end of [Dial]'s questions: it hands ssh's prompt to the
// program that runs ssh, and writes the answer to stdout for ssh to read. It
// returns the process's exit status.
func Askpass(prompt string) int {
	c, err := net.DialTimeout("unix", os.Getenv(askpassSocket), 10*time.Second)
	if err != nil {
		return 1
	}
	defer c.Close()
	reply, err := ask(c, askRequest{
		Token: os.Getenv(askpassToken), Prompt: prompt, Hint: os.Getenv(askpassHint), Parent: os.Getppid(),
	})
	if err != nil || !reply.OK {
		return 1
	}
	if _, err := fmt.Println(reply.Answer); err != nil {
		return 1
	}
	return 0
}

func ask(c io.ReadWriter, q askRequest) (askReply, error) {
	var reply askReply
	if err := json.NewEncoder(c).Encode(q); err != nil {
		return reply, err
	}
	return reply, readLine(c, &reply)
}

// readLine reads one JSON object of bounded size.
func readLine(r io.Reader, v any) error {
	line, err := bufio.NewReader(io.LimitReader(r, maxPrompt)).ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

// question is a prompt that waits for its answer.
type question struct {
	ctx    context.Context // ends when ssh no longer wants to know; it is the question's life
	text   string
	hint   string
	parent int           // which ssh asks: several run when there are jump hosts
	reply  chan askReply // takes one
}

// asking receives ssh's questions during one login.
type asking struct {
	path, token string
	program     string // for SSH_ASKPASS
	questions   chan question

	l      net.Listener
	ctx    context.Context // until close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// newAsking listens in dir, which is private.
func newAsking(dir, self string) (*asking, error) {
	program, err := askpassProgram(dir, self)
	if err != nil {
		return nil, err
	}
	a := &asking{path: filepath.Join(dir, "a"), token: rand.Text(), program: program, questions: make(chan question)}
	if a.l, err = net.Listen("unix", a.path); err != nil {
		return nil, err
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.wg.Go(a.serve)
	return a, nil
}

// askpassProgram gives self a name that says what it is run for: SSH_ASKPASS
// takes no arguments, and an environment variable would also reach whatever else
// ssh runs. A symbolic link works where scripts may not be executed.
func askpassProgram(dir, self string) (string, error) {
	link := filepath.Join(dir, askpassName)
	if runtime.GOOS != "windows" {
		return link, os.Symlink(self, link)
	}
	link += ".exe"
	if os.Link(self, link) == nil { // a symbolic link would need a privilege
		return link, nil
	}
	from, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.OpenFile(link, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return link, errors.Join(err, to.Close())
}

// environ is what ssh needs in its environment to ask.
func (a *asking) environ() []string {
	return []string{
		"SSH_ASKPASS=" + a.program, "SSH_ASKPASS_REQUIRE=force",
		askpassSocket + "=" + a.path, askpassToken + "=" + a.token,
	}
}

// close ends what is being asked, and asking. Idempotent.
func (a *asking) close() {
	a.cancel()
	_ = a.l.Close()
	a.wg.Wait()
}

// serve takes one question after the other: ssh asks one at a time.
func (a *asking) serve() {
	for {
		c, err := a.l.Accept()
		if err != nil {
			return
		}
		a.handle(c)
		_ = c.Close()
	}
}

func (a *asking) handle(c net.Conn) {
	stop := context.AfterFunc(a.ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var r askRequest
	if readLine(c, &r) != nil || subtle.ConstantTimeCompare([]byte(r.Token), []byte(a.token)) != 1 {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	// Nothing more is written to us: the read returns when the process is gone.
	a.wg.Go(func() { _, _ = c.Read(make([]byte, 1)); cancel() })
	q := question{ctx: ctx, text: r.Prompt, hint: r.Hint, parent: r.Parent, reply: make(chan askReply, 1)}
	select {
	case a.questions <- q:
	case <-ctx.Done():
		return
	}
	select {
	case reply := <-q.reply:
		_ = json.NewEncoder(c).Encode(reply)
	case <-ctx.Done():
	}
}
