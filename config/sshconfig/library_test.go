package sshconfig

import (
	"strings"
	"testing"

	"towline/config"
)

// Where a Match that only ssh can decide might change the way in, nothing is
// resolved; where it might not, it is left out and said to be.
func TestLibraryRefusesToGuess(t *testing.T) {
	const decided, doubted, refused = "decided", "doubted", "refused"
	for name, tc := range map[string]struct {
		config string
		dest   string
		want   string
	}{
		"a proxy by a command":           {"Match exec true\nProxyCommand nc %h %p\n", "dev", refused},
		"a jump by a command":            {"Match host dev exec true\nProxyJump gate\n", "dev", refused},
		"not a jump by a command":        {"Match host dev !exec true\nProxyJump none\n", "dev", refused},
		"an identity by a command":       {"Match exec true\nIdentityFile ~/.ssh/x\n", "dev", refused},
		"an identity after others":       {"IdentityFile a\nMatch exec true\nIdentityFile b\n", "dev", refused},
		"an older name of it":            {"Match exec true\nIdentityFile2 b\n", "dev", refused},
		"a certificate by a command":     {"Match exec true\nCertificateFile b\n", "dev", refused},
		"an agent by a command":          {"Match exec true\nIdentityAgent /x\n", "dev", refused},
		"a card by a command":            {"Match exec true\nPKCS11Provider /x\n", "dev", refused},
		"another machine":                {"Match exec true\nHostName x\n", "dev", refused},
		"another user":                   {"Match exec true\nUser x\n", "dev", refused},
		"another user, but one is given": {"Match exec true\nUser x\n", "me@dev", doubted},
		"another port, but one is given": {"Match exec true\nPort 3\n", "ssh://dev:9", doubted},
		"a forwarded agent":              {"Match exec true\nForwardAgent yes\n", "dev", refused},
		"when final":                     {"Match final all\nProxyJump gate\n", "dev", refused},
		"when canonical":                 {"Match canonical all\nUser x\n", "dev", refused},
		"by a tag":                       {"Match tagged x\nUser x\n", "dev", refused},
		"by a network":                   {"Match localnetwork 10.0.0.0/8\nProxyJump none\n", "dev", refused},
		"by what is to come":             {"Match sessiontype shell\nUser x\n", "dev", refused},
		"one more condition in doubt":    {"Match user other,me exec true\nUser x\n", "dev", refused},

		"another host's command":         {"Match host other exec true\nProxyCommand nc\n", "dev", decided},
		"another user's command":         {"Match user other exec true\nProxyCommand nc\n", "dev", decided},
		"a host taken away":              {"Match host *,!dev exec true\nProxyCommand nc\n", "dev", decided},
		"a doubt inside another's block": {"Host other\nInclude doubt\n", "dev", decided},
		"a doubt inside this one's":      {"Host dev\nInclude doubt\n", "dev", refused},
		"settled before":                 {"Host dev\nProxyJump gate\nMatch exec true\nProxyCommand nc\n", "dev", doubted},
		"settled after":                  {"Match exec true\nProxyCommand nc\nHost dev\nProxyJump gate\n", "dev", refused},
		"nothing that matters":           {"Match exec true\nServerAliveInterval 3\nSendEnv X\nLogLevel DEBUG\n", "dev", doubted},
		"an empty block":                 {"Match exec true\nHost dev\n", "dev", decided},
	} {
		t.Run(name, func(t *testing.T) {
			o := home(t, map[string]string{".ssh/config": tc.config, ".ssh/doubt": "Match exec true\nHostName x\n"})
			o.Program = NoProgram
			got, err := Resolve(t.Context(), o, tc.dest)
			switch tc.want {
			case refused:
				if err == nil || config.ExitCode(err) != config.ExitConfig || !strings.Contains(err.Error(), "may or may not apply to dev") || len(config.Hints(err)) == 0 {
					t.Errorf("got %v", err)
				}
			case doubted, decided:
				said := strings.Contains(strings.Join(got.Warnings, "\n"), "the Match block, which only OpenSSH can decide")
				if err != nil || said != (tc.want == doubted) || got.ProxyCommand != "" || got.ServerAliveInterval != 0 {
					t.Errorf("said %v, got %v (%v)", said, got.Warnings, err)
				}
			}
		})
	}
}

// The library would take these for something else, so it never sees them.
func TestLibraryKeepsOddValues(t *testing.T) {
	for line, want := range map[string]string{
		`User "u#x"`:                  "u#x",
		`User u#x`:                    "u#x",
		`User @held:0`:                "@held:0",
		`User "@held:7"`:              "@held:7",
		"User\tx\t# comment":          "x",
		"Host\tdev\tother\n User tab": "tab",
		"Host de?\n User one":         "one",
		"Host dev?\n User none\nHost dev\n User exact": "exact",
		"Host d[e]v\n User class\nHost dev\n User own": "own",
	} {
		o := home(t, map[string]string{".ssh/config": line + "\n"})
		o.Program = NoProgram
		if got, err := Resolve(t.Context(), o, "dev"); err != nil || got.User != want {
			t.Errorf("%q gives %q (%v), want %q", line, got.User, err, want)
		}
	}
}

func TestLibrarySaysWhatItCouldNotRead(t *testing.T) {
	o := home(t, map[string]string{".ssh/config": "Host dev\nHostName \"x\nCanonicalizeHostname yes\nMACs +hmac-md5\n"})
	o.Program = NoProgram
	got, err := Resolve(t.Context(), o, "dev")
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(got.Warnings, "\n")
	for _, want := range []string{
		"there is no ssh command here", "ignored: " + o.Home + "/.ssh/config:2: a quote is not closed", "ignored: CanonicalizeHostname yes",
		"ignored: MACs +hmac-md5, which changes a list only OpenSSH has",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not among the warnings:\n%s", want, said)
		}
	}
}
