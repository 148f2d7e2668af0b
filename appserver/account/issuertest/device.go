package issuertest

import (
	"crypto/sha256"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// device is one code waiting to be typed.
type device struct {
	id, userCode string
	rfc          bool
	client       string
	scope        string
	expires      time.Time
	polled       time.Time
	interval     time.Duration
	slow         bool
	state        string // "", "allowed", "denied"
	user         User
	used         bool
}

func (i *Issuer) newDevice(client, scope string, rfc bool) *device {
	word := strings.ToUpper(strings.NewReplacer("-", "", "_", "").Replace(i.random("")[len(i.o.Canary):]))
	d := &device{
		id: i.random("dev_"), userCode: word[:4] + "-" + word[4:9], rfc: rfc, client: client, scope: scope,
		expires: i.o.Now().Add(i.o.DeviceTTL), interval: i.o.DeviceInterval,
	}
	i.devices[d.id], i.devices[d.userCode] = d, d
	return d
}

// userCode is Codex's: JSON in, an interval in a string out.
func (i *Issuer) userCode(w http.ResponseWriter, r *http.Request) {
	var in struct {
		ClientID string `json:"client_id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.ClientID == "" {
		refuse(w, http.StatusBadRequest, "invalid_request", "no client_id")
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.newDevice(in.ClientID, "", false)
	reply(w, http.StatusOK, map[string]any{
		"device_auth_id": d.id, "user_code": d.userCode, "interval": strconv.Itoa(int(d.interval.Seconds())),
		"expires_at": d.expires.Format(time.RFC3339),
	})
}

// deviceToken is Codex's: 403 until the person is done, then a code with the
// verifier for it.
func (i *Issuer) deviceToken(w http.ResponseWriter, r *http.Request) {
	var in struct {
		ID   string `json:"device_auth_id"`
		Code string `json:"user_code"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.devices[in.ID]
	switch {
	case d == nil || d.userCode != in.Code || !i.o.Now().Before(d.expires) || d.used:
		refuse(w, http.StatusNotFound, "deviceauth_not_found", "no such code")
	case d.state == "":
		refuse(w, http.StatusForbidden, "deviceauth_authorization_pending", "nobody typed it yet")
	case d.state == "denied":
		refuse(w, http.StatusBadRequest, "deviceauth_denied", "the person said no")
	default:
		d.used = true
		verifier := i.random("ver_")
		sum := sha256.Sum256([]byte(verifier))
		code := i.random("ac_")
		i.codes[code] = &grant{
			family: &family{}, user: d.user, client: d.client, redirect: i.URL + "/deviceauth/callback",
			challenge: b64(sum[:]), expires: i.o.Now().Add(10 * time.Minute),
		}
		reply(w, http.StatusOK, map[string]any{"authorization_code": code, "code_challenge": b64(sum[:]), "code_verifier": verifier})
	}
}

// rfcDevice is RFC 8628 section 3.1.
func (i *Issuer) rfcDevice(w http.ResponseWriter, r *http.Request) {
	p, err := params(r)
	if err != nil || p.Get("client_id") == "" {
		refuse(w, http.StatusBadRequest, "invalid_request", "no client_id")
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.newDevice(p.Get("client_id"), p.Get("scope"), true)
	reply(w, http.StatusOK, map[string]any{
		"device_code": d.id, "user_code": d.userCode, "verification_uri": i.URL + "/device",
		"verification_uri_complete": i.URL + "/device?user_code=" + url.QueryEscape(d.userCode),
		"expires_in":                int(i.o.DeviceTTL.Seconds()), "interval": int(d.interval.Seconds()),
	})
}

// pollRFC is RFC 8628 section 3.4. The caller holds mu.
func (i *Issuer) pollRFC(w http.ResponseWriter, p url.Values) {
	now := i.o.Now()
	d := i.devices[p.Get("device_code")]
	if d == nil || !d.rfc || d.client != p.Get("client_id") || d.used {
		refuse(w, http.StatusBadRequest, "invalid_grant", "no such code")
		return
	}
	early := i.o.Strict && !d.polled.IsZero() && now.Sub(d.polled) < d.interval
	d.polled = now
	switch {
	case !now.Before(d.expires):
		refuse(w, http.StatusBadRequest, "expired_token", "too late")
	case early || d.slow:
		d.slow = false
		d.interval += 5 * time.Second
		refuse(w, http.StatusBadRequest, "slow_down", "too often")
	case d.state == "":
		refuse(w, http.StatusBadRequest, "authorization_pending", "nobody typed it yet")
	case d.state == "denied":
		refuse(w, http.StatusBadRequest, "access_denied", "the person said no")
	default:
		d.used = true
		i.give(w, i.issue(&grant{family: &family{}, user: d.user, client: d.client, scope: d.scope}))
	}
}

// SlowDown makes the next poll for every waiting code be told to slow down.
func (i *Issuer) SlowDown() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, d := range i.devices {
		d.slow = true
	}
}

// EnterCode is the person who types a device code and decides. It reports
// whether the code was known and still good.
func (i *Issuer) EnterCode(code string, allow bool) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.devices[code]
	if d == nil || d.state != "" || !i.o.Now().Before(d.expires) {
		return false
	}
	d.user, d.state = i.o.User, "denied"
	if allow {
		d.state = "allowed"
	}
	return true
}

var devicePage = template.Must(template.New("").Parse(`<!doctype html><title>Device</title>
{{if .Said}}<p id="said">{{.Said}}</p>{{else}}<form method="post" action="/device"><input id="code" name="user_code" value="{{.Code}}">
<button id="allow" name="decision" value="allow">Allow</button> <button id="deny" name="decision" value="deny">Deny</button></form>{{end}}
`))

func (i *Issuer) devicePage(w http.ResponseWriter, r *http.Request) {
	_ = devicePage.Execute(w, struct{ Code, Said string }{Code: r.URL.Query().Get("user_code")})
}

func (i *Issuer) deviceConfirm(w http.ResponseWriter, r *http.Request) {
	said := "You may close this page."
	if !i.EnterCode(strings.ToUpper(strings.TrimSpace(r.PostFormValue("user_code"))), r.PostFormValue("decision") == "allow") {
		said = "This code is not known."
	}
	_ = devicePage.Execute(w, struct{ Code, Said string }{Said: said})
}
