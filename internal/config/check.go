package config

import (
	"fmt"
	"slices"
	"strings"

	"introspectd/internal/callers"
	"introspectd/internal/listen"
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
	for i, row := range c.Issuers {
		row.Check(beneath(entry("issuers", i)))
	}
	c.Cache.Check(beneath("cache"))
	c.Redis.Check(beneath("redis"))
	c.State.Check(beneath("state"))
	c.Revocation.Check(beneath("revocation"))
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
				fault(entry(path, i), missing(name, names))
			}
		}
	}
	clients := func(path string, rows []callers.Client) {
		for i, client := range rows {
			if client.Issuer != "" && !slices.Contains(names, client.Issuer) {
				fault(join(entry(path, i), "issuer"), missing(client.Issuer, names))
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

func missing(name string, names []string) string {
	if word := nearest(name, names); word != "" {
		return fmt.Sprintf("no issuer is named %q; did you mean %s?", name, word)
	}
	return fmt.Sprintf("no issuer is named %q; there are %s", name, strings.Join(names, ", "))
}
