package bootstrap

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"towline/config"
	"towline/launcher/remote"
)

const (
	// poll is how long the scripts sleep between two looks at something.
	poll = 200 * time.Millisecond
	// stallTimeout is how long the upload of a lock's holder may stand still:
	// its link is dead then, and the server may take hours to notice.
	stallTimeout = 30 * time.Second
	// copyBytes is how much of a binary is read at once, and how often progress
	// is told.
	copyBytes = 128 << 10
	// packetBytes is how much goes out at once: what an SSH packet takes.
	packetBytes = 32 << 10
	// spare is room beside the binary that a disk should have.
	spare = 1 << 20
)

// Build is a Towline binary to install.
type Build struct {
	Open    func() (io.ReadCloser, error) // the binary; may be called more than once
	Size    int64                         // bytes
	SHA256  string                        // lower-case hex
	Version string
	OS      string // as Go names them
	Arch    string
}

// Install uploads b over r, beside the versions that are there, and switches to
// it. One of several installers at once does the work, the others use its
// result. progress, which may be nil, hears bytes of b sent and in all. Choice
// starts the new binary.
func Install(ctx context.Context, r Remote, rep Report, b Build, progress func(done, total int64)) (Choice, error) {
	o := rep.o.withDefaults()
	in := &installer{rep: rep, b: b, o: o, progress: progress}
	if err := in.check(); err != nil {
		return Choice{}, err
	}
	begin := o.Now()
	o.Events(remote.Event{
		Stage: remote.StageInstall,
		Text:  fmt.Sprintf("Towline %s (%s) to %s", b.Version, megabytes(b.Size), rep.InstallDir),
	})
	zip := "no"
	if slices.Contains(rep.Tools, "gzip") {
		zip = "yes"
	}
	t, err := start(ctx, r, o, "install", []variable{
		{"tl_id", rep.InstallDir},
		{"tl_ver", folderName(b.Version)},
		{"tl_sum", b.SHA256},
		{"tl_size", strconv.FormatInt(b.Size, 10)},
		{"tl_gzip", zip},
		{"tl_tag", random()},
		{"tl_tries", strconv.Itoa(int(o.LockTimeout / poll))},
		{"tl_stall", strconv.Itoa(int(o.stall / poll))},
	}, remote.ExecOptions{})
	if err != nil {
		return Choice{}, err
	}
	defer t.close()
	c, err := in.run(t, zip == "yes")
	if err != nil {
		return Choice{}, err
	}
	o.Events(remote.Event{Stage: remote.StageInstall, Text: "installed " + c.Path, Done: true, Took: o.Now().Sub(begin)})
	return Choice{Action: Start, Candidate: c, Why: c.name() + ": just installed", Skew: skewOf(c, o)}, nil
}

type installer struct {
	rep      Report
	b        Build
	o        Options
	progress func(done, total int64)
}

// problem is a failure of the install stage that names the setting which helps
// with most of them.
func (in *installer) problem(err error, hints ...string) error {
	if len(hints) == 0 {
		hints = []string{fmt.Sprintf("choose another folder: `install_dir = \"/path\"` under [hosts.%s] in config.toml", in.o.host())}
	}
	return &config.Problem{Stage: remote.StageInstall, Err: err, Hints: hints, Exit: config.ExitFailure}
}

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check refuses what cannot work before anything is sent.
func (in *installer) check() error {
	rep, b := in.rep, in.b
	switch {
	case rep.Door:
		return in.problem(errors.New("the SSH server is Towline itself, which installs nothing"),
			"log in through the host's own SSH server to install there")
	case b.Open == nil, b.Size <= 0, !sha256Pattern.MatchString(b.SHA256):
		return in.problem(errors.New("there is no complete Towline binary to install"), "build one: `make build`")
	case b.OS != rep.OS || b.Arch != rep.Arch:
		return in.problem(fmt.Errorf("the host is %s/%s, and the binary at hand is for %s/%s", rep.OS, rep.Arch, b.OS, b.Arch),
			fmt.Sprintf("get Towline for %s/%s and name it: `towline connect %s --install --binary FILE`", rep.OS, rep.Arch, in.o.host()))
	case rep.InstallDir == "":
		return in.problem(errors.New("the probe did not tell where to install"), "try again; see every step: `towline doctor "+in.o.host()+"`")
	case rep.NoExec:
		return in.problem(fmt.Errorf("%s lies on a file system mounted noexec: nothing can be run from there", rep.InstallDir))
	case !rep.Writable:
		why := "cannot be written to"
		if rep.ReadOnlyHome {
			why += " (the home folder is read-only)"
		}
		return in.problem(fmt.Errorf("%s %s", rep.InstallDir, why))
	case rep.DiskFree >= 0 && rep.DiskFree < b.Size+spare:
		return in.problem(fmt.Errorf("%s has %s left, and Towline needs %s", rep.InstallDir, megabytes(rep.DiskFree), megabytes(b.Size)))
	}
	return nil
}

// run is the client's half of install.sh.
func (in *installer) run(t *talk, zip bool) (Candidate, error) {
	c := Candidate{Kind: Towline, From: "installed"}
	unchecked := false
	for {
		a, err := t.next()
		if err != nil {
			return c, in.restage(err)
		}
		switch a.key {
		case "wait":
			in.o.Events(remote.Event{Stage: remote.StageInstall, Text: "another installer is at work there" + soFar(a.text), Detail: true})
		case "have":
			in.o.Events(remote.Event{Stage: remote.StageInstall, Text: "it is there already: " + a.text, Detail: true})
			in.tell(in.b.Size)
		case "send":
			if err := in.upload(t, zip); err != nil {
				return c, err
			}
		case "unchecked":
			unchecked = true
		case "stored":
			if unchecked {
				in.o.Events(remote.Event{Stage: remote.StageInstall, Text: "the host has no tool to check the upload's checksum with", Detail: true})
			}
		case "version":
			c.version(a.text)
		case "pruned":
			in.o.Events(remote.Event{Stage: remote.StageInstall, Text: "removed the unused version " + a.text, Detail: true})
		case "fail":
			f := a.fields(2)
			return c, in.failed(f[0], f[1])
		case "installed":
			c.Path = a.text
		case "bye":
			if c.Path == "" || c.Fault != "" {
				return c, in.problem(errors.New("the host did not say what it installed"+quoted(c.Fault)), "see every step: `towline doctor "+in.o.host()+"`")
			}
			return c, nil
		}
	}
}

func soFar(bytes string) string {
	if n, err := strconv.ParseInt(bytes, 10, 64); err == nil && n > 0 {
		return ": " + megabytes(n) + " so far"
	}
	return ""
}

// restage says that what went wrong went wrong while installing, unless it did
// before that.
func (in *installer) restage(err error) error {
	var p *config.Problem
	if errors.As(err, &p) && p.Stage == remote.StageProbe {
		p.Stage = remote.StageInstall
	}
	return err
}

// tell reports progress.
func (in *installer) tell(done int64) {
	if in.progress != nil {
		in.progress(done, in.b.Size)
	}
}

// upload sends the binary as the rest of the channel's input. What the remote
// makes of it comes as answers; only trouble with the file itself is an error.
func (in *installer) upload(t *talk, zip bool) error {
	f, err := in.b.Open()
	if err != nil {
		return in.problem(fmt.Errorf("read the binary to install: %w", err), "check that the file is there")
	}
	defer func() { _ = f.Close() }() // read-only
	// gzip writes a few hundred bytes at a time. As packets of their own they cost
	// OpenSSH's server twenty times what the whole upload does.
	packets := bufio.NewWriterSize(sending{t}, packetBytes)
	var to io.Writer = packets
	var z *gzip.Writer
	if zip {
		if z, err = gzip.NewWriterLevel(to, gzip.BestSpeed); err != nil {
			return in.problem(err)
		}
		to = z
	}
	sum := sha256.New()
	buf := make([]byte, copyBytes)
	var done int64
	in.tell(0)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			_, _ = sum.Write(buf[:n])
			done += int64(n)
			if done > in.b.Size {
				break
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return nil // the remote says why, or that the link broke
			}
			in.tell(done)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return in.problem(fmt.Errorf("read the binary to install: %w", err), "check that the file is whole")
		}
	}
	if done != in.b.Size || hex.EncodeToString(sum.Sum(nil)) != in.b.SHA256 {
		return in.problem(errors.New("the binary to install changed while it was read"), "try again")
	}
	if z != nil {
		if err := z.Close(); err != nil {
			return nil // as above
		}
	}
	if err := packets.Flush(); err != nil {
		return nil // as above
	}
	_ = t.p.Stdin().Close() // as above
	return nil
}

// sending is the channel's input; what goes out counts as life.
type sending struct{ t *talk }

func (s sending) Write(p []byte) (int, error) {
	n, err := s.t.p.Stdin().Write(p)
	if n > 0 {
		s.t.beat()
	}
	return n, err
}

// failed is what a script that gave up said, for a person.
func (in *installer) failed(reason, text string) error {
	dir := in.rep.InstallDir
	switch reason {
	case "mkdir":
		return in.problem(fmt.Errorf("cannot make the folder %s%s", dir, quoted(text)))
	case "open":
		return in.problem(errors.New(text), "choose a folder of your own: `install_dir` under [hosts."+in.o.host()+"] in config.toml")
	case "lock":
		return in.problem(fmt.Errorf("another installer has held %s for too long", text),
			fmt.Sprintf("if none is running, remove it: `ssh %s rm -rf %s`", in.o.host(), word(text+".d")))
	case "write":
		n, rest, _ := strings.Cut(text, " ")
		if _, err := strconv.ParseInt(n, 10, 64); err != nil {
			n, rest = "", text
		}
		err := fmt.Errorf("cannot write %s", rest)
		if n != "" {
			err = fmt.Errorf("%w (%s of %d bytes arrived)", err, n, in.b.Size)
		}
		return in.problem(err, fmt.Sprintf("see what room and quota there is: `ssh %s df -h %s`", in.o.host(), word(dir)),
			fmt.Sprintf("or choose another folder: `install_dir = \"/path\"` under [hosts.%s] in config.toml", in.o.host()))
	case "checksum":
		return in.problem(fmt.Errorf("what arrived is not what was sent: checksum %s, not %s", text, in.b.SHA256), "try again")
	case "run":
		status, said, _ := strings.Cut(text, " ")
		if status == "126" {
			return in.problem(fmt.Errorf("the host refuses to run programs from %s%s (a noexec file system?)", dir, quoted(said)))
		}
		return in.problem(fmt.Errorf("the uploaded binary does not run there (status %s)%s", status, quoted(said)),
			"see what the host is: `towline doctor "+in.o.host()+"`")
	case "none":
		return in.problem(fmt.Errorf("there is no version to go back to (%s)", text), "install one: `towline connect "+in.o.host()+" --install`")
	}
	return in.problem(fmt.Errorf("%s%s", reason, quoted(text)))
}

var folderPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]{0,63}$`)

// folderName is the version as a folder's name.
func folderName(version string) string {
	if folderPattern.MatchString(version) {
		return version
	}
	sum := sha256.Sum256([]byte(version))
	return "v-" + hex.EncodeToString(sum[:6])
}

func megabytes(n int64) string {
	return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MB"
}

// Rollback switches back to the version that was current before the last
// Install, and says which that is. A daemon that runs keeps running as it is.
func Rollback(ctx context.Context, r Remote, rep Report) (Choice, error) {
	o := rep.o.withDefaults()
	in := &installer{rep: rep, o: o}
	if rep.InstallDir == "" {
		return Choice{}, in.failed("none", "nothing was installed there")
	}
	o.Events(remote.Event{Stage: remote.StageInstall, Text: "back to the version before"})
	t, err := start(ctx, r, o, "rollback", []variable{
		{"tl_id", rep.InstallDir},
		{"tl_tag", random()},
		{"tl_tries", strconv.Itoa(int(o.LockTimeout / poll))},
	}, remote.ExecOptions{})
	if err != nil {
		return Choice{}, err
	}
	defer t.close()
	c, err := in.run(t, false)
	if err != nil {
		return Choice{}, err
	}
	o.Events(remote.Event{Stage: remote.StageInstall, Text: "switched to " + c.Path, Done: true})
	return Choice{Action: Start, Candidate: c, Why: c.name() + ": the version before", Skew: skewOf(c, o)}, nil
}
