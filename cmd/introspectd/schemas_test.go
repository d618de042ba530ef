package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// conformity is what .ci/manifests says of a document: whose schema it was held
// to by kubeconform, none if that is empty, and what is at fault, also by the code
// of an API server.
type conformity struct {
	File, Kind, Name, Schema string
	Faults                   []string
}

// schemas has the modules at hand that .ci/schemas names.
var schemas = sync.OnceValue(func() error {
	download := exec.Command("go", "mod", "download")
	download.Dir = "../../.ci/schemas"
	if said, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("downloading the modules of .ci/schemas: %w\n%s", err, said)
	}
	return nil
})

// conform holds the documents of files to the schemas that .ci/schemas names.
func conform(t *testing.T, files ...string) (found []conformity) {
	t.Helper()
	if err := schemas(); err != nil {
		unable(t, err)
	}
	if err := reads(t, &found, "", append([]string{"conform", "../../.ci/schemas"}, files...)...); err != nil {
		t.Fatal(err)
	}
	return found
}

// stream writes documents as one YAML stream.
func stream(t *testing.T, docs []document) string {
	t.Helper()
	var all strings.Builder
	for _, d := range docs {
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("---\n" + string(text) + "\n")
	}
	return all.String()
}

// holdToSchemas fails the test for every fault of documents, and for a kind
// without a schema.
func holdToSchemas(t *testing.T, docs []document) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "documents.yaml")
	writeFile(t, path, stream(t, docs))
	found := conform(t, path)
	if len(found) != len(docs) {
		t.Errorf("%d documents of %d were checked", len(found), len(docs))
	}
	for _, c := range found {
		if c.Schema == "" || len(c.Faults) > 0 {
			t.Errorf("%s %s: schema %q, faults %q", c.Kind, c.Name, c.Schema, c.Faults)
		}
	}
}

// TestManifestsConformToSchemas finds the files for itself: whatever is added to
// deploy/ is held to its schema or is missed here.
func TestManifestsConformToSchemas(t *testing.T) {
	var files []string
	if err := filepath.WalkDir("../../deploy", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".yaml") || strings.Contains(path, "/helm/") || strings.Contains(path, "/kustomize/") {
			return err // those are checked as they are rendered
		}
		text, err := os.ReadFile(path)
		if strings.Contains("\n"+string(text), "\napiVersion:") || strings.Contains("\n"+string(text), "\n_format_version:") {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"envoy/istio", "envoy/contour", "envoy/envoy-gateway", "nginx/gateway-fabric", "nginx/f5-ingress", "nginx/ingress-nginx", "kong/kubernetes", "kong/kong", "kong/kong-serverless", "kong/openid-connect"} {
		if !slices.Contains(files, "../../deploy/"+name+".yaml") {
			t.Errorf("%s.yaml was not looked at", name)
		}
	}
	for _, c := range conform(t, files...) {
		if c.Schema == "" || len(c.Faults) > 0 {
			t.Errorf("%s: %s %s: schema %q, faults %q", c.File, c.Kind, c.Name, c.Schema, c.Faults)
		}
	}
}

// A check that can't fail says nothing: each of these documents has one fault,
// and it is found.
func TestSchemasFindWhatIsWrong(t *testing.T) {
	wrong := map[string]struct {
		file string
		edit edit
		want string
	}{
		"Deployment, a field":             {"kustomize", edit{`"readOnlyRootFilesystem":`, `"readonlyRootFilesystem":`}, "'readonlyRootFilesystem' not allowed"},
		"Deployment, metadata":            {"kustomize", edit{`"labels":`, `"lables":`}, "'lables' not allowed"},
		"Deployment, a type":              {"kustomize", edit{`"terminationGracePeriodSeconds":45`, `"terminationGracePeriodSeconds":"45s"`}, "got string, want integer"},
		"Service, a bound":                {"kustomize", edit{`"port":8080`, `"port":2147483648`}, "maximum"},
		"HTTPRoute, a field":              {"nginx/gateway-fabric.yaml", edit{"parentRefs:", "parentRef:"}, "'parentRef' not allowed"},
		"HTTPRoute, a bound":              {"nginx/gateway-fabric.yaml", edit{"port: 80}", "port: 70000}"}, "maximum: got 70,000"},
		"HTTPRoute, a pattern":            {"nginx/gateway-fabric.yaml", edit{"[api.example]", "[https://api.example]"}, "does not match pattern"},
		"HTTPRoute, an enum":              {"nginx/gateway-fabric.yaml", edit{"type: PathPrefix", "type: Prefix"}, "value must be one of"},
		"ReferenceGrant, a field":         {"envoy/envoy-gateway.yaml", edit{"kind: Service, name:", "kind: Service, names:"}, "'names' not allowed"},
		"Istio, a field":                  {"envoy/istio.yaml", edit{"notPaths:", "notPath:"}, "'notPath' not allowed"},
		"Istio, a bound":                  {"envoy/istio.yaml", edit{"applyTo: HTTP_FILTER\n      match: {context: GATEWAY, listener: {", "applyTo: HTTP_FILTER\n      match: {context: GATEWAY, listener: {portNumber: -1, "}, "minimum: got -1"},
		"Istio, an enum":                  {"envoy/istio.yaml", edit{"mode: STRICT", "mode: STRCT"}, "value must be one of"},
		"Istio's mesh, a field":           {"envoy/istio.yaml", edit{"statusOnError", "statusOnErr"}, `unknown field "statusOnErr"`},
		"Istio's mesh, an enum":           {"envoy/istio.yaml", edit{"DECODE_AND_MERGE_SLASHES", "DECODE"}, "invalid value for enum"},
		"Contour, a field":                {"envoy/contour.yaml", edit{"disabled: true", "disable: true"}, "'disable' not allowed"},
		"Contour, a bound":                {"envoy/contour.yaml", edit{"port: 80}", "port: 70000}"}, "got 70,000"},
		"Contour, a pattern":              {"envoy/contour.yaml", edit{"responseTimeout: 2s", "responseTimeout: 2 s"}, "does not match pattern"},
		"Contour, an enum":                {"envoy/contour.yaml", edit{"protocol: h2", "protocol: grpc"}, "value must be one of"},
		"Envoy Gateway, a field":          {"envoy/envoy-gateway.yaml", edit{"failOpen: false", "failopen: false"}, "'failopen' not allowed"},
		"Envoy Gateway, a bound":          {"envoy/envoy-gateway.yaml", edit{"port: 9191", "port: 70000"}, "maximum: got 70,000"},
		"Envoy Gateway, a pattern":        {"envoy/envoy-gateway.yaml", edit{"timeout: 2s", "timeout: 2"}, "got number, want string"},
		"Envoy Gateway, an enum":          {"envoy/envoy-gateway.yaml", edit{"withUnderscoresAction: RejectRequest", "withUnderscoresAction: Refuse"}, "value must be one of"},
		"SnippetsFilter, a field":         {"nginx/gateway-fabric.yaml", edit{"    - context: http.server\n      value:", "    - context: http.server\n      values:"}, "'values' not allowed"},
		"SnippetsFilter, an enum":         {"nginx/gateway-fabric.yaml", edit{"context: http.server.location", "context: location"}, "value must be one of"},
		"VirtualServer, a field":          {"nginx/f5-ingress.yaml", edit{"location-snippets:", "locationSnippets:"}, "'locationSnippets' not allowed"},
		"VirtualServer, a type":           {"nginx/f5-ingress.yaml", edit{"port: 80}", "port: http}"}, "got string, want integer"},
		"KongPlugin, a field":             {"kong/kubernetes.yaml", edit{"configPatches:", "configPatch:"}, "'configPatch' not allowed"},
		"KongPlugin, what it needs":       {"kong/kubernetes.yaml", edit{"plugin: introspectd\n", "enabled: true\n"}, "missing property 'plugin'"},
		"KongClusterPlugin, a field":      {"kong/kubernetes.yaml", edit{"secretKeyRef: {name: introspectd-caller, namespace: kong,", "secretKeyRef: {name: introspectd-caller, namespaces: kong,"}, "'namespaces' not allowed"},
		"Kong's file, a field":            {"kong/kong.yaml", edit{"strip_path:", "strip-path:"}, "'strip-path' not allowed"},
		"Kong's file, a type":             {"kong/kong-serverless.yaml", edit{"paths: [/]", "paths: /"}, "got string, want array"},
		"Kong's file, what it needs":      {"kong/openid-connect.yaml", edit{"- name: openid-connect", "- plugin: openid-connect"}, "missing property 'name'"},
		"ServiceMonitor, a field":         {"fleet", edit{`"endpoints":`, `"endpoint":`}, "'endpoint' not allowed"},
		"ServiceMonitor, a pattern":       {"fleet", edit{`"interval":"`, `"interval":"1w 2`}, "does not match pattern"},
		"PrometheusRule, a field":         {"fleet", edit{`"annotations":{"description"`, `"annotation":{"description"`}, "'annotation' not allowed"},
		"PrometheusRule, a pattern":       {"fleet", edit{`"for":"`, `"for":"about `}, "does not match pattern"},
		"HorizontalPodAutoscaler, a type": {"fleet", edit{`"maxReplicas":12`, `"maxReplicas":"12"`}, "got string, want integer"},
		// Kubernetes' own schemas have no bounds, patterns or enums to speak of. What a
		// server would say of such values is said by its own code, and so are rules in
		// CEL and names.
		"server: Deployment, a name":            {"kustomize", edit{`"serviceAccountName":"introspectd"`, `"serviceAccountName":"Introspectd"`}, "serviceAccountName: Invalid value"},
		"server: Deployment, a bound":           {"kustomize", edit{`"containerPort":8080`, `"containerPort":70000`}, "must be between 1 and 65535"},
		"server: Deployment, a quantity":        {"kustomize", edit{`"memory":"`, `"memory":"much `}, "quantities must match"},
		"server: Deployment, an enum":           {"kustomize", edit{`"type":"RuntimeDefault"`, `"type":"Default"`}, `Unsupported value: "Default"`},
		"server: Deployment, a volume":          {"kustomize", edit{`"mountPath":"/etc/introspectd","name":"`, `"mountPath":"/etc/introspectd","name":"no-`}, "volumeMounts[0].name: Not found"},
		"server: Deployment, labels":            {"kustomize", edit{`"matchLabels":{"app.kubernetes.io/name":"introspectd"`, `"matchLabels":{"app.kubernetes.io/name":"other"`}, "does not match template `labels`"},
		"server: Service, a bound":              {"kustomize", edit{`"port":8080`, `"port":70000`}, "must be between 1 and 65535"},
		"server: Service, a name":               {"kustomize", edit{`"targetPort":"http"`, `"targetPort":"the port of http"`}, "targetPort: Invalid value"},
		"server: ConfigMap, a name":             {"nginx/ingress-nginx.yaml", edit{"name: to-backends", "name: to_backends"}, "metadata.name: Invalid value"},
		"server: NetworkPolicy, an enum":        {"fleet", edit{`"policyTypes":["Ingress"`, `"policyTypes":["Incoming"`}, `Unsupported value: "Incoming"`},
		"server: PodDisruptionBudget, a choice": {"fleet", edit{`"maxUnavailable":1`, `"maxUnavailable":1,"minAvailable":1`}, "cannot be both set"},
		"server: HorizontalPodAutoscaler":       {"fleet", edit{`"maxReplicas":12`, `"maxReplicas":1`}, "must be greater than or equal to `minReplicas`"},
		"server: Ingress, an enum":              {"kong/kubernetes.yaml", edit{"pathType: Prefix", "pathType: Prefixed"}, `Unsupported value: "Prefixed"`},
		"server: Ingress, a path":               {"kong/kubernetes.yaml", edit{"path: /reports/", "path: reports/"}, "must be an absolute path"},
		"server: Ingress, a host":               {"kong/kubernetes.yaml", edit{"host: api.example", "host: https://api.example"}, "rules[0].host: Invalid value"},
		"server: HTTPRoute, a rule":             {"nginx/gateway-fabric.yaml", edit{"type: PathPrefix, value: /}", "type: PathPrefix, value: reports}"}, "must be an absolute path and start with"},
		"server: HTTPRoute, a name":             {"nginx/gateway-fabric.yaml", edit{"metadata: {name: api,", "metadata: {name: API,"}, "metadata.name: Invalid value"},
		"server: SnippetsFilter, a rule":        {"nginx/gateway-fabric.yaml", edit{"context: http.server.location", "context: http.server"}, "Only one snippet allowed per context"},
		"server: KongPlugin, a rule":            {"kong/kubernetes.yaml", edit{"configPatches:", "configFrom: {secretKeyRef: {name: x, key: settings}}\nconfigPatches:"}, "Using both configFrom and configPatches fields is not allowed"},
		"server: Istio, a rule":                 {"envoy/istio.yaml", edit{"workloadSelector: {labels: {istio: ingressgateway}}", "workloadSelector: {labels: {istio: ingressgateway}}\n  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: api}]"}, "only one of targetRefs or workloadSelector can be set"},
		"server: Envoy Gateway, a rule":         {"envoy/envoy-gateway.yaml", edit{"kind: HTTPRoute, name: reports}]", "kind: Service, name: reports}]"}, "this policy can only have"},
		"a field that stands there twice":       {"envoy/contour.yaml", edit{"failOpen: false", "failOpen: false\n      failOpen: true"}, "failOpen"},
	}
	fleet, err := chartWith(t, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	rendered := map[string]string{"kustomize": stream(t, kustomized(t)), "fleet": stream(t, fleet)}
	dir := t.TempDir()
	var files []string
	for name, tt := range wrong {
		text, there := rendered[tt.file]
		if !there {
			text = deployed(t, tt.file)
		}
		if !strings.Contains(text, tt.edit.old) {
			t.Errorf("%s: %s has no %q", name, tt.file, tt.edit.old)
		}
		files = append(files, filepath.Join(dir, name))
		writeFile(t, filepath.Join(dir, name), strings.ReplaceAll(text, tt.edit.old, tt.edit.with))
	}
	said := map[string][]string{}
	for _, c := range conform(t, files...) {
		said[filepath.Base(c.File)] = append(said[filepath.Base(c.File)], c.Faults...)
	}
	for name, tt := range wrong {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(strings.Join(said[name], "\n"), tt.want) {
				t.Errorf("got the faults %q, want one that says %q", said[name], tt.want)
			}
		})
	}
}
