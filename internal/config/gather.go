package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/json"
	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	yamlv3 "go.yaml.in/yaml/v3"
)

// delimiter stands between levels within koanf. A dot would make the header
// name "a.b" and the key b within a the same.
const delimiter = "\x1f"

// envPrefix begins the names of all our environment variables.
const envPrefix = "INTROSPECTD_"

// loader carries one load from its sources to its faults.
type loader struct {
	places map[string]place // of what was written, by key
	files  []string         // that were read, the first of them first
	globs  []string         // of include, relative to nothing but the working directory
	faults []located
	// undecoded are the keys whose values are not known, because they are not
	// of the setting's type.
	undecoded []string
	// unreadable is set when a file's text could not be understood, so that
	// its values are not known.
	unreadable bool
}

func newLoader() *loader { return &loader{places: map[string]place{}} }

// gather lays file, environment and flags over each other and adds what the
// included files hold.
func (l *loader) gather(file string, o Options) map[string]any {
	k := koanf.New(delimiter)
	if file != "" {
		tree, places := l.read(file)
		l.lay(k, tree)
		l.places = places
	}
	l.environment(k, o.Env)
	for _, key := range slices.Sorted(maps.Keys(o.Flags)) {
		l.set(k, key, o.Flags[key], place{source: "command line", order: commandLine})
	}
	tree := plain(k.Raw()).(map[string]any)
	l.include(tree, file)
	return tree
}

// The places of variables and flags come after those of all files.
const (
	environment = 1 << 20
	commandLine = environment + 1
)

// lay merges tree into k: maps by key, everything else by replacing.
func (l *loader) lay(k *koanf.Koanf, tree map[string]any) {
	if err := k.Load(confmap.Provider(tree, ""), nil); err != nil {
		l.faultAt(place{}, "", err.Error())
	}
}

// read parses one file and notes where its keys stand.
func (l *loader) read(file string) (map[string]any, map[string]place) {
	t := text{file: place{source: file, order: len(l.files)}, places: map[string]place{}, loader: l}
	l.files = append(l.files, file)
	extension := strings.ToLower(filepath.Ext(file))
	// Before reading: an included name can be that of a device without an end.
	if !slices.Contains([]string{".yaml", ".yml", ".toml", ".json"}, extension) {
		return nil, t.unreadable(0, 0, "expected the extension .yaml, .yml, .toml or .json")
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, t.unreadable(0, 0, reason(err))
	}
	t.body = body
	t.mark("", 0)
	k := koanf.New(delimiter)
	switch extension {
	case ".toml":
		if t.parse(k, toml.Parser()) {
			t.toml()
		}
	case ".json":
		if t.parse(k, json.Parser()) {
			t.json()
		}
	default:
		if t.yaml() {
			t.parse(k, yaml.Parser())
		}
	}
	return k.Raw(), t.places
}

// parse reads the text's values; false if it can't be read.
func (t *text) parse(k *koanf.Koanf, parser koanf.Parser) bool {
	err := k.Load(rawbytes.Provider(t.body), parser)
	if err != nil {
		t.unreadable(t.syntax(err))
	}
	return err == nil
}

// reason is err without the path, which the fault's source already says.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// environment sets what INTROSPECTD_A__B variables say. Kubernetes puts
// INTROSPECTD_PORT and the like into every pod beside a service of our name;
// they have no two underscores in a row.
func (l *loader) environment(k *koanf.Koanf, env []string) {
	for _, variable := range slices.Sorted(slices.Values(env)) {
		name, value, _ := strings.Cut(variable, "=")
		levels, ok := strings.CutPrefix(name, envPrefix)
		if !ok || !strings.Contains(levels, "__") {
			continue
		}
		key := strings.ReplaceAll(strings.ToLower(levels), "__", ".")
		l.set(k, key, value, place{source: name, order: environment})
	}
}

// set gives one key the value that is written in value: as it stands where a
// text is expected, else as YAML.
func (l *loader) set(k *koanf.Koanf, key, value string, at place) {
	t := reflect.TypeFor[Config]()
	for i, part := range strings.Split(key, ".") {
		if !isSection(t) {
			l.faultAt(at, key, "entries of a list can't be set one by one from here; write them in the file")
			return
		}
		n := slices.IndexFunc(fields(t), func(f field) bool { return f.key == part })
		if n < 0 {
			path := strings.Join(strings.Split(key, ".")[:i+1], ".")
			l.faultAt(at, key, unknown(path, fields(t)))
			return
		}
		t = fields(t)[n].typ
	}
	var parsed any = value
	if !isText(t) {
		if err := yamlv3.Unmarshal([]byte(value), &parsed); err != nil || parsed == nil {
			l.faultAt(at, key, "expected "+wanted(t)+" in YAML's notation")
			return
		}
	}
	l.overwrite(key, parsed, at)
	path := strings.Split(key, ".")
	for _, part := range slices.Backward(path) {
		parsed = map[string]any{part: parsed}
	}
	l.lay(k, parsed.(map[string]any))
}

// overwrite notes that value, laid over the file, was written at this place.
func (l *loader) overwrite(key string, value any, at place) {
	if section, ok := value.(map[string]any); ok {
		for name, inner := range section {
			l.overwrite(join(key, name), inner, at)
		}
		return
	}
	maps.DeleteFunc(l.places, func(k string, _ place) bool { return within(k, key) })
	l.places[key] = at
}

// include adds the entries of every file that the key include names.
func (l *loader) include(tree map[string]any, file string) {
	globs, _ := tree["include"].([]any)
	seen := map[string]bool{filepath.Clean(file): true}
	for i, glob := range globs {
		pattern, ok := glob.(string)
		if !ok {
			continue // decoding says so
		}
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(file), pattern)
		}
		l.globs = append(l.globs, pattern)
		matches, err := filepath.Glob(pattern)
		if err != nil {
			l.fault(entry("include", i), fmt.Sprintf("expected a glob such as conf.d/*.yaml, got %q", glob))
		}
		// A name, unlike a pattern, that nothing answers to is a slip.
		if len(matches) == 0 && !strings.ContainsAny(pattern, `*?[\`) {
			matches = []string{pattern}
		}
		for _, match := range matches {
			if !seen[match] {
				seen[match] = true
				l.add(tree, match)
			}
		}
	}
}

// add appends the entries of one included file.
func (l *loader) add(tree map[string]any, file string) {
	part, places := l.read(file)
	for _, list := range slices.Sorted(maps.Keys(part)) {
		at := places[list]
		if list != "callers" && list != "policies" && list != "profiles" && list != "issuers" {
			l.faultAt(at, list, "an included file adds to callers, policies, profiles and issuers only")
			continue
		}
		if part[list] == nil {
			continue
		}
		entries, ok := plain(part[list]).([]any)
		if !ok {
			l.faultAt(at, list, "expected a list, got "+kind(part[list]))
			continue
		}
		before, ok := tree[list].([]any)
		if !ok && tree[list] != nil {
			continue // decoding says that it is no list
		}
		tree[list] = append(before, entries...)
		l.renumber(places, list, len(before))
	}
}

// renumber takes over the places of a list whose entries come after others.
func (l *loader) renumber(places map[string]place, list string, before int) {
	if _, ok := l.places[list]; !ok {
		l.places[list] = places[list]
	}
	for key, at := range places {
		rest, ok := strings.CutPrefix(key, list+"[")
		if !ok {
			continue
		}
		number, tail, _ := strings.Cut(rest, "]")
		if i, err := strconv.Atoi(number); err == nil {
			l.places[entry(list, before+i)+tail] = at
		}
	}
}

// plain gives maps and lists the types that every parser could have made.
func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			v[key] = plain(inner)
		}
	case map[any]any:
		m := make(map[string]any, len(v))
		for key, inner := range v {
			m[fmt.Sprint(key)] = plain(inner)
		}
		return m
	case []any:
		for i, inner := range v {
			v[i] = plain(inner)
		}
	case []map[string]any:
		list := make([]any, len(v))
		for i, inner := range v {
			list[i] = plain(inner)
		}
		return list
	}
	return value
}
