package wso2

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cache is what [apim.cache.gateway_token] says of remembered verdicts; zero
// values are not written.
type cache struct {
	off       bool
	ttl       time.Duration
	line, end int // of enable and expiry_time
}

// cache reads the gateway's cache of tokens. Seconds may stand there without a
// unit.
func (m *maker) cache() (c cache) {
	t := m.root.table("apim.cache.gateway_token")
	c.line, c.end = t.line("enable"), t.line("expiry_time")
	m.unknown(t, "enable", "expiry_time")
	if enabled, said := m.flag(t, "enable", "apim.cache.gateway_token.enable"); said && !enabled {
		return cache{off: true, line: c.line}
	}
	switch value := t.find("expiry_time").(type) {
	case nil:
	case int64:
		c.ttl = time.Duration(min(max(value, 0), 1<<30)) * time.Second
	case string:
		text, err := m.values.resolve(value)
		if _, isNumber := strconv.Atoi(text); isNumber == nil {
			text += "s"
		}
		if ttl, malformed := time.ParseDuration(text); err == nil && malformed == nil {
			c.ttl = ttl
		}
	}
	if t.find("expiry_time") != nil && c.ttl < time.Second {
		m.note(c.end, Dropped, "apim.cache.gateway_token.expiry_time is no time that is known: the default of cache.verdicts.ttl counts")
		c.ttl = 0
	}
	return c
}

// backend is where [apim.jwt] has gone: what says the same with us.
var backend = map[string]string{
	"enable":                            "the JWT for backends is a profile of shape wso2, signed with signing.keys, that a policy's assertion names",
	"header":                            "assertion.header of a policy names it",
	"claim_dialect":                     "shape wso2 is in http://wso2.org/claims/",
	"signing_algorithm":                 "the keys of signing have an algorithm each, and NONE is none of them",
	"encoding":                          "it is base64url, always",
	"gateway_generator.excluded_claims": "rules of a profile drop claims",
}

// backendJWT names what becomes of [apim.jwt], which needs a key that nobody
// has yet: nothing of it is written.
func (m *maker) backendJWT() {
	t := m.root.table("apim.jwt")
	enabled, _ := m.flag(t, "enable", "apim.jwt.enable")
	for _, key := range t.leaves() {
		where, known := backend[key]
		switch {
		case key == "issuer" || strings.HasPrefix(key, "issuer."):
		case !known:
			m.note(t.line(key), Dropped, "the key %q of apim.jwt is not one that is known", key)
		case !enabled: // it does nothing in WSO2 either
		case key == "enable":
			m.note(t.line(key), Decide, "apim.jwt.enable: %s", where)
		default:
			m.note(t.line(key), Dropped, "apim.jwt.%s: %s", key, where)
		}
	}
}

// printable is a key as a note can show it.
func printable(key string) string {
	if strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == "" {
		return key
	}
	return strconv.Quote(key)
}

// unread lists the sections that nothing was read of, in one note: those that
// are not known, and values where a known one is a table.
func (m *maker) unread() {
	var unread []string
	for above, known := range map[string][]string{
		"":                  {"apim", "enforcer", "server", "truststore"},
		"apim":              {"jwt", "cache", "jwt_authenitcation", "jwt_authentication"},
		"apim.cache":        {"gateway_token"},
		"enforcer":          {"security"},
		"enforcer.security": {"tokenService"},
	} {
		t := m.root
		if above != "" {
			t = m.root.table(above)
		}
		for _, key := range t.names() {
			_, isTable := t.values[key].(map[string]any)
			if !slices.Contains(known, key) || !isTable && key != "tokenService" {
				unread = append(unread, printable(join(above, key)))
			}
		}
	}
	if len(unread) > 0 {
		slices.Sort(unread)
		m.note(0, Dropped, "nothing was read of %s", strings.Join(unread, ", "))
	}
}

// subscriptions names that nobody looks for one here. The first spelling is
// WSO2's own.
func (m *maker) subscriptions() {
	for _, section := range []string{"apim.jwt_authenitcation", "apim.jwt_authentication"} {
		t := m.root.table(section)
		m.unknown(t, "subscription_validation_via_km")
		if on, _ := m.flag(t, "subscription_validation_via_km", section+".subscription_validation_via_km"); on {
			m.note(t.line("subscription_validation_via_km"), Dropped, "subscriptions are not validated here")
		}
	}
}

// unseen names what no line of the file says.
func (m *maker) unseen(issuers []issuer) {
	m.note(0, Weaker, "the caller wso2 and the policy default take tokens for any audience, as WSO2's aud is the client (any_audience)")
	m.note(0, Decide, "transformers that were deployed as OSGi bundles can't be seen here: what they do is written as claims.rules")
	for _, i := range issuers {
		if u, err := url.Parse(i.keys.jwksURL); err == nil && u.Scheme == "https" && !loopback(u.Hostname()) {
			m.note(i.line(i.form.jwksURL), Decide, "the key endpoint of the issuer %q is held against the system's roots, no longer against the trust store (keys.ca names others)", i.iss)
		}
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
