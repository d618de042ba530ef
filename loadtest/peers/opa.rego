# OPA's REST interface: decodes and verifies each token, and tells whose it is.
package authz

default decision := {"allow": false}

decision := {"allow": true, "sub": payload.sub} if {
	[valid, _, payload] := io.jwt.decode_verify(input.token, {
		"cert": data.load.jwks,
		"iss": data.load.issuer,
		"aud": data.load.audience,
		"alg": "RS256",
	})
	valid
}
