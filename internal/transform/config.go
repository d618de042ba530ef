package transform

// Config says how one issuer's claims are renamed and derived, and where the
// computed members of an answer come from.
type Config struct {
	// Scope names the claims that scopes are read from, after Map and Rules; the
	// first present one wins.
	Scope []string `koanf:"scope" default:"[scope, scp]"`
	// ClientID names the claims that client_id is read from; the first string
	// wins.
	ClientID []string `koanf:"client_id" default:"[client_id, azp, cid, appid, consumerKey]"`
	// Username names the claims that username is read from; the first string
	// wins.
	Username []string `koanf:"username" default:"[preferred_username, username, upn, \"cognito:username\"]"`
	// Preset names the vendor whose tokens these are. WithPreset puts what that
	// means into the other fields; the name alone changes nothing.
	Preset PresetName `koanf:"preset" default:""`
	// Map moves top-level claims to other names; unmapped ones stay.
	Map []Rename `koanf:"map"`
	// AllowReserved frees sub, jti or aud as targets of Map and Rules.
	AllowReserved []string `koanf:"allow_reserved"`
	// Rules are applied in order to what Map made of the claims.
	Rules []Rule `koanf:"rules"`
	// PresetRules are the preset's, which come before Rules. They have no key of
	// their own.
	PresetRules []Rule
}

// Rename moves the claim RemoteClaim, as the issuer names it, to LocalClaim.
type Rename struct {
	RemoteClaim string `koanf:"remote_claim"`
	LocalClaim  string `koanf:"local_claim"`
}

// Rule is exactly one of three: Set with Value, Drop, or Require with Message.
// Value and Require are CEL over one variable, claims.
type Rule struct {
	// Set names the claim that is given what Value evaluates to: any JSON value,
	// null too. An optional without a value leaves the claim as it was.
	Set   string `koanf:"set"`
	Value string `koanf:"value"`
	// Drop names the claim that is taken away, if it is there.
	Drop string `koanf:"drop"`
	// Require must evaluate to true; Message tells the log that it did not, and
	// never the caller.
	Require string `koanf:"require"`
	Message string `koanf:"message"`
}
