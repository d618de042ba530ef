package wso2

import (
	"crypto/x509"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"introspectd/internal/truststore"
)

// bind says which aliases of the trust store may sign for which issuer. WSO2
// lets each alias sign for every issuer without JWKS.
func (m *maker) bind(issuers []issuer) {
	inStore := m.lost // theirs are among the aliases, too
	for _, i := range issuers {
		if i.keys.store {
			inStore++
		}
	}
	for n := range issuers {
		i := &issuers[n]
		if !i.keys.store {
			continue
		}
		bound, isBound := m.Bindings[i.iss]
		switch {
		case isBound:
			i.keys.aliases = m.bound(*i, bound)
		case m.Bindings == nil && inStore == 1:
			for _, e := range m.store.Entries {
				i.keys.aliases = append(i.keys.aliases, e.Alias)
			}
			m.skipped()
		default:
			i.keys.aliases = []string{}
			m.note(i.where(), Decide, "which aliases may sign for the issuer %q: none is written (keys.truststore.aliases, or --bindings)", i.iss)
		}
		m.withoutKid(i)
		m.certificates(*i)
	}
	for _, iss := range slices.Sorted(maps.Keys(m.Bindings)) {
		if !slices.ContainsFunc(issuers, func(i issuer) bool { return i.keys.store && i.iss == iss }) {
			m.note(0, Dropped, "the binding of %q, which is no issuer with keys in the trust store", iss)
		}
	}
}

// bound are the aliases of a binding that can sign.
func (m *maker) bound(i issuer, aliases []string) []string {
	kept := []string{}
	for _, alias := range aliases {
		if m.signs(i, alias) && !slices.Contains(kept, alias) {
			kept = append(kept, alias)
		}
	}
	if len(kept) == 0 {
		m.note(i.where(), Decide, "which aliases may sign for the issuer %q: none of its binding can", i.iss)
	}
	return kept
}

// signs says whether an alias of the store can sign at all, and notes why not.
func (m *maker) signs(i issuer, alias string) bool {
	found, skipped := m.store.Find(alias)
	switch {
	case skipped != nil:
		m.note(i.where(), Dropped, "the alias %q of the issuer %q: %s", alias, i.iss, skipped.Detail)
	case found == nil:
		m.note(i.where(), Dropped, "the alias %q of the issuer %q: the trust store has none of this name", alias, i.iss)
	}
	return found != nil
}

// skipped names what the store has and no issuer may use.
func (m *maker) skipped() {
	for _, s := range m.store.Skipped {
		m.note(0, Dropped, "the alias %q of the trust store: %s", s.Alias, s.Detail)
	}
}

// withoutKid names the alias that verifies tokens without a kid as what it is:
// one more key that may sign for the issuer, unbidden.
func (m *maker) withoutKid(i *issuer) {
	if !m.signs(*i, i.keys.noKid) {
		i.keys.noKid = ""
		return
	}
	m.note(i.where(), Weaker, "tokens of the issuer %q without a kid are verified with the certificate under %q, which speaks for every issuer in the trust store (keys.truststore.no_kid_alias)", i.iss, i.keys.noKid)
}

// certificates looks at those that an issuer's tokens are verified with.
func (m *maker) certificates(i issuer) {
	for _, alias := range once(append(slices.Clone(i.keys.aliases), i.keys.noKid)) {
		if found, _ := m.store.Find(alias); found != nil {
			m.certificate(i.row, fmt.Sprintf("under %q", alias), found.Certificate)
		}
	}
}

// certificate names one that has expired, whose key signs for WSO2 and not for
// us, and one whose key is everybody's.
func (m *maker) certificate(r row, where string, c *x509.Certificate) {
	if c.NotAfter.Before(m.Now) {
		m.note(r.where(), Changed, "the certificate %s of the issuer %q expired on %s: what its key signed is refused", where, r.iss, c.NotAfter.UTC().Format(time.DateOnly))
	}
	if since, known := truststore.Known(c.PublicKey); known {
		m.note(r.where(), Decide, "the key of the certificate %s of the issuer %q came with WSO2's products (valid since %s): anyone can sign with it, and its tokens are refused unless keys.allow_known_public_keys is on", where, r.iss, since)
	}
}

// truststore compares what the TOML says of the store with what it is.
func (m *maker) truststore() {
	t := m.root.table("truststore")
	if named, _ := t.find("file_name").(string); named != "" && filepath.Base(named) != filepath.Base(m.StorePath) {
		m.note(t.line("file_name"), Changed, "truststore.file_name is %q; written is what --truststore names", named)
	}
	if kind, _ := t.find("type").(string); kind != "" && !strings.EqualFold(kind, string(m.store.Format)) {
		m.note(t.line("type"), Changed, "truststore.type is %q; by its content the store is %s, which is what counts", kind, m.store.Format)
	}
	if t.find("password") != nil {
		m.note(t.line("password"), Dropped, "truststore.password: passwords are never copied; that of --password-file is written as the name of the file")
	}
}
