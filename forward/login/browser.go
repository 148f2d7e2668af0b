package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// openWait is how long a program may take to say that it cannot open a page.
// Browsers that do not return at once have it.
const openWait = 5 * time.Second

// errHeadless: there is no screen to open a page on.
var errHeadless = errors.New("this machine has no screen")

// Opener opens pages in the person's browser. It never goes through a shell: the
// page's address is one argument of a program. Other users of the machine can
// read that argument while the program runs. The address of a login holds its
// state and the hash of its verifier: enough to log in as themselves, and to bring
// the redirect. So who listens for that asks whose a connection is (config/peer).
type Opener struct {
	Getenv func(string) string
	// OS is runtime.GOOS.
	OS string
	// WSL says that this is Linux on Windows.
	WSL bool

	look  func(string) (string, error)                                // tests put another in the place of exec.LookPath
	start func(ctx context.Context, name string, args []string) error // and of starting a program
}

// Open opens a page: with $BROWSER, else with what the system has. An error says
// that the person must do it.
func (o Opener) Open(ctx context.Context, page string) error {
	if cleanURL(page) == "" {
		return errors.New("that is no page to open")
	}
	if o.look == nil {
		o.look = exec.LookPath
	}
	if o.start == nil {
		o.start = launch
	}
	candidates := o.candidates(page)
	if len(candidates) == 0 {
		return errHeadless
	}
	var why error
	for _, c := range candidates {
		path, err := o.look(c[0])
		if err != nil {
			why = errors.Join(why, fmt.Errorf("%s is not there", c[0]))
			continue
		}
		if err := o.start(ctx, path, c[1:]); err != nil {
			why = errors.Join(why, fmt.Errorf("%s: %w", c[0], err))
			continue
		}
		return nil
	}
	return why
}

// candidates are the command lines to try, in order.
func (o Opener) candidates(page string) [][]string {
	var out [][]string
	for name := range strings.SplitSeq(o.Getenv("BROWSER"), ":") {
		if o.OS == "windows" {
			break // its paths have colons, and nobody sets it there
		}
		words := strings.Fields(name)
		if len(words) == 0 {
			continue
		}
		placed := false
		for i, w := range words {
			if strings.Contains(w, "%s") {
				words[i], placed = strings.ReplaceAll(w, "%s", page), true
			}
		}
		if !placed {
			words = append(words, page)
		}
		out = append(out, words)
	}
	switch {
	case o.OS == "windows":
		return append(out, []string{"rundll32", "url.dll,FileProtocolHandler", page})
	case o.OS == "darwin":
		if o.Getenv("SSH_CONNECTION") != "" && len(out) == 0 {
			return nil // the screen is in front of somebody else
		}
		return append(out, []string{"open", page})
	case o.WSL:
		return append(out, []string{"wslview", page}, []string{"rundll32.exe", "url.dll,FileProtocolHandler", page})
	case o.Getenv("DISPLAY") == "" && o.Getenv("WAYLAND_DISPLAY") == "":
		return out // xdg-open would start a browser in this terminal
	}
	return append(out, []string{"xdg-open", page}, []string{"gio", "open", page}, []string{"x-www-browser", page})
}

// launch starts a program apart from this one, without the terminal, and waits a
// little for it to fail. One that runs on is left to itself.
func launch(ctx context.Context, name string, args []string) error {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // the person's own browser; it outlives us
	cmd.Env = withoutSecrets(os.Environ())
	apart(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }() // ends with the browser, or with this process
	t := time.NewTimer(openWait)
	defer t.Stop()
	select {
	case err := <-over:
		return err
	case <-t.C:
		return nil
	case <-ctx.Done():
		return nil
	}
}

// secretNames are how variables end that hold a secret by common custom.
var secretNames = []string{"_TOKEN", "_KEY", "_SECRET", "_PASSWORD", "_PASSPHRASE"}

// withoutSecrets is an environment without the keys and tokens that a pipeline puts
// there: a browser, and every program it starts, would have them.
func withoutSecrets(env []string) []string {
	return slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(secretNames, func(end string) bool { return strings.HasSuffix(strings.ToUpper(name), end) })
	})
}
