package internal_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed are the arrows of the map in README.md: who may import whom. Tests
// may import anything.
var allowed = map[string][]string{
	"cmd/introspectd": {
		"api", "internal/callers", "internal/config", "internal/devissuer", "internal/extauthz", "internal/filestore", "internal/httpapi", "internal/introspect",
		"internal/jwks", "internal/listen", "internal/memstore", "internal/redisstore", "internal/revoke", "internal/seal", "internal/sign", "internal/telemetry", "internal/verify",
		"internal/wso2",
	},
	"internal/config": {
		"internal/callers", "internal/filestore", "internal/httpapi", "internal/introspect", "internal/listen", "internal/redisstore", "internal/revoke",
		"internal/sign", "internal/telemetry",
	},
	"internal/extauthz":   {"internal/httpapi"},
	"internal/httpapi":    {"internal/callers", "internal/claims", "internal/introspect", "internal/revoke", "internal/sign", "internal/verify"},
	"internal/introspect": {"internal/claims", "internal/revoke", "internal/transform", "internal/verify"},
	"internal/verify":     {"internal/claims", "internal/jwks"},
	"internal/transform":  {"internal/claims"},
	"internal/callers":    {},
	"internal/claims":     {},
	"internal/devissuer":  {},
	"internal/filestore":  {},
	"internal/jwks":       {"internal/truststore"},
	"internal/listen":     {},
	"internal/memstore":   {},
	"internal/redisstore": {"internal/seal"},
	"internal/redistest":  {},
	"internal/revoke":     {},
	"internal/seal":       {},
	"internal/sign":       {"internal/truststore"},
	"internal/telemetry":  {},
	"internal/truststore": {},
	"internal/wso2":       {"internal/jwks", "internal/truststore"},
	"api":                 {},
	"loadtest":            {"internal/devissuer", "internal/redistest"},
}

// What keeps a reader's way short. The aim for the longest chain is 6; README.md
// says what the seventh package is for.
const (
	mostEdges = 2.0 // per package
	mostDepth = 7   // packages on the longest chain
)

func TestImportsFollowTheMap(t *testing.T) {
	got := imports(t)
	for _, pkg := range slices.Sorted(maps.Keys(got)) {
		arrows, listed := allowed[pkg]
		if !listed {
			t.Errorf("%s is not on the map", pkg)
		}
		for _, target := range got[pkg] {
			if !slices.Contains(arrows, target) {
				t.Errorf("%s imports %s: there is no such arrow on the map", pkg, target)
			}
		}
		for _, target := range arrows {
			if !slices.Contains(got[pkg], target) {
				t.Errorf("the map has %s → %s, which nothing imports", pkg, target)
			}
		}
	}
	for pkg := range allowed {
		if _, there := got[pkg]; !there {
			t.Errorf("the map has %s, which is not there", pkg)
		}
	}
}

func TestImportGraphStaysNarrowAndShallow(t *testing.T) {
	graph := imports(t)
	edges, longest := 0, []string(nil)
	for pkg, targets := range graph {
		edges += len(targets)
		if c := chain(graph, pkg); len(c) > len(longest) {
			longest = c
		}
	}
	if perPackage := float64(edges) / float64(len(graph)); perPackage > mostEdges {
		t.Errorf("%d packages, %.2f import edges per package, want at most %.1f", len(graph), perPackage, mostEdges)
	}
	if len(longest) > mostDepth {
		t.Errorf("longest chain: %d packages, want at most %d: %s", len(longest), mostDepth, strings.Join(longest, " → "))
	}
}

// chain is the longest chain of imports from pkg; Go has no cycles.
func chain(graph map[string][]string, pkg string) []string {
	var longest []string
	for _, target := range graph[pkg] {
		if c := chain(graph, target); len(c) > len(longest) {
			longest = c
		}
	}
	return append([]string{pkg}, longest...)
}

// imports reads what each package of the module imports of the module, by
// path within it, test files left out.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, root := range []string{"api", "cmd", "internal", "loadtest"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/testdata/") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
			found[pkg] = append(found[pkg], []string{}...)
			for _, spec := range file.Imports {
				name, _ := strconv.Unquote(spec.Path.Value) // it was parsed
				if target, ours := strings.CutPrefix(name, "introspectd/"); ours && !slices.Contains(found[pkg], target) {
					found[pkg] = append(found[pkg], target)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
