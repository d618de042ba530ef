package main

import "testing"

func TestServeJudgesATokenOfARealIssuer(t *testing.T) {
	issuer, iss := newIssuer(t)
	s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	if got := s.introspect(issuer.Mint(nil)); got["active"] != true || got["iss"] != iss {
		t.Errorf("a good token: got %v, want it active", got)
	}
	if got := s.introspect(issuer.Mint(nil) + "x"); got["active"] != false || len(got) != 1 {
		t.Errorf("a spoilt token: got %v, want active:false alone", got)
	}
}
