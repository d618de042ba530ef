package transform

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// variableName is what rules call the claims.
const variableName = "claims"

const (
	// evaluationCost is what one evaluation may cost, in CEL's units.
	evaluationCost = 100_000
	// maxRegex is the size of a regular expression's program in instructions. A
	// counted repetition multiplies it: [a-z]{1,255} is some 500.
	maxRegex = 1000
	// maxRange bounds lists.range, which has no operand that does.
	maxRange = 10_000
)

// errCost says that an evaluation was ended for what it costs.
var errCost = errors.New("it costs more than a rule may")

// language is CEL with one variable.
type language struct {
	env   *cel.Env
	names []string // that an expression may call or read
}

func newLanguage() (*language, error) {
	e, err := cel.NewEnv(
		cel.Variable(variableName, cel.MapType(cel.StringType, cel.DynType)),
		cel.OptionalTypes(),
		cel.DefaultUTCTimeZone(true), // the host's would make answers depend on it
		cel.RegexProgramSizeLimit(maxRegex),
		ext.Strings(),
		ext.Lists(ext.ListsMaxRangeSize(maxRange)),
		ext.Regex(),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	l := &language{env: e, names: []string{variableName}}
	for name := range e.Functions() {
		if !strings.ContainsAny(name, "@_!-") {
			l.names = append(l.names, name)
		}
	}
	for _, m := range e.Macros() {
		l.names = append(l.names, m.Function())
	}
	slices.Sort(l.names)
	l.names = slices.Compact(l.names)
	return l, nil
}

// expression is one compiled CEL expression, safe for concurrent use.
type expression struct {
	program cel.Program
}

// compile compiles text, or says all that is wrong with it, each with line and
// column within text. results says what is wrong with a type of result, empty
// when nothing is.
func (l *language) compile(text string, results func(*types.Type) string) (*expression, []string) {
	checked, issues := l.env.Compile(text)
	if issues.Err() != nil {
		return nil, l.faults(issues.Errors())
	}
	problems := l.patterns(checked.NativeRep())
	if problem := results(checked.OutputType()); problem != "" {
		problems = append(problems, problem)
	}
	if problems != nil {
		return nil, problems
	}
	program, err := l.env.Program(checked,
		cel.EvalOptions(cel.OptOptimize), cel.CostTracking(charges{}), cel.CostLimit(evaluationCost), cel.CustomDecoratorV2(l.bound))
	if err != nil {
		return nil, []string{err.Error()}
	}
	return &expression{program}, nil
}

// evaluate evaluates the expression for v. The error wraps errCost where it
// was ended.
func (x *expression) evaluate(v *variable) (ref.Val, uint64, error) {
	result, details, err := x.program.Eval(v)
	cost := uint64(0)
	if c := details.ActualCost(); c != nil {
		cost = *c
	}
	var ended interpreter.EvalCancelledError
	if errors.As(err, &ended) {
		return nil, max(cost, evaluationCost), errCost
	}
	return result, cost, err
}

// faults says what the checker found, in reading order.
func (l *language) faults(errs []*cel.Error) (problems []string) {
	errs = slices.Clone(errs)
	slices.SortStableFunc(errs, func(a, b *cel.Error) int {
		return cmp.Or(cmp.Compare(a.Location.Line(), b.Location.Line()), cmp.Compare(a.Location.Column(), b.Location.Column()))
	})
	for _, e := range errs {
		message, _, _ := strings.Cut(e.Message, " expecting ") // a list of everything there is
		name, undeclared := undeclaredName(message)
		if undeclared && len(errs) > 1 && slices.ContainsFunc(l.names, func(n string) bool { return strings.HasPrefix(n, name+".") }) {
			continue // regex of regex.extrct, which has a fault of its own
		}
		if near := l.nearest(name); undeclared && near != "" && near != name && !strings.Contains(message, "did you mean") {
			message += "; did you mean " + near + "?"
		}
		problems = append(problems, at(e.Location, message))
	}
	return problems
}

func at(place common.Location, message string) string {
	return fmt.Sprintf("line %d, column %d: %s", place.Line(), place.Column()+1, message)
}

func undeclaredName(message string) (string, bool) {
	rest, ok := strings.CutPrefix(message, "undeclared reference to '")
	name, _, _ := strings.Cut(rest, "'")
	return name, ok
}

// nearest is what was perhaps meant by name, or "". Functions of a namespace
// are found by their last part as well.
func (l *language) nearest(name string) string {
	best, least := "", 1+max(1, min(2, (len(name)+1)/3))
	for _, known := range l.names {
		_, last, _ := strings.Cut(known, ".")
		for _, word := range []string{known, last} {
			if d := env.EditDistance(name, word); d < least && d < len(word) {
				best, least = known, d
			}
		}
	}
	return best
}

// patterns reports regular expressions that are not texts in the rule, or are
// none.
func (l *language) patterns(checked *ast.AST) (problems []string) {
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || !searches(e.AsCall().FunctionName()) {
			return
		}
		args := e.AsCall().Args()
		pattern := args[0] // of text.matches(pattern)
		if !e.AsCall().IsMemberFunction() {
			pattern = args[1]
		}
		place := checked.SourceInfo().GetStartLocation(pattern.ID())
		if pattern.Kind() != ast.LiteralKind {
			problems = append(problems, at(place, "expected a regular expression written here: a token must not bring its own"))
			return
		}
		text, _ := pattern.AsLiteral().Value().(string)
		if _, err := types.RegexProgramSize(text); err != nil {
			problems = append(problems, at(place, err.Error()))
		}
	}))
	return problems
}

func searches(function string) bool {
	switch function {
	case "matches", "regex.extract", "regex.extractAll", "regex.replace":
		return true
	}
	return false
}

// decides says what is wrong with the result of a require.
func decides(t *types.Type) string {
	if t.Kind() == types.BoolKind || t.Kind() == types.DynKind {
		return ""
	}
	return "expected an expression that is true or false, got one that is " + cel.FormatCELType(t)
}

// settable says what is wrong with a result that the claim called name is set
// to. What is dyn is looked at in each token.
func settable(name string, t *types.Type) string {
	if t.Kind() == types.OpaqueKind && t.TypeName() == types.OptionalType.TypeName() {
		t = t.Parameters()[0]
	}
	kinds := []types.Kind{types.StringKind}
	switch name {
	case "sub", "jti":
	case "aud":
		if t.Kind() == types.ListKind && slices.Contains(append(kinds, types.DynKind, types.TypeParamKind), t.Parameters()[0].Kind()) {
			return ""
		}
	default:
		if jsonType(t) {
			return ""
		}
		return "expected a value that JSON has, got " + cel.FormatCELType(t)
	}
	if t.Kind() == types.DynKind || slices.Contains(kinds, t.Kind()) {
		return ""
	}
	return fmt.Sprintf("%s can't be %s", name, cel.FormatCELType(t))
}

func jsonType(t *types.Type) bool {
	switch t.Kind() {
	case types.NullTypeKind, types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind, types.DynKind, types.TypeParamKind:
		return true
	case types.ListKind:
		return jsonType(t.Parameters()[0])
	case types.MapKind:
		key := t.Parameters()[0].Kind()
		return (key == types.StringKind || key == types.DynKind || key == types.TypeParamKind) && jsonType(t.Parameters()[1])
	}
	return false
}
