package wso2

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"introspectd/internal/jwks"
	"introspectd/internal/truststore"
)

// form is how a product spells its issuers: keys of one list of tables.
type form struct {
	list, issuer, label         string
	jwksURL, certificate, alias string
	clientID, scope             string
	mapping, remote, local      string
	others                      []string // that are known and said something of elsewhere
}

var forms = []form{
	{
		list: "apim.jwt.issuer", issuer: "name", jwksURL: "jwks.url", clientID: "consumer_key_claim", scope: "scopes_claim",
		mapping: "claim_mapping", remote: "remote_claim", local: "local_claim", others: []string{"jwks", "disable_default_claim_mapping"},
	},
	{
		list: "enforcer.security.tokenService", issuer: "issuer", label: "name", jwksURL: "jwksURL", certificate: "certificateFilePath", alias: "certificateAlias",
		clientID: "consumerKeyClaim", mapping: "claimMapping", remote: "remoteClaim", local: "localClaim", others: []string{"validateSubscription"},
	},
}

// row is one of WSO2's issuers as it stands there.
type row struct {
	form
	table
	iss string
}

func (r row) where() int { return r.line("") }

// issuer is one of ours.
type issuer struct {
	row
	name string // ours
	keys keySource
	claims
}

// keySource is where an issuer's keys are: one of the three.
type keySource struct {
	jwksURL   string
	allowHTTP bool
	file      string
	store     bool
	aliases   []string
	noKid     string // the alias for tokens without a kid
}

// gatewayAlias is what WSO2 verifies tokens without a kid with.
const gatewayAlias = "gateway_certificate_alias"

// rows are all issuers of both forms whose name is known.
func (m *maker) rows() (all []row) {
	for _, f := range forms {
		tables, ok := m.root.tables(f.list)
		if !ok {
			m.note(m.root.line(f.list), LeftOut, "%s is no list of tables: expected [[%s]]", f.list, f.list)
		}
		for _, t := range tables {
			r := row{form: f, table: t}
			iss, err := m.text(t, f.issuer)
			switch {
			case err != nil:
				m.note(t.line(f.issuer), LeftOut, "an issuer: %v", err)
				if r.inStore() {
					m.lost++
				}
				continue
			case iss == "":
				m.note(r.where(), LeftOut, "an issuer without %s", f.issuer)
				continue
			}
			r.iss = iss
			all = append(all, r)
		}
	}
	return all
}

// inStore says whether a row names no other place for its keys.
func (r row) inStore() bool {
	return !slices.ContainsFunc([]string{r.jwksURL, r.certificate}, func(key string) bool {
		value := r.find(key)
		return value != nil && value != ""
	})
}

// winners are the rows that WSO2 would go by: the last of each iss.
func (m *maker) winners(all []row) (kept []row) {
	last := map[string]row{}
	for _, r := range all {
		last[r.iss] = r
	}
	for _, r := range all {
		if winner := last[r.iss]; winner.path != r.path {
			m.note(r.where(), Dropped, "the issuer %q is there again in line %d, which wins, as in WSO2", r.iss, winner.where())
			continue
		}
		kept = append(kept, r)
	}
	return kept
}

// issuer reads a row; false where it has to be left out.
func (m *maker) issuer(r row) (issuer, bool) {
	i := issuer{row: r}
	var err error
	if i.keys, err = m.keys(r); err == nil {
		i.claims, err = m.claims(r)
	}
	if err != nil {
		m.note(r.where(), LeftOut, "the issuer %q: %v", r.iss, err)
		return i, false
	}
	for _, key := range r.leaves() {
		if !r.reads(key) {
			m.note(r.line(key), Dropped, "the key %q of the issuer %q is not one that is known", key, r.iss)
		}
	}
	if disabled, said := m.flag(r.table, "disable_default_claim_mapping", "disable_default_claim_mapping"); said && !disabled {
		m.note(r.line("disable_default_claim_mapping"), Dropped, "the default mapping to http://wso2.org/claims/…, which API Manager 3.2 and later don't apply either; claims.preset: wso2 does")
	}
	if validate, _ := m.flag(r.table, "validateSubscription", "validateSubscription"); validate {
		m.note(r.line("validateSubscription"), Dropped, "subscriptions are not validated here")
	}
	if given := r.find(r.label); given != nil && r.label != "" {
		if _, ok := given.(string); !ok {
			m.note(r.line(r.label), Dropped, "%s of the issuer %q is no text", r.label, r.iss)
		}
	}
	return i, true
}

// reads says whether a key of a row is one that we know.
func (r row) reads(key string) bool {
	f := r.form
	return key != "" && slices.Contains(append([]string{f.issuer, f.label, f.jwksURL, f.certificate, f.alias, f.clientID, f.scope, f.mapping}, f.others...), key)
}

// text is a text behind a key, its placeholders resolved; empty where there is
// none.
func (m *maker) text(t table, key string) (string, error) {
	if key == "" {
		return "", nil
	}
	value := t.find(key)
	text, ok := value.(string)
	if value == nil {
		return "", nil
	}
	if !ok {
		return "", fmt.Errorf("%s is no text", key)
	}
	text, err := m.values.resolve(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return text, nil
}

// flag is true or false behind a key, which WSO2 takes as a text as well; said
// says that it is there. name is what a note calls it.
func (m *maker) flag(t table, key, name string) (value, said bool) {
	switch found := t.find(key).(type) {
	case nil:
		return false, false
	case bool:
		return found, true
	case string:
		text, err := m.values.resolve(found)
		if err != nil {
			m.note(t.line(key), Dropped, "%s: %v", name, err)
			return false, false
		}
		if value, err = strconv.ParseBool(text); err == nil {
			return value, true
		}
	}
	m.note(t.line(key), Dropped, "%s is neither true nor false", name)
	return false, false
}

// unknown names the keys beneath a table that are not among known.
func (m *maker) unknown(t table, known ...string) {
	for _, key := range t.leaves() {
		if !slices.Contains(known, key) {
			m.note(t.line(key), Dropped, "the key %q of %s is not one that is known", key, t.path)
		}
	}
}

// keys finds an issuer's source of keys, in WSO2's order: JWKS, a certificate
// of its own, the trust store.
func (m *maker) keys(r row) (k keySource, err error) {
	address, err := m.text(r.table, r.jwksURL)
	if err != nil {
		return k, err
	}
	if above, _, dotted := strings.Cut(r.jwksURL, "."); dotted && r.find(above) != nil && address == "" {
		if r.table.table(above).values == nil {
			return k, fmt.Errorf("%s is no table: expected %s", above, r.jwksURL)
		}
		m.note(r.line(above), Changed, "%s of the issuer %q has no address: its keys are in the trust store, as for WSO2", above, r.iss)
	}
	certificate, err := m.text(r.table, r.certificate)
	if err != nil {
		return k, err
	}
	alias, err := m.text(r.table, r.alias)
	if err != nil {
		return k, err
	}
	switch {
	case address != "":
		if alias != "" {
			m.note(r.line(r.alias), Dropped, "%s: tokens of the issuer %q need a kid, as its keys are JWKS: no certificate speaks for it", r.alias, r.iss)
		}
		if certificate != "" {
			m.note(r.line(r.certificate), Dropped, "%s: the issuer %q has JWKS, which come first in WSO2 as well", r.certificate, r.iss)
		}
		return m.jwks(r, address)
	case certificate != "":
		if alias != "" {
			m.note(r.line(r.alias), Dropped, "%s: tokens of the issuer %q without a kid are verified with its certificate as well", r.alias, r.iss)
		}
		return m.pinned(r, certificate)
	}
	k.store, k.noKid = true, gatewayAlias
	if alias != "" {
		k.noKid = alias
	}
	return k, nil
}

func (m *maker) jwks(r row, address string) (keySource, error) {
	k := keySource{jwksURL: address}
	if fault(jwks.Config{JWKSURL: address}, "jwks_url") == "" {
		return k, nil
	}
	k.allowHTTP = true
	if problem := fault(jwks.Config{JWKSURL: address, AllowHTTP: true}, "jwks_url"); problem != "" {
		return k, fmt.Errorf("%s: %s", r.jwksURL, problem)
	}
	m.note(r.line(r.jwksURL), Weaker, "INSECURE: the keys of the issuer %q come by plain http: who can change that traffic can sign tokens in its name (keys.allow_http)", r.iss)
	return k, nil
}

func (m *maker) pinned(r row, name string) (keySource, error) {
	path, body, err := m.file(name)
	if err != nil {
		return keySource{}, fmt.Errorf("%s: %w", r.form.certificate, err)
	}
	if problem := fault(jwks.Config{Files: []jwks.File{{Path: path}}}, "files[0]"); problem != "" {
		return keySource{}, fmt.Errorf("%s: %q: %s", r.form.certificate, name, problem)
	}
	if found, err := truststore.Read(body, ""); err == nil {
		for _, e := range found.Entries {
			m.certificate(r, fmt.Sprintf("in %q", name), e.Certificate)
		}
	}
	return keySource{file: path}, nil
}

// fault is what there is to say of one key of a key source; empty for nothing.
func fault(c jwks.Config, key string) (found string) {
	c.Check("", func(at, problem string) {
		if at == key {
			found = problem
		}
	})
	return found
}

// label gives each issuer a name for logs and metrics: WSO2's own where it has
// one, else the host of its iss.
func label(issuers []issuer) {
	taken := map[string]bool{}
	for n := range issuers {
		i := &issuers[n]
		name := word(i.iss)
		if u, err := url.Parse(i.iss); err == nil && u.Host != "" {
			name = word(u.Host)
		}
		if given, _ := i.find(i.form.label).(string); word(given) != "" {
			name = word(given)
		}
		if name == "" || name == "unknown" {
			name = "issuer"
		}
		unique := name
		for count := 2; taken[unique]; count++ {
			unique = fmt.Sprintf("%s-%d", name, count)
		}
		taken[unique], i.name = true, unique
	}
}

// word is text as far as a name can hold it.
func word(text string) string {
	text = strings.Trim(unnamed.ReplaceAllString(text, "-"), "-")
	return text[:min(len(text), mostName)]
}

const mostName = 40

var unnamed = regexp.MustCompile(`[^A-Za-z0-9._-]+`)
