package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"introspectd/internal/devissuer"
)

// fifteen are the claims that make a token of 15, about 940 bytes by RS256,
// with those that the issuer adds.
var fifteen = map[string]any{
	"scope": "orders:read orders:write", "preferred_username": "amy@example.com", "azp": "storefront",
	"sid": "8f14e45f-ceea", "groups": []string{"customers", "beta-testers"}, "tenant": "0042", "locale": "en-GB",
}

// benchDeck holds the tokens of a run that measures.
type benchDeck struct {
	issuer *devissuer.Issuer
	good   []token
}

// newBenchDeck mints n distinct tokens by RS256, on all processors.
func newBenchDeck(issuer *devissuer.Issuer, n int) *benchDeck {
	d := &benchDeck{issuer: issuer}
	d.good = d.mint("RS256", n)
	return d
}

// mint makes n tokens that are good for a day.
func (d *benchDeck) mint(alg string, n int) []token {
	return d.mintBy(d.issuer.Key(alg), n, nil)
}

func (d *benchDeck) mintBy(key *devissuer.Key, n int, more map[string]any) []token {
	tokens := make([]token, n)
	var minting sync.WaitGroup
	workers := runtime.NumCPU()
	for w := range workers {
		minting.Go(func() {
			for i := w; i < n; i += workers {
				jti := rand.Text()
				own := map[string]any{"jti": jti, "sub": subject(jti), "exp": time.Now().Add(24 * time.Hour).Unix()}
				for _, from := range []map[string]any{fifteen, more} {
					for name, value := range from {
						own[name] = value
					}
				}
				tokens[i] = token{kind: known, jti: jti, text: d.issuer.MintBy(key, own)}
			}
		})
	}
	minting.Wait()
	return tokens
}

// subject is the sub of the token with that jti: its own, so that a gateway's
// answer tells of which token it is, and as long as all others.
func subject(jti string) string { return "customer-" + jti[:13] }

// bad are refusals of one kind: n tokens that are not good, all distinct.
func (d *benchDeck) bad(kind string, n int) (tokens []token) {
	stranger := devissuer.NewKey("ES256")
	for _, good := range d.good[:min(n, len(d.good))] {
		parts := strings.Split(good.text, ".")
		head := map[string]any{"alg": "RS256", "typ": "at+jwt", "kid": d.issuer.Key("RS256").Kid}
		t := token{kind: forged}
		switch kind {
		case "garbage":
			t.text = strings.ReplaceAll(good.text, ".", "_")
		case "unknown kid":
			head["alg"], head["kid"] = "ES256", stranger.Kid+good.jti[:6]
			t.text = b64JSON(head) + "." + parts[1] + "." + parts[2][:86]
		case "alg none":
			head["alg"] = "none"
			t.text = b64JSON(head) + "." + parts[1] + "." + parts[2]
		case "unlisted issuer":
			own := map[string]any{"iss": "https://elsewhere.example", "jti": good.jti, "sub": subject(good.jti), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
			for name, value := range fifteen {
				own[name] = value
			}
			t.text = b64JSON(head) + "." + b64JSON(own) + "." + parts[2]
		case "bad signature":
			t.text = parts[0] + "." + parts[1] + "." + reversed(parts[2])
		}
		tokens = append(tokens, t)
	}
	return tokens
}

// refusals are the kinds of bad tokens that cost no signature check.
var refusals = []string{"garbage", "unknown kid", "alg none", "unlisted issuer"}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func b64JSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("loadtest: claims that JSON can't hold: " + err.Error())
	}
	return b64(text)
}

func reversed(s string) string {
	b := []byte(s[1 : len(s)-1])
	slices.Reverse(b)
	return s[:1] + string(b) + s[len(s)-1:]
}
