package login

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestOpener(t *testing.T) {
	for name, tc := range map[string]struct {
		os, env string
		wsl     bool
		have    string // programs that are there
		want    string // the command line that runs, "" for none
	}{
		"BROWSER":          {os: "linux", env: "BROWSER=firefox", have: "firefox xdg-open", want: "firefox PAGE"},
		"BROWSER of words": {os: "linux", env: "BROWSER=ff --new-tab %s", have: "ff", want: "ff --new-tab PAGE"},
		"BROWSER of two":   {os: "linux", env: "BROWSER=gone:ff", have: "ff", want: "ff PAGE"},
		"BROWSER is gone":  {os: "linux", env: "BROWSER=gone DISPLAY=:0", have: "xdg-open", want: "xdg-open PAGE"},
		"BROWSER fails":    {os: "linux", env: "BROWSER=broken DISPLAY=:0", have: "broken xdg-open", want: "xdg-open PAGE"},
		"no shell":         {os: "linux", env: "BROWSER=ff;reboot", have: "ff reboot", want: ""},
		"X":                {os: "linux", env: "DISPLAY=:0", have: "xdg-open", want: "xdg-open PAGE"},
		"Wayland, no xdg":  {os: "linux", env: "WAYLAND_DISPLAY=wayland-0", have: "gio", want: "gio open PAGE"},
		"no screen":        {os: "linux", have: "xdg-open", want: ""},
		"nothing there":    {os: "linux", env: "DISPLAY=:0", want: ""},
		"macOS":            {os: "darwin", have: "open", want: "open PAGE"},
		"macOS by ssh":     {os: "darwin", env: "SSH_CONNECTION=1", have: "open", want: ""},
		"Windows":          {os: "windows", env: `BROWSER=C:\x`, have: "rundll32", want: "rundll32 url.dll,FileProtocolHandler PAGE"},
		"WSL":              {os: "linux", wsl: true, have: "rundll32.exe", want: "rundll32.exe url.dll,FileProtocolHandler PAGE"},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{}
			for kv := range strings.SplitSeq(tc.env, " DISPLAY") { // BROWSER may have blanks
				if strings.HasPrefix(kv, "=:") {
					kv = "DISPLAY" + kv
				}
				k, v, _ := strings.Cut(kv, "=")
				env[k] = v
			}
			ran := ""
			o := Opener{
				OS: tc.os, WSL: tc.wsl, Getenv: func(k string) string { return env[k] },
				look: func(name string) (string, error) {
					for have := range strings.FieldsSeq(tc.have) {
						if have == name {
							return name, nil
						}
					}
					return "", exec.ErrNotFound
				},
				start: func(_ context.Context, name string, args []string) error {
					if name == "broken" {
						return errors.New("exit status 3")
					}
					ran = name + " " + strings.Join(args, " ")
					return nil
				},
			}
			err := o.Open(t.Context(), page)
			if want := strings.ReplaceAll(tc.want, "PAGE", page); ran != want || (err == nil) != (want != "") {
				t.Errorf("ran %q, %v; want %q", ran, err, want)
			}
		})
	}
	o := Opener{OS: "linux", Getenv: func(string) string { return "x" }}
	for _, bad := range []string{"", "javascript:alert(1)", "--version", "https://x/ y", "file:///etc/passwd", "https://x/\n"} {
		if err := o.Open(t.Context(), bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

// A real program is started with the page as one argument, and one that fails is
// noticed.
func TestLaunch(t *testing.T) {
	if _, err := exec.LookPath("false"); err != nil {
		t.Skip("no false(1) here")
	}
	o := Opener{OS: "linux", Getenv: func(k string) string { return map[string]string{"BROWSER": "false:true"}[k] }}
	if err := o.Open(t.Context(), page); err != nil {
		t.Error(err)
	}
	o.Getenv = func(k string) string { return map[string]string{"BROWSER": "false"}[k] }
	if err := o.Open(t.Context(), page); err == nil {
		t.Error("a browser that fails was taken for one that works")
	}
}
