package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"towline/config"
	"towline/launcher"
)

// hostOptions are the flags of every command that connects to a host.
type hostOptions struct {
	transport, sshConfig string
	verbose              bool

	paths config.Paths // set by launcher
	host  config.Host  // what the configuration says of it; set by launcher
}

func (o *hostOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.transport, "transport", "", "`HOW` SSH is carried: auto, builtin or system (the ssh program)")
	sshConfigFlag(c, &o.sshConfig)
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show every step")
}

// launcher is the configuration for connecting to host.
func (o *hostOptions) launcher(host string, errOut io.Writer) (launcher.Config, error) {
	paths, cfg, err := setup()
	if err != nil {
		return launcher.Config{}, err
	}
	o.paths, o.host = paths, cfg.Host(host)
	b, err := findBuilds(paths)
	if err != nil {
		return launcher.Config{}, err
	}
	transport := o.transport
	if transport == "" {
		transport = o.host.Transport
	}
	log := slog.New(slog.DiscardHandler)
	if o.verbose {
		log = slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return launcher.Config{
		Host: host, Transport: transport, SSH: sshOptions(cfg, o.sshConfig),
		Environ: os.Getenv, Version: version(), Memory: launcher.NewMemory(filepath.Join(paths.State, "hosts")),
		Pin: o.host.Towline, InstallDir: o.host.InstallDir, Build: b.find, RuntimeDir: paths.Runtime, Log: log,
	}, nil
}
