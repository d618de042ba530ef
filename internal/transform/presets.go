package transform

import (
	"fmt"
	"slices"
	"strings"
)

// PresetName is the word for a vendor whose tokens are known; empty for none.
type PresetName string

// Values lists the spellings a configuration may use.
func (PresetName) Values() []string {
	return []string{"wso2", "keycloak", "auth0", "okta", "entra", "cognito", "zitadel", "identityserver", ""}
}

// Preset is what is known of one vendor's access tokens. What it leaves nil it
// says nothing about.
type Preset struct {
	// Require lists the claims that all of them carry, machines' too.
	Require                   []string
	Scope, ClientID, Username []string
	Map                       []Rename
	// Rules tell access tokens from the vendor's other tokens, and give an aud
	// to those that have none.
	Rules []Rule
}

// Presets is the table of what vendors' access tokens look like.
func Presets() map[PresetName]Preset {
	only := func(expression, message string) Rule { return Rule{Require: expression, Message: message} }
	return map[PresetName]Preset{
		// The default claim mapping of API Manager 3.1. It has profile and
		// website for one target, of which a hash map chose one; here it is
		// website, and profile stays.
		"wso2": {
			Scope:    []string{"scope"},
			ClientID: []string{"consumerKey", "azp", "client_id", "appid"},
			Username: []string{"username", "sub"},
			Map: dialect("http://wso2.org/claims/",
				"gender", "gender", "email_verified", "identity/emailVerified", "zoneinfo", "timeZone", "picture", "photourl",
				"preferred_username", "displayName", "middle_name", "middleName", "nickname", "nickname", "website", "url",
				"phone_number_verified", "identity/phoneVerified", "postal_code", "postalcode", "groups", "role", "address", "addresses",
				"country", "country", "formatted", "addresses.formatted", "email", "emailaddress", "upn", "userprincipal",
				"given_name", "givenname", "locality", "locality", "region", "region", "family_name", "lastname", "name", "fullname",
				"locale", "local", "phone_number", "telephone", "birthdate", "dob", "updated_at", "modified"),
		},
		// From version 25 on, sub comes with the client scope basic, which a client
		// may not have. typ says what kind of token it is.
		"keycloak": {
			Require:  []string{"iat", "exp", "iss"},
			Scope:    []string{"scope"},
			ClientID: []string{"azp", "client_id"},
			Username: []string{"preferred_username"},
			Rules:    []Rule{only(`claims.?typ.orValue("") in ["Bearer", "DPoP"]`, "typ is not that of an access token")},
		},
		// Its own token profile has azp, that of RFC 9068 client_id. An ID token has
		// neither, and is for its client.
		"auth0": {
			Scope:    []string{"scope"},
			ClientID: []string{"client_id", "azp"},
			Rules:    []Rule{only(`claims.?client_id.or(claims.?azp).optMap(c, c != claims.aud).orValue(false)`, "it names no client, or is for its client: not an access token")},
		},
		// sub is the user's login, or the client of a machine; ID tokens have no cid.
		"okta": {
			Scope:    []string{"scp"},
			ClientID: []string{"cid"},
			Username: []string{"sub"},
			Rules:    []Rule{only(`has(claims.cid)`, "it has no cid: not an access token")},
		},
		// azp in version 2.0 is appid in 1.0. ID tokens have neither.
		"entra": {
			Scope:    []string{"scp"},
			ClientID: []string{"azp", "appid"},
			Username: []string{"preferred_username", "upn", "unique_name"},
			Rules:    []Rule{only(`has(claims.azp) || has(claims.appid)`, "it has neither azp nor appid: not an access token")},
		},
		// An access token has no aud, unless it was asked for with a resource.
		"cognito": {
			Scope:    []string{"scope"},
			ClientID: []string{"client_id"},
			Username: []string{"username"},
			Rules: []Rule{
				only(`claims.?token_use.orValue("") == "access"`, "token_use is not access"),
				{Set: "aud", Value: `claims.?aud.or(claims.?client_id)`},
			},
		},
		// Roles are an object with the organizations that granted each. ID tokens
		// have no jti.
		"zitadel": {
			Scope:    []string{"scope"},
			ClientID: []string{"client_id", "azp"},
			Username: []string{"username", "preferred_username"},
			Rules: []Rule{
				only(`has(claims.jti)`, "it has no jti: not an access token"),
				{Set: "roles", Value: `claims[?"urn:zitadel:iam:org:project:roles"].optMap(granted, granted.map(role, role))`},
			},
		},
		// Client credentials have no sub, and older releases write no iat. ID tokens
		// have no client_id.
		"identityserver": {
			Require:  []string{"exp", "iss"},
			Scope:    []string{"scope"},
			ClientID: []string{"client_id"},
			Rules:    []Rule{only(`has(claims.client_id)`, "it has no client_id: not an access token")},
		},
	}
}

// dialect moves claims, each followed by its name in the dialect.
func dialect(prefix string, pairs ...string) (rows []Rename) {
	for pair := range slices.Chunk(pairs, 2) {
		rows = append(rows, Rename{RemoteClaim: pair[0], LocalClaim: prefix + pair[1]})
	}
	return rows
}

// WithPreset is c with what its preset says about keys that were not written,
// and tells what that changed, line by line. Its rules are taken in any case,
// and come before those that were written: they keep other tokens out.
func (c Config) WithPreset(written func(key string) bool) (Config, []string) {
	preset, ok := Presets()[c.Preset]
	if !ok {
		return c, nil
	}
	var changed []string
	for _, s := range []struct {
		key  string
		from []string
		to   *[]string
	}{{"scope", preset.Scope, &c.Scope}, {"client_id", preset.ClientID, &c.ClientID}, {"username", preset.Username, &c.Username}} {
		if s.from != nil && !written(s.key) && !slices.Equal(s.from, *s.to) {
			*s.to = s.from
			changed = append(changed, fmt.Sprintf("%s: [%s]", s.key, strings.Join(s.from, ", ")))
		}
	}
	if preset.Map != nil && !written("map") {
		c.Map = preset.Map
		for _, r := range c.Map {
			changed = append(changed, fmt.Sprintf("map: %s to %s", r.RemoteClaim, r.LocalClaim))
		}
	}
	c.PresetRules = preset.Rules
	for _, r := range c.PresetRules {
		if r.Set != "" {
			changed = append(changed, fmt.Sprintf("rules: set %s to %s", r.Set, r.Value))
		} else {
			changed = append(changed, fmt.Sprintf("rules: require %s (%s)", r.Require, r.Message))
		}
	}
	return c, changed
}
