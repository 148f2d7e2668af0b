package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
)

func TestMoveLeavesTheLoginOnTheHostAlone(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	was := r.has(r.laptop)
	st, err := r.mover(r.direct).Move(t.Context())
	must(t, err)
	now := r.has(r.host)
	if st.Account != was.Tokens.AccountID || st.Store != "file" || st.Fingerprint != now.Fingerprint() || st.Note != "" {
		t.Errorf("%+v", st)
	}
	if now.Tokens.RefreshToken == was.Tokens.RefreshToken || r.issuer.Rotated() != 1 {
		t.Error("the host did not renew it")
	}
	if now.Tokens.LoginOwnerID != "owner" {
		t.Error("what Codex keeps beside the tokens is gone")
	}
	r.unused()
	r.settled("host")
	if got := strings.Join(r.notes, " "); !strings.Contains(got, "credential.moved") {
		t.Errorf("audit: %s", got)
	}
	noSecrets(t, fmt.Sprintf("%+v %v", st, r.notes), was.Tokens.RefreshToken, was.Tokens.AccessToken, now.Tokens.RefreshToken)
}

func TestMoveToAnIssuerThatDoesNotRotate(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{NoRotation: true})
	st, err := r.mover(r.direct).Move(t.Context())
	must(t, err)
	if !strings.Contains(st.Note, "left its refresh token as it was") {
		t.Errorf("%+v", st)
	}
	r.unused()
	r.settled("host")
}

// measure is how many bytes an undisturbed move sends each way, and where its
// messages begin.
func measure(t *testing.T) (up, down []int) {
	r := newTwoEnds(t, issuertest.Options{})
	var ends [2]*counter
	_, err := r.mover(func(context.Context) (io.ReadWriteCloser, error) {
		near, far := newLink(-1, -1)
		ends[0], ends[1] = &counter{ReadWriteCloser: near}, &counter{ReadWriteCloser: far}
		r.serve(ends[1], nil)
		return ends[0], nil
	}).Move(t.Context())
	must(t, err)
	r.served.Wait()
	return ends[0].at, ends[1].at
}

// counter notes where each message ends.
type counter struct {
	io.ReadWriteCloser
	n  int
	at []int
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ReadWriteCloser.Write(b)
	c.n += n
	c.at = append(c.at, c.n)
	return n, err
}

// cuts are places to cut a stream whose messages end at ends: around each end, and
// here and there inside.
func cuts(ends []int) (out []int) {
	begin := 0
	for _, e := range ends {
		for _, at := range []int{begin + 1, begin + (e-begin)/3, begin + (e-begin)*2/3, e - 1, e} {
			if len(out) == 0 || at > out[len(out)-1] {
				out = append(out, at)
			}
		}
		begin = e
	}
	return out
}

// The link is cut after any number of bytes, either way. Afterwards, with the link
// back, the login is at one end and works; until then, nobody here uses it.
func TestMoveOverLinksThatAreCut(t *testing.T) {
	up, down := measure(t)
	type cut struct{ up, down int }
	var all []cut
	for _, n := range cuts(up) {
		all = append(all, cut{n, -1})
	}
	for _, n := range cuts(down) {
		all = append(all, cut{-1, n})
	}
	for _, c := range all {
		for _, back := range []bool{true, false} {
			t.Run(fmt.Sprintf("after %d up, %d down, back at once %v", c.up, c.down, back), func(t *testing.T) {
				r := newTwoEnds(t, issuertest.Options{})
				first := true
				dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
					if first {
						first = false
						near, far := newLink(c.up, c.down)
						r.serve(far, nil)
						return near, nil
					}
					if !back {
						return nil, errors.New("the network is down")
					}
					return r.direct(ctx)
				}
				_, err := r.mover(dial).Move(t.Context())
				switch {
				case err == nil:
					r.served.Wait()
					r.settled("host")
					return
				case !errors.Is(err, custody.ErrUnresolved):
					r.served.Wait()
					r.settled("laptop")
					if len(config.Hints(err)) == 0 {
						t.Errorf("no hint with %v", err)
					}
					return
				case back:
					t.Fatalf("not resolved over a link that works: %v", err)
				}
				r.unused()
				// Nothing else begins meanwhile.
				if _, err := r.mover(r.direct).Move(t.Context()); !errors.Is(err, custody.ErrUnresolved) {
					t.Errorf("a second move: %v", err)
				}
				r.served.Wait()
				res, err := r.mover(r.direct).Resolve(t.Context())
				must(t, err)
				switch res.Outcome {
				case custody.Proved:
					r.settled("host")
				case custody.Returned:
					r.settled("laptop")
				default:
					t.Errorf("%+v", res)
				}
			})
		}
	}
}

// The laptop's process is killed at any point; the next command finishes.
func TestMoveWhenTheLaptopIsKilled(t *testing.T) {
	for _, point := range []string{"before offer", "after offer", "before removal", "after removal", "before commit", "after commit", "before close"} {
		t.Run(point, func(t *testing.T) {
			r := newTwoEnds(t, issuertest.Options{})
			killed := errors.New("killed")
			mv := r.mover(r.direct)
			mv.ForTest(1, func(at string) error {
				if at == point || at == "after answer" {
					return killed
				}
				return nil
			})
			if _, err := mv.Move(t.Context()); !errors.Is(err, killed) {
				t.Fatalf("%v", err)
			}
			r.served.Wait()
			// It may be killed again while it resolves.
			again := r.mover(r.direct)
			again.ForTest(1, func(at string) error {
				if at == "before close" {
					return killed
				}
				return nil
			})
			res, err := again.Resolve(t.Context())
			if point == "before offer" {
				if res != nil || err != nil {
					t.Fatalf("%+v, %v", res, err)
				}
				r.settled("laptop")
				return
			}
			if !errors.Is(err, killed) {
				t.Fatalf("%v", err)
			}
			res, err = r.mover(r.direct).Resolve(t.Context())
			must(t, err)
			want := map[custody.Outcome]string{custody.Proved: "host", custody.Returned: "laptop"}[res.Outcome]
			if late := point == "after commit" || point == "before close"; late != (want == "host") {
				t.Errorf("outcome %s", res.Outcome)
			}
			r.settled(want)
			if res, err := r.mover(r.direct).Resolve(t.Context()); res != nil || err != nil {
				t.Errorf("there is more to resolve: %+v, %v", res, err)
			}
		})
	}
}

// dying is a host whose process is killed at a point.
type dying struct {
	custody.Host
	at string
}

func (d dying) Adopt(ctx context.Context, a secret.Auth, replace bool) error {
	if d.at == "before adopting" {
		runtime.Goexit()
	}
	err := d.Host.Adopt(ctx, a, replace)
	if d.at == "after adopting" {
		runtime.Goexit()
	}
	return err
}

func (d dying) Prove(ctx context.Context, m custody.Mark) (custody.Stored, custody.Verdict, error) {
	st, v, err := d.Host.Prove(ctx, m)
	if d.at == "after proving" {
		runtime.Goexit()
	}
	return st, v, err
}

func TestMoveWhenTheHostsProcessIsKilled(t *testing.T) {
	for point, where := range map[string]string{"before adopting": "laptop", "after adopting": "host", "after proving": "host"} {
		t.Run(point, func(t *testing.T) {
			r := newTwoEnds(t, issuertest.Options{})
			first := true
			_, err := r.mover(func(ctx context.Context) (io.ReadWriteCloser, error) {
				if !first {
					return r.direct(ctx)
				}
				first = false
				near, far := newLink(-1, -1)
				r.serve(far, func(h custody.Host) custody.Host { return dying{h, point} })
				return near, nil
			}).Move(t.Context())
			if (err == nil) != (where == "host") {
				t.Errorf("%v", err)
			}
			r.settled(where)
		})
	}
}

// held keeps what is sent to the host until it is let go, as buffers on the way do.
type held struct {
	io.ReadWriteCloser
	hold func(b []byte) bool
	kept [][]byte
}

func (h *held) Write(b []byte) (int, error) {
	if h.hold(b) {
		h.kept = append(h.kept, append([]byte(nil), b...))
		_ = h.ReadWriteCloser.(*link).r.CloseWithError(io.ErrUnexpectedEOF) // no answer comes
		return len(b), nil
	}
	return h.ReadWriteCloser.Write(b)
}

// Close leaves the host's side as it is: nobody told it.
func (h *held) Close() error { return nil }

// A commit that arrives when the laptop has given up on it, and has asked, finds
// the host bound to its word.
func TestMoveACommitThatComesTooLate(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	var slow *held
	_, err := r.mover(func(ctx context.Context) (io.ReadWriteCloser, error) {
		if slow != nil {
			return r.direct(ctx)
		}
		near, far := newLink(-1, -1)
		r.serve(far, nil)
		slow = &held{ReadWriteCloser: near, hold: func(b []byte) bool { return strings.Contains(string(b), `"op":"commit"`) }}
		return slow, nil
	}).Move(t.Context())
	var p *config.Problem
	if !errors.As(err, &p) || errors.Is(err, custody.ErrUnresolved) || !strings.Contains(err.Error(), "is here again") {
		t.Fatalf("%v", err)
	}
	near := slow.ReadWriteCloser.(*link)
	for _, b := range slow.kept {
		if _, err := near.w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	far, _ := near.o, near.w.w.Close()
	_ = far
	r.served.Wait()
	r.settled("laptop")
}

func TestMoveThatTheIssuerPrevents(t *testing.T) {
	t.Run("it cannot be reached from the host", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		t.Setenv("CODEX_REFRESH_TOKEN_URL_OVERRIDE", "http://127.0.0.1:1/oauth/token")
		_, err := r.mover(r.direct).Move(t.Context())
		t.Setenv("CODEX_REFRESH_TOKEN_URL_OVERRIDE", "")
		if err == nil || errors.Is(err, custody.ErrUnresolved) || !strings.Contains(err.Error(), "is here again") {
			t.Errorf("%v", err)
		}
		r.settled("laptop")
	})
	t.Run("it refuses the host", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.issuer.Fail("/oauth/token", 1, 403, `{"error":"region"}`)
		_, err := r.mover(r.direct).Move(t.Context())
		if err == nil || !strings.Contains(err.Error(), "is here again") {
			t.Errorf("%v", err)
		}
		r.settled("laptop")
	})
	t.Run("it fails for a moment", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.issuer.Fail("/oauth/token", 1, 503, `down`)
		_, err := r.mover(r.direct).Move(t.Context())
		must(t, err)
		r.settled("host")
	})
	t.Run("it fails for long", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.issuer.Down(true)
		_, err := r.mover(r.direct).Move(t.Context())
		if !errors.Is(err, custody.ErrUnresolved) {
			t.Fatalf("%v", err)
		}
		r.unused()
		r.issuer.Down(false)
		res, err := r.mover(r.direct).Resolve(t.Context())
		must(t, err)
		if res.Outcome != custody.Proved {
			t.Errorf("%+v", res)
		}
		r.settled("host")
	})
	// What no order of steps can prevent: the token was spent and nobody heard what it
	// was spent for. It is said as it is.
	t.Run("its answer is lost", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		_, err := r.mover(func(context.Context) (io.ReadWriteCloser, error) {
			near, far := newLink(-1, -1)
			r.serve(far, func(h custody.Host) custody.Host {
				h.(*receiving).wire.next = &deafOnce{next: http.DefaultTransport}
				return h
			})
			return near, nil
		}).Move(t.Context())
		if err == nil || !strings.Contains(err.Error(), "neither there nor here") {
			t.Errorf("%v", err)
		}
	})
	t.Run("the login was ended there", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.issuer.RevokeAll()
		_, err := r.mover(r.direct).Move(t.Context())
		if err == nil || !strings.Contains(err.Error(), "neither there nor here") || len(config.Hints(err)) < 2 {
			t.Errorf("%v", err)
		}
		if a := r.has(r.host); !a.Empty() {
			t.Error("the host keeps a login that does not work")
		}
	})
}

// deafOnce loses the first answer.
type deafOnce struct {
	next http.RoundTripper
	lost bool
}

func (d *deafOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(r)
	if err != nil || d.lost || r.Method != http.MethodPost {
		return resp, err
	}
	d.lost = true
	_ = resp.Body.Close()
	return nil, errors.New("the connection was reset")
}

func TestMoveThatTheHostRefuses(t *testing.T) {
	other := secret.Auth{Mode: secret.ModeAPIKey, APIKey: "sk-the-hosts-own-key"}
	t.Run("it has another", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.store(r.host, other)
		_, err := r.mover(r.direct).Move(t.Context())
		if err == nil || !strings.Contains(err.Error(), "would be lost") || !strings.Contains(strings.Join(config.Hints(err), "\n"), "--replace") {
			t.Errorf("%v", err)
		}
		if r.has(r.host).APIKey != other.APIKey {
			t.Error("the host's key is gone")
		}
		r.settled("laptop")
	})
	t.Run("it is to give up another, which fails", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.store(r.host, other)
		r.issuer.Fail("/oauth/token", 1, 403, `{}`)
		mv := r.mover(r.direct)
		mv.Replace = true
		if _, err := mv.Move(t.Context()); err == nil {
			t.Error("it went well")
		}
		if r.has(r.host).APIKey != other.APIKey {
			t.Error("the host's key did not come back")
		}
		r.settled("laptop")
	})
	t.Run("it gives up another", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.store(r.host, other)
		mv := r.mover(r.direct)
		mv.Replace = true
		_, err := mv.Move(t.Context())
		must(t, err)
		r.settled("host")
	})
	t.Run("it keeps nothing", func(t *testing.T) {
		r := newTwoEnds(t, issuertest.Options{})
		r.host.cfg.Store = config.StoreEphemeral
		_, err := r.mover(r.direct).Move(t.Context())
		if err == nil || !strings.Contains(err.Error(), "memory of one process") {
			t.Errorf("%v", err)
		}
		r.settled("laptop")
	})
}

// Whoever logs in anew while a move is not resolved keeps that login.
func TestMoveResolvedAfterAnotherLogin(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	killed := errors.New("killed")
	mv := r.mover(r.direct)
	mv.ForTest(1, func(at string) error {
		if at == "before commit" {
			return killed
		}
		return nil
	})
	if _, err := mv.Move(t.Context()); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	r.store(r.laptop, secret.Auth{Mode: secret.ModeAPIKey, APIKey: "sk-new-on-the-laptop"})
	res, err := r.mover(r.direct).Resolve(t.Context())
	must(t, err)
	if res.Kept || res.Outcome != custody.Returned || !strings.Contains(res.Err().Error(), "another has taken its place") {
		t.Errorf("%+v", res)
	}
	if r.has(r.laptop).APIKey == "" {
		t.Error("the new login is gone")
	}
}

// Where the machine keeps logins encrypted, the one that is kept aside is, too.
func TestMoveKeepsTheLoginAsideAsItWasKept(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	a := r.has(r.laptop)
	keys := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", keys)
	must(t, os.WriteFile(filepath.Join(keys, "towline.credentials-key"), []byte(strings.Repeat("k", 32)), 0o600))
	must(t, os.RemoveAll(r.laptop.cfg.Engine.Codex.Home))
	r.laptop.cfg.Store = config.StoreEncrypted
	r.store(r.laptop, a)
	killed := errors.New("killed")
	mv := r.mover(r.direct)
	mv.ForTest(1, func(at string) error {
		if at == "before commit" {
			return killed
		}
		return nil
	})
	if _, err := mv.Move(t.Context()); !errors.Is(err, killed) {
		t.Fatal(err)
	}
	r.unused()
	err := filepath.WalkDir(filepath.Dir(r.laptop.paths.State), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), a.Tokens.RefreshToken) {
			t.Errorf("the token lies open in %s", path)
		}
		return err
	})
	must(t, err)
	res, err := r.mover(r.direct).Resolve(t.Context())
	must(t, err)
	if res.Outcome != custody.Returned || !res.Kept || r.has(r.laptop).Fingerprint() != a.Fingerprint() {
		t.Errorf("%+v", res)
	}
	_, err = r.mover(r.direct).Move(t.Context())
	must(t, err)
	r.settled("host")
}

// An older store of another kind is emptied too.
func TestMoveFromEveryPlace(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	a := r.has(r.laptop)
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	r.laptop.cfg.Store = config.StoreFile
	local := localLogin{r.open(r.laptop), r.laptop.paths, r.laptop.cfg, "dev"}
	must(t, local.Remove(t.Context()))
	for _, p := range r.open(r.laptop).store.Places(t.Context()) {
		if p.Err == nil && p.Auth.Fingerprint() == a.Fingerprint() {
			t.Errorf("it is still in %s", p.Path)
		}
	}
	if kept, err := local.Restore(t.Context(), a); !kept || err != nil {
		t.Errorf("%v, %v", kept, err)
	}
	if kept, err := local.Restore(t.Context(), a); !kept || err != nil {
		t.Errorf("again: %v, %v", kept, err)
	}
	if r.has(r.laptop).Fingerprint() != a.Fingerprint() {
		t.Error("it is not what it was")
	}
}
