package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v3"

	"introspectd/internal/config"
)

const (
	reference = "../../configs/introspectd.yaml"
	small     = "../../configs/small.yaml"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	body, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// examples takes the marks from the reference's lines that need other files.
func examples(body string) string {
	return regexp.MustCompile(`(?m)^#:`).ReplaceAllString(body, "")
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatalf("the schema is not JSON Schema: %v", err)
	}
	return &s
}

func TestSchemaJudgesFiles(t *testing.T) {
	resolved, err := schema(t).Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	row := "issuers: [{name: a, issuer: b, keys: {files: [a.pem, {path: b.pem, kid: k}]}}]\n"
	for _, c := range []struct {
		name, body string
		good       bool
	}{
		{"the reference", readFile(t, reference), true},
		{"the reference with its examples", examples(readFile(t, reference)), true},
		{"the small configuration", readFile(t, small), true},
		{"an unknown key", "servr: {}\n", false},
		{"an unknown key of an entry", "issuers: [{nme: a}]\n", false},
		{"both forms of a key file", row, true},
		{"a key file with an unknown key", "issuers: [{keys: {files: [{pth: b.pem}]}}]\n", false},
		{"a bare number as a duration", "server: {shutdown_delay: 30}\n", false},
		{"a duration without a unit", "server: {shutdown_delay: '30'}\n", false},
		{"a compound duration", "server: {shutdown_delay: 1m30s}\n", true},
		{"a size without a unit", "cache: {verdicts: {size: '5'}}\n", false},
		{"a word that is none of a closed set", "telemetry: {log: {level: loud}}\n", false},
		{"any_audience as true", "callers: [{any_audience: true}]\n", true},
		{"any_audience as names", "callers: [{any_audience: [a]}]\n", true},
		{"any_audience as a text", "callers: [{any_audience: a}]\n", false},
		{"a whole number", "revocation: {max_entries: 5}\n", true},
		{"a broken number", "revocation: {max_entries: 5.5}\n", false},
		{"a client", "callers: [{clients: [{issuer: a, client_id: b}]}]\n", true},
		{"claims as a word", "callers: [{claims: minimal}]\n", true},
		{"claims as another word", "callers: [{claims: all}]\n", false},
		{"claims as names", "callers: [{claims: [sub]}]\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var value any
			if err := yaml.Unmarshal([]byte(c.body), &value); err != nil {
				t.Fatal(err)
			}
			if err := resolved.Validate(value); (err == nil) != c.good {
				t.Errorf("got %v, want good: %v", err, c.good)
			}
		})
	}
}

// written lists the path of every key of a YAML text, list entries as [], and
// the scalars outside lists.
func written(t *testing.T, body string) (keys []string, scalars map[string]any) {
	t.Helper()
	var root any
	if err := yaml.Unmarshal([]byte(body), &root); err != nil {
		t.Fatal(err)
	}
	scalars = map[string]any{}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for key, inner := range v {
				sub := strings.TrimPrefix(path+"."+key, ".")
				keys = append(keys, sub)
				walk(sub, inner)
			}
		case []any:
			for _, inner := range v {
				walk(path+"[]", inner)
			}
		default:
			if !strings.Contains(path, "[]") {
				scalars[path] = v
			}
		}
	}
	walk("", root)
	slices.Sort(keys)
	return slices.Compact(keys), scalars
}

// described lists the path of every key that a schema knows, and the defaults.
func described(s *jsonschema.Schema) (keys []string, defaults map[string]any) {
	defaults = map[string]any{}
	var walk func(path string, s *jsonschema.Schema)
	walk = func(path string, s *jsonschema.Schema) {
		for key, inner := range s.Properties {
			sub := strings.TrimPrefix(path+"."+key, ".")
			keys = append(keys, sub)
			if inner.Default != nil {
				var value any
				_ = json.Unmarshal(inner.Default, &value)
				defaults[sub] = value
			}
			walk(sub, inner)
		}
		if s.Items != nil {
			walk(path+"[]", s.Items)
		}
		for _, one := range s.OneOf {
			walk(path, one)
		}
	}
	walk("", s)
	slices.Sort(keys)
	return slices.Compact(keys), defaults
}

func TestReferenceNamesEveryKeyAndItsDefault(t *testing.T) {
	body := readFile(t, reference)
	want, defaults := described(schema(t))
	got, _ := written(t, examples(body))
	for i, key := range got { // both are lists of the same forms
		got[i] = strings.ReplaceAll(key, "bearer_tokens[]", "secrets[]")
	}
	for i, key := range want {
		want[i] = strings.ReplaceAll(key, "bearer_tokens[]", "secrets[]")
	}
	got = slices.DeleteFunc(got, func(key string) bool { return strings.HasPrefix(key, "policies[].headers.") })
	for _, key := range want {
		if !slices.Contains(got, key) {
			t.Errorf("%s is not in the reference", key)
		}
	}
	for _, key := range got {
		if !slices.Contains(want, key) {
			t.Errorf("%s of the reference is no key", key)
		}
	}
	_, scalars := written(t, body)
	for key, value := range scalars {
		if inJSON(t, value) != inJSON(t, defaults[key]) {
			t.Errorf("%s: the reference shows %v, the default is %v", key, value, defaults[key])
		}
	}
}

// inJSON spells equal numbers alike, whatever read them.
func inJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Lists and maps of the reference that have a default show it too.
func TestReferenceShowsDefaultLists(t *testing.T) {
	write(t, map[string]string{"bare.yaml": corp + "policies: [{name: default, any_audience: true}]\n", "reference.yaml": readFileFrom(t, reference)})
	bare, full := load(t, "bare.yaml", config.Options{}), load(t, "reference.yaml", config.Options{})
	for _, c := range []struct {
		key       string
		got, want any
	}{
		{"server", full.Server, bare.Server},
		{"auth", full.Auth, bare.Auth},
		{"cache", full.Cache, bare.Cache},
		{"redis", full.Redis, bare.Redis},
		{"revocation", full.Revocation, bare.Revocation},
		{"telemetry", full.Telemetry, bare.Telemetry},
		{"policies[0].headers", full.Policies[0].Headers, bare.Policies[0].Headers},
		{"issuers[0].claims", fmt.Sprint(full.Issuers[0].Claims), fmt.Sprint(bare.Issuers[0].Claims)},
		{"issuers[0].keys", fmt.Sprint(full.Issuers[0].Keys), fmt.Sprint(bare.Issuers[0].Keys)},
		{"issuers[0].require", full.Issuers[0].Require, bare.Issuers[0].Require},
	} {
		if fmt.Sprintf("%+v", c.got) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("%s: the reference shows\n%+v\nwithout it there is\n%+v", c.key, c.got, c.want)
		}
	}
	if len(full.Warnings()) > 0 {
		t.Errorf("the reference warns: %q", full.Warnings())
	}
}

// readFileFrom reads before the working directory changes.
func readFileFrom(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return readFile(t, path)
}

func TestReferenceExamplesLoad(t *testing.T) {
	secret := strings.Repeat("s", 30)
	body := examples(readFileFrom(t, reference))
	pem := publicKey(t)
	write(t, map[string]string{
		"billing": secret, "billing-next": "n" + secret, "signing.pem": pem, "old.pem": pem,
		"seal":       "c2VhbCBrZXkgb2YgdGhpcnR5LXR3byBieXRlczogb2s=",
		"truststore": "wso2carbon\n", "client-truststore.jks": trustStore(t, "wso2carbon", "apim-signing-2026"),
		"c.yaml": strings.ReplaceAll(body, "/run/secrets/", ""),
	})
	t.Setenv("BILLING_TOKEN", "b"+secret)
	c := load(t, "c.yaml", config.Options{})
	want := []string{"c.yaml", "billing", "billing-next", "seal", "signing.pem", "old.pem", "client-truststore.jks", "truststore"}
	got := c.Files()
	slices.Sort(want)
	slices.Sort(got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("files: got %q, want %q", got, want)
	}
}

func TestSmallConfigurationLoads(t *testing.T) {
	body := readFileFrom(t, small)
	write(t, map[string]string{"orders": strings.Repeat("s", 30), "c.yaml": strings.ReplaceAll(body, "/run/secrets/orders", "orders")})
	c := load(t, "c.yaml", config.Options{})
	if len(c.Issuers) != 1 || len(c.Callers) != 1 || len(c.Policies) != 1 {
		t.Errorf("got %d issuers, %d callers, %d policies, want one of each", len(c.Issuers), len(c.Callers), len(c.Policies))
	}
}
