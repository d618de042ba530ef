package wso2

import (
	"fmt"
	"slices"
)

// claims is what an issuer's claims mean, in our words; renames has the line
// of each.
type claims struct {
	clientID, scope, username []string
	renames                   []rename
}

// rename is an entry of an issuer's claims.map.
type rename struct {
	RemoteClaim, LocalClaim string
	line                    int
}

// claims reads the mapping of an issuer and where client and scopes are said.
// WSO2 reads those two before it maps, we after: a source that the mapping moves
// is written as what it is moved to.
func (m *maker) claims(r row) (c claims, err error) {
	if c.renames, err = m.renames(r); err != nil {
		return c, err
	}
	clientID, err := m.text(r.table, r.clientID)
	if err != nil {
		return c, err
	}
	scope, err := m.text(r.table, r.form.scope)
	if err != nil {
		return c, err
	}
	if clientID != "" {
		c.clientID = []string{m.mapped(r, c.renames, r.clientID, clientID)}
	} else {
		// The first two are WSO2's.
		c.clientID = m.defaults(c.renames, "client", "consumerKey", "azp", "client_id", "appid")
	}
	if scope != "" && scope != "scope" {
		c.scope = []string{m.mapped(r, c.renames, r.form.scope, scope)}
	}
	if overwritten(c.renames, "scope") != "" {
		c.scope = append(c.scope, "scope")
	}
	c.scope = once(append(c.scope, moved(c.renames, "scope")...))
	if scope != "" && len(c.scope) > 1 {
		m.note(r.line(r.form.scope), Weaker, "%s %q: the scopes of a token without %q are read from %q", r.form.scope, scope, c.scope[0], c.scope[1])
	}
	// WSO2's introspection answers sub as the username.
	c.username = m.defaults(c.renames, "username", "preferred_username", "username", "sub")
	return c, nil
}

// defaults are the claims that are read where no key of WSO2's names one, after
// the mapping. One in whose place the mapping puts another claim means that one
// now, unless it is read before it anyway.
func (m *maker) defaults(renames []rename, what string, claims ...string) []string {
	for _, to := range renames {
		n := slices.Index(claims, to.LocalClaim)
		if n < 0 || slices.Contains(claims[:n], to.RemoteClaim) || moved(renames, to.LocalClaim)[0] != to.LocalClaim {
			continue
		}
		m.note(to.line, Changed, "the %s is read from %q after the mapping here, which puts %q there; in WSO2 the mapping has no part in it", what, to.LocalClaim, to.RemoteClaim)
	}
	return moved(renames, claims...)
}

// mapped is the claim that a key of WSO2's names, after the mapping.
func (m *maker) mapped(r row, renames []rename, key, claim string) string {
	now := moved(renames, claim)[0]
	switch from := overwritten(renames, claim); {
	case now != claim:
		m.note(r.line(key), Changed, "%s %q is moved to %q by this issuer's mapping: written as %q", key, claim, now, now)
	case from != "":
		m.note(r.line(key), Changed, "%s %q is read after the mapping here, which puts %q there; WSO2 reads it before", key, claim, from)
	}
	return now
}

// moved is where the mapping takes claims, each once. Those that are protected
// are copied, and so stay.
func moved(renames []rename, claims ...string) []string {
	out := slices.Clone(claims)
	for n, claim := range claims {
		for _, r := range renames {
			if r.RemoteClaim == claim && !reserved(claim) {
				out[n] = r.LocalClaim
			}
		}
	}
	return once(out)
}

// overwritten is what the mapping puts in place of a claim; empty for nothing.
func overwritten(renames []rename, claim string) string {
	for _, r := range renames {
		if r.LocalClaim == claim && r.RemoteClaim != claim {
			return r.RemoteClaim
		}
	}
	return ""
}

func once(claims []string) (out []string) {
	for _, claim := range claims {
		if !slices.Contains(out, claim) {
			out = append(out, claim)
		}
	}
	return out
}

// renames reads an issuer's claim mapping. The error is an ambiguity: of two
// claims with one target the order of a hash map decides in WSO2, and what
// decides who a user is must not be guessed.
func (m *maker) renames(r row) (kept []rename, err error) {
	tables, ok := r.tables(r.mapping)
	if !ok {
		return nil, fmt.Errorf("%s is no list of tables", r.mapping)
	}
	for _, t := range tables {
		remote, err := m.text(t, r.remote)
		if err != nil {
			return nil, err
		}
		local, err := m.text(t, r.local)
		if err != nil {
			return nil, err
		}
		for _, key := range t.names() {
			if key != r.remote && key != r.local {
				m.note(t.line(key), Dropped, "the key %q of %s is not one that is known", key, r.mapping)
			}
		}
		line := t.line(r.remote)
		switch {
		case remote == "" || local == "":
			m.note(line, Dropped, "an entry of %s with an empty side, which WSO2 ignores as well: %q to %q", r.mapping, remote, local)
			continue
		case remote == local:
			m.note(line, Dropped, "an entry of %s that maps %q to itself", r.mapping, remote)
			continue
		case reserved(local):
			m.note(line, Decide, "%q is not mapped to %q, which is what it was signed as (claims.allow_reserved frees sub, jti and aud)", remote, local)
			continue
		}
		kept = append(kept, rename{remote, local, line})
	}
	return m.unambiguous(kept)
}

// unambiguous leaves the last entry of each remote claim, which is WSO2's way,
// and refuses two for one local claim.
func (m *maker) unambiguous(all []rename) (kept []rename, err error) {
	for n, r := range all {
		later := slices.IndexFunc(all[n+1:], func(other rename) bool { return other.RemoteClaim == r.RemoteClaim })
		if later >= 0 {
			m.note(r.line, Dropped, "%q is mapped again in line %d, which wins", r.RemoteClaim, all[n+1+later].line)
			continue
		}
		kept = append(kept, r)
	}
	for n, r := range kept {
		if first := slices.IndexFunc(kept, func(other rename) bool { return other.LocalClaim == r.LocalClaim }); first < n {
			return nil, fmt.Errorf("lines %d and %d map two claims to %q: which one counts has to be decided", kept[first].line, r.line, r.LocalClaim)
		}
	}
	return kept, nil
}

// Reserved are the claims that an issuer's claims.map can't write.
var Reserved = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", "active"}

func reserved(claim string) bool { return slices.Contains(Reserved, claim) }
