package tui

import (
	"bufio"
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/windows"
)

// lookEvery is how soon a wait for the console notices that nobody wants the
// answer any more.
const lookEvery = 100 * time.Millisecond

// console is the console this process was started from.
type console struct{ in, out *os.File }

func openTerminal() (PlainTerminal, error) {
	in, err := os.OpenFile("CONIN$", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile("CONOUT$", os.O_RDWR, 0)
	if err != nil {
		_ = in.Close() // it was not used
		return nil, err
	}
	return console{in, out}, nil
}

func (c console) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c console) Close() error {
	_ = c.out.Close() // everything was written
	return c.in.Close()
}

// ReadLine implements PlainTerminal. Once a key was pressed it waits for the
// rest of the line: a console read cannot be interrupted.
func (c console) ReadLine(ctx context.Context, echo bool) (string, error) {
	h := windows.Handle(c.in.Fd())
	var was uint32
	if err := windows.GetConsoleMode(h, &was); err != nil {
		return "", err
	}
	mode := was | windows.ENABLE_LINE_INPUT | windows.ENABLE_PROCESSED_INPUT | windows.ENABLE_ECHO_INPUT
	if !echo {
		mode &^= windows.ENABLE_ECHO_INPUT
	}
	if err := windows.SetConsoleMode(h, mode); err != nil {
		return "", err
	}
	defer func() { _ = windows.SetConsoleMode(h, was) }() // as it was, or nothing helps
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if ev, err := windows.WaitForSingleObject(h, uint32(lookEvery.Milliseconds())); err != nil {
			return "", err
		} else if ev == windows.WAIT_OBJECT_0 {
			break
		}
	}
	s, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil && s == "" {
		return "", err
	}
	return strings.TrimRight(s, "\r\n"), nil
}
