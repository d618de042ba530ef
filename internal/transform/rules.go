package transform

import (
	"errors"
	"fmt"
	"slices"

	"cel.dev/cel-go/common/types"
	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

// tokenCost is what all rules may cost for one token, in CEL's units, of which
// one takes some 30 ns; a rule that exceeds it is the last. A rule over a few
// hundred groups takes a few thousand.
const tokenCost = 3 * evaluationCost

// rule is one Rule, compiled.
type rule struct {
	name       string // rules[2], or that of the preset
	set, drop  string // of which at most one is not empty; neither means require
	message    string
	expression *expression // nil for drop, and for one that can't be compiled
}

// checkRules reports every fault of the rules, expressions included.
func (c Config) checkRules(fault func(key, problem string)) {
	if len(c.Rules)+len(c.PresetRules) == 0 {
		return
	}
	l, err := newLanguage()
	if err != nil {
		fault("rules", err.Error())
		return
	}
	for n, r := range c.Rules {
		key := fmt.Sprintf("rules[%d]", n)
		c.checkRule(r, l, func(inner, problem string) { fault(key+inner, problem) })
	}
	c.AllowReserved = freeable // a preset frees what it sets
	for n, r := range c.PresetRules {
		c.checkRule(r, l, func(inner, problem string) { fault("preset", fmt.Sprintf("rule %d%s: %s", n, inner, problem)) })
	}
}

func (c Config) checkRule(r Rule, l *language, fault func(key, problem string)) {
	kinds := 0
	for _, word := range []string{r.Set, r.Drop, r.Require} {
		if word != "" {
			kinds++
		}
	}
	if kinds != 1 {
		fault("", fmt.Sprintf("expected exactly one of set, drop and require, there are %d", kinds))
	}
	c.checkWritten(r, fault)
	switch {
	case r.Set == "" && r.Value != "":
		fault(".value", "stands beside set")
	case r.Set != "" && r.Value == "":
		fault(".value", "expected a CEL expression over claims")
	}
	switch {
	case r.Require == "" && r.Message != "":
		fault(".message", "stands beside require")
	case r.Require != "" && r.Message == "":
		fault(".message", "expected what the log shows when the rule does not hold")
	}
	for _, e := range []struct {
		key, text string
		results   func(*types.Type) string
	}{
		{".value", r.Value, func(t *types.Type) string { return settable(r.Set, t) }},
		{".require", r.Require, decides},
	} {
		if e.text == "" {
			continue
		}
		_, problems := l.compile(e.text, e.results)
		for _, problem := range problems {
			fault(e.key, problem)
		}
	}
}

// checkWritten reports protected names that r writes or drops.
func (c Config) checkWritten(r Rule, fault func(key, problem string)) {
	if r.Set != "" {
		c.checkTarget(r.Set, func(problem string) { fault(".set", problem) })
	}
	if slices.Contains(protected, r.Drop) {
		fault(".drop", r.Drop+" is reserved, and never dropped")
	}
}

// compile compiles checked rules, the preset's first.
func compile(c Config) []rule {
	if len(c.Rules)+len(c.PresetRules) == 0 {
		return nil
	}
	l, err := newLanguage()
	add := func(to []rule, prefix string, from []Rule) []rule {
		for n, r := range from {
			compiled := rule{name: fmt.Sprintf("%srules[%d]", prefix, n), set: r.Set, drop: r.Drop, message: r.Message}
			switch {
			case err != nil:
			case r.Set != "":
				compiled.expression, _ = l.compile(r.Value, func(t *types.Type) string { return settable(r.Set, t) })
			case r.Drop == "":
				compiled.expression, _ = l.compile(r.Require, decides)
			}
			to = append(to, compiled)
		}
		return to
	}
	return add(add(nil, fmt.Sprintf("preset %s ", c.Preset), c.PresetRules), "", c.Rules)
}

// follow applies the rules in order, and tells what each did.
func (r *Rules) follow(set claims.Set, told func(line string)) (claims.Set, *Problem) {
	v, spent := newVariable(set), uint64(0)
	for i := range r.rules {
		one := &r.rules[i]
		did, cost, failed := one.apply(v)
		if spent += cost; failed == nil && spent > tokenCost {
			failed = &Problem{Note: "the rules cost too much for one token"}
		}
		if failed == nil {
			told(one.name + ": " + did)
			continue
		}
		if failed.Detail == "" {
			failed.Detail = failed.Note
		}
		failed.ByRule, failed.Note, failed.Detail = true, one.name+": "+failed.Note, one.name+": "+failed.Detail
		told(failed.Detail)
		return nil, failed
	}
	return v.set, nil
}

// apply applies one rule to v. The cost is in CEL's units; did is for
// explanations, and may show claims.
func (r *rule) apply(v *variable) (did string, cost uint64, failed *Problem) {
	if r.drop != "" {
		if !v.drop(r.drop) {
			return r.drop + " is absent, nothing to drop", 0, nil
		}
		return "dropped " + r.drop, 0, nil
	}
	if r.expression == nil {
		return "", 0, &Problem{Note: "it can't be compiled"}
	}
	result, cost, err := r.expression.evaluate(v)
	if err != nil {
		return "", cost, failure(err)
	}
	if r.set == "" {
		return r.decide(result, cost)
	}
	if o, ok := result.(*types.Optional); ok {
		if !o.HasValue() {
			return "no value for " + r.set + ", left as it was", cost, nil
		}
		result = o.GetValue()
	}
	text, err := appendJSON(nil, result, 1)
	if err != nil {
		return "", cost, failure(err)
	}
	if slices.Contains(freeable, r.set) && !wellTyped(r.set, text) {
		return "", cost, &Problem{Note: "its " + r.set + " is not of its type"}
	}
	v.put(r.set, text)
	return "set " + r.set + " to " + shortened(text), cost, nil
}

// decide is the end of a require rule.
func (r *rule) decide(result any, cost uint64) (string, uint64, *Problem) {
	switch result {
	case types.True:
		return "require held", cost, nil
	case types.False:
		return "", cost, &Problem{Note: r.message, Detail: "require failed: " + r.message}
	}
	return "", cost, &Problem{Note: "require is neither true nor false"}
}

// failure is what is said of an expression that could not be evaluated. CEL's
// own words may repeat claims, which the log must not hold.
func failure(err error) *Problem {
	note := "the expression failed"
	if errors.Is(err, errCost) {
		note = "the expression costs too much"
	}
	return &Problem{Note: note, Detail: "failed: " + err.Error()}
}

// shown is how many bytes of a value an explanation's line holds.
const shown = 80

func shortened(v jsontext.Value) string {
	if len(v) <= shown {
		return string(v)
	}
	cut := shown
	for cut > 0 && v[cut]&0xC0 == 0x80 { // not within a character
		cut--
	}
	return string(v[:cut]) + "…"
}
