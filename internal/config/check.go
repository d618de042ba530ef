package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"introspectd/internal/callers"
	"introspectd/internal/listen"
	"introspectd/internal/revoke"
)

// check asks every owner about its own values, and then looks at what lies
// between them. A value that could not be decoded has its fault already:
// nothing is said about the zero that stands in its place.
func (l *loader) check(c *Config) {
	fault := func(key, problem string) {
		if !slices.ContainsFunc(l.undecoded, func(above string) bool { return within(key, above) }) {
			l.fault(key, problem)
		}
	}
	beneath := func(path string) func(key, problem string) {
		return func(key, problem string) { fault(join(path, key), problem) }
	}
	c.Server.Check(beneath("server"))
	for i, row := range c.Callers {
		row.Check(beneath(entry("callers", i)))
	}
	for i, row := range c.Policies {
		row.Check(beneath(entry("policies", i)))
	}
	for i, row := range c.Profiles {
		row.Check(beneath(entry("profiles", i)))
	}
	for i, row := range c.Issuers {
		row.Check(beneath(entry("issuers", i)))
	}
	c.Errors.Check(beneath("errors"))
	c.Cache.Check(beneath("cache"))
	c.Redis.Check(beneath("redis"))
	c.State.Check(beneath("state"))
	c.Revocation.Check(beneath("revocation"))
	c.Signing.Check(time.Now(), beneath("signing"))
	c.Telemetry.Check(beneath("telemetry"))

	// The owners' words are the better ones where both have some.
	once := func(key, problem string) {
		if !l.faulty(key) {
			fault(key, problem)
		}
	}
	l.checkListeners(c, once)
	l.checkNames(c, once)
	checkReferences(c, once)
	checkProfiles(c, once)
	checkSigning(c, once)
	checkGrace(c, once)
	callers.CheckAll(c.Callers, func(key, problem string) {
		once("callers"+key, problem)
	})
}

// faulty says whether something was said about key, or its value is not known.
func (l *loader) faulty(key string) bool {
	return slices.ContainsFunc(l.faults, func(f located) bool { return f.Key == key }) ||
		slices.ContainsFunc(l.undecoded, func(above string) bool { return within(key, above) })
}

// checkListeners holds plaintext beyond loopback to its explicit switch
// (RFC 7662 section 4), and makes such a configuration say itself who is
// trusted: in a mesh the sidecar makes everyone a loopback peer. The metrics
// listener answers nothing that needs either.
func (l *loader) checkListeners(c *Config, fault func(key, problem string)) {
	s := c.Server
	unclear := map[string]bool{"server.listen": l.faulty("server.listen"), "server.ext_authz_grpc": l.faulty("server.ext_authz_grpc")}
	if s.TLS.Certificate == "" && !s.TLSTerminatedUpstream {
		for key, address := range map[string]string{"server.listen": s.Listen, "server.admin": s.Admin, "server.ext_authz_grpc": s.ExtAuthzGRPC} {
			if address != "" && !listen.Loopback(address) {
				fault(key, fmt.Sprintf("%s is not a loopback address: expected server.tls, or server.tls_terminated_upstream: true where something in front ends TLS", address))
			}
		}
	}
	for _, gateways := range []struct{ key, address string }{{"server.listen", s.Listen}, {"server.ext_authz_grpc", s.ExtAuthzGRPC}} {
		if gateways.address == "" || listen.Loopback(gateways.address) || unclear[gateways.key] {
			continue
		}
		for _, key := range []string{"server.trusted_proxies", "auth.allow_from"} {
			if _, written := l.places[key]; !written {
				fault(key, fmt.Sprintf("must be written when %s is not a loopback address; [] trusts nobody", gateways.key))
			}
		}
	}
}

// checkNames reports every name that stands twice, with both places.
func (l *loader) checkNames(c *Config, fault func(key, problem string)) {
	unique := func(list, key string, n int, name func(i int) string) {
		first := map[string]string{}
		for i := range n {
			path := join(entry(list, i), key)
			if before, ok := first[name(i)]; ok {
				fault(path, fmt.Sprintf("%q is taken by %s at %s", name(i), before, l.place(before)))
				continue
			}
			if name(i) != "" {
				first[name(i)] = path
			}
		}
	}
	unique("callers", "id", len(c.Callers), func(i int) string { return c.Callers[i].ID })
	unique("policies", "name", len(c.Policies), func(i int) string { return c.Policies[i].Name })
	unique("profiles", "name", len(c.Profiles), func(i int) string { return c.Profiles[i].Name })
	unique("issuers", "name", len(c.Issuers), func(i int) string { return c.Issuers[i].Name })
	unique("issuers", "issuer", len(c.Issuers), func(i int) string { return c.Issuers[i].Issuer })
}

// checkReferences holds callers and policies against the issuers there are.
func checkReferences(c *Config, fault func(key, problem string)) {
	var names []string
	for _, row := range c.Issuers {
		names = append(names, row.Name)
	}
	if len(names) == 0 {
		fault("issuers", "expected at least one issuer")
		return
	}
	exist := func(path string, named []string) {
		for i, name := range named {
			if !slices.Contains(names, name) {
				fault(entry(path, i), missing("issuer", name, names))
			}
		}
	}
	clients := func(path string, rows []callers.Client) {
		for i, client := range rows {
			if client.Issuer != "" && !slices.Contains(names, client.Issuer) {
				fault(join(entry(path, i), "issuer"), missing("issuer", client.Issuer, names))
			}
		}
	}
	trust := func(path string, named []string, all bool) {
		exist(path+".issuers", named)
		if len(named) == 0 && !all && len(names) > 1 {
			fault(path+".issuers", "expected names of issuers, or any_issuer: true, as there are several issuers")
		}
	}
	for i, row := range c.Callers {
		trust(entry("callers", i), row.Issuers, row.AnyIssuer)
		exist(entry("callers", i)+".any_audience", row.AnyAudience.Issuers)
		clients(entry("callers", i)+".clients", row.Clients)
	}
	for i, row := range c.Policies {
		trust(entry("policies", i), row.Issuers, row.AnyIssuer)
	}
}

// checkProfiles holds callers and policies against the profiles there are.
func checkProfiles(c *Config, fault func(key, problem string)) {
	var names []string
	for _, row := range c.Profiles {
		names = append(names, row.Name)
	}
	for i, row := range c.Callers {
		path := entry("callers", i) + ".profiles"
		for j, name := range row.Profiles {
			if !slices.Contains(names, name) {
				fault(entry(path, j), missing("profile", name, names))
			}
		}
		if len(row.Profiles) > 0 && !slices.Contains(row.May, callers.Transform) {
			fault(path, "profiles are outputs of /transform: expected transform among what the caller may do")
		}
	}
	for i, row := range c.Policies {
		path := entry("policies", i) + ".assertion."
		n := slices.Index(names, row.Assertion.Profile)
		switch {
		case row.Assertion.Profile == "":
		case n < 0:
			fault(path+"profile", missing("profile", row.Assertion.Profile, names))
		case len(c.Profiles[n].Assertion.Audience) == 0:
			fault(path+"profile", fmt.Sprintf("the profile %s signs nothing: expected its assertion.audience", row.Assertion.Profile))
		case row.Assertion.Header == "" && row.TakesHeader(c.Profiles[n].Shape.Header()):
			fault(path+"header", fmt.Sprintf("expected another header than %s, which already carries a claim", c.Profiles[n].Shape.Header()))
		}
	}
}

// checkSigning holds our own keys against who we are, and against what is to be
// signed.
func checkSigning(c *Config, fault func(key, problem string)) {
	if !c.Signing.Enabled() {
		for i, row := range c.Profiles {
			if len(row.Assertion.Audience) > 0 {
				fault(entry("profiles", i)+".assertion.audience", "nothing can be signed without signing.keys")
			}
		}
		return
	}
	if c.Server.PublicURL == "" {
		fault("server.public_url", "must be written: it is the iss of what the keys of signing sign")
	}
	for i, row := range c.Issuers {
		// What we sign must never come back as an access token.
		if row.Issuer == c.Server.PublicURL {
			fault(entry("issuers", i)+".issuer", "this is server.public_url, our own iss: what we sign is no access token")
		}
	}
	if c.Signing.Generate != "" && c.Redis.Set {
		fault("signing.generate", "replicas would each make a key of their own: expected signing.keys beside redis")
	}
}

// checkGrace holds the grace of the list of revocations against its feed, whose
// heartbeat is written each half of max_delay: the list is that old all the time.
func checkGrace(c *Config, fault func(key, problem string)) {
	r := c.Revocation
	if c.Redis.Set && r.OnOutage == revoke.Deny && r.Grace <= r.MaxDelay/2 {
		fault("revocation.grace", fmt.Sprintf("expected more than half of max_delay, as redis tells no more often that the list is current: good tokens would be 503 in between, got %s", r.Grace))
	}
}

func missing(kind, name string, names []string) string {
	if word := nearest(name, names); word != "" {
		return fmt.Sprintf("no %s is named %q; did you mean %s?", kind, name, word)
	}
	if len(names) == 0 {
		return fmt.Sprintf("no %s is named %q; there is none", kind, name)
	}
	return fmt.Sprintf("no %s is named %q; there are %s", kind, name, strings.Join(names, ", "))
}
