# OPA's REST interface: decodes and verifies each token.
package authz

default allow := false

allow if {
	[valid, _, _] := io.jwt.decode_verify(input.token, {
		"cert": data.load.jwks,
		"iss": data.load.issuer,
		"aud": data.load.audience,
		"alg": "RS256",
	})
	valid
}
