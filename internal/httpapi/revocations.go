package httpapi

import (
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"introspectd/internal/callers"
	"introspectd/internal/claims"
	"introspectd/internal/introspect"
	"introspectd/internal/revoke"
)

// revocation is one row of /revocations.
type revocation struct {
	ID   string      `json:"id"`
	Kind revoke.Kind `json:"kind"`
	// Issuer is the configured name, empty for one that no longer is.
	Issuer string `json:"issuer,omitempty"`
	Iss    string `json:"iss"`
	// Value is what was named; a token has a reference instead, and for an
	// issuer there is none.
	Value     string    `json:"value,omitempty"`
	TokenRef  string    `json:"token_ref,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	By        string    `json:"by"`
}

func (o *AdminOptions) rows(all []revoke.Revocation) []revocation {
	rows := make([]revocation, 0, len(all))
	for _, r := range all {
		rows = append(rows, revocation{
			ID: hex.EncodeToString(r.Name[:]), Kind: r.Kind, Issuer: o.Names[r.Issuer], Iss: r.Issuer, Value: r.Value, TokenRef: r.Ref(),
			NotBefore: r.NotBefore, Created: r.Created, Expires: r.Expires, By: r.By,
		})
	}
	return rows
}

// withdraw answers POST /revocations (contract REV-07).
func (o *AdminOptions) withdraw(w http.ResponseWriter, r *http.Request, who *callers.Caller) outcome {
	if bad := onlyJSON(r); bad != nil {
		return refuse(w, bad)
	}
	body, bad := readBody(w, r, new([]byte))
	if bad != nil {
		return refuse(w, bad)
	}
	wanted, bad := readWithdrawal(body, time.Now())
	if bad != nil {
		return refuse(w, bad)
	}
	if bad := o.reaches(who, wanted.Issuer); bad != nil {
		return outcome{kind: wanted.Kind}.refused(w, bad)
	}
	wanted.By = who.ID
	added, err := o.Introspector.Withdraw(r.Context(), wanted)
	out := outcome{issuer: wanted.Issuer, kind: wanted.Kind}.about(added...)
	if err != nil {
		return out.notKept(w, err)
	}
	out.status = http.StatusCreated
	writeJSON(w, out.status, struct {
		Revocations []revocation `json:"revocations"`
	}{o.rows(added)})
	return out
}

// reaches says whether an issuer, by its configured name, is there and the
// caller's.
func (o *AdminOptions) reaches(who *callers.Caller, issuer string) *problem {
	switch {
	case !slices.Contains(slices.Collect(maps.Values(o.Names)), issuer):
		return &problem{status: http.StatusNotFound, code: "not_found", description: noIssuer}
	case !who.ToldOf(issuer):
		return &problem{status: http.StatusForbidden, code: "access_denied", description: "the issuer is not one of this caller's"}
	}
	return nil
}

// about names the revocations of an act, for its audit line.
func (o outcome) about(all ...revoke.Revocation) outcome {
	for _, r := range all {
		o.revocations = append(o.revocations, hex.EncodeToString(r.Name[:]))
	}
	return o
}

// notKept is 503 for a change of the list that did not come to be, or may be
// lost.
func (o outcome) notKept(w http.ResponseWriter, err error) outcome {
	description := "the list of revocations can not be changed now"
	switch {
	case errors.Is(err, revoke.ErrNoStore):
		description = "nothing keeps revocations: neither redis nor state.path is configured"
	case errors.Is(err, revoke.ErrFull):
		description = "the list of revocations is full"
	case errors.Is(err, revoke.ErrNotDurable):
		description = "the store did not take it: what was revoked holds in this process and may be lost, what was taken back still stands"
	}
	o.reason, o.err = revocationUnavailable, err
	return o.refused(w, &problem{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", description: description})
}

// targets maps the members that say what is withdrawn to what they name.
var targets = map[string]revoke.Kind{
	"jti": revoke.JTI, "sub": revoke.Subject, "sid": revoke.Session, "client_id": revoke.Client, "kid": revoke.KeyID, "all": revoke.Issuer,
}

const (
	// maxTarget is the longest value that can be withdrawn, in bytes.
	maxTarget = 1024
	// farFuture is how far ahead a not_before may be: further is a slip, and
	// would lock out who is let in again.
	farFuture = time.Hour
)

// readWithdrawal reads the body of POST /revocations. A member that is not known
// is refused, because whoever wrote it meant less, or more, than would be done.
func readWithdrawal(body []byte, now time.Time) (wanted introspect.Withdrawal, bad *problem) {
	set, err := claims.Decode(body)
	if err != nil {
		return wanted, badRequest("expected one JSON object, each member once")
	}
	for _, m := range set {
		switch kind := targets[m.Name]; {
		case kind != 0 && wanted.Kind != 0:
			return wanted, badRequest(oneTarget)
		case kind == revoke.Issuer:
			wanted.Kind, bad = kind, onlyTrue(m)
		case kind != 0:
			wanted.Kind = kind
			wanted.Value, bad = someText(m)
		case m.Name == "issuer":
			wanted.Issuer, bad = someText(m)
		case m.Name == "not_before":
			wanted.NotBefore, bad = instant(m)
		case m.Name == "expires":
			wanted.Expires, bad = instant(m)
		default:
			bad = badRequest("expected no member but issuer, jti, sub, sid, client_id, kid, all, not_before and expires")
		}
		if bad != nil {
			return wanted, bad
		}
	}
	return wanted, checkWithdrawal(wanted, now)
}

const oneTarget = "expected exactly one of jti, sub, sid, client_id, kid and all"

// checkWithdrawal is what the members must be beside each other.
func checkWithdrawal(wanted introspect.Withdrawal, now time.Time) *problem {
	byJTI := wanted.Kind == revoke.JTI
	switch {
	case wanted.Issuer == "":
		return badRequest("issuer is missing")
	case wanted.Kind == 0:
		return badRequest(oneTarget)
	case byJTI && !wanted.NotBefore.IsZero():
		return badRequest("not_before: expected none beside jti, which is revoked whenever it was issued")
	case wanted.NotBefore.After(now.Add(farFuture)):
		return badRequest("not_before: expected a time at most an hour ahead")
	case !byJTI && !wanted.Expires.IsZero():
		return badRequest("expires: expected none but beside jti")
	case !wanted.Expires.IsZero() && !wanted.Expires.After(now):
		return badRequest("expires: expected a time to come")
	}
	return nil
}

func someText(m claims.Member) (string, *problem) {
	text, ok := claims.String(m.Value)
	if !ok || text == "" || len(text) > maxTarget {
		return "", badRequest(m.Name + ": expected a text of 1 to 1024 bytes")
	}
	return text, nil
}

func onlyTrue(m claims.Member) *problem {
	if string(m.Value) != "true" {
		return badRequest(m.Name + ": expected true")
	}
	return nil
}

// instant reads a time since 1970: an earlier one is a slip, and the zero time
// means something else here.
func instant(m claims.Member) (time.Time, *problem) {
	text, _ := claims.String(m.Value)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Unix() < 0 {
		return time.Time{}, badRequest(m.Name + ": expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970")
	}
	return at, nil
}

// page is the answer of GET /revocations.
type page struct {
	Revocations []revocation `json:"revocations"`
	// Next is where the following page begins; empty on the last one.
	Next string `json:"next,omitempty"`
	// Total is how many live revocations there are in this process, of all
	// issuers and kinds.
	Total int `json:"total"`
	// Complete, Current and Lag say how far the list can be relied on.
	Complete bool    `json:"complete"`
	Current  bool    `json:"current"`
	Lag      float64 `json:"lag_seconds"`
}

// list answers GET /revocations.
func (o *AdminOptions) list(w http.ResponseWriter, r *http.Request, who *callers.Caller) outcome {
	l, bad := readListing(r.URL.RawQuery)
	if bad != nil {
		return refuse(w, bad)
	}
	if l.issuer != "" {
		if bad := o.reaches(who, l.issuer); bad != nil {
			return refuse(w, bad)
		}
	}
	found := o.Revocations.Page(l.after, l.limit+1, func(r revoke.Revocation) bool {
		name := o.Names[r.Issuer]
		return who.ToldOf(name) && (l.issuer == "" || l.issuer == name) && (l.kind == "" || l.kind == r.Kind.String())
	})
	state := o.Revocations.State()
	answer := page{Total: state.Entries, Complete: state.Complete, Current: state.Current, Lag: state.Lag.Seconds()}
	if len(found) > l.limit {
		found = found[:l.limit]
		last := found[l.limit-1].Name
		answer.Next = hex.EncodeToString(last[:])
	}
	answer.Revocations = o.rows(found)
	writeJSON(w, http.StatusOK, answer)
	return outcome{status: http.StatusOK, issuer: l.issuer}
}

// listing is what GET /revocations was asked for.
type listing struct {
	limit        int
	after        revoke.Name
	issuer, kind string
}

const usualPage, largestPage = 1000, 10_000

func readListing(query string) (l listing, bad *problem) {
	l.limit = usualPage
	seen := map[string]bool{}
	err := eachInQuery(query, func(name, value string) error {
		if seen[name] {
			return errTwice
		}
		seen[name] = true
		var ok bool
		switch name {
		case "limit":
			var err error
			l.limit, err = strconv.Atoi(value)
			if ok = err == nil && l.limit >= 1 && l.limit <= largestPage; !ok {
				return errors.New("limit: expected 1 to 10000")
			}
		case "after":
			if l.after, ok = readName(value); !ok {
				return errors.New("after: expected the id of a revocation, 32 hex digits")
			}
		case "issuer":
			if l.issuer = value; value == "" {
				return errors.New("issuer: expected the name of an issuer")
			}
		case "kind":
			if l.kind = value; !slices.Contains(kinds, value) {
				return errors.New("kind: expected one of token, jti, sub, sid, client_id, kid, issuer and dropped_key")
			}
		default:
			return errors.New("expected no parameter but limit, after, issuer and kind")
		}
		return nil
	})
	if err != nil {
		return l, badRequest(err.Error())
	}
	return l, nil
}

var kinds = []string{
	revoke.Token.String(), revoke.JTI.String(), revoke.Subject.String(), revoke.Session.String(), revoke.Client.String(),
	revoke.KeyID.String(), revoke.Issuer.String(), revoke.DroppedKey.String(),
}

// readName reads the id of a revocation.
func readName(id string) (name revoke.Name, ok bool) {
	b, err := hex.DecodeString(id)
	if err != nil || len(b) != len(name) {
		return name, false
	}
	return revoke.Name(b), true
}

// takeBack answers DELETE /revocations/{id}. A revocation of an issuer that is
// not the caller's is as unknown to it as one that is not there.
func (o *AdminOptions) takeBack(id string) act {
	return func(w http.ResponseWriter, r *http.Request, who *callers.Caller) outcome {
		if bad := noneOrJSON(r); bad != nil {
			return refuse(w, bad)
		}
		name, ok := readName(id)
		if !ok {
			return refuse(w, badRequest("expected the id of a revocation, 32 hex digits"))
		}
		unknown := &problem{status: http.StatusNotFound, code: "not_found", description: "there is no such revocation"}
		target, there := o.Revocations.Find(name)
		issuer := o.Names[target.Issuer]
		if !there || !who.ToldOf(issuer) {
			return refuse(w, unknown)
		}
		out := outcome{issuer: issuer, kind: target.Kind}.about(target)
		switch err := o.Revocations.Delete(r.Context(), name, who.ID); {
		case errors.Is(err, revoke.ErrNotFound):
			return out.refused(w, unknown)
		case err != nil:
			return out.notKept(w, err)
		}
		w.Header()["Cache-Control"] = noStore
		w.WriteHeader(http.StatusNoContent)
		out.status = http.StatusNoContent
		return out
	}
}
