package account

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"towline/appserver/account/issuertest"
	"towline/config"
)

// synced runs f where time is a test's, with a Manager that reaches its issuer
// without a network.
func synced(t *testing.T, kind IssuerKind, o issuertest.Options, f func(t *testing.T, r *rig)) {
	t.Helper()
	home := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o.URL = "https://issuer.example"
		iss := issuertest.New(o)
		f(t, newRig(t, iss, home, withKind(kind), func(c *Config) { c.HTTP = direct{iss}.client() }))
	})
}

func eachKind(t *testing.T, f func(t *testing.T, kind IssuerKind)) {
	for _, k := range []IssuerKind{KindOpenAI, KindOIDC} {
		t.Run(string(k), func(t *testing.T) { f(t, k) })
	}
}

// typed is a device login whose code somebody types after a while.
func typed(ctx context.Context, r *rig, after time.Duration, allow bool) (DeviceCode, Status, error) {
	var shown DeviceCode
	st, err := r.Device(ctx, func(d DeviceCode) {
		shown = d
		time.AfterFunc(after, func() { r.iss.EnterCode(d.Code, allow) })
	})
	return shown, st, err
}

var pollPath = map[IssuerKind]string{KindOpenAI: "/api/accounts/deviceauth/token", KindOIDC: "/oauth/token"}

func TestDeviceLogin(t *testing.T) {
	eachKind(t, func(t *testing.T, kind IssuerKind) {
		o := issuertest.Options{DeviceInterval: 5 * time.Second, Strict: true}
		synced(t, kind, o, func(t *testing.T, r *rig) {
			began := time.Now()
			d, st, err := typed(t.Context(), r, 17*time.Second, true)
			if err != nil {
				t.Fatal(err)
			}
			if st.Email != "grace@example.com" || !st.Renews || r.stored(t).Tokens.Issuer != "https://issuer.example" {
				t.Errorf("status %+v", st)
			}
			if d.Code == "" || d.Expires.Sub(began) != 15*time.Minute || !strings.HasPrefix(d.URL, "https://issuer.example/") {
				t.Errorf("shown %+v", d)
			}
			if wantComplete := kind == KindOIDC; (d.CompleteURL != "") != wantComplete || wantComplete && !strings.Contains(d.CompleteURL, d.Code) {
				t.Errorf("complete URL %q", d.CompleteURL)
			}
			// Every five seconds and not before the first: at 5, 10, 15 and 20.
			polls := r.iss.Count(pollPath[kind])
			if waited := time.Since(began); waited != 20*time.Second || polls != 4 {
				t.Errorf("%d polls in %s", polls, waited)
			}
		})
	})
}

func TestDeviceDenied(t *testing.T) {
	eachKind(t, func(t *testing.T, kind IssuerKind) {
		synced(t, kind, issuertest.Options{}, func(t *testing.T, r *rig) {
			_, _, err := typed(t.Context(), r, time.Minute, false)
			if !errors.Is(err, ErrDenied) || !strings.Contains(strings.Join(config.Hints(err), " "), "--device-auth") {
				t.Errorf("error %v, hints %q", err, config.Hints(err))
			}
		})
	})
}

func TestDeviceCodeExpires(t *testing.T) {
	eachKind(t, func(t *testing.T, kind IssuerKind) {
		synced(t, kind, issuertest.Options{DeviceInterval: 5 * time.Second}, func(t *testing.T, r *rig) {
			began := time.Now()
			_, err := r.Device(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), "expired") || time.Since(began) != 15*time.Minute {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
	})
}

// TestDeviceSlowDown: RFC 8628 section 3.5 adds five seconds each time.
func TestDeviceSlowDown(t *testing.T) {
	synced(t, KindOIDC, issuertest.Options{DeviceInterval: 5 * time.Second, Strict: true}, func(t *testing.T, r *rig) {
		began := time.Now()
		_, err := r.Device(t.Context(), func(d DeviceCode) {
			r.iss.SlowDown()
			time.AfterFunc(6*time.Second, r.iss.SlowDown) // and the one after
			time.AfterFunc(16*time.Second, func() { r.iss.EnterCode(d.Code, true) })
		})
		// Told at 5, so next at 15; told again, so next at 30.
		if waited := time.Since(began); err != nil || waited != 30*time.Second || r.iss.Count("/oauth/token") != 3 {
			t.Errorf("%d polls in %s: %v", r.iss.Count("/oauth/token"), waited, err)
		}
	})
}

// TestDeviceOutage takes the issuer away between two polls and brings it back: the
// login goes on, and asks ever less.
func TestDeviceOutage(t *testing.T) {
	eachKind(t, func(t *testing.T, kind IssuerKind) {
		synced(t, kind, issuertest.Options{DeviceInterval: 5 * time.Second}, func(t *testing.T, r *rig) {
			began := time.Now()
			st, err := r.Device(t.Context(), func(d DeviceCode) {
				time.AfterFunc(7*time.Second, func() { r.iss.Down(true) })
				time.AfterFunc(8*time.Second, func() { r.iss.EnterCode(d.Code, true) })
				time.AfterFunc(3*time.Minute, func() { r.iss.Down(false) })
			})
			if err != nil || !st.LoggedIn {
				t.Fatal(err)
			}
			if n := r.iss.Count(pollPath[kind]); n < 5 || n > 12 {
				t.Errorf("%d polls in %s", n, time.Since(began))
			}
		})
		synced(t, kind, issuertest.Options{DeviceInterval: 5 * time.Second}, func(t *testing.T, r *rig) {
			_, err := r.Device(t.Context(), func(DeviceCode) { r.iss.Fail(pollPath[kind], 10000, 503, "<html>busy</html>") })
			if err == nil || !strings.Contains(err.Error(), "expired") {
				t.Errorf("an issuer that never comes back: %v", err)
			}
		})
	})
}

func TestDeviceGivenUp(t *testing.T) {
	eachKind(t, func(t *testing.T, kind IssuerKind) {
		synced(t, kind, issuertest.Options{}, func(t *testing.T, r *rig) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Minute, cancel)
			if _, err := r.Device(ctx, nil); !errors.Is(err, ErrCancelled) {
				t.Errorf("error %v", err)
			}
		})
	})
}

// TestDeviceNotOffered: an issuer without device codes says so.
func TestDeviceNotOffered(t *testing.T) {
	synced(t, KindOpenAI, issuertest.Options{}, func(t *testing.T, r *rig) {
		r.iss.Fail("/api/accounts/deviceauth/usercode", 1, 404, "")
		_, err := r.Device(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "offers no device codes") || len(config.Hints(err)) == 0 {
			t.Errorf("error %v", err)
		}
	})
}

// TestDeviceAnswersAreNotTrusted: what an issuer sends to be shown is checked.
func TestDeviceAnswersAreNotTrusted(t *testing.T) {
	for name, body := range map[string]string{
		"no code":            `{"device_code":"d","verification_uri":"https://issuer.example/d","expires_in":60}`,
		"address in clear":   `{"device_code":"d","user_code":"AB","verification_uri":"http://elsewhere.example/d","expires_in":60}`,
		"address is code":    `{"device_code":"d","user_code":"AB","verification_uri":"javascript:alert(1)","expires_in":60}`,
		"no JSON":            `<html>`,
		"code is a novel":    `{"device_code":"d","user_code":"` + strings.Repeat("A", 65) + `","verification_uri":"https://issuer.example/d","expires_in":60}`,
		"numbers are absurd": `{"device_code":"d","user_code":"","verification_uri":"https://issuer.example/d","expires_in":-1e300,"interval":"NaN"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synced(t, KindOIDC, issuertest.Options{}, func(t *testing.T, r *rig) {
				r.iss.Fail("/oauth/device", 1, 200, body)
				if _, err := r.Device(t.Context(), func(d DeviceCode) { t.Errorf("shown %+v", d) }); err == nil {
					t.Error("it was believed")
				}
			})
		})
	}
	synced(t, KindOIDC, issuertest.Options{}, func(t *testing.T, r *rig) {
		r.iss.Fail("/oauth/device", 1, 200, `{"device_code":"d","user_code":"A\u001b[2JB","verification_uri":"https://issuer.example/d","expires_in":1e9,"interval":0}`)
		began := time.Now()
		_, err := r.Device(t.Context(), func(d DeviceCode) {
			if d.Code != "A[2JB" || d.Expires.Sub(began) > deviceLongest {
				t.Errorf("shown %+v", d)
			}
		})
		if err == nil {
			t.Error("no error")
		}
	})
}
