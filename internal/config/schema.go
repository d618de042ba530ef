package config

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v3"

	"introspectd/internal/callers"
	"introspectd/internal/introspect"
	"introspectd/internal/sign"
)

// Schema is a JSON Schema (2020-12) of the configuration file for editors. It
// knows keys, types and defaults; what Load refuses beyond that, it does not.
func Schema() ([]byte, error) {
	s, err := schemaOf(reflect.TypeFor[Config]())
	if err != nil {
		return nil, err
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "introspectd configuration"
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	return append(text, '\n'), nil
}

// schemaOf describes how a value of type t is written.
func schemaOf(t reflect.Type) (*jsonschema.Schema, error) {
	texts := func() *jsonschema.Schema {
		return &jsonschema.Schema{Type: "array", Items: &jsonschema.Schema{Type: "string"}}
	}
	switch t {
	case durationType:
		return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`}, nil
	case reflect.TypeFor[introspect.Size]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9]+(KiB|MiB|GiB)$`}, nil
	case reflect.TypeFor[sign.Instant]():
		return &jsonschema.Schema{Type: "string", Format: "date-time"}, nil
	case reflect.TypeFor[callers.AnyAudience]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "boolean"}, texts()}}, nil
	case reflect.TypeFor[callers.Claims]():
		word := &jsonschema.Schema{Type: "string", Enum: []any{"passthrough", "minimal"}}
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{word, texts()}}, nil
	}
	switch {
	case isSection(t):
		return schemaOfSection(t)
	case isUnmarshaler(t):
		return &jsonschema.Schema{Type: "string"}, nil
	}
	return schemaOfKind(t)
}

func schemaOfKind(t reflect.Type) (*jsonschema.Schema, error) {
	switch t.Kind() {
	case reflect.Bool:
		return &jsonschema.Schema{Type: "boolean"}, nil
	case reflect.Int:
		return &jsonschema.Schema{Type: "integer"}, nil
	case reflect.Float64:
		return &jsonschema.Schema{Type: "number"}, nil
	case reflect.String:
		s := &jsonschema.Schema{Type: "string"}
		if closed, ok := reflect.Zero(t).Interface().(spellings); ok {
			for _, word := range closed.Values() {
				s.Enum = append(s.Enum, word)
			}
		}
		return s, nil
	case reflect.Slice:
		items, err := schemaOf(t.Elem())
		return &jsonschema.Schema{Type: "array", Items: items}, err
	case reflect.Map:
		values, err := schemaOf(t.Elem())
		return &jsonschema.Schema{Type: "object", AdditionalProperties: values}, err
	}
	return nil, fmt.Errorf("describing %s: a setting can't have this type", t)
}

// schemaOfSection is a closed object, or also a text where the type can be
// written as one.
func schemaOfSection(t reflect.Type) (*jsonschema.Schema, error) {
	s := &jsonschema.Schema{
		Type:                 "object",
		Properties:           map[string]*jsonschema.Schema{},
		AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}},
	}
	for _, f := range fields(t) {
		property, err := schemaOf(f.typ)
		if err != nil {
			return nil, err
		}
		if property.Default, err = defaultJSON(f); err != nil {
			return nil, err
		}
		s.Properties[f.key] = property
		s.PropertyOrder = append(s.PropertyOrder, f.key)
	}
	if isUnmarshaler(t) {
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, s}}, nil
	}
	return s, nil
}

// defaultJSON is the default of a key in JSON; nil if there is none.
func defaultJSON(f field) (json.RawMessage, error) {
	if !f.hasDefault {
		return nil, nil
	}
	var value any = f.text
	if !isText(f.typ) {
		if err := yaml.Unmarshal([]byte(f.text), &value); err != nil {
			return nil, fmt.Errorf("reading the default of %s: %w", f.key, err)
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("writing the default of %s: %w", f.key, err)
	}
	return text, nil
}
