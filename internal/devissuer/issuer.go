// Package devissuer is an issuer for `introspectd dev`, for tests and for the
// load tool: keys, rotation, forged tokens, outages. It is never reachable from
// `serve`: whoever can reach its token endpoint can have any token.
//
// # Decisions
//
// Misuse panics. An unknown algorithm or an issuer that is no URL is a mistake
// in the program that called, not something that happens while it runs; the
// cost is that nothing from outside may be passed to New or NewKey.
//
// An outage covers /jwks.json alone. Discovery stays up, so that a test says
// which of the two it breaks; a dead discovery is a server that was closed.
package devissuer

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Issuer signs tokens and publishes the keys that verify them. Every method may
// be called concurrently.
type Issuer struct {
	url   string
	host  string
	path  string
	first string // the algorithm that Mint signs with

	mu       sync.Mutex
	keys     []*Key // oldest first
	outage   Outage
	requests int
}

// New makes an issuer with one key for each algorithm, RS256 if none is named.
// issuer is its identifier, the iss of every token, and tells Handler its host
// and path.
func New(issuer string, algs ...string) *Issuer {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" {
		panic("devissuer: expected an absolute URL, got " + issuer)
	}
	if len(algs) == 0 {
		algs = []string{"RS256"}
	}
	i := &Issuer{url: issuer, host: u.Host, path: strings.TrimSuffix(u.Path, "/"), first: algs[0], outage: None}
	for _, alg := range algs {
		i.keys = append(i.keys, NewKey(alg))
	}
	return i
}

// Mint signs a token with the newest key of the first algorithm. Claims are
// merged over the standard ones (iss, sub, aud, client_id, iat, nbf, exp in an
// hour, jti); a nil value removes one.
func (i *Issuer) Mint(claims map[string]any) string {
	return i.MintBy(i.Key(i.first), claims)
}

// MintBy is Mint by another key, which need not be a published one.
func (i *Issuer) MintBy(key *Key, claims map[string]any) string {
	now := time.Now().Unix()
	all := map[string]any{
		"iss":       i.url,
		"sub":       "dev",
		"aud":       "https://api.example/dev",
		"client_id": "dev",
		"iat":       now,
		"nbf":       now,
		"exp":       now + 3600,
		"jti":       rand.Text(),
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	header := map[string]any{"alg": key.Alg, "typ": "at+jwt", "kid": key.Kid}
	return key.Sign(text(header), text(all))
}

// Key is the newest published key of alg, nil if there is none.
func (i *Issuer) Key(alg string) *Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range slices.Backward(i.keys) {
		if k.Alg == alg {
			return k
		}
	}
	return nil
}

// Rotate publishes a new key of alg in place of all its older ones.
func (i *Issuer) Rotate(alg string) *Key {
	fresh := NewKey(alg)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = slices.DeleteFunc(i.keys, func(k *Key) bool { return k.Alg == alg })
	i.keys = append(i.keys, fresh)
	return fresh
}

// AddKey publishes key beside the others; as the newest of its algorithm it is
// the one that Mint signs with from now on.
func (i *Issuer) AddKey(key *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, key)
}

// RemoveKey stops publishing key.
func (i *Issuer) RemoveKey(key *Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = slices.DeleteFunc(i.keys, func(k *Key) bool { return k == key })
}

// JWKS is the published JWK set (RFC 7517 section 5), whatever the outage.
func (i *Issuer) JWKS() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	keys := make([]any, len(i.keys))
	for n, k := range i.keys {
		keys[n] = k.JWK()
	}
	return []byte(text(map[string]any{"keys": keys}))
}

// text is v as JSON; v is of our own making or came from JSON.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("devissuer: claims that JSON can't hold: " + err.Error())
	}
	return string(b)
}
