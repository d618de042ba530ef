package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// library is where schemas stand: Kubernetes' OpenAPI definitions, and the
// CustomResourceDefinitions of others.
type library struct {
	modules     map[string]module
	definitions map[string]any // by their names; properties refer to each other
}

// A module that is read for the files in it.
type module struct{ Path, Version, Dir, Error string }

const kubernetes = "k8s.io/kubernetes"

// open reads what the go.mod in a directory names; go.sum there holds it to what
// was once read.
func open(dir string) (library, error) {
	modules, err := fetch(dir)
	if err != nil {
		return library{}, fmt.Errorf("fetching the modules of %s: %w", dir, err)
	}
	text, err := os.ReadFile(filepath.Join(modules[kubernetes].Dir, "api/openapi-spec/swagger.json"))
	if err != nil {
		return library{}, err
	}
	var api struct{ Definitions map[string]any }
	if err := json.Unmarshal(text, &api); err != nil {
		return library{}, err
	}
	for _, d := range api.Definitions {
		closed(d)
	}
	// Written as a number, a quantity is read as its text would be.
	api.Definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = map[string]any{"type": []any{"string", "number"}}
	return library{modules: modules, definitions: api.Definitions}, nil
}

func fetch(dir string) (map[string]module, error) {
	download := exec.Command("go", "mod", "download", "-json")
	download.Dir = dir
	var said bytes.Buffer
	download.Stderr = &said
	out, err := download.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &said)
	}
	found := map[string]module{}
	for list := json.NewDecoder(bytes.NewReader(out)); ; {
		var m module
		switch end := list.Decode(&m); {
		case errors.Is(end, io.EOF):
			return found, err
		case end != nil:
			return nil, errors.Join(err, end)
		case m.Error != "":
			err = errors.Join(err, errors.New(m.Error))
		}
		found[m.Path] = m
	}
}

// stands says in which module the definitions of a group's kinds are, and in
// which file; PLURAL is the kind's.
func stands(group string) (path, file string) {
	switch group {
	case "gateway.networking.k8s.io":
		return "sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_PLURAL.yaml"
	case "networking.istio.io", "security.istio.io":
		return "istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml"
	case "gateway.envoyproxy.io":
		return "github.com/envoyproxy/gateway", "charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_PLURAL.yaml"
	case "projectcontour.io":
		return "github.com/projectcontour/contour", "examples/contour/01-crds.yaml"
	case "gateway.nginx.org":
		return "github.com/nginxinc/nginx-gateway-fabric", "config/crd/bases/gateway.nginx.org_PLURAL.yaml"
	case "k8s.nginx.org":
		return "github.com/nginxinc/kubernetes-ingress", "deployments/common/crds/k8s.nginx.org_PLURAL.yaml"
	case "configuration.konghq.com":
		return "github.com/kong/kubernetes-configuration", "config/crd/ingress-controller/configuration.konghq.com_PLURAL.yaml"
	case "monitoring.coreos.com":
		return "github.com/prometheus-operator/prometheus-operator", "example/prometheus-operator-crd/monitoring.coreos.com_PLURAL.yaml"
	}
	return "", ""
}

// kong is Kong's declarative form, as decK reads it: where its schema stands.
const kong, kongFile = "github.com/kong/go-database-reconciler", "pkg/file/kong_json_schema.json"

// declarative returns the schema of a file for Kong, which is in JSON Schema and
// names all fields but those in the settings of plugins.
func (l library) declarative() (*jsonschema.Schema, string, error) {
	m := l.modules[kong]
	s, err := jsonschema.NewCompiler().Compile(filepath.Join(m.Dir, kongFile))
	return s, m.Path + " " + m.Version, err
}

// definition is what a CustomResourceDefinition says of one version.
type definition struct {
	schema     *extensions.JSONSchemaProps
	namespaced bool
}

// custom returns what defines a kind, nil where no module does, and which module
// that is.
func (l library) custom(kind schema.GroupVersionKind) (*definition, string, error) {
	path, file := stands(kind.Group)
	if path == "" {
		return nil, "", nil
	}
	plural, _ := meta.UnsafeGuessKindToResource(kind)
	m := l.modules[path]
	text, err := os.ReadFile(filepath.Join(m.Dir, strings.ReplaceAll(file, "PLURAL", plural.Resource)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, "", nil
	} else if err != nil {
		return nil, "", err
	}
	for _, one := range split(text) {
		if !bytes.Contains(one, []byte("kind: "+kind.Kind+"\n")) {
			continue
		}
		var found extensions.CustomResourceDefinition
		if err := yaml.Unmarshal(one, &found); err != nil {
			return nil, "", err
		}
		if found.Spec.Group != kind.Group || found.Spec.Names.Kind != kind.Kind {
			continue
		}
		for _, v := range found.Spec.Versions {
			if v.Name == kind.Version && v.Served {
				return &definition{v.Schema.OpenAPIV3Schema, found.Spec.Scope == extensions.NamespaceScoped}, m.Path + " " + m.Version, nil
			}
		}
	}
	return nil, "", nil
}

// description is what a module says of a kind.
type description struct {
	from   string         // the module and its version; empty where there is none
	custom *definition    // nil for a kind of Kubernetes' own
	schema map[string]any // the same as JSON Schema
}

func (l library) describe(kind schema.GroupVersionKind) (description, error) {
	custom, from, err := l.custom(kind)
	if err != nil {
		return description{}, err
	}
	root := map[string]any{}
	if custom != nil {
		text, err := json.Marshal(custom.schema)
		if err != nil {
			return description{}, err
		}
		if err := json.Unmarshal(text, &root); err != nil {
			return description{}, err
		}
		closed(root)
		maps.Copy(root["properties"].(map[string]any), map[string]any{
			"apiVersion": map[string]any{"type": "string"}, "kind": map[string]any{"type": "string"},
			"metadata": map[string]any{"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
		})
	} else if name := l.native(kind); name != "" {
		from = kubernetes + " " + l.modules[kubernetes].Version
		root["allOf"] = []any{map[string]any{"$ref": "#/definitions/" + name}}
	} else {
		return description{}, nil
	}
	needed := map[string]any{}
	l.collect(root, needed)
	root["definitions"] = needed
	return description{from, custom, root}, nil
}

// native is the name of the definition of one of Kubernetes' own kinds.
func (l library) native(kind schema.GroupVersionKind) string {
	for _, name := range slices.Sorted(maps.Keys(l.definitions)) {
		kinds, _ := l.definitions[name].(map[string]any)["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			if k, _ := k.(map[string]any); k["group"] == kind.Group && k["version"] == kind.Version && k["kind"] == kind.Kind && len(kinds) == 1 {
				return name
			}
		}
	}
	return ""
}

// collect adds the definitions that a schema refers to.
func (l library) collect(in any, to map[string]any) {
	switch in := in.(type) {
	case []any:
		for _, v := range in {
			l.collect(v, to)
		}
	case map[string]any:
		for _, v := range in {
			l.collect(v, to)
		}
		ref, _ := in["$ref"].(string)
		if name, _ := strings.CutPrefix(ref, "#/definitions/"); ref != "" && to[name] == nil {
			to[name] = l.definitions[name]
			l.collect(to[name], to)
		}
	}
}

// closed makes a schema in Kubernetes' dialect of OpenAPI one in JSON Schema that
// knows no fields but those it names. It goes where values go and not into the
// branches of anyOf and its like, which name some fields and mean all.
func closed(in any) {
	s, ok := in.(map[string]any)
	if !ok {
		return
	}
	properties, _ := s["properties"].(map[string]any)
	free := s["x-kubernetes-preserve-unknown-fields"] == true || s["x-kubernetes-embedded-resource"] == true
	if s["type"] == "object" && s["additionalProperties"] == nil && !free {
		s["additionalProperties"] = false
	}
	switch s["format"] {
	case "int32":
		within(s, math.MinInt32, math.MaxInt32)
	case "int-or-string":
		s["type"] = []any{"integer", "string"}
	}
	if kind, ok := s["type"].(string); ok && s["nullable"] == true {
		s["type"] = []any{kind, "null"}
	}
	for _, p := range properties {
		closed(p)
	}
	closed(s["items"])
	closed(s["additionalProperties"])
}

// within bounds a number where the schema has no narrower bounds.
func within(s map[string]any, least, most float64) {
	if s["minimum"] == nil {
		s["minimum"] = least
	}
	if s["maximum"] == nil {
		s["maximum"] = most
	}
}
