package session

import (
	gossh "golang.org/x/crypto/ssh"
)

// tapped is a channel whose requests go through the tap once it is accepted.
type tapped struct {
	gossh.NewChannel
	st *state
}

func (n tapped) Accept() (gossh.Channel, <-chan *gossh.Request, error) {
	ch, in, err := n.NewChannel.Accept()
	if err != nil {
		return nil, nil, err
	}
	n.st.ch = ch
	out := make(chan *gossh.Request)
	n.st.wg.Go(func() {
		defer close(out)
		defer n.st.cancel(ErrGone)
		n.st.tap(in, out)
	})
	return ch, out, nil
}

// tap reads requests for as long as the channel lives. It waits for nothing but
// Wish's own reader, which never gets anything it could wait on: a request
// stream that is not read stops the whole connection.
func (st *state) tap(in <-chan *gossh.Request, out chan<- *gossh.Request) {
	st.size = Size{defaultCols, defaultRows}
	last := st.size
	started := false
	for r := range in {
		ok := false
		switch r.Type {
		case "window-change":
			var s Size
			if s, ok = parseWindowChange(r.Payload); ok {
				last = s.clamp(last)
				st.sizes.put(last)
			}
		case "pty-req":
			if started || st.hasPty || len(r.Payload) > maxPayload {
				break
			}
			var p struct {
				Term                     string
				Cols, Rows, Width, Depth uint32
				Modes                    string
			}
			if gossh.Unmarshal(r.Payload, &p) != nil {
				break
			}
			st.hasPty, st.term = true, termName(p.Term)
			st.size = Size{int(min(p.Cols, maxCells)), int(min(p.Rows, maxCells))}.clamp(last)
			last = st.size
			out <- r
			continue
		case "env":
			if !started {
				st.environ, ok = acceptEnv(st.environ, r.Payload)
			}
		case "shell", "exec", "subsystem":
			if started || len(r.Payload) > maxPayload {
				break
			}
			started = true
			out <- r
			continue
		case "signal":
			var p struct{ Name string }
			if ok = gossh.Unmarshal(r.Payload, &p) == nil && ends(p.Name); ok {
				st.cancel(ErrInterrupted)
			}
		case "auth-agent-req@openssh.com":
			st.rules.Refused("agent forwarding")
		case "x11-req":
			st.rules.Refused("X11 forwarding")
		}
		_ = r.Reply(ok, nil) // a dead connection ends the stream
	}
}

// ends is whether a signal asks a program to leave.
func ends(signal string) bool {
	switch signal {
	case "HUP", "INT", "QUIT", "KILL", "TERM":
		return true
	}
	return false
}
