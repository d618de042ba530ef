package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/callers"
	"introspectd/internal/claims"
	"introspectd/internal/introspect"
	"introspectd/internal/sign"
	"introspectd/internal/verify"
)

// Profile is one row of `profiles`: a named output of /transform.
type Profile struct {
	Name               string `koanf:"name"`
	introspect.Mapping `koanf:",squash"`
	// Claims are those that it shows, after map and rules: passthrough, minimal,
	// or a list of names.
	Claims callers.Claims `koanf:"claims" default:"passthrough"`
	// Shape arranges them.
	Shape introspect.Shape `koanf:"shape" default:"plain"`
	// Output is what a request is answered that names none.
	Output    Output    `koanf:"output" default:"claims"`
	Assertion Assertion `koanf:"assertion"`
}

// Assertion says how a profile's signed output is made.
type Assertion struct {
	// Audience are the backends that it is for; without one nothing is signed.
	Audience []string `koanf:"audience"`
	// Lifetime bounds it; it never outlives its token.
	Lifetime time.Duration `koanf:"lifetime" default:"5m"`
}

// Output is what a profile answers.
type Output string

const (
	// Claims are an object.
	Claims Output = "claims"
	// JWT adds a signed assertion of them.
	JWT Output = "jwt"
)

// Values lists the spellings a configuration may use.
func (Output) Values() []string { return []string{string(Claims), string(JWT)} }

// longestLifetime bounds assertions: what can't be revoked has to end soon.
const longestLifetime = 5 * time.Minute

// Check reports every fault of one profile; whether there are keys to sign with
// is for the owner of all sections to say.
func (p Profile) Check(fault func(key, problem string)) {
	if !nameSyntax.MatchString(p.Name) {
		fault("name", fmt.Sprintf("expected letters, digits, - and _, got %q", p.Name))
	}
	p.Mapping.Check(fault)
	if p.Claims.Mode == callers.List {
		for _, name := range p.Shape.Requires() {
			if !slices.Contains(p.Claims.Names, name) {
				fault("claims", fmt.Sprintf("expected %s among them, which the shape %s requires", name, p.Shape))
			}
		}
	}
	if p.Output == JWT && len(p.Assertion.Audience) == 0 {
		fault("assertion.audience", "expected the backends that the assertion is for, as output is jwt")
	}
	for i, audience := range p.Assertion.Audience {
		if audience == "" {
			fault(fmt.Sprintf("assertion.audience[%d]", i), "expected an audience, got an empty text")
		}
	}
	if p.Assertion.Lifetime < time.Second || p.Assertion.Lifetime > longestLifetime {
		fault("assertion.lifetime", fmt.Sprintf("expected 1s to %s, got %s", longestLifetime, p.Assertion.Lifetime))
	}
}

// profile is a Profile compiled.
type profile struct {
	name   string
	shape  introspect.Shape
	output Output
	shown  *introspect.Profile
	form   *sign.Form // nil where it signs nothing
	signer *sign.Signer
}

func compileProfile(row Profile, signer *sign.Signer) *profile {
	p := &profile{
		name: row.Name, shape: row.Shape, output: row.Output, signer: signer,
		shown: introspect.NewProfile(row.Mapping, viewOf(row.Claims), row.Shape),
	}
	if signer == nil || len(row.Assertion.Audience) == 0 {
		return p
	}
	text, err := json.Marshal(row)
	if err != nil {
		panic("httpapi: profile " + row.Name + " has no digest: " + err.Error()) // it is made of texts alone
	}
	p.form = &sign.Form{
		Type: row.Shape.Type(), Audience: row.Assertion.Audience, Lifetime: row.Assertion.Lifetime,
		Unique: row.Shape.Unique(), Version: sha256.Sum256(text),
	}
	return p
}

// profiled answers POST /transform where the request names a profile or an
// output.
func (a *API) profiled(w http.ResponseWriter, r *http.Request, p *parameters) (out outcome) {
	caller := a.authenticate(w, p.credentials(r), callers.Transform, &out)
	if caller == nil {
		return out
	}
	profile, output, bad := a.choose(caller, p)
	if bad != nil {
		return out.refused(w, bad)
	}
	out.profile = profile.name
	answer, err := a.introspector.Introspect(r.Context(), p.token.value, p.room)
	if err != nil {
		unavailable(w)
		out.failed(&answer, err)
		return out
	}
	reason, refused := a.views[caller.Index].demand.Refuses(answer)
	var shown claims.Set
	if !refused {
		var problem string
		if shown, problem = profile.shown.Claims(answer); problem != "" {
			reason, refused, out.note = verify.RuleFailed, true, problem
		}
	}
	var assertion sign.Assertion
	if !refused && output == JWT {
		if answer.HasConfirmation() {
			return out.bound(w, answer)
		}
		assertion, err = profile.assertion(r.Context(), answer, caller.ID, shown)
		switch {
		case errors.Is(err, sign.ErrOver):
			reason, refused = verify.Expired, true
		case err != nil:
			unavailable(w)
			out.unsigned(&answer, err)
			return out
		}
	}
	out.judged(&answer, reason, !refused)
	out.status = http.StatusOK
	if refused {
		respond(w, http.StatusOK, inactive)
		return out
	}
	buffer := buffers.Get().(*[]byte)
	*buffer = profile.append((*buffer)[:0], answer, shown, assertion)
	respond(w, http.StatusOK, *buffer)
	buffers.Put(buffer)
	return out
}

// choose finds the profile and the output that a request asks for.
func (a *API) choose(caller *callers.Caller, p *parameters) (*profile, Output, *problem) {
	if bad := p.check(); bad != nil {
		return nil, "", bad
	}
	output := Output(p.output.value)
	if output != "" && !slices.Contains(output.Values(), string(output)) {
		return nil, "", badRequest("there is no such output")
	}
	if p.profile.value == "" {
		return nil, "", badRequest("an output needs a profile")
	}
	chosen := a.profiles[p.profile.value]
	switch {
	case chosen == nil:
		return nil, "", badRequest("there is no such profile")
	case !slices.Contains(caller.Profiles, chosen.name):
		return nil, "", &problem{status: http.StatusForbidden, code: "access_denied"}
	}
	if output == "" {
		output = chosen.output
	}
	if output == JWT && chosen.form == nil {
		return nil, "", badRequest("the profile signs nothing")
	}
	return chosen, output, nil
}

// bound refuses to sign: of a token bound to a key (RFC 7800) an assertion would
// make a plain bearer, and possession can't be shown here yet (contract ASN-04).
func (o outcome) bound(w http.ResponseWriter, a introspect.Answer) outcome {
	o.issuer, o.ref = a.Issuer(), a.Ref()
	return o.refused(w, badRequest("the token is bound to a key; an assertion of it would not be"))
}

// unsigned notes that a good token got no assertion.
func (o *outcome) unsigned(a *introspect.Answer, err error) {
	o.failed(a, err)
	o.reason = "signing_unavailable"
}

// append renders what a profile shows of an active answer.
func (p *profile) append(dst []byte, a introspect.Answer, shown claims.Set, assertion sign.Assertion) []byte {
	dst = append(dst, `{"active":true,"profile":"`...)
	dst = append(dst, p.name...) // letters, digits, - and _
	dst = append(dst, `","iss":`...)
	dst = append(dst, a.Find("iss")...)
	dst = append(dst, `,"exp":`...)
	dst = strconv.AppendInt(dst, a.Expires(), 10)
	dst = append(dst, `,"claims":`...)
	dst = introspect.AppendClaims(dst, shown)
	if assertion.Text != "" {
		dst = append(dst, `,"assertion":"`...)
		dst = append(dst, assertion.Text...)
		dst = append(dst, `","expires_in":`...)
		dst = strconv.AppendInt(dst, p.signer.ExpiresIn(assertion), 10)
	}
	return append(dst, '}')
}

// recall returns the assertion that was made before of the same.
func (p *profile) recall(ctx context.Context, a introspect.Answer, requester string) (sign.Assertion, bool) {
	return p.signer.Recall(ctx, p.form, p.about(a, requester))
}

// assertion returns a signed statement of what p shows of an active answer. It
// may be one that was made before.
func (p *profile) assertion(ctx context.Context, a introspect.Answer, requester string, shown claims.Set) (sign.Assertion, error) {
	about := p.about(a, requester)
	if made, ok := p.signer.Recall(ctx, p.form, about); ok {
		return made, nil
	}
	// Who it is about is ours to say: an issuer's own sub_id can name a subject of another.
	said := slices.DeleteFunc(append(claims.Set{}, shown...), func(m claims.Member) bool { return m.Name == "sub_id" })
	if name := p.shape.Requester(); name != "" {
		said = append(said, claims.Member{Name: name, Value: quoted(requester)})
	}
	if sub, ok := shown.Find("sub"); ok {
		said = append(said, claims.Member{Name: "sub_id", Value: subjectID(a.Find("iss"), sub)})
	}
	return p.signer.Make(ctx, p.form, about, a.Expires(), said.All())
}

// about is everything, beside the profile, that an assertion's claims are made
// of.
func (p *profile) about(a introspect.Answer, requester string) []byte {
	origin := a.Origin()
	about := append(make([]byte, 0, len(origin)+len(requester)), origin[:]...)
	if p.shape.Requester() != "" {
		about = append(about, requester...)
	}
	return about
}

// subjectID says whose sub it is (RFC 9493 section 3.2.4): an assertion's iss is
// ours, and a sub is unique only with the issuer that gave it.
func subjectID(iss, sub jsontext.Value) jsontext.Value {
	return jsontext.Value(`{"format":"iss_sub","iss":` + string(iss) + `,"sub":` + string(sub) + `}`)
}

func quoted(text string) jsontext.Value {
	out, _ := jsontext.AppendQuote(nil, text) // what is not UTF-8 is replaced
	return out
}
