package httpapi_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Requests use memory again that others have used: nobody may be told of another's
// token by it, least of all while many are answered at once.
func TestManyAtOnceAreToldOfTheirOwnTokens(t *testing.T) {
	f := newFixture(t, signing)
	const askers, rounds = 8, 60
	type owned struct{ subject, token string }
	var tokens []owned
	for n := range 24 { // of many sizes, so that none fits where the last one lay
		subject := fmt.Sprintf("raw-claim-%d-%s", n, strings.Repeat("x", 37*n))
		tokens = append(tokens, owned{subject, mint(corp(), members{"sub": subject, "scope": "read write"})})
	}
	own := func(text string, of owned) bool {
		return strings.Contains(text, of.subject) && strings.Count(text, "raw-claim-") == strings.Count(text, of.subject)
	}
	ways := map[string]func(owned) (text string, status int){
		"INT-01 /introspect": func(of owned) (string, int) {
			got := f.ask("orders", "/introspect", of.token)
			return got.body, got.status
		},
		"INT-01 /introspect, an escape before the token": func(of owned) (string, int) {
			got := f.post("/introspect", form("token_type_hint", "access token", "token", of.token), as("orders")...)
			return got.body, got.status
		},
		"TRN-01 /transform": func(of owned) (string, int) {
			got := f.ask("orders", "/transform", of.token)
			return got.body, got.status
		},
		"ASN-01 /transform with an assertion": func(of owned) (string, int) {
			got := f.post("/transform", form("profile", "plain", "output", "jwt", "token", of.token), as("orders")...)
			_, assertion, _ := strings.Cut(got.body, `"assertion":"`)
			_, assertion, _ = strings.Cut(assertion, ".")
			payload, _, _ := strings.Cut(assertion, ".")
			signed, err := base64.RawURLEncoding.DecodeString(payload)
			if err != nil {
				t.Errorf("%s: %v", got.body, err)
			}
			return got.body + string(signed), got.status
		},
		"GW-01 /auth": func(of owned) (string, int) {
			got := f.get("/auth/strict", of.token)
			return got.header.Get("X-Auth-Subject"), got.status
		},
	}
	for way, ask := range ways {
		t.Run(way, func(t *testing.T) {
			var all sync.WaitGroup
			for a := range askers {
				all.Go(func() {
					for n := range rounds {
						of := tokens[(n*(a+1)+a)%len(tokens)]
						if text, status := ask(of); status != http.StatusOK || !own(text, of) {
							t.Errorf("got %d, %q, want 200 and no subject but %s", status, text, of.subject)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}
