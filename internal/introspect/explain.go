package introspect

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"introspectd/internal/verify"
)

// Explanation is a verdict as a ladder: what was looked at, in order, and how
// far the token came. It tells more than any caller may know and is for
// operators alone.
type Explanation struct {
	TokenRef string          `json:"token_ref"`
	At       time.Time       `json:"at"`
	Active   bool            `json:"active"`
	Reason   string          `json:"reason,omitempty"`
	Issuer   string          `json:"issuer,omitempty"`
	Steps    []Rung          `json:"steps"`
	Answer   json.RawMessage `json:"answer,omitempty"`
}

// Rung is one step of an Explanation.
type Rung struct {
	Step string `json:"step"`
	// Result is ok, failed, unknown (it could not be told), not reached or
	// NotChecked.
	Result string `json:"result"`
	Detail string `json:"detail,omitempty"`
	// Lines are what each rule did, as far as they were reached.
	Lines []string `json:"lines,omitempty"`
}

// NotChecked is the Result of a step that nobody had the means to look at: what
// an active token still has to pass.
const NotChecked = "not checked"

// For names a demand that an explanation holds the token against.
type For struct {
	Who    string // "caller orders", "policy default"
	Demand Demand
}

var stepNames = [...]string{
	verify.Spelling:    "spelling",
	verify.Header:      "header",
	verify.Payload:     "payload",
	verify.IssuerKnown: "issuer",
	verify.Algorithm:   "algorithm",
	verify.Type:        "type",
	verify.Claims:      "claims",
	verify.KeyFound:    "key",
	verify.Signature:   "signature",
	verify.Times:       "times",
}

// Explain judges token as of at, past every remembered verdict, and tells how.
func (in *Introspector) Explain(ctx context.Context, token string, at time.Time, demands ...For) Explanation {
	v, err := in.verifier.Verify(ctx, token, at)
	answer, _ := in.answer(ctx, token, v, at)
	x := Explanation{
		TokenRef: answer.Ref().String(), At: at.UTC(), Active: answer.Active(),
		Reason: answer.Reason().String(), Issuer: answer.Issuer(), Answer: json.RawMessage(answer.Body()),
	}
	if err != nil {
		x.Reason = Unavailable(err)
	}
	for step, name := range stepNames {
		rung := Rung{Step: name, Result: "ok", Detail: detail(verify.Step(step), v, at)}
		switch {
		case verify.Step(step) == v.Step && err != nil:
			rung.Result, rung.Detail = "unknown", err.Error()
		case verify.Step(step) == v.Step:
			rung.Result, rung.Detail = "failed", strings.TrimSuffix(v.Detail+"; "+rung.Detail, "; ")
		case verify.Step(step) > v.Step:
			rung.Result, rung.Detail = "not reached", ""
		}
		x.Steps = append(x.Steps, rung)
	}
	x.Steps = append(x.Steps, in.rulesRung(v, answer))
	for _, d := range demands {
		x.Steps = append(x.Steps, x.held(d, answer))
	}
	if len(demands) == 0 {
		x.Steps = append(x.Steps, Rung{Step: "audience", Result: NotChecked, Detail: "no caller or policy was named"})
	}
	x.Steps = append(x.Steps, in.stands(&x, answer, at))
	return x
}

func (in *Introspector) rulesRung(v verify.Verdict, a Answer) Rung {
	r := Rung{Step: "rules", Result: "ok"}
	if !v.Active {
		r.Result = "not reached"
		return r
	}
	r.Lines = in.byVerifier[v.Issuer].rules.Explain(v.Claims)
	if !a.Active() {
		r.Result, r.Detail = "failed", cmp.Or(a.Note(), "the mapped claims make no sound identity")
	}
	return r
}

// held adds what one caller or policy makes of the answer.
func (x *Explanation) held(d For, a Answer) Rung {
	r := Rung{Step: "audience", Result: "ok", Detail: d.Who}
	if !a.Active() {
		r.Result = "not reached"
		return r
	}
	if reason, refused := d.Demand.Refuses(a); refused {
		r.Result, r.Detail = "failed", fmt.Sprintf("%s: %s", d.Who, reason)
		x.Active, x.Reason, x.Answer = false, reason.String(), nil
	}
	return r
}

// stands adds what revocations make of the answer. Requests look at them before
// any demand, so their reason stands before those of callers and policies.
func (in *Introspector) stands(x *Explanation, a Answer, at time.Time) Rung {
	r := Rung{Step: "revocation", Result: "ok"}
	switch {
	case !a.Active():
		r.Result = "not reached"
		return r
	case in.revocations == nil:
		r.Result, r.Detail = NotChecked, "no list of revocations is at hand"
		return r
	}
	left, err := in.unrevoked(a, at)
	switch {
	case err != nil:
		r.Result, r.Detail = "unknown", err.Error()
		x.Active, x.Reason, x.Answer = false, Unavailable(err), nil
	case !left.Active():
		r.Result, r.Detail = "failed", "withdrawn by "+strings.Join(in.withdrawnBy(a, at), ", ")
		x.Active, x.Reason, x.Answer = false, left.Reason().String(), nil
	default:
		r.Detail = fmt.Sprintf("none of %d is about it", in.revocations.State().Entries)
	}
	return r
}

// detail is what there is to say of a step whether it held or not.
func detail(s verify.Step, v verify.Verdict, at time.Time) string {
	switch s {
	case verify.Header:
		return fmt.Sprintf("alg %q, kid %q, typ %q", v.Alg, v.Kid, v.Typ)
	case verify.Payload:
		if v.Step == verify.IssuerKnown || v.Step == verify.Algorithm {
			return "read as far as iss"
		}
	case verify.IssuerKnown:
		if v.Issuer != nil {
			return fmt.Sprintf("iss %q is issuer %s", v.ClaimedIssuer, v.Issuer.Name())
		}
		return fmt.Sprintf("iss %q", v.ClaimedIssuer)
	case verify.KeyFound:
		if v.Issuer != nil {
			return v.Issuer.Keys().Explain(v.Kid, v.Alg, v.KeyAsOf)
		}
	case verify.Times:
		return fmt.Sprintf("iat %s, nbf %s, exp %s, at %s", instant(v.IssuedAt), instant(v.NotBefore), instant(v.Expires), at.UTC().Format(time.RFC3339))
	}
	return ""
}

func instant(seconds int64) string {
	if seconds == 0 {
		return "absent"
	}
	return time.Unix(seconds, 0).UTC().Format(time.RFC3339)
}
