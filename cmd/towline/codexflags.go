package main

import (
	"errors"

	"github.com/spf13/cobra"

	"towline/config"
)

// codexFlags are flags of `codex app-server` that are about Codex itself. The one
// that is started as the engine gets them as they are.
type codexFlags struct {
	overrides, enable, disable []string
	strict, analytics          bool
}

func (o *codexFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&o.overrides, "config", "c", nil, "`key=value` of Codex's configuration, for the codex engine (repeatable)")
	f.StringArrayVar(&o.enable, "enable", nil, "turn a `FEATURE` of the codex engine on (repeatable)")
	f.StringArrayVar(&o.disable, "disable", nil, "turn a `FEATURE` of the codex engine off (repeatable)")
	f.BoolVar(&o.strict, "strict-config", false, "have the codex engine refuse what it does not know in its configuration")
	f.BoolVar(&o.analytics, "analytics-default-enabled", false, "have the codex engine send analytics unless its configuration says otherwise")
}

// args are the flags as Codex takes them.
func (o codexFlags) args() (out []string) {
	for _, v := range o.overrides {
		out = append(out, "-c", v)
	}
	for _, v := range o.enable {
		out = append(out, "--enable", v)
	}
	for _, v := range o.disable {
		out = append(out, "--disable", v)
	}
	if o.strict {
		out = append(out, "--strict-config")
	}
	if o.analytics {
		out = append(out, "--analytics-default-enabled")
	}
	return out
}

// fit refuses flags that the engine of this kind could only ignore.
func (o codexFlags) fit(kind string) error {
	if kind == config.EngineCodex || len(o.args()) == 0 {
		return nil
	}
	return &config.Problem{
		Stage: "engine", Err: errors.New("-c, --enable, --disable, --strict-config and --analytics-default-enabled are for Codex, and the native engine works here"),
		Hints: []string{"use Codex: `--engine codex`", "the native engine is set up in config.toml; see `towline help config`"}, Exit: config.ExitUsage,
	}
}
