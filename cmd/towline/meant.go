package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/config"
	"towline/config/sshconfig"
)

// meant refuses a word that is no host and nearly a command or a host: a typo
// must not end as a connection that fails. A name of the ssh configuration is a host,
// whatever it looks like, and so is one that has an address.
func meant(cmd *cobra.Command, word, sshFile string) error {
	if strings.ContainsAny(word, "@:/") {
		return nil
	}
	_, cfg, err := setup()
	if err != nil {
		return err
	}
	if sshFile != "" {
		cfg.SSHConfig = sshFile
	}
	if isHost(cfg, word) {
		return nil
	}
	near := cmd.SuggestionsFor(word)
	if host := sshconfig.List(sshOptions(cfg, "")).Nearest(word); host != "" {
		near = append(near, host)
	}
	if len(near) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
	defer cancel()
	// A Match block or canonicalisation may know a name that no list has, and a
	// bastion one that no name service here has.
	if t, err := sshconfig.Resolve(ctx, sshOptions(cfg, ""), word); err == nil && (t.HostName != word || len(t.ProxyJump) > 0 || t.ProxyCommand != "") {
		return nil
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, word); err == nil {
		return nil
	}
	return &config.Problem{
		Err:   fmt.Errorf("%q is neither a command nor a host", word),
		Hints: []string{"did you mean `towline " + near[0] + "`?", "list the hosts you have: `towline hosts`"}, Exit: config.ExitUsage,
	}
}

// isHost reports whether a configuration names word as a host.
func isHost(cfg config.Config, word string) bool {
	if _, named := cfg.Hosts[word]; named {
		return true
	}
	list := sshconfig.List(sshOptions(cfg, ""))
	return slices.ContainsFunc(list.Aliases, func(a sshconfig.Alias) bool { return a.Name == word })
}

var threadID = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-`)

// looksLikeThread reports whether word has the form of a thread's id.
func looksLikeThread(word string) bool { return threadID.MatchString(word) }
