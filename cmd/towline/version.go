package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"towline/appserver/protocol"
	"towline/config"
)

// release is the version of a released binary, set when it is linked:
// -ldflags "-X main.release=1.2.3".
var release string

// version is the release, the module's version, or the commit it was built from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return versionOf(info)
}

// versionOf is the version of a binary that is no release.
func versionOf(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if rev == "" {
		return "devel"
	}
	return "devel-" + rev + dirty
}

// about is what `towline version --json` prints. Clients on other machines read
// it before they talk to this binary: names stay, more may come.
type about struct {
	Version  string          `json:"version"`
	Protocol protocol.Window `json:"protocol"`
	OS       string          `json:"os"`
	Arch     string          `json:"arch"`
}

func newVersion() *cobra.Command {
	var asJSON, checksum bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Say which Towline this is",
		Long: "Prints the version and the window of protocol versions this binary speaks.\n" +
			"Two Towlines whose windows meet understand each other, whatever their versions.",
		Example: "  towline version\n  towline version --json | jq .protocol",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			a := about{Version: version(), Protocol: protocol.Spoken, OS: runtime.GOOS, Arch: runtime.GOARCH}
			var err error
			switch {
			case checksum:
				var sum string
				if sum, err = ownChecksum(); err == nil {
					_, err = fmt.Fprintln(out, sum)
				}
			case asJSON:
				err = json.NewEncoder(out).Encode(a)
			default:
				_, err = fmt.Fprintf(out, "towline %s (%s/%s, protocol %d to %d)\n", a.Version, a.OS, a.Arch, a.Protocol.Min, a.Protocol.Max)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().BoolVar(&checksum, "checksum", false, "print the SHA-256 of this binary")
	c.MarkFlagsMutuallyExclusive("json", "checksum")
	return c
}

// ownChecksum is for hosts that have no tool to check an upload with.
func ownChecksum() (string, error) {
	path, err := os.Executable()
	if err == nil {
		var f *os.File
		if f, err = os.Open(path); err == nil { //nolint:gosec // it is this program
			defer func() { _ = f.Close() }() // read-only
			sum := sha256.New()
			if _, err = io.Copy(sum, f); err == nil {
				return hex.EncodeToString(sum.Sum(nil)), nil
			}
		}
	}
	return "", &config.Problem{Stage: "version", Err: fmt.Errorf("read this program: %w", err)}
}
