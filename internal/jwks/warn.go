package jwks

import (
	"fmt"
	"slices"
	"time"
)

// Warnings are sentences about the present set for an operator, in order: what
// should not stay, and what was configured but can't sign.
func (k *Keys) Warnings() []string {
	h := k.held.Load()
	if h == nil {
		return nil
	}
	return h.set.warnings(k.now())
}

// warn logs the warnings about s that were not logged before.
func (k *Keys) warn(s *set) {
	k.mu.Lock()
	before := k.warned
	k.warned = s.warnings(k.now())
	now := k.warned
	k.mu.Unlock()
	for _, w := range now {
		if !slices.Contains(before, w) {
			k.log.Warn(w)
		}
	}
}

func (s *set) warnings(now time.Time) []string {
	var found []string
	for _, e := range s.entries {
		if e.known != "" {
			found = append(found, fmt.Sprintf("INSECURE allow_known_public_keys: anyone can sign with the key of kid %q, whose private half is public (a WSO2 default of %s)", e.name(), e.known))
		}
		if outside := e.outside(now); outside != "" && s.store != nil && s.store.CertificateDates != IgnoreDates || outside != "" && s.store == nil {
			found = append(found, fmt.Sprintf("the certificate of kid %q %s: %s", e.name(), outside, s.consequence()))
		}
	}
	if s.refused != nil {
		for _, e := range s.refused.entries {
			found = append(found, fmt.Sprintf("the key of kid %q is refused: its private half is public (a WSO2 default of %s), so anyone can sign with it", e.name(), e.known))
		}
	}
	if s.store == nil {
		return found
	}
	for _, e := range s.store.Entries {
		if e.Bound && e.Skipped != "" {
			found = append(found, fmt.Sprintf("alias %q of %s is bound and can't sign: %s, %s", e.Alias, s.store.Path, e.Skipped, e.Detail))
		}
	}
	if len(s.entries) == 0 && s.refused == nil {
		found = append(found, fmt.Sprintf("no alias of %s may sign for this issuer: all its tokens are refused", s.store.Path))
	}
	return found
}

// name is what people know the key by.
func (e *entry) name() string {
	if e.key.Kid == "" && len(e.aliases) > 0 {
		return e.aliases[len(e.aliases)-1]
	}
	return e.key.Kid
}

// outside says how now lies outside the dates of the key's certificate.
func (e *entry) outside(now time.Time) string {
	switch {
	case e.until.IsZero():
		return ""
	case now.Before(e.from):
		return "begins on " + e.from.UTC().Format(time.RFC3339)
	case now.After(e.until):
		return "ended on " + e.until.UTC().Format(time.RFC3339)
	}
	return ""
}

func (s *set) consequence() string {
	if s.store != nil && s.store.CertificateDates == WarnDates {
		return "its tokens are accepted all the same (certificate_dates: warn)"
	}
	return "its tokens are refused"
}
