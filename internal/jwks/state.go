package jwks

import (
	"crypto/rsa"
	"slices"
	"time"
)

// State is a picture of an issuer's keys for people: GET /issuers, explain and
// check.
type State struct {
	// Source is jwks_url, discover, files or truststore.
	Source string `json:"source"`
	// URL is where the keys are fetched from; empty for files, and until
	// discovery told it.
	URL string `json:"url,omitempty"`
	// Usable tells whether the keys below may verify: they are there and not
	// too old.
	Usable bool       `json:"usable"`
	Keys   []KeyState `json:"keys"`
	// FromState tells that the keys were saved before a restart, and that the
	// source has not confirmed them since.
	FromState bool `json:"from_state,omitempty"`
	// FromFleet tells that another replica read the keys, and that the source
	// has not confirmed them to this one since.
	FromFleet bool `json:"from_fleet,omitempty"`
	// FetchedAt is when the source was last asked and answered with this set,
	// by the clock of the replica that asked.
	FetchedAt time.Time `json:"fetched_at,omitzero"`
	// AgeSeconds is the time since then; zero for files.
	AgeSeconds float64 `json:"age_seconds,omitempty"`
	// LastError is how the latest fetch went wrong; empty when it went well.
	LastError string `json:"last_error,omitempty"`
	// Skipped counts the keys of the set that are not used, by reason.
	Skipped map[string]int `json:"skipped,omitempty"`
	// Refused are keys whose private half is public, and which therefore verify
	// nothing.
	Refused []KeyState `json:"refused,omitempty"`
	// TrustStore is what the trust store holds; nil for other sources.
	TrustStore *StoreState `json:"truststore,omitempty"`
}

// KeyState is one usable key.
type KeyState struct {
	Kid        string     `json:"kid,omitempty"`
	Kty        string     `json:"kty"`
	Algs       []string   `json:"algs"`
	Thumbprint Thumbprint `json:"thumbprint"`
	// Bits is the size of an RSA modulus; Curve is for all others.
	Bits      int       `json:"bits,omitempty"`
	Curve     string    `json:"curve,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
}

// State returns a picture of the present set and of the latest fetch.
func (k *Keys) State() State {
	k.mu.Lock()
	s := State{Source: k.source, URL: k.url, LastError: k.lastErr, Usable: k.Ready(), Keys: []KeyState{}}
	k.mu.Unlock()
	h := k.held.Load()
	if h == nil {
		return s
	}
	s.FetchedAt, s.FromState, s.FromFleet = h.fetched.Round(0), h.from == fromState, h.from == fromFleet
	if !k.cfg.local() {
		s.AgeSeconds = time.Since(h.read).Seconds()
	}
	for _, e := range slices.SortedFunc(slices.Values(h.set.entries), compareKids) {
		s.Keys = append(s.Keys, e.state())
	}
	if h.set.refused != nil {
		for _, e := range slices.SortedFunc(slices.Values(h.set.refused.entries), compareKids) {
			s.Refused = append(s.Refused, e.state())
		}
	}
	s.TrustStore = h.set.store
	if len(h.set.skipped) > 0 {
		s.Skipped = map[string]int{}
		for reason, n := range h.set.skipped {
			s.Skipped[string(reason)] = n
		}
	}
	return s
}

func (e *entry) state() KeyState {
	return KeyState{
		Kid: e.key.Kid, Kty: e.material.Kty, Algs: slices.Clone(e.key.Algs), Thumbprint: e.key.Thumbprint,
		Bits: e.bits(), Curve: e.material.Crv,
		NotBefore: e.from, NotAfter: e.until,
	}
}

// bits is the size of an RSA modulus, zero for other keys.
func (e *entry) bits() int {
	if k, ok := e.key.Public.(*rsa.PublicKey); ok {
		return k.N.BitLen()
	}
	return 0
}
