package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestInputKeepsEveryByteInOrder(t *testing.T) {
	sent := make([]byte, 5*chunk+17)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	eofs := 0
	in := newInput("", func() { eofs++ })
	go in.pump(bytes.NewReader(sent))
	got, err := io.ReadAll(iotest.OneByteReader(in))
	if err != nil || !bytes.Equal(got, sent) || eofs != 1 {
		t.Errorf("%d of %d bytes, %v, %d ends", len(got), len(sent), err, eofs)
	}
	if n, err := in.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) || eofs != 1 {
		t.Errorf("after the end: %d, %v, told %d times", n, err, eofs)
	}
}

func TestInputStopsAtAKey(t *testing.T) {
	in := newInput("\x03\x04", func() {})
	go in.pump(strings.NewReader("abc\x04def"))
	if got, err := io.ReadAll(in); string(got) != "abc" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestInputCloseFreesBothEnds(t *testing.T) {
	r, w := io.Pipe()
	in := newInput("", func() { t.Error("a closed input is not one that ended") })
	pumped := make(chan struct{})
	go func() { defer close(pumped); in.pump(r) }()
	if _, err := w.Write([]byte("unread")); err != nil { // the pump now waits for a reader
		t.Fatal(err)
	}
	in.Close()
	in.Close()
	<-pumped
	if n, err := in.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read after Close: %d, %v", n, err)
	}
}

func TestOutputCloseFreesAWriteNobodyReads(t *testing.T) {
	r, w := io.Pipe()
	out := newOutput(w, false)
	ran := make(chan struct{})
	go func() { defer close(ran); out.run() }()
	wrote := make(chan error, 1)
	p := []byte("hello")
	go func() { _, err := out.Write(p); wrote <- err }()
	buf := make([]byte, 1)
	if _, err := io.ReadFull(r, buf); err != nil { // the write is under way
		t.Fatal(err)
	}
	out.Close()
	if err := <-wrote; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write ended with %v", err)
	}
	p[1] = 'X' // the caller's again, while the writer still holds a copy
	rest := make([]byte, 4)
	if _, err := io.ReadFull(r, rest); err != nil || string(rest) != "ello" {
		t.Errorf("then %q, %v", rest, err)
	}
	<-ran
}

func TestOutputIsATerminals(t *testing.T) {
	var b bytes.Buffer
	out := newOutput(&b, true)
	go out.run()
	defer out.Close()
	big := strings.Repeat("a\n", chunk)
	if n, err := io.WriteString(out, big); n != len(big) || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if want := strings.Repeat("a\r\n", chunk); b.String() != want {
		t.Errorf("%d bytes on the wire, want %d", b.Len(), len(want))
	}
}

func TestLatestKeepsTheNewest(t *testing.T) {
	l := newLatest[int]()
	for i := range 100 {
		l.put(i)
	}
	if v := <-l.ch; v != 99 {
		t.Errorf("got %d", v)
	}
}

// FuzzRequests feeds the tap what a client may send in any order: nothing
// unbounded is kept, at most one thing is started, and no request goes
// unanswered or blocks.
func FuzzRequests(f *testing.F) {
	kinds := []string{"window-change", "pty-req", "env", "shell", "exec", "subsystem", "signal", "auth-agent-req@openssh.com", "x11-req", "break"}
	size := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 120<<32|40), 0)
	pty := gossh.Marshal(struct {
		Term                     string
		Cols, Rows, Width, Depth uint32
		Modes                    string
	}{"xterm", 80, 24, 0, 0, ""})
	env := gossh.Marshal(struct{ Name, Value string }{"LANG", "C"})
	f.Add([]byte{0, 1, 2, 3, 0, 1, 2}, size)
	f.Add([]byte{1, 1, 4, 5, 0}, pty)
	f.Add([]byte{2, 2, 2, 3, 2}, env)
	f.Fuzz(func(t *testing.T, order, payload []byte) {
		if len(order) > 200 {
			return
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		st := &state{rules: Rules{Refused: func(string) {}}, ctx: ctx, cancel: cancel, sizes: newLatest[Size]()}
		in, out := make(chan *gossh.Request), make(chan *gossh.Request)
		go func() {
			defer close(in)
			for _, k := range order {
				in <- &gossh.Request{Type: kinds[int(k)%len(kinds)], Payload: payload}
			}
		}()
		go func() { defer close(out); st.tap(in, out) }()
		started, terminals := 0, 0
		for r := range out {
			if r.Type == "pty-req" {
				terminals++
			} else {
				started++
			}
		}
		if started > 1 || terminals > 1 || len(st.environ) > maxEnv {
			t.Errorf("%d started, %d terminals, %d variables", started, terminals, len(st.environ))
		}
		last := st.size
		select {
		case last = <-st.sizes.ch:
		default:
		}
		for _, n := range []int{st.size.Cols, st.size.Rows, last.Cols, last.Rows} {
			if n < 1 || n > maxCells {
				t.Errorf("sizes %v, %v", st.size, last)
			}
		}
		if st.hasPty && termName(st.term) != st.term {
			t.Errorf("terminal %q", st.term)
		}
	})
}
