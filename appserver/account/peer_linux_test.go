package account

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/appserver/account/issuertest"
)

// Another user of this machine sees the address of a login in a browser's command
// line, logs in with it as themselves, and brings the redirect before the person
// does.
func TestSecurityAnotherUserCannotEndALogin(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "root, which can be another user")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		lacking(t, "bash")
	}
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	theirs, err := iss.Decide(t.Context(), a.url, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/auth/callback?" + mustQuery(t, theirs).Encode(), "/cancel"} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		host := "127.0.0.1:" + itoa(a.port)
		cmd := exec.CommandContext(ctx, bash, "-c", `exec 3<>/dev/tcp/127.0.0.1/`+itoa(a.port)+` && cat >&3 && cat <&3`)
		cmd.Stdin = strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		out, _ := cmd.Output() // it is hung up on
		cancel()
		if len(out) != 0 {
			t.Errorf("%.8s was answered: %q", target, out)
		}
	}
	if n := iss.Count("/oauth/token"); n != 0 {
		t.Errorf("%d codes were exchanged for somebody else", n)
	}
	mine, err := iss.Decide(t.Context(), a.url, true)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, mine, ""); status != http.StatusFound {
		t.Errorf("the person's own redirect: %d", status)
	}
	get(t, "http://127.0.0.1:"+itoa(a.port)+"/success", "")
	if _, err := a.wait(t); err != nil {
		t.Fatal(err)
	}
}

// lacking skips a test whose peer is missing, and fails it in CI.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING: %s", what)
	}
	t.Skipf("LACKING: %s", what)
}
