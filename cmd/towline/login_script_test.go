package main

import (
	"bytes"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"towline/appserver/account/issuertest"
)

// issuerOf has the issuers of the scripts that run now, by their working folder.
var issuerOf sync.Map

func issuerFor(ts *testscript.TestScript) *issuertest.Issuer {
	iss, ok := issuerOf.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("there is no issuer: begin with `issuer`")
	}
	return iss.(*issuertest.Issuer)
}

// loginCommands are what scripts need to log in:
//
//	issuer            runs one, and points the environment at it
//	entercode FILE    types the device code that appears in FILE, and allows
//	denycode FILE     the same, and says no
//	revoked N         checks how many tokens were handed back
//	down, up          takes the issuer away, and brings it back
//	nosecret FILE…    checks that nothing the issuer gave out is in the files
func loginCommands(cmds map[string]func(*testscript.TestScript, bool, []string)) map[string]func(*testscript.TestScript, bool, []string) {
	all := maps.Clone(cmds)
	all["issuer"] = func(ts *testscript.TestScript, _ bool, _ []string) {
		iss := issuertest.New(issuertest.Options{Canary: "CANARY", Alg: "RS256"})
		s := httptest.NewServer(iss)
		iss.URL = s.URL
		iss.AddPAT("at-CANARY-good", issuertest.User{Email: "pat@example.com", Subject: "user-pat", AccountID: "acct-pat", Plan: "team"})
		ts.Setenv("CODEX_APP_SERVER_LOGIN_ISSUER", s.URL)
		ts.Setenv("CODEX_AUTHAPI_BASE_URL", s.URL)
		ts.Setenv("NO_PROXY", "127.0.0.1")
		issuerOf.Store(ts.Getenv("WORK"), iss)
		ts.Defer(func() {
			issuerOf.Delete(ts.Getenv("WORK"))
			iss.Release("")
			s.CloseClientConnections()
			s.Close()
		})
	}
	all["entercode"] = func(ts *testscript.TestScript, _ bool, args []string) { enterCode(ts, args, true) }
	all["denycode"] = func(ts *testscript.TestScript, _ bool, args []string) { enterCode(ts, args, false) }
	all["down"] = func(ts *testscript.TestScript, _ bool, _ []string) { issuerFor(ts).Down(true) }
	all["up"] = func(ts *testscript.TestScript, _ bool, _ []string) { issuerFor(ts).Down(false) }
	all["revoked"] = func(ts *testscript.TestScript, _ bool, args []string) {
		if got := len(issuerFor(ts).Revoked()); len(args) != 1 || args[0] != strconv.Itoa(got) {
			ts.Fatalf("%d tokens were handed back, want %v", got, args)
		}
	}
	all["nosecret"] = func(ts *testscript.TestScript, _ bool, args []string) {
		for _, f := range args {
			if raw := []byte(ts.ReadFile(f)); bytes.Contains(raw, []byte("CANARY")) || bytes.Contains(raw, []byte("eyJ")) {
				ts.Fatalf("%s holds a secret: %s", f, raw)
			}
		}
	}
	return all
}

// deviceCode is one as the issuer makes them.
var deviceCode = regexp.MustCompile(`\b[A-Z0-9]{4}-[A-Z0-9]{5}\b`)

func enterCode(ts *testscript.TestScript, args []string, allow bool) {
	if len(args) != 1 {
		ts.Fatalf("usage: entercode FILE")
	}
	for end := time.Now().Add(45 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		raw, _ := os.ReadFile(ts.MkAbs(args[0])) // not there yet
		if code := deviceCode.FindString(strings.ReplaceAll(string(raw), "\x1b", " ")); code != "" {
			if !issuerFor(ts).EnterCode(code, allow) {
				ts.Fatalf("the issuer does not know the code %s", code)
			}
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s never showed a code: %s", args[0], raw)
		}
	}
}
