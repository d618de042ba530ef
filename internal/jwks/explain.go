package jwks

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"introspectd/internal/truststore"
)

// Explain says for people where the key was looked for that kid and alg name at
// the given time, and what is there.
func (k *Keys) Explain(kid, alg string, at time.Time) string {
	s := k.State()
	if s.TrustStore != nil {
		return s.TrustStore.explain(kid, alg, s, at)
	}
	where := strings.TrimSpace(fmt.Sprintf("kid %q for %s in %s %s", kid, alg, s.Source, s.URL))
	var there []string
	for _, key := range s.Keys {
		there = append(there, fmt.Sprintf("%q (%s)%s", key.Kid, strings.Join(key.Algs, " "), outside(key.NotBefore, key.NotAfter, at)))
	}
	text := fmt.Sprintf("%s; there: %d keys %s", where, len(there), strings.Join(there, ", "))
	if len(s.Refused) > 0 {
		var refused []string
		for _, key := range s.Refused {
			refused = append(refused, fmt.Sprintf("%q", key.Kid))
		}
		text += "; refused, as anyone can sign with them: " + strings.Join(refused, ", ")
	}
	return text
}

func outside(from, until, at time.Time) string {
	if text := (&entry{from: from, until: until}).outside(at); text != "" {
		return ", whose certificate " + text
	}
	return ""
}

// explain tells of one look-up: the right certificate under the wrong alias is
// what goes wrong most often with trust stores.
func (t *StoreState) explain(kid, alg string, s State, at time.Time) string {
	var signs, dated, free, left []string
	for _, e := range t.Entries {
		switch {
		case e.Skipped != "":
			left = append(left, fmt.Sprintf("%q (%s)", e.Alias, e.Skipped))
		case !e.Bound:
			free = append(free, fmt.Sprintf("%q", e.Alias))
		case e.Outside(at):
			dated = append(dated, fmt.Sprintf("%q", e.Alias))
		default:
			signs = append(signs, fmt.Sprintf("%q", e.Alias))
		}
	}
	text := fmt.Sprintf("kid %q for %s in trust store %s (%s): %s; there may sign: %s",
		kid, alg, t.Path, t.Format, t.meaning(kid, alg, s, at), cmp.Or(listed(signs), "none"))
	for _, more := range []struct {
		what string
		rows []string
	}{
		{"outside its certificate's dates (" + string(t.CertificateDates) + ")", dated},
		{"not bound to this issuer", free},
		{"left out", left},
	} {
		if len(more.rows) > 0 {
			text += fmt.Sprintf("; %s: %s", more.what, listed(more.rows))
		}
	}
	return text
}

// meaning is what kid means in the store, and why that is no key if it is none.
func (t *StoreState) meaning(kid, alg string, s State, at time.Time) string {
	if kid == "" && t.NoKidAlias == "" {
		return "no no_kid_alias says what a token without a kid means"
	}
	e := t.find(cmp.Or(kid, t.NoKidAlias))
	if e == nil {
		text := "no entry has this alias"
		for _, other := range t.Entries {
			if other.WSO2Kid == kid {
				text += fmt.Sprintf(", but the certificate with this WSO2 kid lies under %q: import it under the kid too", other.Alias)
			}
		}
		return text
	}
	text := fmt.Sprintf("alias %q", e.Alias)
	switch {
	case e.Skipped != "":
		return text + " is left out: " + strings.TrimSuffix(e.Skipped+", "+e.Detail, ", ")
	case !e.Bound:
		return text + " is not among the aliases of this issuer"
	case e.Outside(at) && t.CertificateDates == Enforce:
		return text + " does not count: its certificate " + (&entry{from: e.NotBefore, until: e.NotAfter}).outside(at)
	}
	for _, key := range s.Keys {
		if key.Kid == e.Alias {
			text += fmt.Sprintf(" (%s)", strings.Join(key.Algs, " "))
		}
	}
	return text + outside(e.NotBefore, e.NotAfter, at)
}

// find is the entry that alias means, exact first; nil for none.
func (t *StoreState) find(alias string) *StoreEntry {
	var folded *StoreEntry
	for i := range t.Entries {
		e := &t.Entries[i]
		switch {
		case e.Alias == "":
		case e.Alias == alias:
			return e
		case truststore.Fold(e.Alias) == truststore.Fold(alias):
			folded = e
		}
	}
	return folded
}
