package introspect

import (
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
	"introspectd/internal/transform"
)

// Mapping is what a profile makes of claims, after the rules of their issuer.
type Mapping struct {
	// Map moves claims to other names; unmapped ones stay.
	Map []transform.Rename `koanf:"map"`
	// Rules are applied in order to what Map made.
	Rules []transform.Rule `koanf:"rules"`
}

// config is the mapping in the form of an issuer's: nothing reserved is freed.
func (m Mapping) config() transform.Config { return transform.Config{Map: m.Map, Rules: m.Rules} }

// Check reports every fault of m.
func (m Mapping) Check(fault func(key, problem string)) { m.config().Check(fault) }

// Profile is another way to show an answer: a mapping of its own, the claims of
// it that are allowed, and the shape that they take. It is immutable and safe for
// concurrent use.
type Profile struct {
	rules *transform.Rules
	view  View
	shape *shape
}

// NewProfile compiles a checked configuration.
func NewProfile(m Mapping, v View, s Shape) *Profile {
	return &Profile{rules: transform.New(m.config()), view: v, shape: shapes[s]}
}

// maxShown bounds what a profile shows, in bytes (contract TRN-09).
const maxShown = 16 << 10

// Claims returns what p shows of an active answer. A problem that is not empty
// says why nothing can be shown: a rule failed, or the shape lacks what it
// requires. A partial identity is never made.
func (p *Profile) Claims(a Answer) (shown claims.Set, problem string) {
	own := a.claims()
	mapped, failed := p.rules.Claims(own)
	if failed != nil {
		return nil, failed.Note
	}
	if shown, problem = p.shape.apply(p.view.only(mapped), own); problem != "" {
		return nil, problem
	}
	size := 0
	for _, m := range shown {
		size += len(m.Name) + len(m.Value)
	}
	if size > maxShown {
		return nil, fmt.Sprintf("the claims are larger than %d bytes", maxShown)
	}
	return shown, ""
}

// claims are the members of the body that are claims. Their values lie in it, and
// must not be changed.
func (a Answer) claims() (set claims.Set) {
	for spelled, value := range a.Members() {
		if string(spelled) == "active" {
			continue
		}
		name, _ := claims.String(jsontext.Value(`"` + string(spelled) + `"`)) // as we wrote it
		set = append(set, claims.Member{Name: name, Value: slices.Clip(value)})
	}
	return set
}

// only are the members of set that v shows.
func (v View) only(set claims.Set) claims.Set {
	if v.all {
		return set
	}
	kept := make(claims.Set, 0, len(set))
	for _, m := range set {
		if v.names[string(NameOf(m.Name))] {
			kept = append(kept, m)
		}
	}
	return kept
}

// AppendClaims appends set as one JSON object.
func AppendClaims(dst []byte, set claims.Set) []byte {
	dst = append(dst, '{')
	for n, m := range set {
		if n > 0 {
			dst = append(dst, ',')
		}
		dst, _ = jsontext.AppendQuote(dst, m.Name) // claims are valid UTF-8
		dst = append(append(dst, ':'), m.Value...)
	}
	return append(dst, '}')
}
