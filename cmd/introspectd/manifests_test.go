package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"introspectd/internal/redistest"
)

// What deploy/ has for Kubernetes and compose, read as those read it: by helm's
// own engine and linter, kustomize's own build, the loader of the compose
// specification and Prometheus' own parser, which .ci/manifests has. No cluster
// and no container engine runs here.

// reads runs the program and decodes what it prints; its error is what the
// program says.
func reads(t *testing.T, out any, in string, args ...string) error {
	t.Helper()
	run := exec.CommandContext(t.Context(), manifests.path(t), args...)
	run.Stdin = strings.NewReader(in)
	var said bytes.Buffer
	run.Stderr = &said
	answer, err := run.Output()
	if err != nil {
		return fmt.Errorf("%s", &said)
	}
	return json.Unmarshal(answer, out)
}

// document is one of a cluster's, as it was written.
type document map[string]any

// at follows a path of names and indices, "spec.template.spec.containers.0"; nil
// where it leads nowhere.
func (d document) at(path string) any {
	var v any = map[string]any(d)
	for part := range strings.SplitSeq(path, ".") {
		switch inner := v.(type) {
		case map[string]any:
			v = inner[part]
		case []any:
			n := -1
			if _, err := fmt.Sscan(part, &n); err != nil || n < 0 || n >= len(inner) {
				return nil
			}
			v = inner[n]
		default:
			return nil
		}
	}
	return v
}

// documents are those of one kind.
func documents(all []document, kind string) (found []document) {
	for _, d := range all {
		if d["kind"] == kind {
			found = append(found, d)
		}
	}
	return found
}

// one is the only document of a kind, or the first.
func one(t *testing.T, all []document, kind string) document {
	t.Helper()
	found := documents(all, kind)
	if len(found) == 0 {
		t.Fatalf("there is no %s", kind)
	}
	return found[0]
}

const chartDir = "../../deploy/helm/introspectd"

// chartWith renders the chart with one of its ci/ values and further lines of
// YAML, which stand for the same keys there. Whatever it renders is held to the
// schemas.
func chartWith(t *testing.T, values string, edits ...edit) ([]document, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "values.yaml")
	writeFile(t, path, deployed(t, "helm/introspectd/ci/"+values+"-values.yaml", edits...))
	var docs []document
	if err := reads(t, &docs, "", "render", chartDir, path); err != nil {
		return nil, err
	}
	holdToSchemas(t, docs)
	return docs, nil
}

func TestTheChartRendersWhatKubernetesTakes(t *testing.T) {
	for values, want := range map[string][]string{
		"one": {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "ServiceAccount"},
		"fleet": {
			"ConfigMap", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget",
			"PrometheusRule", "Service", "Service", "ServiceAccount", "ServiceMonitor",
		},
	} {
		t.Run(values, func(t *testing.T) {
			var said []string
			if err := reads(t, &said, "", "lint", chartDir, chartDir+"/ci/"+values+"-values.yaml"); err != nil || len(said) > 0 {
				t.Errorf("helm lint: %v %q, want nothing", err, said)
			}
			docs, err := chartWith(t, values)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, d := range docs {
				kinds = append(kinds, d["kind"].(string))
			}
			slices.Sort(kinds)
			if !slices.Equal(kinds, want) {
				t.Errorf("kinds: got %v, want %v", kinds, want)
			}
			holdsPod(t, one(t, docs, "Deployment"), "0")
			passesCheck(t, one(t, docs, "ConfigMap").at("data").(map[string]any)["config.yaml"].(string))
		})
	}
}

// Values that the two sets leave alone; chartWith holds what they render to the
// schemas.
func TestTheChartRendersWhatKubernetesTakesOfOtherValues(t *testing.T) {
	const place = `
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{key: gateways, operator: Exists, effect: NoSchedule}]
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/name: introspectd}}}}]}}
priorityClassName: gateways
podLabels: {team: identity}
podAnnotations: {example.com/reason: "none"}
replicaCount: 1`
	for name, tt := range map[string]struct {
		values string
		edit   edit
	}{
		"where pods run":          {"one", edit{"\nreplicaCount: 1", place}},
		"a balancer of the cloud": {"one", edit{"replicaCount: 1", "replicaCount: 1\nservice: {type: LoadBalancer, port: 443, annotations: {example.com/internal: \"true\"}}\nextAuthzGRPC: true"}},
		"ports of nodes, a tag":   {"one", edit{"replicaCount: 1", "replicaCount: 1\nservice: {type: NodePort}\nimage: {tag: 1.0.0-rc.1}"}},
		"nothing that can be off": {"one", edit{"replicaCount: 1", "replicaCount: 1\npodDisruptionBudget: {enabled: false}\nnetworkPolicy: {enabled: false}\ntopologySpreadConstraints: []"}},
		"a budget in percent":     {"fleet", edit{"extAuthzGRPC: true", "extAuthzGRPC: true\npodDisruptionBudget: {maxUnavailable: 25%}"}},
		"the longest names":       {"fleet", edit{"extAuthzGRPC: true", "extAuthzGRPC: true\nfullnameOverride: " + strings.Repeat("n", 63) + "\nnameOverride: " + strings.Repeat("n", 70)}},
		"a secret's longest name": {"fleet", edit{"secrets: [introspectd-callers,", "secrets: [" + strings.Repeat("callers.", 20) + "introspectd, introspectd-callers,"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := chartWith(t, tt.values, tt.edit); err != nil {
				t.Error(err)
			}
		})
	}
}

// holdsPod holds a Deployment to what keeps its pod small, quiet and drained.
func holdsPod(t *testing.T, d document, container string) {
	t.Helper()
	const pod = "spec.template.spec."
	c := pod + "containers." + container + "."
	for path, want := range map[string]any{
		pod + "automountServiceAccountToken":           false,
		pod + "enableServiceLinks":                     false,
		pod + "terminationGracePeriodSeconds":          45.0,
		pod + "securityContext.runAsNonRoot":           true,
		pod + "securityContext.runAsUser":              65532.0,
		pod + "securityContext.fsGroupChangePolicy":    "OnRootMismatch",
		pod + "securityContext.seccompProfile.type":    "RuntimeDefault",
		c + "securityContext.readOnlyRootFilesystem":   true,
		c + "securityContext.capabilities.drop.0":      "ALL",
		c + "readinessProbe.httpGet.path":              "/readyz",
		c + "readinessProbe.httpGet.port":              "metrics",
		c + "livenessProbe.httpGet.path":               "/livez",
		c + "startupProbe.httpGet.path":                "/livez",
		c + "resources.limits.cpu":                     nil,
		c + "volumeMounts.0.mountPath":                 "/etc/introspectd",
		c + "volumeMounts.0.subPath":                   nil,
		c + "securityContext.allowPrivilegeEscalation": false,
	} {
		if got := d.at(path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	if len(d.at(pod+"topologySpreadConstraints").([]any)) == 0 {
		t.Error("nothing spreads the pods")
	}
}

// passesCheck has `introspectd check` read a configuration, with the files that
// it names lying elsewhere.
func passesCheck(t *testing.T, config string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range regexp.MustCompile(`/run/secrets/([-a-z]+/)?[a-z]+`).FindAllString(config, -1) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		secret := strings.Repeat("s3cret", 8)
		if strings.HasSuffix(name, "seal") {
			secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
		}
		writeFile(t, path, secret)
	}
	crt, key := newCertificate(t, "127.0.0.1", newCertificate(t, "a test's root", nil)).write(t, dir, "tls")
	config = strings.NewReplacer("/run/secrets", dir+"/run/secrets", "/run/tls/tls.crt", crt, "/run/tls/tls.key", key, "/var/lib/introspectd", dir).Replace(config)
	path := filepath.Join(dir, "config.yaml")
	writeFile(t, path, config)
	said, err := exec.CommandContext(t.Context(), "introspectd", "check", "--config", path).CombinedOutput()
	if err != nil {
		t.Errorf("introspectd check: %v\n%s\n%s", err, said, config)
	}
}

func TestTheChartKeepsAdminOnLoopbackAndMetricsApart(t *testing.T) {
	docs, err := chartWith(t, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	config := one(t, docs, "ConfigMap").at("data").(map[string]any)["config.yaml"].(string)
	for _, line := range []string{"admin: 127.0.0.1:8081", "metrics: :8082", "shutdown_delay: 10s", "trusted_proxies: []", "allow_from: []"} {
		if !strings.Contains(config, line+"\n") {
			t.Errorf("the configuration has no line %q:\n%s", line, config)
		}
	}
	for _, s := range documents(docs, "Service") {
		for _, p := range s.at("spec.ports").([]any) {
			port := document(p.(map[string]any))
			if port.at("port") == 8081.0 || (port.at("port") == 8082.0) != strings.HasSuffix(s.at("metadata.name").(string), "-metrics") {
				t.Errorf("%s has port %v", s.at("metadata.name"), port.at("port"))
			}
		}
	}
}

func TestTheChartRefusesWhatWouldRunAndBeWrong(t *testing.T) {
	redis := regexp.MustCompile(`(?s)  redis:\n.*?(  issuers:)`).FindString(deployed(t, "helm/introspectd/ci/fleet-values.yaml"))
	noRedis := edit{redis, "  issuers:"}
	for name, tt := range map[string]struct {
		values string
		edits  []edit
		want   string
	}{
		"several replicas, a caller that may revoke, no redis": {"one", []edit{{"replicaCount: 1", "replicaCount: 2"}}, "orders may revoke, and there are 2 replicas without config.redis"},
		"the same by autoscaling":                              {"fleet", []edit{noRedis}, "orders may revoke, and there are 12 replicas"},
		"the same, where a client may revoke its own":          {"fleet", []edit{noRedis, {"may: [introspect, revoke]", "may: [introspect]\n      clients: [{issuer: corp, client_id: x}]"}}, "orders may revoke"},
		"the same, where a caller may revoke all":              {"fleet", []edit{noRedis, {"may: [introspect, revoke]", "may: [revoke_broad]"}}, "orders may revoke"},
		"one replica that forgets":                             {"one", []edit{{"existingClaim: introspectd-state", `existingClaim: ""`}}, "nothing keeps that beyond the pod"},
		"a state file with two writers":                        {"one", []edit{{"replicaCount: 1", "replicaCount: 2"}, {"may: [introspect, revoke]", "may: [introspect]"}}, "one writer"},
		"plaintext that nobody asked for":                      {"fleet", []edit{{"terminatedUpstream: true", "terminatedUpstream: false"}}, "tls: expected secretName"},
		"a grace period that ends too early":                   {"one", []edit{{"replicaCount: 1", "replicaCount: 1\nterminationGracePeriodSeconds: 35"}}, "at least 36"},
		"more replicas at least than at most":                  {"fleet", []edit{{"maxReplicas: 12", "maxReplicas: 2"}}, "at least minReplicas, got 2 and 3"},
		"an admin listener beyond loopback":                    {"fleet", []edit{{"trusted_proxies: []}", `trusted_proxies: [], admin: ":8081"}`}}, "config.server.admin is the chart's to write"},
		"a value that there is not":                            {"one", []edit{{"replicaCount: 1", "replicas: 1"}}, "replicas"},
		"no issuer":                                            {"one", []edit{{"    - {name: corp, issuer: https://idp.example/realms/corp, keys: {discover: true}}\n", ""}, {"  issuers:", "  issuers: []"}}, "issuers"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := chartWith(t, tt.values, tt.edits...); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a refusal that says %q", err, tt.want)
			}
		})
	}
	t.Run("several replicas without redis and without revocation are fine", func(t *testing.T) {
		if _, err := chartWith(t, "fleet", noRedis, edit{"may: [introspect, revoke]", "may: [introspect]"}); err != nil {
			t.Error(err)
		}
	})
}

func TestAChangedConfigurationIsARollout(t *testing.T) {
	sum := func(edits ...edit) any {
		docs, err := chartWith(t, "fleet", edits...)
		if err != nil {
			t.Fatal(err)
		}
		return one(t, docs, "Deployment").at("spec.template.metadata.annotations").(map[string]any)["checksum/config"]
	}
	before := sum()
	if again := sum(); again != before || before == nil {
		t.Errorf("unchanged: got %v and %v, want one digest", before, again)
	}
	if sum(edit{"name: partner", "name: partners"}) == before {
		t.Error("an edited issuer: got the same digest, want another")
	}
}

// TestAlertsAndDashboardsAskForSeriesThatThereAre has Prometheus' parser read
// every expression, and looks for the instruments in the source.
func TestAlertsAndDashboardsAskForSeriesThatThereAre(t *testing.T) {
	docs, err := chartWith(t, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	var expressions []string
	for _, g := range one(t, docs, "PrometheusRule").at("spec.groups").([]any) {
		for _, r := range g.(map[string]any)["rules"].([]any) {
			expressions = append(expressions, r.(map[string]any)["expr"].(string))
		}
	}
	alerts := len(expressions)
	var dashboard document
	if err := json.Unmarshal([]byte(documents(docs, "ConfigMap")[1].at("data").(map[string]any)["introspectd.json"].(string)), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard["panels"].([]any) {
		for _, target := range p.(map[string]any)["targets"].([]any) {
			expressions = append(expressions, target.(map[string]any)["expr"].(string))
		}
	}
	if alerts < 5 || len(expressions)-alerts < 5 {
		t.Fatalf("got %d alerts and %d panels' expressions", alerts, len(expressions)-alerts)
	}
	for i, e := range expressions {
		expressions[i] = strings.ReplaceAll(strings.ReplaceAll(e, "$__rate_interval", "5m"), "\n", " ")
	}
	var names []string
	if err := reads(t, &names, strings.Join(expressions, "\n"), "promql"); err != nil {
		t.Fatal(err)
	}
	code := source(t)
	for _, name := range names {
		if name == "up" || strings.HasPrefix(name, "process_") {
			continue // Prometheus' own, and client_golang's
		}
		stem := regexp.MustCompile(`(_seconds)?(_total|_bucket|_count|_sum)?$`).ReplaceAllString(name, "")
		if !regexp.MustCompile(`"` + strings.ReplaceAll(stem, "_", "[._]") + `"`).MatchString(code) {
			t.Errorf("%s is asked for, and nothing of ours is called that", name)
		}
	}
}

// source is all of the program, but for its tests.
func source(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, root := range []string{"../../internal", "."} {
		if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// kustomized are the documents of the kustomization.
func kustomized(t *testing.T) (docs []document) {
	t.Helper()
	if err := reads(t, &docs, "", "kustomize", "../../deploy/kustomize"); err != nil {
		t.Fatal(err)
	}
	return docs
}

func TestTheKustomizationIsTheChartInSmall(t *testing.T) {
	docs := kustomized(t)
	holdToSchemas(t, docs)
	d := one(t, docs, "Deployment")
	holdsPod(t, d, "0")
	chart, err := chartWith(t, "one")
	if err != nil {
		t.Fatal(err)
	}
	theirs := one(t, chart, "Deployment")
	for _, path := range []string{"securityContext", "containers.0.securityContext", "containers.0.readinessProbe", "containers.0.livenessProbe", "containers.0.startupProbe", "containers.0.resources"} {
		path = "spec.template.spec." + path
		if got, want := d.at(path), theirs.at(path); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want the chart's %v", path, got, want)
		}
	}
	config := one(t, docs, "ConfigMap")
	if name := d.at("spec.template.spec.volumes.0.configMap.name"); name != config.at("metadata.name") || name == "introspectd" {
		t.Errorf("the pod's configuration is %v, and there is %v; want one name that changes with the content", name, config.at("metadata.name"))
	}
	passesCheck(t, config.at("data").(map[string]any)["config.yaml"].(string))
	for kind, path := range map[string]string{"NetworkPolicy": "spec.podSelector.matchLabels", "PodDisruptionBudget": "spec.selector.matchLabels", "Service": "spec.selector"} {
		for _, doc := range documents(docs, kind) {
			if got, want := doc.at(path), d.at("spec.template.metadata.labels"); !reflect.DeepEqual(got, want) {
				t.Errorf("%s selects %v, and the pods have %v", kind, got, want)
			}
		}
	}
}

// TestCompose holds the project to the compose specification and runs what its
// files say, without the containers: they share one loopback there, as here.
func TestCompose(t *testing.T) {
	var project document
	if err := reads(t, &project, "", "compose", "../../deploy/compose/compose.yaml"); err != nil {
		t.Fatal(err)
	}
	services := project.at("services").(map[string]any)
	if got, want := slices.Sorted(maps.Keys(services)), []string{"backend", "introspectd", "nginx", "redis"}; !slices.Equal(got, want) {
		t.Fatalf("services: got %v, want %v", got, want)
	}
	for _, name := range []string{"nginx", "backend"} {
		if got := project.at("services." + name + ".network_mode"); got != "service:introspectd" {
			t.Errorf("%s has the network %v, want that of introspectd: it must be a loopback peer", name, got)
		}
	}
	for path, want := range map[string]any{"read_only": true, "cap_drop.0": "ALL", "stop_grace_period": "45s"} {
		if got := project.at("services.introspectd." + path); got != want {
			t.Errorf("introspectd's %s: got %v, want %v", path, got, want)
		}
	}
	for _, file := range []string{"introspectd", "gateway", "backend"} {
		if _, err := os.Stat(project.at("configs." + file + ".file").(string)); err != nil {
			t.Error(err)
		}
	}

	need(t, "nginx")
	needRedis(t)
	dir := t.TempDir()
	password := strings.Repeat("p", 32)
	writeFile(t, filepath.Join(dir, "redis"), password)
	writeFile(t, filepath.Join(dir, "seal"), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	store, err := redistest.Start(dir, "--requirepass", password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Stop)
	issuer, iss := newIssuer(t)
	s := start(t, deployed(t, "compose/introspectd.yaml",
		edit{"https://idp.example/realms/corp", iss}, edit{"redis:6379", store.Addr}, edit{"/run/secrets", dir}))
	backend := freeAddress(t)
	n := startNginx(t, strings.TrimPrefix(s.URL, "http://"), backend, edit{
		"proxy_headers_hash_max_size 1024;",
		"proxy_headers_hash_max_size 1024;\n" + deployed(t, "compose/backend.conf", edit{"127.0.0.1:9000", backend}),
	})
	got := n.send("GET /", bearer(issuer.Mint(map[string]any{"aud": "https://api.example", "sub": "u-1"})))
	if want := "u-1 of " + iss + "\n"; got.Status != http.StatusOK || got.Body != want {
		t.Errorf("a good token: got %d %q, want 200 %q", got.Status, got.Body, want)
	}
	if got := n.send("GET /"); got.Status != http.StatusUnauthorized {
		t.Errorf("no token: got %d, want 401", got.Status)
	}
}
