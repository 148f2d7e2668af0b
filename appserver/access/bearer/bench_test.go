package bearer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// What proving who comes adds to a connection. Connecting and initializing takes
// some 300 µs; a tenth of it is the goal. "again" is a token that came before, as
// those of a client that reconnects and of a pipeline that connects often do.
func BenchmarkAuthenticate(b *testing.B) {
	ctx := context.Background()
	bench := func(name string, a *Authenticator, forget bool, header string) {
		at := access.Attempt{Authorization: []string{header}, Source: elsewhere, Via: "wss"}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if forget {
					clear(a.proven.m)
				}
				if _, err := a.Authenticate(ctx, at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	many := make([]Capability, 0, 32)
	for i := range 32 {
		many = append(many, Capability{Name: fmt.Sprint(i), File: write(b, "f", fmt.Sprint("token ", i)), Role: protocol.RoleObserver})
	}
	bench("capability, one of 32", open(b, Config{Capability: many}), false, "Bearer token 31")
	hs := signed(fmt.Sprintf(`{"exp":%d,"sub":"robot"}`, noon.Add(time.Hour).Unix()))
	for _, forget := range []bool{true, false} {
		when := map[bool]string{true: "first", false: "again"}[forget]
		bench("HS256, "+when, open(b, Config{JWT: []JWT{codexMode(b, nil)}}), forget, "Bearer "+hs)
		for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
			k := testKeys()[algorithms[alg].kind]
			a := open(b, keyFile(b, pemOf(b, k.Public()), func(j *JWT) {
				j.Audience, j.Rules = []string{"towline"}, []Rule{{Claims: []Claim{claim("repository", "octo/*"), claim("ref", "refs/heads/**")}, Role: protocol.RoleOperator, NameTemplate: "{repository}@{ref}"}}
			}))
			bench(alg+" of a pipeline, "+when, a, forget, "Bearer "+sign(b, alg, "", k, github(nil), nil))
		}
	}
}
