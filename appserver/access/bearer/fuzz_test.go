package bearer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzHeader(f *testing.F) {
	for _, s := range []string{"Bearer x", "bearer  x ", "Bearer", "Basic x", "Bearer\tx", "", "Bearer \xff", "Bearer x y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, ref := token([]string{s})
		if ref != nil {
			if ref.Status != 401 || ref.Body != sayHeader || text != "" {
				t.Errorf("%+v", ref)
			}
			return
		}
		if text == "" || text != strings.TrimSpace(text) || !strings.HasPrefix(strings.ToLower(s), "bearer ") || !strings.Contains(s, text) {
			t.Errorf("%q of %q", text, s)
		}
	})
}

// Whatever the three parts say: only what was signed with the secret comes in, and
// both ways of reading agree on nothing but tokens.
func FuzzJWT(f *testing.F) {
	exp := `"exp":9999999999`
	for _, s := range [][2]string{
		{plainHead, "{" + exp + "}"},
		{`{"alg":"none"}`, "{" + exp + "}"},
		{`{"alg":"HS256","crit":["x"],"kid":"../x"}`, `{` + exp + `,"aud":["a"],"iss":"b","sub":"c","nbf":1}`},
		{`{"alg":"HS512"}`, `{"exp":"1"}`},
		{`{"alg":"HS256","alg":"none"}`, `{"exp":1e400}`},
		{plainHead, `{` + exp + `,"x":[[[[]]]]}`},
		{plainHead, `{"exp":99999999999999999999}`},
	} {
		f.Add(s[0], s[1], true)
		f.Add(s[0], s[1], false)
	}
	codex := open(f, Config{JWT: []JWT{codexMode(f, nil)}, Lockout: Lockout{LoopbackFree: 1 << 40}})
	strict := open(f, Config{JWT: []JWT{codexMode(f, func(j *JWT) { j.Codex = false })}, Lockout: Lockout{LoopbackFree: 1 << 40}})
	f.Fuzz(func(t *testing.T, head, claims string, right bool) {
		text := hs256(secret, head, claims)
		if !right {
			parts := strings.Split(text, ".")
			m := hmac.New(sha256.New, []byte(secret+"x"))
			m.Write([]byte(parts[0] + "." + parts[1]))
			text = parts[0] + "." + parts[1] + "." + b64(m.Sum(nil))
		}
		_, errC := try(t, codex, "Bearer "+text)
		p, errS := try(t, strict, "Bearer "+text)
		if !right && (errC == nil || errS == nil) {
			t.Fatalf("%q was let in", text)
		}
		if errS != nil {
			return
		}
		if _, again := try(t, strict, "Bearer "+text); again != nil {
			t.Errorf("not the second time: %v", again)
		}
		var h, c map[string]any
		if json.Unmarshal([]byte(head), &h) != nil || json.Unmarshal([]byte(claims), &c) != nil || h["alg"] != "HS256" || h["crit"] != nil {
			t.Errorf("%q, %q was let in", head, claims)
		}
		if n, ok := c["exp"].(float64); !ok || n < float64(noon.Unix())-31 {
			t.Errorf("%q was let in", claims)
		}
		if strings.ContainsFunc(p.ID+p.Name, unicode.IsControl) || len(p.ID) > 2*maxSubject {
			t.Errorf("%+v", p)
		}
	})
}

func FuzzKeys(f *testing.F) {
	for _, k := range testKeys() {
		f.Add(pemOf(f, k.Public()))
		f.Add(jwkOf(f, k.Public(), "k", ""))
		f.Add(jwks(jwkOf(f, k.Public(), "k", ""), `{"kty":"oct","k":"AAAA"}`))
	}
	f.Add("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
	f.Add(`{"kty":"RSA","n":"AQAB","e":"AQAB"}`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, read := range []func() (ring, error){
			func() (ring, error) { return publicKeys([]byte(text)) },
			func() (ring, error) { return jsonKeys([]byte(text), true) },
		} {
			keys, err := read()
			if (err == nil) != (len(keys) > 0) || len(keys) > maxKeys {
				t.Fatalf("%d keys, %v", len(keys), err)
			}
			if err != nil && !utf8.ValidString(err.Error()) {
				t.Errorf("%q", err)
			}
			for _, k := range keys {
				if k.kind == kindHMAC || k.kind == kindCapability || k.gone == nil || k.verifies("HS256", "x", []byte("x")) || k.verifies("none", "x", nil) {
					t.Errorf("%+v", k)
				}
			}
		}
	})
}

func FuzzRules(f *testing.F) {
	f.Add("octo/*", "octo/app", "{a}@{b}")
	f.Add("refs/**", "refs/heads/a/b", "{a")
	f.Add(`a?\*c**`, "ab*c:/d", "}")
	f.Add("**a*b?c", "xxaxbyc", "{/a/b~1c}")
	f.Fuzz(func(t *testing.T, pattern, value, template string) {
		if len(pattern) > 200 || len(value) > 2000 {
			return
		}
		if got := glob(pattern, value); utf8.ValidString(pattern) && utf8.ValidString(value) && got != asRegexp(pattern).MatchString(value) {
			t.Errorf("glob(%q, %q) = %v", pattern, value, got)
		}
		if checkTemplate(template) != nil {
			return
		}
		raw, err := json.Marshal(map[string]any{"a": value, "b": []string{value}})
		if err != nil {
			t.Fatal(err)
		}
		all, err := object(raw, false)
		if err != nil {
			t.Fatal(err)
		}
		if name := expand(template, &claims{all: all}); len([]rune(name)) > maxName || strings.ContainsFunc(name, unicode.IsControl) {
			t.Errorf("%q of %q", name, template)
		}
	})
}
