package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newKey is a key and its line without a comment.
func newKey(t testing.TB) (ssh.PublicKey, string) {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewPublicKey(pub)
	must(t, err)
	return key, lineOf(key)
}

func lineOf(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func TestParseLine(t *testing.T) {
	key, line := newKey(t)
	grant := Grant{Fingerprint: ssh.FingerprintSHA256(key), Name: ssh.FingerprintSHA256(key), Role: protocol.RoleAdmin, Terminal: true}
	with := func(change func(*Grant)) Grant {
		g := grant
		change(&g)
		return g
	}
	for name, tc := range map[string]struct {
		line string
		want Grant
	}{
		"bare":                  {line, grant},
		"comment":               {line + " ana@laptop", with(func(g *Grant) { g.Name = "ana@laptop" })},
		"comment with blanks":   {line + " \t ana's  laptop ", with(func(g *Grant) { g.Name = "ana's  laptop" })},
		"comment with escapes":  {line + " a\x1b[31mb\u202ec\a", with(func(g *Grant) { g.Name = "a[31mbc" })},
		"long comment":          {line + " " + strings.Repeat("x", 200), with(func(g *Grant) { g.Name = strings.Repeat("x", 80) + "…" })},
		"tabs":                  {strings.ReplaceAll(line, " ", "\t \t") + "\tc", with(func(g *Grant) { g.Name = "c" })},
		"role":                  {`environment="TOWLINE_ROLE=approver" ` + line, with(func(g *Grant) { g.Role = protocol.RoleApprover })},
		"other environment":     {`environment="EDITOR=vi" ` + line, grant},
		"restrict":              {"restrict " + line, with(func(g *Grant) { g.Terminal, g.NoForward = false, true })},
		"restrict,pty":          {"restrict,pty " + line, with(func(g *Grant) { g.NoForward = true })},
		"pty,restrict":          {"pty,restrict " + line, with(func(g *Grant) { g.Terminal, g.NoForward = false, true })},
		"restrict and forwards": {"restrict,pty,port-forwarding " + line, grant},
		"no forwards":           {"no-port-forwarding " + line, with(func(g *Grant) { g.NoForward = true })},
		"permitopen":            {`permitopen="localhost:1455",permitopen="[::1]:*,127.0.0.1:1457" ` + line, with(func(g *Grant) { g.Opens = ",localhost:1455,[::1]:*,127.0.0.1:1457" })},
		"names in any case":     {"NO-PTY,Restrict " + line, with(func(g *Grant) { g.Terminal, g.NoForward = false, true })},
		"command":               {`command="app-server" ` + line, with(func(g *Grant) { g.Forced, g.Command = true, "app-server" })},
		"empty command":         {`command="" ` + line, with(func(g *Grant) { g.Forced = true })},
		"quotes, commas inside": {`command="say \"a, b\" \n",no-pty ` + line, with(func(g *Grant) { g.Forced, g.Command, g.Terminal = true, `say "a, b" \n`, false })},
		"a key inside quotes":   {`command="ssh-ed25519 AAAA" ` + line, with(func(g *Grant) { g.Forced, g.Command = true, "ssh-ed25519 AAAA" })},
		"no touch":              {"no-touch-required " + line, with(func(g *Grant) { g.NoTouch = true })},
		"moot options":          {`no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc,permitlisten="1",tunnel="0",agent-forwarding,port-forwarding,X11-forwarding,user-rc ` + line, grant},
		"from and expiry":       {`from="10.0.0.0/8",expiry-time="20300101" ` + line, grant},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := parseLine(tc.line)
			if err != nil || e.Grant != tc.want || string(e.blob) != string(key.Marshal()) {
				t.Errorf("got %+v, %v\nwant %+v", e.Grant, err, tc.want)
			}
		})
	}
}

func TestMayOpen(t *testing.T) {
	for name, tc := range map[string]struct {
		g    Grant
		host string
		port uint32
		want bool
	}{
		"by default":         {Grant{}, "localhost", 1455, true},
		"no-port-forwarding": {Grant{NoForward: true}, "localhost", 1455, false},
		"a forced command":   {Grant{Forced: true, Command: "app-server"}, "localhost", 1455, false},
		"listed":             {Grant{Opens: ",a:1,localhost:1455"}, "localhost", 1455, true},
		"another port":       {Grant{Opens: ",localhost:1455"}, "localhost", 1457, false},
		"another name of it": {Grant{Opens: ",localhost:1455"}, "127.0.0.1", 1455, false},
		"any port":           {Grant{Opens: ",localhost:*"}, "localhost", 1457, true},
		"IPv6":               {Grant{Opens: ",[::1]:1455"}, "::1", 1455, true},
		"a name with commas": {Grant{Opens: ",a:1"}, "a:1,b", 2, false},
		"no pattern":         {Grant{Opens: ",*:1455"}, "localhost", 1455, false},
	} {
		if got := tc.g.MayOpen(tc.host, tc.port); got != tc.want {
			t.Errorf("%s: MayOpen(%q, %d) = %v", name, tc.host, tc.port, got)
		}
	}
}

func TestLinesThatAdmitNobody(t *testing.T) {
	_, line := newKey(t)
	blob := strings.Fields(line)[1]
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil { // newer crypto/rsa refuses to make it
		short = nil
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ec, err := ssh.NewPublicKey(&p256.PublicKey)
	must(t, err)
	lines := map[string][2]string{
		"no key":                   {"restrict", "no key"},
		"options only":             {"restrict ", "no key"},
		"permitopen without port":  {`permitopen="localhost" ` + line, "HOST:PORT"},
		"permitopen of a word":     {`permitopen="localhost:http" ` + line, "HOST:PORT"},
		"bare permitopen":          {`permitopen ` + line, "needs a value"},
		"not base64":               {"ssh-ed25519 !!!", "damaged key"},
		"cut short":                {"ssh-ed25519 " + blob[:20], "damaged key"},
		"type without key":         {"ssh-ed25519", "damaged key"},
		"another type inside":      {"ssh-ed25519 " + strings.Fields(lineOf(ec))[1], "the key inside is ecdsa"},
		"dsa":                      {"ssh-dss AAAAB3NzaC1kc3M=", `type "ssh-dss" may not log in`},
		"certificate":              {"ssh-ed25519-cert-v01@openssh.com AAAA", "may not log in"},
		"cert-authority":           {"cert-authority " + line, "certificates are not accepted"},
		"principals":               {`principals="a" ` + line, "certificates are not accepted"},
		"verify-required":          {"verify-required " + line, "PIN"},
		"unknown option":           {"frobnicate " + line, `unknown option "frobnicate"`},
		"unknown option, valued":   {`frobnicate="x" ` + line, `unknown option "frobnicate"`},
		"unknown role":             {`environment="TOWLINE_ROLE=root" ` + line, `unknown role "root"`},
		"no role":                  {`environment="TOWLINE_ROLE=" ` + line, "unknown role"},
		"none is no role":          {`environment="TOWLINE_ROLE=none" ` + line, "unknown role"},
		"two roles":                {`environment="TOWLINE_ROLE=admin",environment="TOWLINE_ROLE=observer" ` + line, "given twice"},
		"environment without =":    {`environment="X" ` + line, "NAME=value"},
		"two commands":             {`command="a",command="b" ` + line, "given twice"},
		"two from lists":           {`from="10.0.0.1",from="10.0.0.2" ` + line, "given twice"},
		"command without value":    {"command " + line, "needs a value"},
		"restrict with value":      {`restrict="yes" ` + line, "takes no value"},
		"value not quoted":         {"command=app-server " + line, "not in double quotes"},
		"quote not closed":         {`command="app-server ` + line, "closing quote is missing"},
		"escaped closing quote":    {`command="app-server\" ` + line, "closing quote is missing"},
		"blank after a comma":      {"restrict, no-pty " + line, "option's name is missing"},
		"leading comma":            {",restrict " + line, "option's name is missing"},
		"junk after a value":       {`command="a"b ` + line, "is followed by"},
		"expiry not a date":        {`expiry-time="soon" ` + line, "YYYYMMDD"},
		"expiry 13th month":        {`expiry-time="20301301" ` + line, "YYYYMMDD"},
		"expiry 30 February":       {`expiry-time="20300230Z" ` + line, "YYYYMMDD"},
		"from nothing":             {`from="" ` + line, "no addresses"},
		"from a name":              {`from="*.example.com" ` + line, "never looked up"},
		"from a bad block":         {`from="10.0.0.0/33" ` + line, "not an address block"},
		"from bits beyond a mask":  {`from="10.0.0.1/8" ` + line, "did you mean 10.0.0.0/8"},
		"from too many":            {`from="` + strings.Repeat("10.0.0.1,", 65) + `" ` + line, "more than 64"},
		"too long":                 {line + " " + strings.Repeat("x", 20000), "longer than"},
		"private key pasted":       {"-----BEGIN OPENSSH PRIVATE KEY-----", ""},
		"nothing but a bad letter": {"\x00", ""},
	}
	if short != nil {
		pub, err := ssh.NewPublicKey(&short.PublicKey)
		must(t, err)
		lines["short rsa"] = [2]string{lineOf(pub), "1024 bits is too short"}
	}
	for name, tc := range lines {
		t.Run(name, func(t *testing.T) {
			entries, errs := parse([]byte("# one\n\n" + tc[0] + "\n" + line + " last\n"))
			if len(errs) != 1 || errs[0].Line != 3 || !strings.Contains(errs[0].Error(), tc[1]) {
				t.Errorf("errors %v, want one about line 3: %q", errs, tc[1])
			}
			if len(entries) != 1 || entries[0].Name != "last" || entries[0].Line != 4 {
				t.Errorf("the line below: %+v", entries)
			}
		})
	}
}

func TestSources(t *testing.T) {
	for _, tc := range []struct {
		list, remote string
		want         bool
	}{
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.10", false},
		{"10.0.0.1", "::ffff:10.0.0.1", true},
		{"10.0.0.0/8", "10.255.0.1", true},
		{"10.0.0.0/8", "11.0.0.1", false},
		{"10.0.0.0/8,!10.0.0.9", "10.0.0.9", false},
		{"!10.0.0.9,10.0.0.0/8", "10.0.0.9", false},
		{"!10.0.0.9,10.0.0.0/8", "10.0.0.8", true},
		{"!10.0.0.9", "10.0.0.8", false},
		{"*,!192.168.*", "192.168.3.4", false},
		{"*,!192.168.*", "192.0.2.1", true},
		{"192.168.?.1", "192.168.3.1", true},
		{"192.168.?.1", "192.168.33.1", false},
		{"*.*.*.1", "10.20.30.1", true},
		{"2001:DB8::/32", "2001:db8::1", true},
		{"2001:db8:*", "2001:db8::1", true},
		{"fe80::1", "fe80::1%eth0", true},
		{"::/0", "10.0.0.1", false},
		{"0.0.0.0/0", "10.0.0.1", true},
		{" 10.0.0.1 , ,10.0.0.2 ", "10.0.0.2", true},
	} {
		ss, err := parseSources(tc.list)
		must(t, err)
		if got := ss.allows(netip.MustParseAddr(tc.remote)); got != tc.want {
			t.Errorf("from=%q and %s: %v", tc.list, tc.remote, got)
		}
	}
	any, err := parseSources("*")
	must(t, err)
	if any.allows(netip.Addr{}) {
		t.Error("a connection from nowhere matches")
	}
}

func TestExpiryTimes(t *testing.T) {
	key, line := newKey(t)
	utc := func(s string) time.Time {
		at, err := time.Parse("2006-01-02 15:04:05", s)
		must(t, err)
		return at
	}
	for _, tc := range []struct {
		options string
		now     time.Time
		err     error
	}{
		{`expiry-time="20300615Z"`, utc("2030-06-14 23:59:59"), nil},
		{`expiry-time="20300615Z"`, utc("2030-06-15 00:00:00"), ErrExpired},
		{`expiry-time="203006151230Z"`, utc("2030-06-15 12:29:59"), nil},
		{`expiry-time="20300615123045Z"`, utc("2030-06-15 12:30:45"), ErrExpired},
		{`expiry-time="20300615"`, time.Date(2030, 6, 14, 23, 59, 59, 0, time.Local), nil},
		{`expiry-time="20300615"`, time.Date(2030, 6, 15, 0, 0, 0, 0, time.Local), ErrExpired},
		{`expiry-time="20310101Z",expiry-time="20300101Z"`, utc("2030-06-01 00:00:00"), ErrExpired},
	} {
		k, path := open(t, tc.options+" "+line)
		k.now = func() time.Time { return tc.now }
		if _, err := k.Check(key, netip.IPv4Unspecified()); !errors.Is(err, tc.err) {
			t.Errorf("%s at %v: %v, want %v (%s)", tc.options, tc.now, err, tc.err, path)
		}
	}
}

func open(t testing.TB, lines ...string) (*Keys, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "authorized_keys")
	must(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
	k, err := Open(path, slog.New(slog.DiscardHandler))
	must(t, err)
	return k, path
}

func TestCheckTellsWhy(t *testing.T) {
	here := netip.MustParseAddr("192.0.2.1")
	key, line := newKey(t)
	other, _ := newKey(t)
	k, _ := open(t, `from="10.0.0.1" `+line+" a", `expiry-time="20200101" `+line+" b", line+" c")
	g, err := k.Check(key, here)
	must(t, err)
	want := access.Principal{Kind: access.KindKey, ID: ssh.FingerprintSHA256(key), Name: "c", Role: protocol.RoleAdmin}
	if g.Principal() != want || g.Line != 3 {
		t.Errorf("got %+v", g)
	}
	if _, err := k.Check(other, here); !errors.Is(err, ErrUnlisted) {
		t.Errorf("an unknown key: %v", err)
	}
	if _, err := k.Check(&ssh.Certificate{Key: key}, here); !errors.Is(err, ErrCertificate) {
		t.Errorf("a certificate: %v", err)
	}
	k, _ = open(t, `from="10.0.0.1" `+line)
	if _, err := k.Check(key, here); !errors.Is(err, ErrSource) {
		t.Errorf("from elsewhere: %v", err)
	}
}

func TestGrantsAreTheSameUnlessTheyAllowSomethingElse(t *testing.T) {
	a := Grant{Fingerprint: "f", Name: "n", Role: protocol.RoleAdmin, Line: 1, Terminal: true}
	b := a
	b.Name, b.Line = "m", 2
	if !a.Same(b) {
		t.Error("a new comment changes rights")
	}
	b.Role = protocol.RoleObserver
	if a.Same(b) {
		t.Error("a new role does not")
	}
}

// The file counts as it is now: also when two changes share a timestamp.
func TestChangesCountAtOnce(t *testing.T) {
	here := netip.MustParseAddr("192.0.2.1")
	key, line := newKey(t)
	other, otherLine := newKey(t)
	k, path := open(t, line)
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(otherLine), 0o600)) // same size
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	if _, err := k.Check(key, here); !errors.Is(err, ErrUnlisted) {
		t.Errorf("the key that was taken out: %v", err)
	}
	_, err = k.Check(other, here)
	must(t, err)

	must(t, os.Remove(path))
	if _, err := k.Check(other, here); !errors.Is(err, ErrUnlisted) {
		t.Errorf("without a file: %v", err)
	}
	must(t, os.WriteFile(path, []byte(otherLine), 0o600))
	_, err = k.Check(other, here)
	must(t, err)
}

func TestFilesOthersCouldHaveWrittenAdmitNobody(t *testing.T) {
	here := netip.MustParseAddr("192.0.2.1")
	key, line := newKey(t)
	for name, loosen := range map[string]func(path string) error{
		"group-writable file":     func(p string) error { return os.Chmod(p, 0o660) },
		"world-writable file":     func(p string) error { return os.Chmod(p, 0o602) },
		"group-writable folder":   func(p string) error { return os.Chmod(filepath.Dir(p), 0o770) },
		"world-writable folder":   func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) },
		"a folder in its place":   func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a link to a loose place": func(p string) error { return errors.Join(os.Remove(p), looseLink(t, p, line)) },
		"larger than any":         func(p string) error { return os.WriteFile(p, make([]byte, maxFile+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			k, path := open(t, line)
			must(t, os.Chmod(path, 0o644)) // others may read it
			_, err := k.Check(key, here)
			must(t, err)
			must(t, loosen(path))
			if _, err := k.Check(key, here); !errors.Is(err, ErrUnusable) {
				t.Errorf("Check: %v", err)
			}
			if _, err := Open(path, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrUnusable) {
				t.Errorf("Open: %v", err)
			} else if strings.Contains(name, "writable") && len(config.Hints(err)) == 0 {
				t.Errorf("%v says nothing about what to do", err)
			}
		})
	}
	if os.Getuid() == 0 {
		k, path := open(t, line)
		must(t, os.Chown(path, 12345, -1))
		if _, err := k.Check(key, here); !errors.Is(err, ErrUnusable) {
			t.Errorf("a file of somebody else: %v", err)
		}
	}
}

func looseLink(t *testing.T, path, line string) error {
	dir := filepath.Join(t.TempDir(), "loose")
	target := filepath.Join(dir, "keys")
	return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(target, []byte(line), 0o600), os.Chmod(dir, 0o777), os.Symlink(target, path))
}

func TestTroubleIsLoggedOnceWithItsLine(t *testing.T) {
	key, line := newKey(t)
	var log strings.Builder
	path := filepath.Join(t.TempDir(), "authorized_keys")
	must(t, os.WriteFile(path, []byte("frobnicate "+line+"\r\n"+line+"\r\n"), 0o600))
	k, err := Open(path, slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	for range 5 {
		_, err := k.Check(key, netip.IPv4Unspecified())
		must(t, err)
	}
	if got := log.String(); strings.Count(got, "frobnicate") != 1 || !strings.Contains(got, "line=1") {
		t.Errorf("log:\n%s", got)
	}
	must(t, os.Chmod(path, 0o666))
	for range 5 {
		_, _ = k.Check(key, netip.IPv4Unspecified())
	}
	if n := strings.Count(log.String(), "can be written by others"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// FuzzParse holds the reader to what must be true of any file, and to what
// x/crypto makes of the key on an accepted line.
func FuzzParse(f *testing.F) {
	_, line := newKey(f)
	for _, seed := range []string{
		line, line + " c", "restrict " + line, `command="a\"b",from="10.0.0.0/8,!10.0.0.1" ` + line,
		`expiry-time="20300101Z",environment="TOWLINE_ROLE=observer" ` + line, "# x\n\n" + line, `a="`, `a="\`, ",", "=", "\x00\r\n\t",
		"sk-ssh-ed25519@openssh.com AAAA", `from="*?*?*?" ` + line,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, errs := parse(data)
		lines := strings.Split(string(data), "\n")
		if len(entries)+len(errs) > len(lines) {
			t.Fatalf("%d lines gave %d keys and %d errors", len(lines), len(entries), len(errs))
		}
		for _, e := range entries {
			if e.Role < protocol.RoleObserver || e.Name == "" || Printable(e.Name, maxName+1) != e.Name {
				t.Errorf("line %d: %+v", e.Line, e.Grant)
			}
			key, err := ssh.ParsePublicKey(e.blob)
			if err != nil || ssh.FingerprintSHA256(key) != e.Fingerprint {
				t.Errorf("line %d holds no key: %v", e.Line, err)
			}
			theirs, _, _, _, err := ssh.ParseAuthorizedKey([]byte(lines[e.Line-1]))
			if err == nil && string(theirs.Marshal()) != string(e.blob) {
				t.Errorf("line %d: another key than x/crypto finds", e.Line)
			}
			e.from.allows(netip.MustParseAddr("10.0.0.1"))
		}
	})
}
