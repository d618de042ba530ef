package transform

import (
	"errors"
	"math/bits"
	"regexp"
	"strings"

	"cel.dev/cel-go/common/functions"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// zoneCost is for the file of a time zone, which each call that names one reads,
// or looks for in vain: 7 µs and 23 µs on 2026-11-26, on two shared cores of a
// virtual x86-64.
const zoneCost = 800

// bounds are the functions whose work is not about the size of their operands,
// and how much it is, in the cost units that CEL would charge for it
// afterwards. program is the size of a regular expression.
func bounds(function string) func(args []ref.Val, program int) int {
	switch function {
	case "distinct", "hasOnly", "hasAny", "hasAll", "hasExactly":
		return func(args []ref.Val, _ int) int {
			return product(length(args[0]), weight(args[len(args)-1])) / 2
		}
	case operators.In:
		return func(args []ref.Val, _ int) int {
			if _, keys := args[1].(traits.Mapper); keys {
				return 1
			}
			if _, aggregate := args[0].(traits.Iterable); aggregate {
				return weight(args...)
			}
			return product(length(args[1]), 1+texts(args[0])/10)
		}
	case operators.Equals, operators.NotEquals, "flatten":
		return func(args []ref.Val, _ int) int { return weight(args...) }
	case "format":
		return func(args []ref.Val, _ int) int { return product(4, weight(args...)) }
	case "join":
		return func(args []ref.Val, _ int) int {
			separator := 0
			if len(args) > 1 {
				separator = length(args[1])
			}
			return weight(args[0]) + product(length(args[0]), separator)
		}
	case "replace":
		return func(args []ref.Val, _ int) int {
			return length(args[0]) + product(length(args[0])/max(1, length(args[1]))+1, length(args[2]))
		}
	case operators.Add:
		// Lists are joined by reference. What they cost is how long they get.
		return func(args []ref.Val, _ int) int {
			if _, list := args[0].(traits.Lister); list {
				return length(args[0]) + length(args[1])
			}
			return texts(args[0]) + texts(args[1])
		}
	case "reverse", "slice":
		return func(args []ref.Val, _ int) int { return length(args[0]) }
	case "sort", "@sortByAssociatedKeys":
		return func(args []ref.Val, _ int) int { return product(length(args[0]), bits.Len(uint(length(args[0])))) }
	case "indexOf", "lastIndexOf":
		return func(args []ref.Val, _ int) int {
			return product(length(args[0]), length(args[1]))/10 + texts(args[0]) + texts(args[1])
		}
	case "getFullYear", "getMonth", "getDayOfYear", "getDate", "getDayOfMonth", "getDayOfWeek", "getHours", "getMinutes", "getSeconds", "getMilliseconds":
		return func(args []ref.Val, _ int) int {
			if len(args) > 1 {
				if zone, _ := args[1].(types.String); zone != "" && zone != "UTC" && !strings.Contains(string(zone), ":") {
					return zoneCost
				}
			}
			return 1
		}
	case "matches", "regex.extract":
		return func(args []ref.Val, program int) int { return product(length(args[0]), program) / 10 }
	case "regex.extractAll", "regex.replace":
		// Each match may have looked at all that is left: .*x over a text without x.
		return func(args []ref.Val, program int) int {
			n := length(args[0])
			work := max(product(n, n)/100, product(n, program)/10)
			if len(args) > 2 {
				work += product(n+1, length(args[2])+1)
			}
			return work
		}
	}
	return nil
}

// bound puts the bound of a function before its calls, and gives maps that a
// rule makes an order.
func (l *language) bound(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if c, ok := i.(interpreter.InterpretableConstructor); ok && c.Type() == types.MapType {
		return &sorted{c}, nil
	}
	call, ok := i.(interpreter.InterpretableCall)
	if !ok {
		return i, nil
	}
	b := &bounded{call: call, args: call.Args(), work: bounds(call.Function())}
	if b.work == nil {
		return i, nil
	}
	if searches(call.Function()) {
		return b.search(l)
	}
	if call.Function() == operators.In && ofScalars(b.args[1]) {
		return i, nil // as long as the rule is, and CEL makes a set of it
	}
	b.compares = compares(call.Function())
	if b.run = l.binding(call); b.run == nil {
		return i, nil // evaluates to "no such overload"
	}
	if f := call.Function(); f == "indexOf" || f == "lastIndexOf" {
		b.call = unpriced{call} // theirs is nothing where one text is empty, which copies the other all the same
	}
	return b, nil
}

// compares says whether a function holds the values in its arguments against
// each other.
func compares(function string) bool {
	switch function {
	case operators.Equals, operators.NotEquals, operators.In, "distinct", "hasOnly", "hasAny", "hasAll", "hasExactly":
		return true
	}
	return false
}

// ofScalars says whether i is a list or map that stands in the rule and has no
// other within: none that could be equal to what holds an error.
func ofScalars(i interpreter.InterpretableV2) bool {
	constant, ok := i.(interpreter.InterpretableConst)
	if !ok {
		return false
	}
	if list, ok := constant.Value().(traits.Lister); ok {
		for it := list.Iterator(); it.HasNext() == types.True; {
			if !types.IsPrimitiveType(it.Next()) {
				return false
			}
		}
	}
	return true
}

// search is for calls that take a regular expression, which is written in the
// rule.
func (b *bounded) search(l *language) (interpreter.InterpretableV2, error) {
	constant, _ := b.args[1].(interpreter.InterpretableConst)
	if constant == nil {
		return nil, errors.New("a regular expression has to be written in the rule")
	}
	text, _ := constant.Value().(types.String)
	pattern, err := regexp.Compile(string(text))
	if err != nil {
		return nil, err
	}
	if b.program, err = types.RegexProgramSize(string(text)); err != nil {
		return nil, err
	}
	b.run = l.binding(b.call)
	b.compiles = b.call.Function() != "matches"
	if !b.compiles {
		b.run = func(args ...ref.Val) ref.Val {
			if s, ok := args[0].(types.String); ok {
				return types.Bool(pattern.MatchString(string(s)))
			}
			return types.MaybeNoSuchOverloadErr(args[0])
		}
	}
	return b, nil
}

// binding is what carries call out; nil where nothing does.
func (l *language) binding(call interpreter.InterpretableCall) functions.FunctionOp {
	switch call.Function() {
	case operators.Equals:
		return func(args ...ref.Val) ref.Val { return types.Equal(args[0], args[1]) }
	case operators.NotEquals:
		return func(args ...ref.Val) ref.Val { return types.Bool(types.Equal(args[0], args[1]) != types.True) }
	}
	all, err := l.env.Functions()[call.Function()].Bindings()
	if err != nil {
		return nil
	}
	for _, wanted := range []string{call.OverloadID(), call.Function()} {
		for _, o := range all {
			if o.Operator == wanted {
				return operation(o, call.Function())
			}
		}
	}
	return nil
}

// operation is an overload for any number of arguments.
func operation(o *functions.Overload, function string) functions.FunctionOp {
	return func(args ...ref.Val) ref.Val {
		switch {
		case o.OperandTrait != 0 && !args[0].Type().HasTrait(o.OperandTrait):
		case len(args) == 1 && o.Unary != nil:
			return o.Unary(args[0])
		case len(args) == 2 && o.Binary != nil:
			return o.Binary(args[0], args[1])
		case o.Function != nil:
			return o.Function(args...)
		}
		return types.NewErr("no such overload: %s", function)
	}
}

// bounded is a call with a bound before it. It hides that it is one, so that
// nothing takes it for what it replaces.
type bounded struct {
	call    interpreter.InterpretableCall
	args    []interpreter.InterpretableV2
	work    func(args []ref.Val, program int) int
	run     functions.FunctionOp
	program int // the size of a regular expression's, in instructions
	// compiles says that each call compiles it anew.
	compiles bool
	// compares says that it fails where an argument has an error within.
	compares bool
}

// unpriced is a call that has no price of CEL's.
type unpriced struct{ interpreter.InterpretableCall }

// OverloadID is that of no overload.
func (unpriced) OverloadID() string { return "" }

// surcharge is what a call costs beside its price, in units.
type surcharge struct{}

const surcharged = "@surcharge"

// Function is what charges know it by.
func (surcharge) Function() string { return surcharged }

// OverloadID is that of no overload.
func (surcharge) OverloadID() string { return "" }

// ID is that of the call.
func (b *bounded) ID() int64 { return b.call.ID() }

// Exec evaluates the arguments, and calls if it may. Beyond the bound the whole
// evaluation ends, as at CEL's own limit: an error value could be made good by
// an || around it.
func (b *bounded) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(b.args))
	for i, a := range b.args {
		if args[i] = a.Exec(frame); types.IsUnknownOrError(args[i]) {
			return args[i]
		}
	}
	if b.work(args, b.program) > evaluationCost {
		tooDear()
	}
	result, seen := b.refused(args)
	if result == nil {
		result = b.run(args...)
	}
	extra := seen / 4
	if b.compiles {
		extra += 4 * b.program // some 150 ns an instruction
	}
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalVarArgs(frame, b.ID(), b.call, args, result)
		if extra > 0 {
			costs.EvalUnary(frame, b.ID(), surcharge{}, types.Int(extra), result)
		}
	}
	return result
}

func tooDear() {
	panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: errCost.Error()})
}

// refused is the error of a comparison that can't be relied on, nil for none,
// and how many values were looked at.
func (b *bounded) refused(args []ref.Val) (found ref.Val, seen int) {
	if !b.compares {
		return nil, 0
	}
	for n, a := range args {
		if _, keys := a.(traits.Mapper); keys && n == 1 && b.call.Function() == operators.In {
			break // its values are not compared
		}
		inner, more := unheld(a, evaluationCost-seen)
		if seen += more; inner != nil {
			return inner, seen
		}
		if seen > evaluationCost {
			tooDear()
		}
	}
	return nil, seen
}

// Eval is Exec for those who have no frame.
func (b *bounded) Eval(in interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(in, b.Exec)
}

// sorted makes a map whose keys have an order.
type sorted struct {
	interpreter.InterpretableConstructor
}

// Exec makes the map.
func (s *sorted) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return ordered(s.InterpretableConstructor.Exec(frame))
}

// Eval is Exec for those who have no frame.
func (s *sorted) Eval(in interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(in, s.Exec)
}

// charges is what calls cost for which CEL has no price: those of a function
// that has several forms, because the form is not known before the token is.
// Claims have no types, so that is nearly every call.
type charges struct{}

// CallCost is the work of a call, or else a tenth of the bytes of the texts that
// it reads and makes.
func (charges) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	cost := 1
	if _, list := result.(traits.Lister); list && function == operators.Add {
		return nil // 1
	}
	if function == surcharged {
		n, _ := args[0].(types.Int)
		cost = int(n)
	} else if work := bounds(function); work != nil {
		program := 0
		if searches(function) {
			program = length(args[1])
		}
		cost += work(args, program)
	} else {
		cost += texts(result)
		for _, a := range args {
			cost += texts(a)
		}
	}
	total := uint64(cost)
	return &total
}

func texts(v ref.Val) int {
	switch v.(type) {
	case types.String, types.Bytes:
		return length(v) / 10
	}
	return 0
}

// most is beyond every bound, and its square is a number still.
const most = 1 << 30

func product(a, b int) int { return min(most, min(most, a)*min(most, b)) }

// length is that of a text in bytes, or of a list or map in entries.
func length(v ref.Val) int {
	switch t := v.(type) {
	case types.String:
		return len(t)
	case types.Bytes:
		return len(t)
	case traits.Sizer:
		n, _ := t.Size().(types.Int)
		return int(n)
	}
	return 1
}

// weight is how many values there are in vs, and a tenth of the bytes of their
// texts, as CEL counts them. It stops counting beyond evaluationCost: lists that
// hold one another many times weigh more than anybody could count.
func weight(vs ...ref.Val) int {
	n := 0
	for _, v := range vs {
		if n > evaluationCost {
			break
		}
		n += 1 + weightOf(v, evaluationCost-n)
	}
	return n
}

func weightOf(v ref.Val, most int) int {
	switch t := v.(type) {
	case traits.Mapper:
		n := 0
		for it := t.Iterator(); it.HasNext() == types.True && n <= most; {
			key := it.Next()
			value, _ := t.Find(key)
			n += 2 + weightOf(key, most-n) + weightOf(value, most-n)
		}
		return n
	case traits.Lister:
		n := 0
		for it := t.Iterator(); it.HasNext() == types.True && n <= most; {
			n += 1 + weightOf(it.Next(), most-n)
		}
		return n
	case types.String, types.Bytes:
		return length(v) / 10
	}
	return 0
}
