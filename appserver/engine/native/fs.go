package native

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// maxFile bounds fs/readFile, in bytes: what fits in one message as base64,
// with room for the rest.
const maxFile = rpc.MaxMessage/4*3 - 4096

// maxCopy bounds the entries of one fs/copy.
const maxCopy = 100_000

// absPath is a path the protocol wants absolute.
type absPath string

// UnmarshalJSON implements json.Unmarshaler.
func (a *absPath) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if !filepath.IsAbs(s) {
		return errors.New("AbsolutePathBuf deserialized without a base path")
	}
	*a = absPath(filepath.Clean(s))
	return nil
}

type pathParam struct {
	Path absPath `json:"path"`
}

// osError words an error of the operating system the way Codex does: the cause
// without the path, which the client knows.
func osError(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return protocol.Internalf("%s (os error %d)", capital(no.Error()), int(no))
	}
	return protocol.Internalf("%v", err)
}

func capital(s string) string {
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		return string(s[0]-'a'+'A') + s[1:]
	}
	return s
}

func (c *conn) fsReadFile(r *rpc.Request) (any, error) {
	var p pathParam
	if err := decode(r, &p, "path"); err != nil {
		return nil, err
	}
	f, err := os.Open(string(p.Path))
	if err != nil {
		return nil, osError(err)
	}
	defer func() { _ = f.Close() }() // read-only
	if fi, err := f.Stat(); err == nil && !fi.Mode().IsRegular() && !fi.IsDir() {
		return nil, protocol.Errorf("fs/readFile reads regular files only")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, osError(err)
	}
	if len(b) > maxFile {
		return nil, protocol.Errorf("file is larger than %d bytes", maxFile)
	}
	return map[string]string{"dataBase64": base64.StdEncoding.EncodeToString(b)}, nil
}

func (c *conn) fsWriteFile(r *rpc.Request) (any, error) {
	var p struct {
		pathParam
		Data string `json:"dataBase64"`
	}
	if err := decode(r, &p, "path", "dataBase64"); err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(p.Data)
	if err != nil {
		return nil, protocol.Errorf("fs/writeFile requires valid base64 dataBase64: %v", err)
	}
	if err := os.WriteFile(string(p.Path), b, 0o666); err != nil { // the umask decides, as for any editor
		return nil, osError(err)
	}
	return nil, nil
}

func (c *conn) fsCreateDirectory(r *rpc.Request) (any, error) {
	var p struct {
		pathParam
		Recursive *bool `json:"recursive"`
	}
	if err := decode(r, &p, "path"); err != nil {
		return nil, err
	}
	mk := os.MkdirAll
	if p.Recursive != nil && !*p.Recursive {
		mk = os.Mkdir
	}
	if err := mk(string(p.Path), 0o777); err != nil {
		return nil, osError(err)
	}
	return nil, nil
}

func (c *conn) fsGetMetadata(r *rpc.Request) (any, error) {
	var p pathParam
	if err := decode(r, &p, "path"); err != nil {
		return nil, err
	}
	link, err := os.Lstat(string(p.Path))
	if err != nil {
		return nil, osError(err)
	}
	fi, err := os.Stat(string(p.Path))
	if err != nil { // a dangling link
		fi = link
	}
	return map[string]any{
		"isDirectory": fi.IsDir(), "isFile": fi.Mode().IsRegular(), "isSymlink": link.Mode()&fs.ModeSymlink != 0,
		"createdAtMs": 0, "modifiedAtMs": fi.ModTime().UnixMilli(),
	}, nil
}

func (c *conn) fsReadDirectory(r *rpc.Request) (any, error) {
	var p pathParam
	if err := decode(r, &p, "path"); err != nil {
		return nil, err
	}
	names, err := os.ReadDir(string(p.Path))
	if err != nil {
		return nil, osError(err)
	}
	type entry struct {
		FileName    string `json:"fileName"`
		IsDirectory bool   `json:"isDirectory"`
		IsFile      bool   `json:"isFile"`
	}
	list := make([]entry, 0, len(names))
	for _, de := range names {
		mode := de.Type()
		if mode&fs.ModeSymlink != 0 {
			if fi, err := os.Stat(filepath.Join(string(p.Path), de.Name())); err == nil {
				mode = fi.Mode()
			}
		}
		list = append(list, entry{de.Name(), mode.IsDir(), mode.IsRegular()})
	}
	return map[string]any{"entries": list}, nil
}

func (c *conn) fsRemove(r *rpc.Request) (any, error) {
	var p struct {
		pathParam
		Recursive *bool `json:"recursive"`
		Force     *bool `json:"force"`
	}
	if err := decode(r, &p, "path"); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(string(p.Path)); err != nil {
		if errors.Is(err, fs.ErrNotExist) && (p.Force == nil || *p.Force) {
			return nil, nil
		}
		return nil, osError(err)
	}
	rm := os.RemoveAll
	if p.Recursive != nil && !*p.Recursive {
		rm = os.Remove
	}
	if err := rm(string(p.Path)); err != nil {
		return nil, osError(err)
	}
	return nil, nil
}

func (c *conn) fsCopy(r *rpc.Request) (any, error) {
	var p struct {
		Source      absPath `json:"sourcePath"`
		Destination absPath `json:"destinationPath"`
		Recursive   bool    `json:"recursive"`
	}
	if err := decode(r, &p, "sourcePath", "destinationPath"); err != nil {
		return nil, err
	}
	from, to := string(p.Source), string(p.Destination)
	fi, err := os.Lstat(from)
	if err != nil {
		return nil, osError(err)
	}
	if fi.IsDir() {
		if !p.Recursive {
			return nil, protocol.Errorf("fs/copy requires recursive: true when sourcePath is a directory")
		}
		if rel, err := filepath.Rel(from, to); err == nil && filepath.IsLocal(rel) {
			return nil, protocol.Errorf("fs/copy cannot copy a directory into itself")
		}
	}
	n := 0
	err = filepath.WalkDir(from, func(path string, de fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if n++; n > maxCopy {
			return fmt.Errorf("more than %d entries", maxCopy)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(to, rel), de)
	})
	if err != nil {
		return nil, osError(err)
	}
	return nil, nil
}

// copyEntry copies one file, link or empty directory. Other kinds of files are
// passed over: a copy of a device or a socket would not be one.
func copyEntry(from, to string, de fs.DirEntry) error {
	switch mode := de.Type(); {
	case mode.IsDir():
		return os.MkdirAll(to, 0o777)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !mode.IsRegular():
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read-only
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fi.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
