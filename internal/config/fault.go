package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fault is one thing that is wrong.
type Fault struct {
	// Source is file:line:column, a file alone where there is no line, the
	// name of an environment variable, or "command line".
	Source string
	// Key is the path of the setting, such as issuers[0].keys.refresh. Entries
	// of a list are counted over the file and what it includes.
	Key string
	// Problem says what was expected.
	Problem string
}

// String is the fault on one line.
func (f Fault) String() string {
	parts := slices.DeleteFunc([]string{f.Source, f.Key, f.Problem}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// Faults is every fault of a configuration, in the order of its files.
type Faults []Fault

// Error is one line per fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// place is where a key was written. The zero place is nowhere.
type place struct {
	source       string
	order        int // of the source among all
	line, column int // from 1; 0 where the source has no lines
}

func (p place) String() string {
	if p.line == 0 {
		return p.source
	}
	return fmt.Sprintf("%s:%d:%d", p.source, p.line, p.column)
}

type located struct {
	Fault
	at place
}

// fault notes a problem at the place of key, or of the nearest key above it
// that was written.
func (l *loader) fault(key, problem string) {
	l.faultAt(l.place(key), key, problem)
}

func (l *loader) faultAt(at place, key, problem string) {
	l.faults = append(l.faults, located{Fault{at.String(), key, problem}, at})
}

// sorted puts the faults in reading order.
func (l *loader) sorted() Faults {
	slices.SortStableFunc(l.faults, func(a, b located) int {
		return cmp.Or(cmp.Compare(a.at.order, b.at.order), cmp.Compare(a.at.line, b.at.line),
			cmp.Compare(a.at.column, b.at.column), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key, b.Key))
	})
	faults := make(Faults, len(l.faults))
	for i, f := range l.faults {
		faults[i] = f.Fault
	}
	return faults
}

// place finds where key was written, or else what encloses it.
func (l *loader) place(key string) place {
	for {
		if at, ok := l.places[key]; ok {
			return at
		}
		if key == "" {
			return place{}
		}
		key = parent(key)
	}
}

// maxPath bounds the path of a key: a file of ten thousand brackets would
// otherwise cost the square of its depth.
const maxPath = 256

// join and entry build the path of a key; parent takes its last part away.
func join(path, key string) string {
	switch {
	case path == "":
		return key
	case len(path) > maxPath:
		return path
	}
	return path + "." + key
}

func entry(path string, i int) string {
	if len(path) > maxPath {
		return path
	}
	return path + "[" + strconv.Itoa(i) + "]"
}

func parent(key string) string { return key[:max(0, strings.LastIndexAny(key, ".["))] }

// within says whether key is above or stands beneath it.
func within(key, above string) bool {
	rest, ok := strings.CutPrefix(key, above)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
