package bootstrap

import (
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/launcher/remote"
)

func TestChooseTakesTheBestInTheOrderOfTheDesign(t *testing.T) {
	one := protocol.Window{Min: 1, Max: 1}
	var (
		daemon    = Candidate{Kind: Towline, From: "running", Path: "/b/towline", Version: "1.0.0", Window: one, Socket: "/r/towline.sock"}
		installed = Candidate{Kind: Towline, From: "installed", Path: "/i/towline", Version: "1.0.0", Window: one}
		inPath    = Candidate{Kind: Towline, From: "PATH", Path: "/p/towline", Version: "1.1.0", Window: one}
		same      = Candidate{Kind: Towline, From: "well-known", Path: "/w/towline", Version: "1.2.0", Window: one}
		tooNew    = Candidate{Kind: Towline, From: "PATH", Path: "/n/towline", Version: "9.0.0", Window: protocol.Window{Min: 8, Max: 9}}
		ancient   = Candidate{Kind: Towline, From: "PATH", Path: "/a/towline", Version: "0.1.0"}
		control   = Candidate{Kind: Codex, From: "running", Path: "/p/codex", Version: "0.169.0", Socket: "/c.sock"}
		private   = Candidate{Kind: Codex, From: "running", Path: "/p/codex", Version: "0.169.0", Socket: "/r/codex.sock", Private: true}
		codex     = Candidate{Kind: Codex, From: "PATH", Path: "/p/codex", Version: "0.169.0"}
		codex2    = Candidate{Kind: Codex, From: "well-known", Path: "/w/codex", Real: "/real/codex", Version: "0.170.0"}
		oldCodex  = Candidate{Kind: Codex, From: "PATH", Path: "/o/codex", Version: "0.100.0", Fault: "too old: Towline needs 0.166.0 or newer"}
	)
	all := []Candidate{oldCodex, codex, codex2, private, control, ancient, tooNew, inPath, installed, same, daemon}
	without := func(out ...Candidate) []Candidate {
		var left []Candidate
	next:
		for _, c := range all {
			for _, o := range out {
				if c == o {
					continue next
				}
			}
			left = append(left, c)
		}
		return left
	}
	for name, tc := range map[string]struct {
		have   []Candidate
		pin    string
		action Action
		path   string
		socket string
		why    string
		block  bool
	}{
		"all":                    {all, "", Join, "/b/towline", "/r/towline.sock", "is running", false},
		"same version":           {without(daemon), "", Start, "/w/towline", "", "same version as here, one of 5", false},
		"installed":              {without(daemon, same), "", Start, "/i/towline", "", "Towline put it there", false},
		"newest of the window":   {[]Candidate{ancient, {Kind: Towline, From: "PATH", Path: "/q/towline", Version: "1.0.9", Window: one}, inPath, tooNew}, "", Start, "/p/towline", "", "the newest of 4", false},
		"too new":                {[]Candidate{tooNew, codex}, "", Start, "/n/towline", "", "found in PATH", true},
		"too old":                {[]Candidate{ancient}, "", Start, "/a/towline", "", "found in PATH", true},
		"codex daemon":           {[]Candidate{codex, private, control}, "", Join, "/p/codex", "/c.sock", "is running", false},
		"our codex daemon":       {[]Candidate{codex, private}, "", Join, "/p/codex", "/r/codex.sock", "of Towline's starting", false},
		"codex":                  {[]Candidate{oldCodex, codex, codex2}, "", Start, "/p/codex", "", "found in PATH, the first of 3", false},
		"nothing":                {nil, "", Offer, "", "", "neither towline nor codex is in /usr/bin", false},
		"only an old codex":      {[]Candidate{oldCodex}, "", Offer, "", "", "too old", false},
		"pinned kind":            {all, "codex", Join, "/p/codex", "/c.sock", "the configuration asks for codex", false},
		"pinned path":            {[]Candidate{codex, codex2}, "/w/codex", Start, "/w/codex", "", "asks for /w/codex", false},
		"pinned real path":       {[]Candidate{codex, codex2}, "/real/codex", Start, "/w/codex", "", "asks for /real/codex", false},
		"pinned to what is lost": {[]Candidate{codex}, "towline", Offer, "", "", "asks for towline", false},
	} {
		t.Run(name, func(t *testing.T) {
			rep := Report{OS: "linux", Candidates: tc.have, PathSearched: []string{"/usr/bin"}}
			ch, err := Choose(rep, Options{Pin: tc.pin, Version: "1.2.0", Window: one})
			if err != nil {
				t.Fatal(err)
			}
			if ch.Action != tc.action || ch.Candidate.Path != tc.path || ch.Candidate.Socket != tc.socket || ch.Skew.Block != tc.block {
				t.Errorf("chose %+v", ch)
			}
			if !strings.Contains(ch.Why, tc.why) {
				t.Errorf("because %q, want %q", ch.Why, tc.why)
			}
			if ch.Action != Offer && len(ch.Others) != len(tc.have)-1 {
				t.Errorf("of %d others it says %q", len(tc.have)-1, ch.Others)
			}
			for _, o := range ch.Others {
				if _, reason, ok := strings.Cut(o, ": "); !ok || reason == "" {
					t.Errorf("%q was passed over without a reason", o)
				}
			}
		})
	}
}

func TestChooseRefusesWhatCannotBe(t *testing.T) {
	rep := Report{OS: "linux", Candidates: []Candidate{{Kind: Towline, Path: "/p/towline", Version: "1.0.0"}}}
	_, err := Choose(rep, Options{Pin: "/gone/codex", Host: "dev"})
	refused(t, err, remote.StageFind, "/gone/codex, which the configuration asks for, is not there", "[hosts.dev]")
	_, err = Choose(rep, Options{Pin: "codex"})
	refused(t, err, remote.StageFind, "codex, which the configuration asks for", "doctor")
	_, err = Choose(Report{OS: "windows"}, Options{})
	refused(t, err, remote.StageFind, "Windows", "WSL")
	_, _, err = Open(t.Context(), nil, Report{PathSearched: []string{"/usr/bin"}}, Choice{Action: Offer})
	refused(t, err, remote.StageFind, "nothing to start", "--install")
}

func TestSkew(t *testing.T) {
	w := func(min, max int) protocol.Window { return protocol.Window{Min: min, Max: max} }
	for name, tc := range map[string]struct {
		local        string
		mine         protocol.Window
		remote       string
		theirs       protocol.Window
		kind         SkewKind
		protocol     int
		notice, hint string
	}{
		"same":                {"1.2.0", w(1, 3), "1.2.0", w(1, 3), Same, 3, "", ""},
		"same, tagged":        {"1.2.0", w(1, 3), "v1.2.0", w(1, 3), Same, 3, "", ""},
		"older":               {"1.2.0", w(1, 3), "1.1.9", w(1, 2), Older, 2, "dev runs Towline 1.1.9, older than this 1.2.0", "connect dev --install"},
		"newer":               {"1.2.0", w(1, 3), "1.10.0", w(2, 5), Newer, 3, "newer than this", "on this machine"},
		"pre-release":         {"1.2.0", w(1, 1), "1.2.0-rc.1", w(1, 1), Older, 1, "older", "--install"},
		"of a working tree":   {"devel-abc", w(1, 1), "1.2.0", w(1, 1), Differs, 1, "this is devel-abc", ""},
		"too old":             {"3.0.0", w(4, 5), "1.0.0", w(1, 3), OutOfWindow, 0, "too old for this 3.0.0: you can read, not send", "connect dev --install"},
		"too new":             {"1.0.0", w(1, 3), "3.0.0", w(4, 5), OutOfWindow, 0, "too new for this", "update Towline on this machine"},
		"from before windows": {"1.0.0", w(1, 1), "0.0.1", w(0, 0), OutOfWindow, 0, "too old", "connect dev --install"},
		"nonsense":            {"1.0.0", w(1, 3), "1.0.0", w(3, 1), OutOfWindow, 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := Compare(tc.local, tc.mine, tc.remote, tc.theirs, "dev")
			if s.Kind != tc.kind || s.Protocol != tc.protocol || s.Block != (tc.kind == OutOfWindow) {
				t.Errorf("%+v", s)
			}
			if !strings.Contains(s.Notice, tc.notice) || !strings.Contains(s.Hint, tc.hint) || tc.kind == Same && s.Notice != "" {
				t.Errorf("%q (%s)", s.Notice, s.Hint)
			}
		})
	}
}

func TestVersionsAreReadFromWhatProgramsSay(t *testing.T) {
	for said, tc := range map[string]struct {
		kind           Kind
		version, fault string
	}{
		"codex-cli 0.169.0": {Codex, "0.169.0", ""},
		"WARNING: proceeding, even though we could not create PATH aliases 1.2.3 codex-cli 0.170.0-alpha.1": {Codex, "0.170.0-alpha.1", ""},
		"codex-cli 0.0.0":    {Codex, "0.0.0", ""}, // what a developer built
		"codex-cli 0.99.0":   {Codex, "0.99.0", "too old"},
		"Codex the game 1.0": {Codex, "", "does not say its version"},
		"/usr/bin/env: 'node': No such file or directory":  {Codex, "", "node"},
		`{"version":"1.2.3","protocol":{"min":1,"max":2}}`: {Towline, "1.2.3", ""},
		"noise {\"version\":\"1.2.3\"} noise":              {Towline, "1.2.3", ""},
		"towline version devel-abc":                        {Towline, "devel-abc", ""},
		"":                                                 {Towline, "", "does not say its version"},
		"{}":                                               {Towline, "", "does not say its version"},
	} {
		c := Candidate{Kind: tc.kind}
		c.version(said)
		if c.Version != tc.version || (c.Fault == "") != (tc.fault == "") || !strings.Contains(c.Fault, tc.fault) {
			t.Errorf("%q: %+v", said, c)
		}
	}
}

func TestProxyPasswordsAreReplaced(t *testing.T) {
	for in, want := range map[string]string{
		"http://proxy:3128":            "http://proxy:3128",
		"http://me:secret@proxy:3128/": "http://me:xxxxx@proxy:3128/",
		"me:secret@proxy":              "xxxxx@proxy",
		"http://me:a@b%zz@proxy":       "http://xxxxx@proxy",
		"localhost,.corp":              "localhost,.corp",
	} {
		if got := redact(in); got != want {
			t.Errorf("redact(%q) = %q, want %q", in, got, want)
		}
	}
}
