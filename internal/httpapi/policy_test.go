package httpapi_test

import (
	"strings"
	"testing"

	"introspectd/internal/httpapi"
)

// TestHeadersThatPoliciesCannotSet holds that neither a claim nor an assertion
// stands where something acts on it: what a token says would be done.
func TestHeadersThatPoliciesCannotSet(t *testing.T) {
	for _, row := range []struct {
		header string
		fine   bool
	}{
		{"X-Auth-Department", true},
		{"X-Forwarded-User", true}, // as backends behind other proxies know it
		{"X-Accelerated", true},
		{"Authorization", false}, // a backend would take it for a token
		{"DPoP", false},
		{"X-Envoy-Auth-Headers-To-Remove", false},
		{"x-envoy-upstream-rq-timeout-ms", false},
		{"X-Accel-Redirect", false}, // nginx serves what it names
		{"X-ACCEL-Buffering", false},
		{"X-Sendfile", false}, // as Apache does
		{"Access-Control-Allow-Origin", false},
		{"Set-Cookie", false},
	} {
		claim, assertion := anyPolicy("p"), anyPolicy("p")
		claim.Headers = map[string]string{row.header: "department"}
		assertion.Headers, assertion.Assertion = nil, httpapi.PolicyAssertion{Profile: "x", Header: row.header}
		for what, p := range map[string]httpapi.Policy{"claim": claim, "assertion": assertion} {
			var told []string
			p.Check(func(key, problem string) { told = append(told, key+": "+problem) })
			if fine := len(told) == 0; fine != row.fine || !fine && !strings.Contains(told[0], "this header belongs") {
				t.Errorf("GW-04 %s in %s: got %q, want fine %t", what, row.header, told, row.fine)
			}
		}
	}
}
