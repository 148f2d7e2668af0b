package egress

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// A laptop may say anything in its lease.
func TestALeaseThatIsNone(t *testing.T) {
	for name, lease := range map[string]string{
		"no json":            "hello\n",
		"nothing":            "",
		"goodbye at once":    `{"bye":true}` + "\n",
		"a line without end": strings.Repeat("x", 2*maxLine),
		"too much":           `{"allow":["a.example:1"` + strings.Repeat(`,"a.example:1"`, maxTargets) + "]}\n",
		"no address":         `{"allow":["http://a.example"]}` + "\n",
		"control characters": `{"allow":["a\u001b[2J.example:1"]}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			laptop, host := socketPair(t)
			var protocols http.Protocols
			protocols.SetUnencryptedHTTP2(true)
			srv := &http.Server{Protocols: &protocols, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, lease)
			})}
			c := newStream(laptop)
			done := make(chan struct{})
			go func() { defer close(done); _ = srv.Serve(newSingle(c)) }()
			o := NewOutlet(nil, nil)
			if _, err := o.Join(t.Context(), host, nil); err == nil {
				t.Error("it was taken")
			} else if strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("the error is %q", err)
			}
			if l, _ := o.Loan(); l.Active || l.Waiting {
				t.Errorf("something is lent: %+v", l)
			}
			_, _ = srv.Close(), c.Close()
			<-done
		})
	}
}

// A laptop that says nothing, or no HTTP, is given up when its stream ends.
func TestAStreamThatIsNone(t *testing.T) {
	laptop, host := socketPair(t)
	go func() {
		_, _ = io.WriteString(laptop, "SSH-2.0-nonsense\r\n")
		_ = laptop.Close()
	}()
	if _, err := NewOutlet(nil, nil).Join(t.Context(), host, nil); err == nil {
		t.Error("it was taken")
	}
}
