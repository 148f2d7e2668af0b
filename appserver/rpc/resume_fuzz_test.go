package rpc

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

var frameSeeds = []string{
	opening, resuming + "3 2", "w 0 0", "m 1 0 {}", "m 1 0 ", "c 12 9007199254740991 x", "a 17", "p", "q",
	"e closed 4", "e lost 0 not known here", "m 01 0 x", "m 1  0 x", "m -1 0 x", "m +1 0 x", "m 9007199254740992 0 x",
	"o x y 0", "o " + strings.ToUpper(idA) + " " + secretA + " 0", "p ", "a 1 ", "e  1", "m", " ", "e closed 1 \x1b]0;x\a\xff",
}

// What parses is what would be written: a frame has one form.
func FuzzResumeFrame(f *testing.F) {
	for _, s := range frameSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		fr, err := parseFrame(b)
		if !bytes.Equal(b, before) {
			t.Fatal("parsing changed the frame")
		}
		if err != nil {
			return
		}
		var again []byte
		switch fr.kind {
		case 'm', 'c':
			again = messageFrame(fr.kind, fr.number, fr.taken, fr.msg)
			if !bytes.Equal(payload(again), fr.msg) {
				t.Errorf("the payload of %q is %q", again, payload(again))
			}
			if len(again)-len(fr.msg) > headRoom {
				t.Errorf("a head of %d bytes", len(again)-len(fr.msg))
			}
		case 'a':
			again = takenFrame(fr.taken)
		case 'p', 'q':
			again = []byte{fr.kind}
		case 'o':
			if again = openFrame(fr.id, fr.secret, fr.keep); fr.keep >= 1<<31*time.Second {
				return // bounded
			}
		case 'r':
			again = resumeFrame(fr.id, fr.secret, fr.received, fr.taken)
		case 'w':
			again = welcomeFrame(fr.received, fr.taken)
		case 'e':
			for _, r := range fr.text {
				if r < ' ' || r == 0x7f {
					t.Errorf("control character in %q", fr.text)
				}
			}
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%q comes back as %q", b, again)
		}
	})
}

// Whatever a peer says, each end keeps its books and ends when it is told to.
func FuzzResumePeer(f *testing.F) {
	f.Add(true, []byte(opening+"\nm 1 0 x\na 1\np\ne closed 1"))
	f.Add(true, []byte(opening+"\nc 1 0 x\nm 2 0 x\nm 2 0 x"))
	f.Add(true, []byte(resuming+"0 0\nm 1 0 x"))
	f.Add(false, []byte("w 0 0\nm 1 0 x\na 1\ne lost 1 no"))
	f.Add(false, []byte("w 2 2\na 5"))
	f.Add(false, []byte("e busy 0 later"))
	f.Fuzz(func(t *testing.T, server bool, script []byte) {
		near, far := Pipe(256)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		if server {
			s := NewSessions(SessionsConfig{BufferMessages: 50})
			go func() { _ = s.Run(ctx) }()
			go func() { defer close(done); _ = s.Serve(ctx, near, "o", echoStream) }()
		} else {
			r := NewResumable(ResumeOptions{First: near, Dial: func(context.Context) (Stream, error) { return nil, ErrRefused }})
			r.world.addrs = func() string { return "" }
			go func() {
				defer close(done)
				_ = r.Write(ctx, []byte("x"))
				for {
					if _, err := r.Read(ctx); err != nil {
						break
					}
				}
				if err := r.Close(nil); err != nil && !errors.Is(err, ErrLost) {
					t.Errorf("Close: %v", err)
				}
			}()
			go func() { <-far.(*pipeEnd).theirs; cancel() }()
		}
		go func() {
			for {
				if _, err := far.Read(ctx); err != nil {
					return
				}
			}
		}()
		for line := range bytes.SplitSeq(script, []byte("\n")) {
			if far.Write(ctx, line) != nil {
				break
			}
		}
		_ = far.Close(nil)
		<-done
	})
}
