package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"towline/config"
)

// launchd keeps agents for whoever is logged in on a Mac.
type launchd struct {
	dir   string
	label string
}

func newLaunchd(home, suffix string) launchd {
	return launchd{dir: filepath.Join(home, "Library", "LaunchAgents"), label: "towline" + suffix}
}

func (l launchd) name() string { return backendLaunchd }
func (l launchd) unit() string { return l.label }
func (l launchd) file() string { return filepath.Join(l.dir, l.label+".plist") }

// domain is where launchd keeps this user's agents.
func (l launchd) domain() string { return fmt.Sprintf("gui/%d", os.Getuid()) }
func (l launchd) target() string { return l.domain() + "/" + l.label }

// define writes the agent's property list.
func (l launchd) define(d serviceDefinition) (string, error) {
	if d.Hardened {
		return "", errors.New("launchd has nothing that --hardened could ask for")
	}
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by "towline service install"; "towline service uninstall" removes it. -->
<plist version="1.0">
<dict>
`)
	text := func(s string) string {
		var e strings.Builder
		_ = xml.EscapeText(&e, []byte(s)) // a builder takes everything
		return "<string>" + e.String() + "</string>"
	}
	key := func(name, value string) { fmt.Fprintf(&b, "\t<key>%s</key>\n\t%s\n", name, value) }
	key("Label", text(l.label))
	args := ""
	for _, a := range []string{d.Program, superviseCommand, "--program", d.Program, "--backend", backendLaunchd} {
		args += "\t\t" + text(a) + "\n"
	}
	key("ProgramArguments", "<array>\n"+args+"\t</array>")
	key("RunAtLoad", "<true/>")
	// An end in good order is one that was asked for, or that trying again does not
	// mend; see supervise.
	key("KeepAlive", "<dict>\n\t\t<key>SuccessfulExit</key>\n\t\t<false/>\n\t</dict>")
	key("ThrottleInterval", "<integer>10</integer>")
	key("ExitTimeOut", "<integer>70</integer>")
	key("WorkingDirectory", text(d.Dir))
	env := ""
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		env += "\t\t<key>" + name + "</key>\n\t\t" + text(d.Env[name]) + "\n"
	}
	key("EnvironmentVariables", "<dict>\n"+env+"\t</dict>")
	key("StandardOutPath", text(d.Log))
	key("StandardErrorPath", text(d.Log))
	key("HardResourceLimits", "<dict>\n\t\t<key>Core</key>\n\t\t<integer>0</integer>\n\t</dict>")
	b.WriteString("</dict>\n</plist>\n")
	return b.String(), nil
}

func (l launchd) ctl(ctx context.Context, args ...string) (string, error) {
	return runManager(ctx, os.Environ(), "launchctl", args...)
}

func (l launchd) enable(ctx context.Context) error {
	_, err := l.ctl(ctx, "enable", l.target())
	if err == nil {
		return nil
	}
	return &config.Problem{
		Stage: "service", Err: err, Exit: config.ExitUnavailable,
		Hints: []string{
			"an agent belongs to somebody who is logged in on the Mac's own screen: log in there, and type this again",
			"until the next reboot `towline remote-control start` is enough",
		},
	}
}

// start loads the agent, which starts it, or starts one that is loaded.
func (l launchd) start(ctx context.Context) error {
	if _, err := l.ctl(ctx, "print", l.target()); err == nil {
		// It may have been defined anew since.
		if _, err := l.ctl(ctx, "bootout", l.target()); err != nil {
			return err
		}
	}
	_, err := l.ctl(ctx, "bootstrap", l.domain(), l.file())
	return err
}

func (l launchd) disable(ctx context.Context) error {
	if _, err := l.ctl(ctx, "print", l.target()); err != nil {
		return nil //nolint:nilerr // it is not loaded
	}
	_, err := l.ctl(ctx, "bootout", l.target())
	return err
}

func (l launchd) forget(context.Context) error { return nil }

func (l launchd) state(ctx context.Context) (enabled, active bool) {
	out, err := l.ctl(ctx, "print", l.target())
	if err != nil {
		return false, false
	}
	for line := range strings.Lines(out) {
		if strings.TrimSpace(line) == "state = running" {
			return true, true
		}
	}
	return true, false
}

func (l launchd) survives(context.Context) (bool, string, string) {
	return false, "an agent runs from login to logout", "so that it runs after a reboot without you, turn on automatic login, or stay logged in"
}
