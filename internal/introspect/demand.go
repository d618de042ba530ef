package introspect

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
	"introspectd/internal/verify"
)

// Demand is what one caller or gateway policy asks of a token beyond being
// good. The zero value allows nothing. It is immutable.
type Demand struct {
	// Issuers are configured names; AnyIssuer makes them meaningless.
	Issuers   []string
	AnyIssuer bool
	// Audiences are values of which aud must hold one; AnyAudience makes them
	// meaningless.
	Audiences   []string
	AnyAudience bool
	// NoAudienceFrom names the issuers whose tokens may carry no aud at all. One
	// that they do carry still has to be ours (RFC 7519 section 4.1.3).
	NoAudienceFrom []string
	// Scopes must all be there.
	Scopes []string
}

// Refuses holds an answer against d, on every request, remembered or not:
// contract INT-21. An answer that was inactive keeps its own reason.
func (d *Demand) Refuses(a Answer) (verify.Reason, bool) {
	switch {
	case !a.Active():
		return a.Reason(), true
	case !d.AnyIssuer && !slices.Contains(d.Issuers, a.Issuer()):
		return verify.UnknownIssuer, true
	case !d.audience(a):
		return verify.WrongAudience, true
	}
	if len(d.Scopes) > 0 {
		have, _ := claims.Text(a.Find("scope"))
		for _, s := range d.Scopes {
			if !holds(have, s) {
				return verify.InsufficientScope, true
			}
		}
	}
	return verify.NoReason, false
}

func (d *Demand) audience(a Answer) bool {
	return d.AnyAudience ||
		slices.ContainsFunc(d.Audiences, a.IsFor) ||
		a.Find("aud") == nil && slices.Contains(d.NoAudienceFrom, a.Issuer())
}

// IsFor says whether aud, as mapped, is or holds exactly audience (RFC 7519
// section 4.1.3).
func (a Answer) IsFor(audience string) bool {
	aud := a.Find("aud")
	found := says(aud, audience)
	claims.Elements(aud, func(e jsontext.Value) { found = found || says(e, audience) })
	return found
}

// says tells whether v is a string with this text.
func says(v jsontext.Value, text string) bool {
	s, ok := claims.Text(v)
	return ok && string(s) == text
}

// holds says whether scope is one of the scopes in joined.
func holds(joined []byte, scope string) bool {
	for s := range bytes.SplitSeq(joined, []byte(" ")) {
		if string(s) == scope && scope != "" {
			return true
		}
	}
	return false
}

// HasConfirmation says whether the token is bound to a key or certificate
// (RFC 7800), so that possession has to be shown.
func (a Answer) HasConfirmation() bool { return a.Find("cnf") != nil }

// ConfirmedBy says whether possession is shown by a client certificate with this
// thumbprint alone: base64url of SHA-256 of its DER (RFC 8705 section 3.1), ""
// for no certificate. A token that is bound to anything else besides is not.
func (a Answer) ConfirmedBy(thumbprint string) bool {
	cnf, err := claims.Decode(slices.Clone(a.Find("cnf")))
	if err != nil || len(cnf) != 1 || thumbprint == "" {
		return false
	}
	bound, ok := cnf.Find("x5t#S256")
	if !ok {
		return false
	}
	text, ok := claims.String(bound)
	return ok && text == thumbprint
}
