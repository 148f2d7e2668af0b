package bearer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"towline/appserver/protocol"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Over a day nobody asks for anything: keys are fetched every ten minutes and the
// issuer is asked where they are every hour; while it is away, less and less often,
// and when it is back as before.
func TestKeysAreFetchedNowAndAgain(t *testing.T) {
	set := jwks(jwkOf(t, testKeys()[kindP256].Public(), "a", ""))
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what follows
		away := false
		var found, fetched []time.Time
		r, err := newRemote(&JWT{Name: "ci", Issuer: "https://issuer.example", Role: protocol.RoleOperator}, &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if req.Host != "issuer.example" {
				t.Errorf("it asked %s", req.URL)
			}
			if away {
				fetched = append(fetched, time.Now())
				return nil, errors.New("away")
			}
			answer := set
			if strings.HasSuffix(req.URL.Path, "/openid-configuration") {
				found = append(found, time.Now())
				answer = `{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys"}`
			} else {
				fetched = append(fetched, time.Now())
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(answer))}, nil
		})}, slog.New(slog.DiscardHandler), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx) }()
		time.Sleep(24 * time.Hour)
		mu.Lock()
		if n := len(fetched); n < 140 || n > 200 {
			t.Errorf("%d fetches in a day", n)
		}
		if n := len(found); n < 18 || n > 25 {
			t.Errorf("asked %d times where the keys are", n)
		}
		away, fetched = true, nil
		mu.Unlock()
		time.Sleep(10 * time.Hour)
		mu.Lock()
		if n := len(fetched); n < 100 || n > 170 {
			t.Errorf("%d attempts in ten hours of an outage", n)
		}
		if last := fetched[len(fetched)-1].Sub(fetched[len(fetched)-2]); last < 3*time.Minute || last > lastRetry {
			t.Errorf("the last attempts are %v apart", last)
		}
		mu.Unlock()
		if !r.usable() {
			t.Error("its keys count for a day")
		}
		time.Sleep(15 * time.Hour)
		if r.usable() {
			t.Error("its keys count for more than a day")
		}
		mu.Lock()
		away = false
		mu.Unlock()
		time.Sleep(lastRetry)
		synctest.Wait()
		if !r.usable() {
			t.Error("it is back")
		}
		cancel()
		<-done
	})
}
