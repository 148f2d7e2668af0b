package sshclient

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// newKey makes a public key; the same n makes the same key.
func newKey(t testing.TB, n byte) ssh.PublicKey {
	t.Helper()
	pub := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)).Public()
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyText(key ssh.PublicKey) string {
	return key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}

// known writes known_hosts files and reads them.
func knownFiles(t *testing.T, contents ...string) (*knownHosts, []string) {
	t.Helper()
	var files []string
	for i, c := range contents {
		files = append(files, writeFile(t, filepath.Join(t.TempDir(), fmt.Sprint("known", i)), c))
	}
	k, err := readKnownHosts(append(files, "", "none", filepath.Join(t.TempDir(), "absent")))
	if err != nil {
		t.Fatal(err)
	}
	return k, files
}

// Where ssh skips a line, so do we: it costs that line, not the file.
func TestBadLinesCostThemselves(t *testing.T) {
	good, other := newKey(t, 1), newKey(t, 2)
	lines := []string{
		"# a comment",
		"host1 1024 35 1234567890", // protocol 1
		"host2 ssh-ed25519 !!!!",   // no base64
		"host3 ssh-rsa " + strings.Fields(keyText(good))[1],     // another type
		"host4 new-type@example.com AAAAEW5ldy10eXBlQGV4YW1wbA", // a type from the future
		"@unknown-marker host5 " + keyText(good),
		"@cert-authority @revoked host6 " + keyText(good),
		"host7",
		"|2|abc|def " + keyText(good),
		"|1|abc " + keyText(good),
		"[host8 " + keyText(good),
		"host9,! " + keyText(good),
		strings.Repeat("x", maxKnownLine) + " " + keyText(good),
		"\tGood.Example.COM,Other  " + keyText(good) + " a comment\r",
		"good.example.com " + keyText(other),
	}
	k, files := knownFiles(t, strings.Join(lines, "\n"))
	if f := k.check("good.example.com:22", good); f.verdict != known || f.by.location() != files[0]+":14" {
		t.Errorf("got %+v", f)
	}
	if f := k.check("other:22", other); f.verdict != changed || len(f.old) != 1 || f.old[0].line != 14 {
		t.Errorf("got %+v", f)
	}
	if len(k.skipped) != 12 {
		t.Errorf("skipped %d lines: %s", len(k.skipped), strings.Join(k.skipped, "\n"))
	}
	for _, s := range k.skipped {
		if !strings.HasPrefix(s, files[0]+":") {
			t.Errorf("%q does not name the file", s)
		}
	}
}

func TestKnownHostsOverSeveralFiles(t *testing.T) {
	user, system := newKey(t, 1), newKey(t, 2)
	k, files := knownFiles(t, "host "+keyText(user)+"\n", "\nhost "+keyText(system)+"\n@revoked host "+keyText(newKey(t, 3))+"\n")
	for n, key := range []ssh.PublicKey{user, system} {
		if f := k.check("host:22", key); f.verdict != known || f.by.file != files[n] {
			t.Errorf("key %d: %+v", n, f)
		}
	}
	if f := k.check("host:22", newKey(t, 4)); f.verdict != changed || len(f.old) != 2 {
		t.Errorf("got %+v", f)
	}
	if f := k.check("elsewhere:22", newKey(t, 3)); f.verdict != revoked || f.by.location() != files[1]+":3" {
		t.Errorf("got %+v", f)
	}
	if f := k.check("elsewhere:22", newKey(t, 4)); f.verdict != unknown {
		t.Errorf("got %+v", f)
	}
}

func TestPatternsAndPorts(t *testing.T) {
	key := newKey(t, 1)
	k, _ := knownFiles(t, strings.Join([]string{
		"*.example.com,!bad.example.com " + keyText(key),
		"[ported]:2222 " + keyText(key),
		"::1 " + keyText(key),
		"[fe80::1]:2222 " + keyText(key),
		"plain " + keyText(key),
	}, "\n"))
	for address, want := range map[string]verdict{
		"a.example.com:22": known, "a.example.com:2222": known, "bad.example.com:22": unknown, "example.com:22": unknown,
		"ported:2222": known, "ported:22": unknown, "[::1]:22": known, "[fe80::1]:2222": known, "[fe80::1]:22": unknown,
		"plain:22": known, "plain:2222": known,
	} {
		if f := k.check(address, key); f.verdict != want {
			t.Errorf("%s: verdict %d, want %d", address, f.verdict, want)
		}
	}
	if f := k.check("plain:2222", newKey(t, 2)); f.verdict != unknown {
		t.Errorf("a line without a port called another port's key changed: %+v", f)
	}
}

// An authority's key is not a host's: as ssh has it, a host with that very key is
// a stranger.
func TestAuthorityIsNotAHostKey(t *testing.T) {
	authority := newKey(t, 1)
	k, _ := knownFiles(t, "@cert-authority * "+keyText(authority))
	if f := k.check("host:22", authority); f.verdict != unknown {
		t.Errorf("got %+v", f)
	}
}

func TestPreferredAlgorithms(t *testing.T) {
	all := []string{"ssh-ed25519-cert-v01@openssh.com", "ecdsa-sha2-nistp256", "rsa-sha2-512", "ssh-ed25519"}
	ed := knownKey{key: newKey(t, 1)}
	authority := knownKey{key: newKey(t, 1), authority: true}
	for name, tc := range map[string]struct {
		known []knownKey
		want  []string
	}{
		"a stranger":   {nil, []string{"ecdsa-sha2-nistp256", "rsa-sha2-512", "ssh-ed25519"}},
		"a key":        {[]knownKey{ed}, []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"}},
		"an authority": {[]knownKey{authority}, all},
	} {
		if d := cmp.Diff(tc.want, preferKnown(all, tc.known)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestSaveKnownHost(t *testing.T) {
	key := newKey(t, 1)
	for name, tc := range map[string]struct {
		before, address string
		hashed          bool
	}{
		"a new file":             {"", "host:22", false},
		"another port":           {"", "host:2222", false},
		"IPv6":                   {"", "[::1]:22", false},
		"IPv6 on another port":   {"", "[fe80::1]:2222", false},
		"hashed":                 {"", "host:2222", true},
		"a line without its end": {"old " + keyText(newKey(t, 2)), "host:22", false},
		"only a line's end":      {"\n", "host:22", false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "known_hosts")
			if tc.before != "" {
				writeFile(t, file, tc.before)
			}
			if err := saveKnownHost(file, tc.address, key, tc.hashed); err != nil {
				t.Fatal(err)
			}
			k, err := readKnownHosts([]string{file})
			if err != nil || len(k.skipped) != 0 {
				t.Fatalf("%v, skipped %v", err, k.skipped)
			}
			if f := k.check(tc.address, key); f.verdict != known {
				t.Errorf("got %+v from\n%s", f, readFile(t, file))
			}
			if tc.before != "" && k.check("old:22", newKey(t, 2)).verdict == unknown && tc.before != "\n" {
				t.Error("the line before is lost")
			}
			if text := readFile(t, file); !strings.HasSuffix(text, "\n") {
				t.Errorf("no end of line: %q", text)
			}
		})
	}
	for _, bad := range []string{"two words:22", "pat*tern:22", "a,b:22", "#hash:22", "@marker:22", "new\nline:22", ":22"} {
		if err := saveKnownHost(filepath.Join(t.TempDir(), "k"), bad, key, false); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
}

// Many writers at once lose no line and tear none.
func TestManyWriters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known_hosts")
	key := newKey(t, 1)
	const writers, each = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := saveKnownHost(file, fmt.Sprintf("host-%d-%d:22", w, i), key, i%2 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	k, err := readKnownHosts([]string{file})
	if err != nil || len(k.skipped) != 0 {
		t.Fatalf("%v, skipped %v", err, k.skipped)
	}
	for w := range writers {
		for i := range each {
			if f := k.check(fmt.Sprintf("host-%d-%d:22", w, i), key); f.verdict != known {
				t.Fatalf("host-%d-%d is lost", w, i)
			}
		}
	}
	// Empty lines may come in where one writer saw half of another's: no harm.
	if n := len(strings.Fields(readFile(t, file))); n != 3*writers*each {
		t.Errorf("%d words, want %d", n, 3*writers*each)
	}
}

// A file that is replaced while we write gets the line as well.
func TestFileReplacedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "known_hosts"), "")
	old, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if kept, err := appendLine(file, "one\n"); !kept || err != nil {
		t.Errorf("kept %v, %v", kept, err)
	}
	if err := os.Rename(writeFile(t, filepath.Join(dir, "new"), "other\n"), file); err != nil {
		t.Fatal(err)
	}
	if err := saveKnownHost(file, "host:22", newKey(t, 1), false); err != nil {
		t.Fatal(err)
	}
	if text := readFile(t, file); !strings.HasPrefix(text, "other\nhost ") {
		t.Errorf("got %q", text)
	}
}

// The same lines mean the same to ssh-keygen.
func TestKnownHostsAgreesWithSSHKeygen(t *testing.T) {
	key := newKey(t, 1)
	file := filepath.Join(t.TempDir(), "known_hosts")
	addresses := []string{"plain:22", "ported:2222", "[::1]:22", "[fe80::2]:2022", "hashed:22", "hashedported:2222"}
	for _, a := range addresses {
		if err := saveKnownHost(file, a, key, strings.HasPrefix(a, "hashed")); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range addresses {
		host, port, _ := net.SplitHostPort(a)
		if port != "22" {
			host = "[" + host + "]:" + port
		}
		wants(t, tool(t, "ssh-keygen", "-F", host, "-f", file), fmt.Sprintf("found: line %d", i+1))
	}
}

func TestCleaningKeepsLineNumbers(t *testing.T) {
	key := newKey(t, 1)
	clean, entries, skipped := cleanKnownHosts([]byte("bad line here\r\n\nHOST " + keyText(key) + "\r\n#c\nx"))
	if want := "\n\nhost " + keyText(key) + "\r\n#c\n\n"; string(clean) != want {
		t.Errorf("got %q, want %q", clean, want)
	}
	if len(entries) != 1 || entries[0].line != 3 || len(skipped) != 2 || !strings.HasPrefix(skipped[1], "5: ") {
		t.Errorf("entries %+v, skipped %v", entries, skipped)
	}
}

func FuzzKnownHosts(f *testing.F) {
	key := keyText(newKey(f, 1))
	for _, seed := range []string{
		"host " + key, "@revoked * " + key, "@cert-authority *.x,!y " + key + " c\n# c\n\n", "[h]:22 " + key, "|1|AAAA|BBBB " + key,
		"@cert-authority\t[a " + key, "A,b ssh-rsa AAAA", "!" + " " + key, "\xff\x00 " + key, "h  " + key + "\r\n@x y z",
	} {
		f.Add([]byte(seed), "host:22")
	}
	f.Fuzz(func(t *testing.T, content []byte, address string) {
		if len(content) > 1<<16 {
			return
		}
		file := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := readKnownHosts([]string{file})
		if err != nil {
			t.Fatalf("a file with %q is refused: %v", content, err)
		}
		clean, entries, _ := cleanKnownHosts(content)
		if bytes.Count(clean, []byte("\n")) > bytes.Count(content, []byte("\n"))+1 {
			t.Errorf("lines were added to %q: %q", content, clean)
		}
		again, entriesAgain, skipped := cleanKnownHosts(clean)
		if !bytes.Equal(again, clean) || len(entries) != len(entriesAgain) || len(skipped) != 0 {
			t.Errorf("cleaning %q twice is not cleaning it once: %q, %q", content, clean, again)
		}
		stranger := newKey(t, 9)
		if _, _, err := net.SplitHostPort(address); err != nil || address != strings.ToLower(address) {
			return // not what a connection is judged by
		}
		found := k.check(address, stranger)
		if found.verdict == known && !bytes.Contains(content, []byte(strings.Fields(keyText(stranger))[1])) {
			t.Errorf("%q vouches for a key it does not have", content)
		}
		// What is appended is found, unless the file revokes or contradicts it.
		if err := saveKnownHost(file, address, stranger, false); err != nil {
			return
		}
		k, err = readKnownHosts([]string{file})
		if err != nil {
			t.Fatal(err)
		}
		if f := k.check(address, stranger); f.verdict != known && f.verdict != revoked {
			t.Errorf("saved for %q behind %q, and then %+v", address, content, f)
		}
	})
}

func FuzzSplitHop(f *testing.F) {
	for _, s := range []string{"a", "u@h:22", "ssh://u@h:1", "[::1]:2", "-o", "a b", "@", ":", "[", "ssh://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		host, user, port, err := splitHop(spec)
		if err != nil {
			if host != "" {
				t.Errorf("%q: an error and a host", spec)
			}
			return
		}
		if host == "" || host[0] == '-' || port < 0 || port > 65535 || printable(host+user, 1<<20) != host+user {
			t.Errorf("%q gave %q %q %d", spec, host, user, port)
		}
	})
}
