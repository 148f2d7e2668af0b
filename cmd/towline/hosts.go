package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"towline/config"
	"towline/config/sshconfig"
)

// checksAtOnce bounds how many hosts are looked at together.
const checksAtOnce = 8

// hostCheck is what a look at one host found.
type hostCheck struct {
	Reachable bool     `json:"reachable"`
	Stage     string   `json:"stage,omitempty"` // where it ended, when it did not get through
	Found     string   `json:"found,omitempty"` // "towline 0.4.2, running"
	Error     string   `json:"error,omitempty"` // one line
	Hints     []string `json:"hints,omitempty"`
	TookMS    int64    `json:"tookMs"`
}

// checkHost looks at one host: can it be reached without asking anybody, and
// what is there. It has deadlines of its own, and is called for several hosts at
// once.
type checkHost func(ctx context.Context, o sshconfig.Options, alias string, h config.Host) hostCheck

// hostRow is one host of the list.
type hostRow struct {
	Name      string     `json:"name"`
	File      string     `json:"file"`
	Line      int        `json:"line,omitempty"`
	HostName  string     `json:"hostName,omitempty"` // these three as literally written
	User      string     `json:"user,omitempty"`
	Port      int        `json:"port,omitempty"`
	FromMatch bool       `json:"fromMatch,omitempty"`
	Project   string     `json:"project,omitempty"`
	Transport string     `json:"transport"`
	Hidden    bool       `json:"hidden,omitempty"`
	Check     *hostCheck `json:"check,omitempty"`
}

// hostFault is what is wrong in the configuration files.
type hostFault struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text"`
}

// hostList is what --json prints.
type hostList struct {
	Hosts  []hostRow   `json:"hosts"`
	Faults []hostFault `json:"faults"`
}

// newHosts lists hosts; check is what --check does with each.
func newHosts(check checkHost) *cobra.Command {
	var all, asJSON, look bool
	var file string
	c := &cobra.Command{
		Use:   "hosts",
		Short: "List the hosts of your ssh configuration",
		Long: "hosts lists every concrete name of ~/.ssh/config, of the system-wide file and of\n" +
			"their Includes, with the place it stands and what is literally written about it.\n" +
			"Nothing is run and nobody is asked; what a name means in the end is found out\n" +
			"when you connect. Patterns such as *.example.com are no hosts, but any name that\n" +
			"ssh understands can be connected to.\n\n" +
			"Hide hosts and give them a project under [hosts.NAME] in config.toml.",
		Example: "  towline hosts\n  towline hosts --all\n  towline hosts --json | jq -r '.hosts[].name'\n  towline hosts -F ~/work/ssh_config",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, cfg, err := setup()
			if err != nil {
				return err
			}
			o := sshOptions(cfg, file)
			list, hidden := gatherHosts(o, cfg, paths, all)
			if !asJSON {
				for _, f := range list.Faults {
					cmd.PrintErrln("warning: " + sshconfig.Fault(f).String())
				}
				if len(list.Hosts) == 0 {
					cmd.PrintErrln(noHosts(hidden))
					return nil
				}
			}
			var see checkHost
			if look {
				see = check
			}
			return showHosts(cmd.Context(), cmd.OutOrStdout(), list, o, cfg, see, asJSON)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also those hidden in config.toml")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	sshConfigFlag(c, &file)
	if check != nil {
		c.Flags().BoolVar(&look, "check", false, "connect to each, and say what is there")
		c.Example += "\n  towline hosts --check"
	}
	return c
}

// sshConfigFlag is -F, with ssh's meaning, for the commands that name hosts.
func sshConfigFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "ssh-config", "F", "", "read this `FILE` instead of ~/.ssh/config and the system-wide one")
}

// sshOptions says which ssh configuration to read: what -F names, else what
// config.toml does, else ssh's own files.
func sshOptions(cfg config.Config, file string) sshconfig.Options {
	if file == "" {
		file = cfg.SSHConfig
	}
	return sshconfig.Options{UserFile: file}
}

// gatherHosts joins what ssh's files and ours say, in ssh's order; hosts only our
// file names come last. It also counts the hidden ones left out.
func gatherHosts(o sshconfig.Options, cfg config.Config, paths config.Paths, all bool) (list hostList, hidden int) {
	found := sshconfig.List(o)
	list = hostList{Hosts: []hostRow{}, Faults: []hostFault{}}
	for _, f := range found.Faults {
		list.Faults = append(list.Faults, hostFault(f))
	}
	seen := map[string]bool{}
	add := func(r hostRow) {
		h := cfg.Host(r.Name)
		r.Project, r.Transport, r.Hidden = h.Project, h.Transport, h.Hidden
		seen[r.Name] = true
		if r.Hidden && !all {
			hidden++
			return
		}
		list.Hosts = append(list.Hosts, r)
	}
	for _, a := range found.Aliases {
		add(hostRow{Name: a.Name, File: a.File, Line: a.Line, HostName: a.HostName, User: a.User, Port: a.Port, FromMatch: a.FromMatch})
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Hosts)) {
		if !seen[name] {
			add(hostRow{Name: name, File: paths.ConfigFile()})
		}
	}
	return list, hidden
}

func noHosts(hidden int) string {
	if hidden > 0 {
		return fmt.Sprintf("every host is hidden (%d); `towline hosts --all` shows them", hidden)
	}
	return "your ssh configuration names no host; connect with `towline user@host`, or name one in ~/.ssh/config:\n\n  Host dev-server\n    HostName 192.0.2.10\n    User me"
}

// showHosts prints the list. With see, each host is looked at, and its row
// printed when that is done: the quick ones do not wait for the slow.
func showHosts(ctx context.Context, w io.Writer, list hostList, o sshconfig.Options, cfg config.Config, see checkHost, asJSON bool) error {
	t := newHostTable(w, list.Hosts, see != nil)
	show := t.row
	if asJSON {
		show = func(hostRow) error { return nil }
	} else if err := t.line(t.titles()); err != nil {
		return err
	}
	if see != nil {
		see := func(ctx context.Context, r *hostRow) {
			found := see(ctx, o, r.Name, cfg.Host(r.Name))
			r.Check = &found
		}
		if err := lookAt(ctx, list.Hosts, see, show); err != nil {
			return err
		}
	} else {
		for _, r := range list.Hosts {
			if err := show(r); err != nil {
				return err
			}
		}
	}
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(list)
	}
	return nil
}

// lookAt looks at all hosts, a few at a time, and shows each when it is done, one
// after the other.
func lookAt(ctx context.Context, rows []hostRow, see func(context.Context, *hostRow), show func(hostRow) error) error {
	g, gctx := errgroup.WithContext(ctx)
	done := make(chan int)
	g.Go(func() error {
		defer close(done)
		var looks errgroup.Group
		looks.SetLimit(checksAtOnce)
		for i := range rows {
			looks.Go(func() error {
				if gctx.Err() != nil {
					return nil
				}
				see(gctx, &rows[i])
				select {
				case done <- i:
				case <-gctx.Done():
				}
				return nil
			})
		}
		return looks.Wait()
	})
	g.Go(func() error {
		for i := range done {
			if err := show(rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return &config.Problem{Stage: "hosts", Err: context.Cause(ctx), Exit: config.ExitInterrupted}
	}
	return nil
}

// hostTable prints rows under fixed columns, so that a row can come before the
// next is known.
type hostTable struct {
	w      io.Writer
	widths []int
	check  bool
	home   string
}

func newHostTable(w io.Writer, rows []hostRow, check bool) *hostTable {
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	t := &hostTable{w: w, check: check, home: home}
	t.widths = make([]int, len(t.titles()))
	for i, c := range t.titles() {
		t.widths[i] = len(c)
	}
	for _, r := range rows {
		for i, c := range t.cells(r) {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
		}
	}
	return t
}

func (t *hostTable) titles() []string {
	if t.check {
		return []string{"HOST", "TARGET", "PROJECT", "FROM", "FOUND"}
	}
	return []string{"HOST", "TARGET", "PROJECT", "FROM"}
}

func (t *hostTable) cells(r hostRow) []string {
	project := r.Project
	if project == "" {
		project = "-"
	}
	from := shorten(r.File, t.home)
	if r.Line > 0 {
		from += ":" + strconv.Itoa(r.Line)
	}
	if r.FromMatch {
		from += " (Match)"
	}
	if r.Hidden {
		from += " (hidden)"
	}
	cells := []string{r.Name, target(r), project, from}
	if t.check {
		cells = append(cells, outcome(r.Check))
	}
	return cells
}

// target is what is written about a host, as one would type it.
func target(r hostRow) string {
	s := r.HostName
	if s == "" {
		s = r.Name
	}
	if r.Port != 0 && r.Port != 22 {
		s = net.JoinHostPort(s, strconv.Itoa(r.Port))
	}
	if r.User != "" {
		s = r.User + "@" + s
	}
	return s
}

// outcome is a check in one cell.
func outcome(c *hostCheck) string {
	switch {
	case c == nil:
		return ""
	case c.Reachable && c.Found == "":
		return "reachable"
	case c.Reachable:
		return c.Found
	case c.Stage == "":
		return c.Error
	}
	return c.Stage + ": " + c.Error
}

func (t *hostTable) row(r hostRow) error {
	if err := t.line(t.cells(r)); err != nil {
		return err
	}
	if r.Check == nil || r.Check.Reachable {
		return nil
	}
	for _, h := range r.Check.Hints {
		if _, err := fmt.Fprintf(t.w, "%*shint: %s\n", t.widths[0]+2, "", h); err != nil {
			return err
		}
	}
	return nil
}

func (t *hostTable) line(cells []string) error {
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(c)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c)+2))
		}
	}
	_, err := fmt.Fprintln(t.w, strings.TrimRight(b.String(), " "))
	return err
}

// shorten writes a path under the home folder with ~.
func shorten(path, home string) string {
	if rel, err := filepath.Rel(home, path); home != "" && err == nil && filepath.IsLocal(rel) {
		return "~" + string(filepath.Separator) + rel
	}
	return path
}
