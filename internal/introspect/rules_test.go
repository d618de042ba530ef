package introspect_test

import (
	"slices"
	"strings"
	"testing"

	"introspectd/internal/introspect"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

func following(rules ...transform.Rule) func(*introspect.IssuerConfig) {
	return func(c *introspect.IssuerConfig) { c.Claims.Rules = rules }
}

func TestRules(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(func(c *introspect.IssuerConfig) {
		c.Claims.AllowReserved = []string{"aud"}
		c.Claims.Map = []transform.Rename{{RemoteClaim: "grp", LocalClaim: "groups"}}
		c.Claims.Rules = []transform.Rule{
			{Require: `claims.tenant == "acme"`, Message: "another tenant's"},
			{Set: "aud", Value: `claims.tenant + "-api"`},
			{Set: "scope", Value: `claims.groups`},
			{Drop: "groups"},
		}
	})
	token := f.sign(`"sub":"a","aud":"own","tenant":"acme","grp":["read","write"]`)
	demand := introspect.Demand{AnyIssuer: true, Audiences: []string{"acme-api"}, Scopes: []string{"write"}}
	for range 2 { // verified, and remembered
		a := f.judge(in, token)
		if got, want := strip(string(a.Body())), `"scope":"read write","sub":"a","aud":"acme-api","tenant":"acme"`; got != want {
			t.Errorf("OUT-13: got %s, want %s", got, want)
		}
		if reason, refused := demand.Refuses(a); refused {
			t.Errorf("TRN-06 TRN-07 a demand sees what rules made of aud and scope: got %s", reason)
		}
		own := introspect.Demand{AnyIssuer: true, Audiences: []string{"own"}}
		if reason, _ := own.Refuses(a); reason != verify.WrongAudience {
			t.Errorf("TRN-06 and not what was signed: got %q", reason)
		}
	}
	token = f.sign(`"sub":"a","tenant":"evil","grp":[]`)
	for range 2 {
		a := f.judge(in, token)
		if a.Active() || a.Reason() != verify.RuleFailed || a.Note() != "rules[0]: another tenant's" || a.Body() != nil {
			t.Errorf("TRN-04: got active %t %s, note %q, body %s; want rule_failed and its message, also when it is remembered", a.Active(), a.Reason(), a.Note(), a.Body())
		}
	}
	if got := f.store.refused.Load(); got != 1 {
		t.Errorf("got %d refusals remembered, want 1: it cost a signature check", got)
	}
}

func TestVerdictsAreBoundToRulesAndPresets(t *testing.T) {
	rule := transform.Rule{Set: "x", Value: `1`}
	before := following(rule, transform.Rule{Require: `true`, Message: "a"})
	for name, after := range map[string]func(*introspect.IssuerConfig){
		"a rule less":        following(rule),
		"another value":      following(transform.Rule{Set: "x", Value: `2`}, transform.Rule{Require: `true`, Message: "a"}),
		"another message":    following(rule, transform.Rule{Require: `true`, Message: "b"}),
		"another order":      following(transform.Rule{Require: `true`, Message: "a"}, rule),
		"a rule of a preset": func(c *introspect.IssuerConfig) { before(c); c.Claims.PresetRules = []transform.Rule{rule} },
		"another preset":     func(c *introspect.IssuerConfig) { before(c); c.Claims.Preset = "okta" },
	} {
		f := newFixture(t)
		token := f.sign(`"sub":"a"`)
		f.judge(f.introspector(before), token)
		f.judge(f.introspector(before), token)
		if got := f.store.puts.Load(); got != 1 {
			t.Fatalf("the same rules: got %d verdicts, want 1", got)
		}
		f.judge(f.introspector(after), token)
		if got := f.store.puts.Load(); got != 2 {
			t.Errorf("TRN-08 %s: the verdict of the other rules was believed", name)
		}
	}
}

func TestExplainShowsWhatEachRuleDid(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(following(
		transform.Rule{Set: "groups", Value: `claims.g.map(x, "app-" + x)`},
		transform.Rule{Require: `claims.g[0] == "a"`, Message: "the first group is not a"},
	))
	rung := func(token string) introspect.Rung {
		x := in.Explain(t.Context(), token, start)
		return x.Steps[slices.IndexFunc(x.Steps, func(r introspect.Rung) bool { return r.Step == "rules" })]
	}
	if got := rung(f.sign(`"g":["a"]`)); got.Result != "ok" || strings.Join(got.Lines, "|") != `rules[0]: set groups to ["app-a"]|rules[1]: require held` {
		t.Errorf("got %+v", got)
	}
	if got := rung(f.sign(`"g":["b"]`)); got.Result != "failed" || got.Detail != "rules[1]: the first group is not a" ||
		strings.Join(got.Lines, "|") != `rules[0]: set groups to ["app-b"]|rules[1]: require failed: the first group is not a` {
		t.Errorf("got %+v", got)
	}
	if got := rung("a.b.c"); got.Result != "not reached" || got.Lines != nil {
		t.Errorf("got %+v", got)
	}
}
