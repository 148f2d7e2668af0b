package launcher

import (
	"fmt"
	"path"
	"strings"
	"time"

	"towline/launcher/bootstrap"
)

const (
	// skewWorth is how far a clock may be off before tokens and certificates
	// begin to be refused.
	skewWorth = 30 * time.Second
	// lowDisk is less than an agent's work and a build of Towline take, in bytes.
	lowDisk = 500 << 20
)

// machine says what the probe learned about the host besides what runs there.
func (d *doctor) machine(rep bootstrap.Report) {
	if rep.Door {
		d.note("machine", FindingOK, "Towline's own SSH door: no shell, and none needed")
		return
	}
	d.note("machine", FindingOK, fmt.Sprintf("%s, %s/%s, %s (uid %d) in %s", rep.Kernel, rep.OS, rep.Arch, rep.User, rep.UID, rep.Home))
	d.environment(rep)
	for _, it := range rep.Items {
		if it.Late {
			d.add(Finding{Stage: "probe", Name: it.Name, Status: FindingNote, Text: "no answer in time; given up", Took: it.Took, Next: []string{"look for a file system or name service that hangs there"}})
		}
	}
	d.clock(rep)
	d.disk(rep)
	d.sandbox(rep.Sandbox)
	if len(rep.Proxies) > 0 {
		d.note("proxies", FindingOK, strings.Join(rep.Proxies, " "))
	} else {
		d.note("proxies", FindingOK, "none in the login environment")
	}
	d.ports(rep.Ports)
	d.linger(rep.Linger)
}

func (d *doctor) environment(rep bootstrap.Report) {
	text := path.Base(rep.Shell) + ", environment from " + rep.EnvFrom
	status := FindingOK
	var next []string
	if rep.EnvNote != "" {
		text, status = text+": "+rep.EnvNote, FindingNote
		next = []string{"look for what hangs or prompts in the rc files there"}
	}
	d.note("login shell", status, text, next...)
	if rep.PathBroken {
		d.note("PATH", FindingFailed, "it lacks even mkdir and cat; absolute paths were used", "mend PATH in the rc files there")
	}
}

func (d *doctor) clock(rep bootstrap.Report) {
	off := rep.ClockSkew
	switch {
	case off == 0:
		d.note("clock", FindingOK, "as this machine's")
	case off.Abs() < skewWorth:
		d.note("clock", FindingOK, fmt.Sprintf("%s %s", off.Abs(), aheadOrBehind(off)))
	default:
		d.note("clock", FindingNote, fmt.Sprintf("%s %s: tokens and certificates may be refused", off.Abs(), aheadOrBehind(off)), "set it there: `timedatectl set-ntp true`")
	}
}

func aheadOrBehind(off time.Duration) string {
	if off > 0 {
		return "ahead of this machine"
	}
	return "behind this machine"
}

func (d *doctor) disk(rep bootstrap.Report) {
	text := "unknown free space"
	if rep.DiskFree >= 0 {
		text = megabytes(rep.DiskFree) + " free"
	}
	text += " at " + rep.InstallDir
	status := FindingOK
	var next []string
	if rep.DiskFree >= 0 && rep.DiskFree < lowDisk {
		status, next = FindingNote, []string{"make room there"}
	}
	if rep.ReadOnlyHome {
		status, text = FindingNote, text+"; the home folder cannot be written to"
		next = append(next, "name a folder that can: install_dir under [hosts."+d.d.Host+"]")
	}
	if rep.NoExec {
		status, text = FindingNote, text+"; nothing can be run from there (noexec)"
		next = append(next, "name another folder: install_dir under [hosts."+d.d.Host+"]")
	}
	if rep.NoExecTmp {
		text += "; /tmp is noexec, which does not matter here"
	}
	d.note("disk", status, text, next...)
}

func (d *doctor) sandbox(s bootstrap.Sandbox) {
	text := "landlock " + s.Landlock + ", user namespaces " + s.UserNS
	if s.Bubblewrap != "" {
		text += ", " + s.Bubblewrap
	}
	if s.Landlock == "no" && s.UserNS == "no" {
		d.note("sandbox", FindingNote, text+": commands of an agent cannot be confined there", "use a kernel with Landlock (5.13 or later), or allow user namespaces")
		return
	}
	d.note("sandbox", FindingOK, text)
}

func (d *doctor) ports(ports []bootstrap.Port) {
	var parts []string
	busy := 0
	for _, p := range ports {
		parts = append(parts, fmt.Sprintf("%d %s", p.Port, p.State))
		if p.State == "in use" {
			busy++
		}
	}
	if len(parts) == 0 {
		return
	}
	status := FindingOK
	var next []string
	if busy == len(ports) {
		status, next = FindingNote, []string{"log in with a device code instead: `codex login --device-auth`"}
	}
	d.note("login ports", status, strings.Join(parts, ", "), next...)
}

func (d *doctor) linger(l bootstrap.Linger) {
	switch {
	case !l.Systemd:
		d.note("linger", FindingOK, "no systemd: nothing ends what you started at logout")
	case l.State == "yes":
		d.note("linger", FindingOK, "on: what you started outlives your last logout, and can start at boot")
	case l.Kills:
		d.note("linger", FindingNote, "off, and logind ends everything of a user who left: work stops with the last connection", "turn it on there: `loginctl enable-linger`")
	case l.State == "no":
		d.note("linger", FindingOK, "off: what was started goes on, but not after a reboot; `loginctl enable-linger` changes that")
	default:
		d.note("linger", FindingOK, "unknown")
	}
}
