package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/yannh/kubeconform/pkg/resource"
	"github.com/yannh/kubeconform/pkg/validator"
	"google.golang.org/protobuf/encoding/protojson"
	istio "istio.io/api/mesh/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// conformity says how a document stands to the schema of its kind.
type conformity struct {
	File   string   `json:"file"`
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Schema string   `json:"schema"` // the module that has it, and its version; empty: none has, and nothing was checked
	Faults []string `json:"faults"`
}

// conform has kubeconform check every document of files by the schemas of the
// modules that the go.mod in a directory names, and then asks an API server's own
// code. A file for Kong is held to the schema that decK has of it.
func conform(dir string, files []string) ([]conformity, error) {
	books, err := open(dir)
	if err != nil {
		return nil, err
	}
	shelf, err := os.MkdirTemp("", "schemas")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(shelf)
	check, err := validator.New([]string{filepath.Join(shelf, "{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json")}, validator.Opts{Strict: true})
	if err != nil {
		return nil, err
	}
	checker := checker{books, shelf, map[schema.GroupVersionKind]description{}, check, newServer()}
	found := []conformity{}
	for _, file := range files {
		stream, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, text := range split(stream) {
			c, err := checker.check(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			c.File = file
			found = append(found, c)
		}
	}
	return found, nil
}

// checker holds documents to schemas, which kubeconform reads from files.
type checker struct {
	library library
	shelf   string                                  // where the files are
	there   map[schema.GroupVersionKind]description // what they were made from
	by      validator.Validator
	server  server
}

func (k checker) check(text []byte) (conformity, error) {
	var doc struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		MeshConfig       json.RawMessage
		FormatVersion    string `json:"_format_version"`
	}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return conformity{}, err
	}
	c := conformity{Kind: doc.Kind, Name: doc.Metadata.Name, Faults: []string{}}
	if len(doc.MeshConfig) > 0 {
		c.Kind, c.Schema = "MeshConfig", "the types of istio.io/api"
		if err := mesh(doc.MeshConfig); err != nil {
			c.Faults = append(c.Faults, err.Error())
		}
		return c, nil
	}
	if doc.FormatVersion != "" {
		return k.declarative(text)
	}
	d, err := k.shelve(schema.FromAPIVersionAndKind(doc.APIVersion, doc.Kind))
	if err != nil {
		return c, fmt.Errorf("the schema of %s: %w", doc.Kind, err)
	}
	if c.Schema = d.from; d.from == "" {
		return c, nil
	}
	c.Faults = append(c.Faults, faults(k.by.ValidateResource(resource.Resource{Path: doc.Kind, Bytes: text}))...)
	// A document that can't be decoded for it is at fault; the schema says how.
	said, err := k.server.refusals(text, d.custom)
	if err != nil {
		said = append(said, err.Error())
	}
	for _, s := range said {
		c.Faults = append(c.Faults, "an API server: "+s)
	}
	return c, nil
}

// declarative holds a file for Kong to its schema.
func (k checker) declarative(text []byte) (conformity, error) {
	by, from, err := k.library.declarative()
	if err != nil {
		return conformity{}, err
	}
	c := conformity{Kind: "Kong", Schema: from, Faults: []string{}}
	var file any
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		c.Faults = append(c.Faults, err.Error())
	} else if err := by.Validate(file); err != nil {
		c.Faults = append(c.Faults, err.Error())
	}
	return c, nil
}

// shelve puts the schema of a kind where kubeconform looks for it.
func (k checker) shelve(kind schema.GroupVersionKind) (description, error) {
	if d, there := k.there[kind]; there {
		return d, nil
	}
	d, err := k.library.describe(kind)
	if err != nil || d.from == "" {
		return d, err
	}
	text, err := json.Marshal(d.schema)
	if err != nil {
		return d, err
	}
	k.there[kind] = d
	name := fmt.Sprintf("%s_%s_%s.json", cmp.Or(kind.Group, kind.Version), kind.Version, strings.ToLower(kind.Kind))
	return d, os.WriteFile(filepath.Join(k.shelf, name), text, 0o600)
}

// mesh decodes the configuration of an Istio mesh, which is no document of a
// cluster's and has no schema but its message.
func mesh(config []byte) error { return protojson.Unmarshal(config, &istio.MeshConfig{}) }

// faults are what kubeconform says, without its preamble and a place that is
// gone by then.
func faults(r validator.Result) []string {
	if r.Err == nil && r.Status == validator.Valid {
		return nil
	}
	said := fmt.Sprint(r.Err)
	if _, list, found := strings.Cut(said, "#' "); found {
		said = list
	}
	return []string{said}
}

// split returns the documents of a YAML stream that are more than blanks and
// comments.
func split(stream []byte) (documents [][]byte) {
	content := regexp.MustCompile(`(?m)^[ \t]*[^ \t\n#]`)
	for _, text := range bytes.Split(append([]byte("\n"), stream...), []byte("\n---")) {
		if content.Match(text) {
			documents = append(documents, text)
		}
	}
	return documents
}
