package sshclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/launcher/remote"
)

// hostKeys decides whether a hop is the machine we know. A key that changed is
// refused whatever StrictHostKeyChecking says: ssh's "no" would go on without
// passwords, and an agent on the other side is not worth that risk.
type hostKeys struct {
	h        *hop
	known    *knownHosts
	address  string // as known_hosts has it: host:port
	accepted []byte // the key that passed: it comes again whenever keys are exchanged anew
	local    bool   // NoHostAuthenticationForLocalhost applies
}

// newHostKeys reads the target's known_hosts files.
func (h *hop) newHostKeys() (*hostKeys, error) {
	t := h.target
	known, err := readKnownHosts(slices.Concat(t.UserKnownHosts, t.GlobalKnownHosts))
	if err != nil {
		return nil, h.problem(remote.StageHostKey, err, "", config.ExitConfig,
			"look at the file: `ls -l "+strings.Join(t.UserKnownHosts, " ")+"`")
	}
	for _, s := range known.skipped {
		h.detail(remote.StageHostKey, "skipped "+s)
	}
	// An alias stands for itself, on whatever port, and names are compared in
	// lower case: both as ssh does.
	address := net.JoinHostPort(strings.ToLower(t.HostName), itoa(h.port()))
	if t.HostKeyAlias != "" {
		address = aliasAddress(strings.ToLower(t.HostKeyAlias))
	}
	return &hostKeys{h: h, known: known, address: address}, nil
}

// aliasAddress is the host:port that known_hosts writes as alias: what people who
// tunnel set is often a whole entry, "[host]:2222".
func aliasAddress(alias string) string {
	if strings.HasPrefix(alias, "[") {
		if host, port, err := net.SplitHostPort(alias); err == nil {
			return net.JoinHostPort(host, port)
		}
	}
	return net.JoinHostPort(alias, "22")
}

// prefer puts the algorithms first that the host's known keys have.
func (k *hostKeys) prefer(algos []string) []string {
	exact, portless := k.known.keys(k.address)
	return preferKnown(algos, append(exact, portless...))
}

// check is the heart of an ssh.HostKeyCallback. ask blocks on a person.
func (k *hostKeys) check(key ssh.PublicKey, ask func(remote.HostKeyQuestion) (remote.Decision, error)) (how string, err error) {
	if k.accepted != nil {
		if !bytes.Equal(k.accepted, key.Marshal()) {
			return "", k.h.problem(remote.StageHostKey, errors.New("its host key changed while connected"), "", config.ExitDenied,
				"leave, and connect again: `towline "+k.h.run.name()+"`")
		}
		return "", nil
	}
	if how, err = k.judge(key, ask); err == nil {
		k.accepted = key.Marshal()
	}
	return how, err
}

func (k *hostKeys) judge(key ssh.PublicKey, ask func(remote.HostKeyQuestion) (remote.Decision, error)) (string, error) {
	if k.local {
		return "not checked: NoHostAuthenticationForLocalhost", nil
	}
	f := k.known.check(k.address, key)
	plain := key
	if cert, ok := key.(*ssh.Certificate); ok {
		plain = cert.Key
	}
	name := shortType(plain) + " " + ssh.FingerprintSHA256(plain)
	switch f.verdict {
	case known:
		if f.by.authority {
			return name + ", vouched for by the authority in " + f.by.location(), nil
		}
		return name + ", known from " + f.by.location(), nil
	case revoked:
		return "", k.revokedProblem(name, f)
	case changed:
		return "", k.changedProblem(name, f)
	}
	if f.cert != nil {
		k.h.detail(remote.StageHostKey, "its certificate does not count: "+f.cert.Error())
	}
	return k.meet(plain, name, ask)
}

// meet handles a key nobody has seen before.
func (k *hostKeys) meet(key ssh.PublicKey, name string, ask func(remote.HostKeyQuestion) (remote.Decision, error)) (string, error) {
	h, secrets := k.h, k.h.run.cfg.Secrets
	if secrets.acceptedOnce(k.address, key) {
		return name + ", accepted for this session", nil
	}
	strict := strings.ToLower(h.target.StrictHostKeyChecking)
	switch {
	case strict == "yes" || strict == "true":
		return "", k.unknownProblem(name, "StrictHostKeyChecking forbids to ask about it")
	case strict == "no" || strict == "off" || strict == "false" || strict == "accept-new":
		return name + ", new" + k.save(key), nil
	case h.target.BatchMode:
		return "", k.unknownProblem(name, "BatchMode forbids to ask about it")
	}
	answer, err := ask(remote.HostKeyQuestion{
		Hop: h.label, Address: knownhosts.Normalize(k.address), Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key), File: k.file(),
	})
	switch {
	case errors.Is(err, remote.ErrNobody):
		return "", k.unknownProblem(name, "nobody is here to say whether it is right")
	case err != nil:
		return "", err
	case answer == remote.AcceptSave:
		return name + ", accepted" + k.save(key), nil
	case answer == remote.AcceptOnce:
		secrets.acceptOnce(k.address, key)
		return name + ", accepted for this session", nil
	}
	return "", h.problem(remote.StageHostKey, &described{"you did not accept the host key " + name, errRefused}, "", config.ExitInterrupted,
		"compare it with what the machine says of itself: `ssh-keygen -lf /etc/ssh/ssh_host_"+shortType(key)+"_key.pub` there")
}

// errRefused is a person's no.
var errRefused = errors.New("refused")

// file is where new keys are kept, "" for nowhere.
func (k *hostKeys) file() string {
	files := k.h.target.UserKnownHosts
	if len(files) == 0 || strings.EqualFold(files[0], "none") || files[0] == "/dev/null" {
		return ""
	}
	return files[0]
}

// save remembers key and says how that went, for the stage's last line. Not being
// able to is no reason to stop: the person has accepted the key.
func (k *hostKeys) save(key ssh.PublicKey) string {
	file := k.file()
	if file == "" {
		return ", and not kept: there is no known_hosts file"
	}
	if now, err := readKnownHosts([]string{file}); err == nil && now.check(k.address, key).verdict == known {
		return ", and in " + file + " already" // another connection asked at the same time
	}
	if err := saveKnownHost(file, k.address, key, k.h.target.HashKnownHosts); err != nil {
		k.h.run.cfg.Ask.Notice(k.h.label, printable("the host key could not be kept: "+err.Error(), maxWords))
		k.h.run.cfg.Secrets.acceptOnce(k.address, key)
		return ", and not kept: " + err.Error()
	}
	return " and kept in " + file
}

func (k *hostKeys) unknownProblem(name, because string) error {
	return k.h.problem(remote.StageHostKey, fmt.Errorf("its host key %s is not known, and %s", name, because), "", config.ExitDenied,
		"connect once with `ssh -o StrictHostKeyChecking=ask "+k.h.label+"` and compare the fingerprint")
}

func (k *hostKeys) revokedProblem(name string, f finding) error {
	where := ""
	if f.by.file != "" {
		where = " in " + f.by.location()
	}
	return k.h.problem(remote.StageHostKey, fmt.Errorf("its host key %s is marked @revoked%s: it is known to be stolen or retired", name, where), "", config.ExitDenied,
		"do not connect before whoever runs the machine has given it a new key; then `ssh "+k.h.label+"`")
}

// changedProblem names the new key, the old ones and their lines, and what takes
// the old ones away.
func (k *hostKeys) changedProblem(name string, f finding) error {
	var old, hints []string
	for _, o := range f.old {
		old = append(old, fmt.Sprintf("%s %s in %s", shortType(o.key), ssh.FingerprintSHA256(o.key), o.location()))
		hint := "ssh-keygen -R " + quote(knownhosts.Normalize(k.address)) + " -f " + quote(o.file)
		if strings.ContainsAny(o.hosts, "*?!") {
			// ssh-keygen -R leaves lines with patterns alone.
			hint = "edit " + o.location() + ": the line is for " + printable(o.hosts, 200)
		} else if slices.Contains(k.h.target.GlobalKnownHosts, o.file) {
			hint = "run `sudo " + hint + "`"
		} else {
			hint = "run `" + hint + "`"
		}
		if !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	hints = append([]string{"ask whoever runs the machine whether it was set up anew; somebody may be listening in"},
		append(hints, "then connect again: `towline "+k.h.run.name()+"`")...)
	return k.h.problem(remote.StageHostKey,
		fmt.Errorf("its host key changed: it is now %s, and was %s", name, strings.Join(old, " and ")), "", config.ExitDenied, hints...)
}

// shortType is a key's type as the names of host key files have it.
func shortType(key ssh.PublicKey) string {
	t, _ := plainAlgorithm(key.Type())
	switch {
	case t == ssh.KeyAlgoRSA:
		return "rsa"
	case t == ssh.KeyAlgoED25519:
		return "ed25519"
	case strings.HasPrefix(t, "ecdsa-"):
		return "ecdsa"
	}
	return t
}

// askHostKey is the question to a person, with time standing still.
func (h *hop) askHostKey(ctx context.Context, g *guard) func(remote.HostKeyQuestion) (remote.Decision, error) {
	return func(q remote.HostKeyQuestion) (remote.Decision, error) {
		if err := h.run.cfg.Secrets.mayAsk(h.label); err != nil {
			return remote.Refuse, err
		}
		defer g.pause()()
		h.waiting(remote.StageHostKey, "waiting for you to accept the host key", true)
		defer h.waiting(remote.StageHostKey, "", false)
		d, err := h.run.cfg.Ask.HostKey(ctx, q)
		if err != nil && ctx.Err() != nil {
			return remote.Refuse, h.cut(remote.StageHostKey, ctx)
		}
		return d, err
	}
}
