package transport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// echoing takes every network and says what it hears.
func echoing(who chan<- string) EgressFunc {
	return func(_ context.Context, p access.Principal, _ string) (func(context.Context, io.ReadWriteCloser), error) {
		if p.Role < protocol.RoleOperator {
			return nil, errors.New("a role is\nmissing")
		}
		return func(ctx context.Context, rw io.ReadWriteCloser) {
			defer context.AfterFunc(ctx, func() { _ = rw.Close() })()
			who <- p.Name
			_, _ = io.Copy(rw, rw)
			_ = rw.Close()
		}, nil
	}
}

const offer = "GET /egress HTTP/1.1\r\nHost: towline\r\nConnection: Upgrade\r\nUpgrade: " + EgressProtocol + "\r\n\r\n"

func shake(t *testing.T, c net.Conn, request string) (*http.Response, *bufio.Reader) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res, br
}

func TestEgressOnTheUnixSocket(t *testing.T) {
	who := make(chan string, 1)
	url := "unix://" + filepath.Join(t.TempDir(), "run", "s.sock")
	l, err := Listen(t.Context(), url, Options{Egress: echoing(who)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- l.Serve(ctx, func(context.Context, rpc.Stream, access.Principal, string, string) {})
	}()
	c, err := DialBytes(t.Context(), strings.TrimPrefix(url, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	// What is sent ahead of the answer is not lost.
	res, br := shake(t, c, offer+"early ")
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != EgressProtocol {
		t.Fatalf("answered %v", res.Status)
	}
	_, _ = io.WriteString(c, "late")
	got := make([]byte, 10)
	if _, err := io.ReadFull(br, got); string(got) != "early late" {
		t.Errorf("heard %q, %v", got, err)
	}
	if p := <-who; p != LocalUser().Name {
		t.Errorf("it was %q", p)
	}
	cancel() // the listener waits for what it took
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("the stream outlived its listener")
	}
}

func TestEgressThroughBytes(t *testing.T) {
	for name, tc := range map[string]struct {
		role    protocol.Role
		egress  bool
		request string
		status  int
		text    string
	}{
		"an operator":         {protocol.RoleOperator, true, offer, http.StatusSwitchingProtocols, ""},
		"an approver":         {protocol.RoleApprover, true, offer, http.StatusForbidden, "a role is missing"},
		"nobody takes it":     {protocol.RoleAdmin, false, offer, http.StatusNotImplemented, "takes no network"},
		"not an upgrade":      {protocol.RoleAdmin, true, strings.Replace(offer, "Connection: Upgrade\r\n", "", 1), http.StatusBadRequest, "upgrade a GET"},
		"not a GET":           {protocol.RoleAdmin, true, strings.Replace(offer, "GET", "POST", 1), http.StatusBadRequest, "upgrade a GET"},
		"a page in a browser": {protocol.RoleAdmin, true, strings.Replace(offer, "Host:", "Origin: http://x\r\nHost:", 1), http.StatusForbidden, ""},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer func() { _ = near.Close() }()
			o := Options{}
			if tc.egress {
				o.Egress = echoing(make(chan string, 1))
			}
			served := make(chan error, 1)
			go func() {
				served <- ServeBytes(t.Context(), far, o, access.Principal{Name: "ann", Role: tc.role}, "ssh", "test", nil)
			}()
			res, br := shake(t, near, tc.request)
			if res.StatusCode != tc.status {
				t.Fatalf("answered %s", res.Status)
			}
			if tc.status != http.StatusSwitchingProtocols {
				body, _ := io.ReadAll(res.Body)
				if !strings.Contains(string(body), tc.text) {
					t.Errorf("said %q", body)
				}
				if err := <-served; err == nil {
					t.Error("a refusal is no error")
				}
				return
			}
			go func() { _, _ = io.WriteString(near, "hello") }()
			got := make([]byte, 5)
			if _, err := io.ReadFull(br, got); string(got) != "hello" {
				t.Errorf("heard %q, %v", got, err)
			}
			_ = near.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
