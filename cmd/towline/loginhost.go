package main

import (
	"errors"

	"github.com/spf13/cobra"

	"towline/config"
)

// loginHost logs a host in through the browser of this machine.
func loginHost(_ *cobra.Command, host string, _ loginFlags) error {
	return &config.Problem{Stage: "login", Err: errors.New("logging in on " + host + " is not built yet")}
}
