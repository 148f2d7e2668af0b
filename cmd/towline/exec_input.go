package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"towline/appserver/protocol"
	"towline/config"
)

// What a run may be given. The server takes a message of 64 MiB, Codex a frame of
// 16; a prompt beyond these is a mistake more often than not.
const (
	maxPromptInput = 8 << 20
	maxSchemaFile  = 1 << 20
	maxPicture     = 8 << 20
)

// slowInput is how long standard input may take before we say what we wait for.
const slowInput = 2 * time.Second

// prompt is the argument, standard input, or both, as codex exec puts them together.
func (o *execOptions) prompt(ctx context.Context, args []string) (string, error) {
	terminal := term.IsTerminal(int(o.in.Fd()))
	if len(args) == 1 && args[0] != "-" {
		if strings.TrimSpace(args[0]) == "" {
			return "", wrongUse("exec", "the prompt is empty", "say what to do: `towline exec \"…\"`")
		}
		if terminal || o.resume != "" || o.last { // Codex reads no more for a thread it goes on with
			return args[0], nil
		}
		more, err := readInput(ctx, o.in, o.errOut, "more from standard input, as context; `< /dev/null` gives none")
		if err != nil || strings.TrimSpace(more) == "" {
			return args[0], err
		}
		return args[0] + "\n\n<stdin>\n" + strings.TrimSuffix(more, "\n") + "\n</stdin>", nil
	}
	if terminal && len(args) == 0 {
		return "", wrongUse("exec", "there is no prompt", "give it as an argument, or on standard input")
	}
	text, err := readInput(ctx, o.in, o.errOut, "the prompt from standard input")
	if err == nil && strings.TrimSpace(text) == "" {
		err = wrongUse("exec", "no prompt came on standard input", "give it as an argument, or write it to standard input")
	}
	return text, err
}

// readInput reads standard input to its end, within ctx and maxPromptInput.
func readInput(ctx context.Context, in io.Reader, errOut io.Writer, what string) (string, error) {
	type read struct {
		b   []byte
		err error
	}
	ch := make(chan read, 1)
	// Nobody waits for this one: a read of a standard stream cannot be interrupted,
	// and the process ends with it.
	go func() {
		b, err := io.ReadAll(io.LimitReader(in, maxPromptInput+1))
		ch <- read{b, err}
	}()
	slow := time.NewTimer(slowInput)
	defer slow.Stop()
	for {
		select {
		case <-slow.C:
			fmt.Fprintln(errOut, "reading "+what)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case r := <-ch:
			switch {
			case errors.Is(r.err, fs.ErrClosed) || errors.Is(r.err, syscall.EBADF):
				return "", nil // started without a standard input
			case r.err != nil:
				return "", &config.Problem{Stage: "input", Err: r.err, Exit: config.ExitFailure}
			case len(r.b) > maxPromptInput:
				return "", wrongUse("input", fmt.Sprintf("more than %d MiB came on standard input", maxPromptInput>>20), "put it in a file, and name that in the prompt")
			}
			b := bytes.TrimPrefix(r.b, []byte("\ufeff"))
			if !utf8.Valid(b) {
				return "", wrongUse("input", "what came on standard input is not UTF-8", "convert it: `iconv -f ENCODING -t UTF-8`")
			}
			return string(b), nil
		}
	}
}

// readSchema reads a JSON schema.
func readSchema(path string) (json.RawMessage, error) {
	b, err := readBounded(path, maxSchemaFile)
	if err != nil {
		return nil, &config.Problem{Stage: "output schema", Err: err, Exit: config.ExitUsage}
	}
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(b, &obj); err != nil || obj == nil {
		return nil, &config.Problem{
			Stage: "output schema", Err: fmt.Errorf("%s holds no JSON object", path), Exit: config.ExitUsage,
			Hints: []string{"see what is wrong with it: `jq . " + shellWord(path) + "`"},
		}
	}
	return b, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d MiB", path, limit>>20)
	}
	return b, err
}

// pictures are the images of the prompt. A server here reads them itself; any other
// gets them sent along.
func (o *execOptions) pictures() ([]protocol.UserInput, error) {
	var out []protocol.UserInput
	for _, path := range o.images {
		abs, err := filepath.Abs(path)
		var b []byte
		if err == nil {
			b, err = readBounded(abs, maxPicture)
		}
		if err != nil {
			return nil, &config.Problem{Stage: "image", Err: err, Hints: []string{"name an image file that is there with -i"}, Exit: config.ExitUsage}
		}
		if o.here() {
			out = append(out, protocol.UserInput{Type: "localImage", Path: abs})
			continue
		}
		kind := mime.TypeByExtension(filepath.Ext(abs))
		if !strings.HasPrefix(kind, "image/") {
			kind = http.DetectContentType(b)
		}
		if !strings.HasPrefix(kind, "image/") {
			return nil, &config.Problem{Stage: "image", Err: fmt.Errorf("%s is no image", abs), Hints: []string{"name a PNG, JPEG, GIF or WebP file"}, Exit: config.ExitUsage}
		}
		out = append(out, protocol.UserInput{Type: "image", URL: "data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(b)})
	}
	return out, nil
}

// settings are the -c flags and those that stand for some.
func (o *execOptions) settings() (map[string]any, error) {
	out := make(map[string]any)
	for _, kv := range o.set {
		key, value, ok := strings.Cut(kv, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return nil, wrongUse("exec", fmt.Sprintf("-c %s is not KEY=VALUE", printable(kv)), `as in: -c model_reasoning_effort="high"`)
		}
		out[key] = config.Override(value)
	}
	for _, name := range o.enable {
		out["features."+name] = true
	}
	for _, name := range o.disable {
		out["features."+name] = false
	}
	if len(o.writable) > 0 {
		dirs := make([]string, 0, len(o.writable))
		for _, d := range o.writable {
			abs := d
			if o.here() {
				var err error
				if abs, err = projectDir(d, "--add-dir"); err != nil {
					return nil, err
				}
			}
			dirs = append(dirs, abs)
		}
		out["sandbox_workspace_write.writable_roots"] = dirs
	}
	return out, nil
}

// workFolder is where a run on this machine works. Like codex exec it is careful
// where nothing could be undone.
func workFolder(dir string, anywhere bool) (string, error) {
	abs, err := projectDir(dir, "-C")
	if err != nil || anywhere {
		return abs, err
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".git")); err == nil {
			return abs, nil
		}
		if filepath.Dir(at) == at {
			return "", &config.Problem{
				Stage: "folder", Err: inCodexWords("Not inside a trusted directory and --skip-git-repo-check was not specified."),
				Hints: []string{"work in a git repository, so that changes can be seen and undone: -C DIR", "or add --skip-git-repo-check"}, Exit: config.ExitUsage,
			}
		}
	}
}

// inCodexWords is an error that scripts may know by its text.
func inCodexWords(s string) error { return fmt.Errorf("%s", s) }

// lastMessage is where the last message goes: a file that appears whole, or
// something that is there already and is written to, such as a pipe.
type lastMessage struct {
	path   string
	direct bool
	mode   fs.FileMode
}

// openLastMessage makes sure, before anything is spent, that the file can be written.
// Only a regular file is ever replaced, and a link to one: a rename onto /dev/stderr
// would do away with it for the whole machine.
func openLastMessage(path string) (*lastMessage, error) {
	fail := func(err error) (*lastMessage, error) {
		return nil, &config.Problem{Stage: "output", Err: err, Hints: []string{"name a file in a folder that is there and yours with -o"}, Exit: config.ExitUsage}
	}
	m := &lastMessage{path: path, mode: 0o666}
	at, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fail(err)
	default:
		to, err := os.Stat(path)
		if err != nil {
			return fail(err)
		}
		if to.IsDir() {
			return fail(fmt.Errorf("%s is a folder", path))
		}
		m.mode, m.direct = to.Mode().Perm(), !to.Mode().IsRegular()
		if at.Mode()&fs.ModeSymlink != 0 && !m.direct {
			m.path, m.direct = realFile(path, to)
		}
	}
	if m.direct {
		return m, nil
	}
	f, err := m.create()
	if err != nil {
		return fail(err)
	}
	return m, errors.Join(f.Close(), os.Remove(f.Name()))
}

// realFile is the file that a link leads to. One that is reached through a list of
// open files is somebody's output, and is added to.
func realFile(path string, to fs.FileInfo) (real string, direct bool) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path, true
	}
	info, err := os.Lstat(real)
	abs, aerr := filepath.Abs(path)
	if err != nil || aerr != nil || !info.Mode().IsRegular() || !os.SameFile(info, to) ||
		strings.HasPrefix(abs, "/dev/") || strings.HasPrefix(abs, "/proc/") {
		return path, true
	}
	return real, false
}

func (m *lastMessage) create() (*os.File, error) {
	// A name that nobody can have prepared, in a folder that may be shared.
	return os.OpenFile(m.path+"."+rand.Text()[:10]+".tmp", os.O_CREATE|os.O_EXCL|os.O_WRONLY, m.mode) //nolint:gosec // what is written is the person's, under their umask
}

func (m *lastMessage) write(text string) error {
	err := m.put(text)
	if err != nil {
		err = &config.Problem{Stage: "output", Err: err, Hints: []string{"the turn is done; read its message with `towline wait`"}}
	}
	return err
}

func (m *lastMessage) put(text string) error {
	if m.direct {
		f, err := os.OpenFile(m.path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	f, err := m.create()
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
