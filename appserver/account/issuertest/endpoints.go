package issuertest

import (
	"crypto/sha256"
	"encoding/json"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

func (i *Issuer) routes() {
	i.mux.HandleFunc("GET /oauth/authorize", i.authorize)
	i.mux.HandleFunc("POST /oauth/consent", i.consent)
	i.mux.HandleFunc("POST /oauth/token", i.token)
	i.mux.HandleFunc("POST /oauth/revoke", i.revoke)
	i.mux.HandleFunc("POST /oauth/device", i.rfcDevice)
	i.mux.HandleFunc("POST /api/accounts/deviceauth/usercode", i.userCode)
	i.mux.HandleFunc("POST /api/accounts/deviceauth/token", i.deviceToken)
	i.mux.HandleFunc("GET /codex/device", i.devicePage)
	i.mux.HandleFunc("GET /device", i.devicePage)
	i.mux.HandleFunc("POST /device", i.deviceConfirm)
	i.mux.HandleFunc("GET /jwks", i.jwks)
	i.mux.HandleFunc("GET /agent-identities/jwks", i.jwks)
	i.mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	i.mux.HandleFunc("GET /oidc/userinfo", i.userinfo)
	i.mux.HandleFunc("GET /v1/user-auth-credential/whoami", i.whoami)
	i.mux.HandleFunc("GET /backend-api/wham/accounts/check", i.check)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// refuse answers as OAuth has it.
func refuse(w http.ResponseWriter, status int, code, text string) {
	reply(w, status, map[string]string{"error": code, "error_description": text})
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"issuer": i.URL, "authorization_endpoint": i.URL + "/oauth/authorize", "token_endpoint": i.URL + "/oauth/token",
		"revocation_endpoint": i.URL + "/oauth/revoke", "device_authorization_endpoint": i.URL + "/oauth/device",
		"userinfo_endpoint": i.URL + "/oidc/userinfo", "jwks_uri": i.URL + "/jwks",
		"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{i.o.Alg},
		"scopes_supported": []string{"openid", "profile", "email", "offline_access"},
	})
}

var consentPage = template.Must(template.New("").Parse(`<!doctype html><title>Allow?</title>
<h1>Let Codex use {{.Email}}?</h1>
<form method="post" action="/oauth/consent"><input type="hidden" name="ask" value="{{.Ask}}">
<button id="allow" name="decision" value="allow">Allow</button> <button id="deny" name="decision" value="deny">Deny</button></form>
`))

func (i *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	redirect, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || redirect.Host == "" || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" ||
		len(q.Get("code_challenge")) != 43 || q.Get("state") == "" {
		http.Error(w, "this authorization request makes no sense", http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	if i.o.ClientID != "" && q.Get("client_id") != i.o.ClientID {
		i.mu.Unlock()
		http.Error(w, "unknown client", http.StatusBadRequest)
		return
	}
	ask := i.random("ask_")
	i.asked[ask] = q
	email, direct := i.o.User.Email, i.o.NoConsent
	i.mu.Unlock()
	if direct {
		i.decide(w, r, ask, true)
		return
	}
	_ = consentPage.Execute(w, struct{ Email, Ask string }{email, ask})
}

func (i *Issuer) consent(w http.ResponseWriter, r *http.Request) {
	i.decide(w, r, r.PostFormValue("ask"), r.PostFormValue("decision") == "allow")
}

// decide sends the browser back with a code or an error.
func (i *Issuer) decide(w http.ResponseWriter, r *http.Request, ask string, allow bool) {
	i.mu.Lock()
	q, ok := i.asked[ask]
	delete(i.asked, ask)
	back := url.Values{"state": {q.Get("state")}}
	if allow {
		code := i.random("ac_")
		i.codes[code] = &grant{
			family: &family{}, user: i.o.User, client: q.Get("client_id"), redirect: q.Get("redirect_uri"), scope: q.Get("scope"),
			challenge: q.Get("code_challenge"), nonce: q.Get("nonce"), expires: i.o.Now().Add(10 * time.Minute),
		}
		back.Set("code", code)
		back.Set("scope", q.Get("scope"))
	} else {
		back.Set("error", "access_denied")
		back.Set("error_description", "the person said no")
	}
	i.mu.Unlock()
	if !ok {
		http.Error(w, "this was decided before", http.StatusBadRequest)
		return
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// params reads a form or a flat JSON object, as Codex sends either.
func params(r *http.Request) (url.Values, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		err := r.ParseForm()
		return r.PostForm, err
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	v := url.Values{}
	for k, s := range m {
		v.Set(k, s)
	}
	return v, nil
}

func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	p, err := params(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", "neither a form nor JSON")
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch p.Get("grant_type") {
	case "authorization_code":
		i.exchange(w, p)
	case "refresh_token":
		i.refreshed(w, p)
	case "urn:ietf:params:oauth:grant-type:device_code":
		i.pollRFC(w, p)
	case "urn:ietf:params:oauth:grant-type:token-exchange":
		if i.apiKey == "" || p.Get("requested_token") != "openai-api-key" {
			refuse(w, http.StatusBadRequest, "invalid_request", "no key for this account")
			return
		}
		reply(w, http.StatusOK, map[string]any{"access_token": i.apiKey})
	default:
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", p.Get("grant_type"))
	}
}

func (i *Issuer) exchange(w http.ResponseWriter, p url.Values) {
	g := i.codes[p.Get("code")]
	sum := sha256.Sum256([]byte(p.Get("code_verifier")))
	switch {
	case g == nil || !i.o.Now().Before(g.expires):
		refuse(w, http.StatusBadRequest, "invalid_grant", "unknown code")
	case g.used: // RFC 6749 section 4.1.2: revoke what the first use gave
		g.family.revoked = true
		refuse(w, http.StatusBadRequest, "invalid_grant", "this code was used before")
	case g.client != p.Get("client_id") || g.redirect != p.Get("redirect_uri"):
		refuse(w, http.StatusBadRequest, "invalid_grant", "the code was made for another client or redirect")
	case b64(sum[:]) != g.challenge:
		refuse(w, http.StatusBadRequest, "invalid_grant", "the verifier does not match the challenge")
	default:
		g.used = true
		i.give(w, i.issue(g))
	}
}

func (i *Issuer) give(w http.ResponseWriter, t Tokens) {
	reply(w, http.StatusOK, map[string]any{
		"id_token": t.ID, "access_token": t.Access, "refresh_token": t.Refresh, "token_type": "Bearer",
		"expires_in": int(t.Expires.Sub(i.o.Now()).Seconds()),
	})
}

// refreshed changes a refresh token for a new one, once.
func (i *Issuer) refreshed(w http.ResponseWriter, p url.Values) {
	fail := func(code, text string) {
		reply(w, http.StatusUnauthorized, map[string]any{"error": map[string]string{"code": code, "message": text, "type": "invalid_request_error"}})
	}
	g := i.refresh[p.Get("refresh_token")]
	switch {
	case g == nil:
		fail("refresh_token_expired", "unknown refresh token")
	case g.client != "" && p.Get("client_id") != g.client:
		refuse(w, http.StatusBadRequest, "invalid_client", "not your token")
	case g.used:
		i.reused++
		g.family.revoked = g.family.revoked || !i.o.Forgiving
		fail("refresh_token_reused", "this refresh token was used already")
	case g.family.revoked:
		fail("refresh_token_invalidated", "this login has ended")
	default:
		i.rotated++
		g.used = !i.o.NoRotation
		t := i.issue(g)
		if i.o.NoRotation {
			delete(i.refresh, t.Refresh)
			t.Refresh = p.Get("refresh_token")
		}
		i.give(w, t)
	}
}

func (i *Issuer) revoke(w http.ResponseWriter, r *http.Request) {
	p, err := params(r)
	if err != nil || p.Get("token") == "" {
		refuse(w, http.StatusBadRequest, "invalid_request", "no token")
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.revoked = append(i.revoked, p.Get("token"))
	if g := i.refresh[p.Get("token")]; g != nil {
		g.family.revoked = true
	}
	delete(i.access, p.Get("token"))
	reply(w, http.StatusOK, map[string]any{})
}

// bearer finds whose token a request carries.
func (i *Issuer) bearer(r *http.Request) (User, bool) {
	tok, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !i.Valid(tok) {
		return User{}, false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if u, ok := i.pats[tok]; ok {
		return u, true
	}
	return i.access[tok].user, true
}

func (i *Issuer) userinfo(w http.ResponseWriter, r *http.Request) {
	u, ok := i.bearer(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "invalid_token", "unknown bearer")
		return
	}
	reply(w, http.StatusOK, map[string]any{"sub": u.Subject, "email": u.Email})
}

func (i *Issuer) whoami(w http.ResponseWriter, r *http.Request) {
	u, ok := i.bearer(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "invalid_token", "unknown token")
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"email": u.Email, "chatgpt_user_id": u.Subject, "chatgpt_account_id": u.AccountID,
		"chatgpt_plan_type": u.Plan, "chatgpt_account_is_fedramp": false,
	})
}

func (i *Issuer) check(w http.ResponseWriter, r *http.Request) {
	u, ok := i.bearer(r)
	if !ok {
		refuse(w, http.StatusUnauthorized, "invalid_token", "unknown bearer")
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"accounts": []any{map[string]any{
			"id": u.AccountID, "account_id": u.AccountID, "account_user_id": u.Subject + "__" + u.AccountID, "plan_type": u.Plan,
			"structure": "personal", "name": nil, "is_deactivated": false, "account_user_role": "account-owner",
			// Codex refuses a workspace without these; the origin it then uses must be https.
			"workspace_backend_origin": "NO_CONSTRAINT", "account_routing_override": "NO_CONSTRAINT",
		}},
		"default_account_id": u.AccountID, "account_ordering": []string{u.AccountID},
	})
}
