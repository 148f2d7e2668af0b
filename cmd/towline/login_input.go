package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"towline/config"
)

// maxInput bounds what is read of a key, a token or a line: more is none.
const maxInput = 64 << 10

// askSecret asks a person on a terminal, without showing what is typed. An
// interrupt, Ctrl-D included, leaves the terminal as it was. Nothing else may write
// to the terminal meanwhile.
func askSecret(ctx context.Context, in, out *os.File, prompt string) (string, error) {
	fd := int(in.Fd())
	was, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer fmt.Fprintln(out) // after the terminal is itself again
	defer func() { _ = term.Restore(fd, was) }()
	type typed struct {
		text string
		err  error
	}
	got := make(chan typed, 1)
	go func() { // ends with the process when nobody presses Enter
		text, err := term.NewTerminal(onTerminal{in, out}, "").ReadPassword(prompt)
		got <- typed{text, err}
	}()
	select {
	case t := <-got:
		if errors.Is(t.err, io.EOF) { // Ctrl-C and Ctrl-D are keys here
			return "", &config.Problem{
				Stage: "login", Err: errors.New("interrupted: nothing was entered"), Exit: config.ExitInterrupted,
			}
		}
		return strings.TrimSpace(t.text), t.err
	case <-ctx.Done():
		return "", interrupted(ctx)
	}
}

// hiddenLine reads a line from a terminal that others write to, without showing
// what is typed.
func hiddenLine(ctx context.Context, in *os.File) (string, error) {
	fd := int(in.Fd())
	was, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	type typed struct {
		text []byte
		err  error
	}
	got := make(chan typed, 1)
	go func() { // ends with the process when nobody presses Enter
		text, err := term.ReadPassword(fd)
		got <- typed{text, err}
	}()
	select {
	case t := <-got:
		return strings.TrimSpace(string(t.text)), t.err
	case <-ctx.Done():
		_ = term.Restore(fd, was)
		return "", interrupted(ctx)
	}
}

// onTerminal reads from one end of a terminal and writes to the other.
type onTerminal struct {
	io.Reader
	io.Writer
}

// readSecret reads a pipe to its end.
func readSecret(ctx context.Context, in io.Reader) (string, error) {
	type piped struct {
		text []byte
		err  error
	}
	got := make(chan piped, 1)
	go func() { // ends with the pipe, or the process
		text, err := io.ReadAll(io.LimitReader(in, maxInput+1))
		got <- piped{text, err}
	}()
	select {
	case p := <-got:
		if len(p.text) > maxInput {
			p.err = &config.Problem{Stage: "login", Err: fmt.Errorf("standard input holds more than %d bytes; that is no key or token", maxInput), Exit: config.ExitUsage}
		}
		return strings.TrimSpace(string(p.text)), p.err
	case <-ctx.Done():
		return "", interrupted(ctx)
	}
}

// inputLines delivers the lines of in until it ends, and then closes. Lines that are
// too long are dropped.
func inputLines(ctx context.Context, in io.Reader) <-chan string {
	lines := make(chan string)
	go func() { // ends with the input, or the process
		defer close(lines)
		r := bufio.NewReaderSize(in, maxInput)
		for {
			line, err := r.ReadSlice('\n')
			text := strings.TrimSpace(string(line))
			for errors.Is(err, bufio.ErrBufferFull) {
				text = ""
				_, err = r.ReadSlice('\n')
			}
			if text != "" {
				select {
				case lines <- text:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}

// interrupted is how a command ends that was told to.
func interrupted(ctx context.Context) error {
	return &config.Problem{Stage: "login", Err: fmt.Errorf("interrupted: %w", context.Cause(ctx)), Exit: config.ExitInterrupted}
}

// upperFirst begins a sentence.
func upperFirst(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
