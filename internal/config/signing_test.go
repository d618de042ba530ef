package config_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"introspectd/internal/config"
)

// signing is what signs, and a profile that has something signed.
const signing = `server: {public_url: "https://introspect.example"}
signing: {keys: [{file: key.pem}]}
profiles: [{name: backend, assertion: {audience: [b]}}]
`

const signingCaller = "callers: [{id: a, secrets: [{sha256: " + digest + "}], may: [transform], any_audience: true, profiles: [backend]}]\n"

func TestProfilesAndSigningAreHeldAgainstEachOther(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"all of it", signing + signingCaller + "policies: [{name: p, any_audience: true, assertion: {profile: backend, header: X-Identity}}]\n", ""},
		{"ASN-02 our own iss is needed", "signing: {keys: [{file: key.pem}]}\n", "server.public_url: must be written"},
		{
			"ASN-02 an issuer that is ourselves", "server: {public_url: 'https://idp.example'}\nsigning: {keys: [{file: key.pem}]}\n",
			"issuers[0].issuer: this is server.public_url, our own iss: what we sign is no access token",
		},
		{"ASN-02 no audience", signing + "policies: []\n" + "include: [more.yaml]\n", "profiles[1].assertion.audience: expected the backends"},
		{"nothing to sign with", "profiles: [{name: backend, assertion: {audience: [b]}}]\n", "profiles[0].assertion.audience: nothing can be signed without signing.keys"},
		{"TRN-03 a caller's profile that isn't there", signing + strings.Replace(signingCaller, "[backend]", "[bakend]", 1), `callers[0].profiles[0]: no profile is named "bakend"; did you mean backend?`},
		{"a caller that may not transform", signing + strings.Replace(signingCaller, "transform", "introspect", 1), "callers[0].profiles: profiles are outputs of /transform"},
		{"a policy's profile that isn't there", "policies: [{name: p, any_audience: true, assertion: {profile: x}}]\n", `policies[0].assertion.profile: no profile is named "x"; there is none`},
		{"a policy's profile that signs nothing", "profiles: [{name: plain}]\npolicies: [{name: p, any_audience: true, assertion: {profile: plain}}]\n", "policies[0].assertion.profile: the profile plain signs nothing"},
		{"a header without a profile", "policies: [{name: p, any_audience: true, assertion: {header: X-A}}]\n", "policies[0].assertion.profile: expected the profile"},
		{"a header that a claim has", signing + "policies: [{name: p, any_audience: true, headers: {x-identity: sub}, assertion: {profile: backend, header: X-Identity}}]\n", "policies[0].assertion.header: this header already carries a claim"},
		{"the shape's header that a claim has", signing + "policies: [{name: p, any_audience: true, headers: {x-jwt-assertion: sub}, assertion: {profile: backend}}]\n", "policies[0].assertion.header: expected another header than X-JWT-Assertion"},
		{"ASN-06 never in Authorization", signing + "policies: [{name: p, any_audience: true, assertion: {profile: backend, header: authorization}}]\n", "policies[0].assertion.header: this header belongs"},
		{"a header of the connection", signing + "policies: [{name: p, any_audience: true, assertion: {profile: backend, header: Set-Cookie}}]\n", "policies[0].assertion.header: this header belongs"},
		{"a header that is no token", signing + "policies: [{name: p, any_audience: true, assertion: {profile: backend, header: 'X A'}}]\n", "policies[0].assertion.header: expected the name of a header"},
		{"a name that can't be asked for", "profiles: [{name: 'a b'}]\n", `profiles[0].name: expected letters, digits, - and _, got "a b"`},
		{"a name that is taken", "profiles: [{name: a}, {name: a}]\n", `profiles[1].name: "a" is taken by profiles[0].name at c.yaml:5:13`},
		{"TRN-06 a protected target", "profiles: [{name: a, map: [{remote_claim: x, local_claim: sub}]}]\n", "profiles[0].map[0].local_claim: sub is reserved"},
		{"TRN-06 a protected name in a rule", "profiles: [{name: a, rules: [{set: aud, value: '\"x\"'}, {drop: sub}]}]\n", "profiles[0].rules[0].set: aud is reserved"},
		{"TRN-05 a rule that is no CEL", "profiles: [{name: a, rules: [{set: x, value: claims.y +}]}]\n", "profiles[0].rules[0].value: "},
		{"TRN-06 two rows, one target", "profiles: [{name: a, map: [{remote_claim: x, local_claim: z}, {remote_claim: y, local_claim: z}]}]\n", `profiles[0].map[1].local_claim: "z" is already the target of map[0]`},
		{"ASN-06 a list without what the shape requires", "profiles: [{name: a, shape: transaction_token, claims: [sub]}]\n", "profiles[0].claims: expected scope among them"},
		{"ASN-01 signed by default, for nobody", "profiles: [{name: a, output: jwt}]\n", "profiles[0].assertion.audience: expected the backends"},
		{"ASN-02 a long life", "profiles: [{name: a, assertion: {lifetime: 301s}}]\n", "profiles[0].assertion.lifetime: expected 1s to 5m0s, got 5m1s"},
		{"ASN-02 no life", "profiles: [{name: a, assertion: {lifetime: 0s}}]\n", "profiles[0].assertion.lifetime: expected 1s to 5m0s, got 0s"},
		{"ASN-05 little memory", "cache: {assertions: {size: 1MiB}}\n", "cache.assertions.size: expected at least 32MiB"},
		{"ASN-01 a symmetric algorithm", "signing: {keys: [{file: key.pem, algorithm: HS256}]}\n", `signing.keys[0].algorithm: expected one of RS256, PS256, ES256, Ed25519, EdDSA, got "HS256"`},
		{"ASN-01 none", "signing: {keys: [{file: key.pem, algorithm: none}]}\n", `signing.keys[0].algorithm: expected one of RS256`},
		{"a time that is none", "signing: {keys: [{file: key.pem, active_from: tomorrow}]}\n", `signing.keys[0].active_from: expected a time such as 2026-12-01T00:00:00Z, got "tomorrow"`},
		{"a key that is made beside redis", "server: {public_url: 'https://a.example'}\nsigning: {generate: made.pem}\nredis: {seal_keys: [{file: seal}]}\n", "signing.generate: replicas would each make a key of their own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, map[string]string{
				"key.pem": privateKey(t), "c.yaml": corp + c.body, "more.yaml": "profiles: [{name: b, output: jwt}]\n",
				"seal": "c2VhbCBrZXkgb2YgdGhpcnR5LXR3byBieXRlczogb2s=",
			})
			if c.want == "" {
				load(t, "c.yaml", config.Options{})
				return
			}
			if got := faults(t, "c.yaml", config.Options{}); !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// YAML and TOML read a time of their own where it has no quotes.
func TestTimesOfKeysAreReadInEveryFormat(t *testing.T) {
	write(t, map[string]string{
		"key.pem": privateKey(t), "next.pem": privateRSA(t),
		"quoted.yaml": corp + "server: {public_url: 'https://a.example'}\nsigning: {keys: [{file: key.pem}, {file: next.pem, active_from: '2100-01-01T00:00:00Z'}]}\n",
		"plain.yaml":  corp + "server: {public_url: 'https://a.example'}\nsigning: {keys: [{file: key.pem}, {file: next.pem, active_from: 2100-01-01T01:00:00+01:00}]}\n",
		"c.toml":      "[server]\npublic_url = 'https://a.example'\n[[issuers]]\nname = 'corp'\nissuer = 'https://idp.example'\nkeys.discover = true\n[[signing.keys]]\nfile = 'key.pem'\n[[signing.keys]]\nfile = 'next.pem'\nactive_from = 2100-01-01T00:00:00Z\n",
	})
	for _, file := range []string{"quoted.yaml", "plain.yaml", "c.toml"} {
		c := load(t, file, config.Options{})
		if got, want := c.Signing.Keys[1].ActiveFrom.Time, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC); !got.Equal(want) {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
}

func TestASN05CheckWarnsOfAKeyThatSignsTooSoon(t *testing.T) {
	soon := time.Now().Add(time.Minute).Format(time.RFC3339)
	write(t, map[string]string{
		"key.pem": privateKey(t), "next.pem": privateRSA(t),
		"c.yaml": corp + "server: {public_url: 'https://a.example'}\nsigning: {keys: [{file: key.pem}, {file: next.pem, active_from: '" + soon + "'}]}\n",
	})
	got := strings.Join(load(t, "c.yaml", config.Options{}).Warnings(), "\n")
	if !strings.Contains(got, "signing.keys[1].active_from is ") || !strings.Contains(got, "ahead: backends keep /jwks.json for up to 5m0s") {
		t.Errorf("got %q, want a warning of signing.keys[1]", got)
	}
}

func TestSigningKeysAreWatchedAndKept(t *testing.T) {
	write(t, map[string]string{"key.pem": privateKey(t), "c.yaml": corp + signing})
	if got := strings.Join(load(t, "c.yaml", config.Options{}).Files(), " "); !strings.Contains(got, "key.pem") {
		t.Errorf("files: got %s, want key.pem among them", got)
	}
	if err := os.Chmod("key.pem", 0o644); err != nil {
		t.Fatal(err)
	}
	if got := faults(t, "c.yaml", config.Options{}); !strings.Contains(got, "signing.keys[0].file: expected a file that others can't read") {
		t.Errorf("a key that everyone can read: got %s", got)
	}
}
