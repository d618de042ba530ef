package transform

// Config says how one issuer's claims are renamed and where the computed
// members of an answer come from.
type Config struct {
	// Scope names the claims that scopes are read from, after Map; the first
	// present one wins.
	Scope []string `koanf:"scope" default:"[scope, scp]"`
	// ClientID names the claims that client_id is read from; the first string
	// wins.
	ClientID []string `koanf:"client_id" default:"[client_id, azp, cid, appid, consumerKey]"`
	// Username names the claims that username is read from; the first string
	// wins.
	Username []string `koanf:"username" default:"[preferred_username, username, upn, \"cognito:username\"]"`
	// Map moves top-level claims to other names; unmapped ones stay.
	Map []Rename `koanf:"map"`
	// AllowReserved frees sub, jti or aud as targets of Map.
	AllowReserved []string `koanf:"allow_reserved"`
}

// Rename moves the claim RemoteClaim, as the issuer names it, to LocalClaim.
type Rename struct {
	RemoteClaim string `koanf:"remote_claim"`
	LocalClaim  string `koanf:"local_claim"`
}
