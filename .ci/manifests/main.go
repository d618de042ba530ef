// Command manifests reads what deploy/ has for Kubernetes and compose as those
// who will run it do, and prints the outcome as JSON. It is a module of its own,
// so that what it takes never comes near introspectd's.
//
//	manifests lint CHART VALUES         what helm's linter says
//	manifests render CHART VALUES       the chart's documents, by helm's own engine
//	manifests kustomize DIRECTORY       the documents of a kustomization
//	manifests read FILE                 the documents of a file
//	manifests conform MODULE FILE...    how the documents of files stand to schemas
//	manifests compose FILE              a compose project, by the specification's own loader
//	manifests promql                    the series that the expressions on standard input ask for
//
// Documents that are rendered, built or read are decoded strictly into the types
// of Kubernetes' own API, or those of the Prometheus operator: an unknown or
// misspelt field is an error, and so is a kind that neither knows. What is to
// conform is held to schemas by kubeconform, and to what an API server's own code
// asks beyond them.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	chartloader "helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	kustomize "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	out, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("lint, render, kustomize, read, conform, compose or promql")
	}
	arg := func(n int) string {
		if n < len(args) {
			return args[n]
		}
		return ""
	}
	switch args[0] {
	case "lint":
		return lintChart(arg(1), arg(2))
	case "render":
		return render(arg(1), arg(2))
	case "kustomize":
		return build(arg(1))
	case "conform":
		return conform(arg(1), args[min(2, len(args)):])
	case "read":
		b, err := os.ReadFile(arg(1))
		if err != nil {
			return nil, err
		}
		return decode(b)
	case "compose":
		return compose(arg(1))
	case "promql":
		return series(os.Stdin)
	}
	return nil, fmt.Errorf("what is %q?", args[0])
}

// lintChart returns what is at fault or worth a warning.
func lintChart(chart, file string) ([]string, error) {
	values, err := chartutil.ReadValuesFile(file)
	if err != nil {
		return nil, err
	}
	said := []string{}
	for _, m := range lint.All(chart, values, "default", true).Messages {
		if m.Severity > support.InfoSev {
			said = append(said, m.Error())
		}
	}
	return said, nil
}

// render returns the chart's documents; notes are left out.
func render(chart, file string) ([]any, error) {
	c, err := chartloader.Load(chart)
	if err != nil {
		return nil, err
	}
	own, err := chartutil.ReadValuesFile(file)
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "introspectd", Namespace: "default", Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(c, own, release, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, values)
	if err != nil {
		return nil, err
	}
	docs := []any{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		found, err := decode([]byte(files[name]))
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", name, err, files[name])
		}
		docs = append(docs, found...)
	}
	return docs, nil
}

func build(dir string) ([]any, error) {
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = kustomize.LoadRestrictionsRootOnly
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	text, err := resources.AsYaml()
	if err != nil {
		return nil, err
	}
	return decode(text)
}

// known are the kinds that a document may be.
func known() (*runtime.Scheme, error) {
	all := runtime.NewScheme()
	return all, errors.Join(scheme.AddToScheme(all), monitoring.AddToScheme(all))
}

// decode reads the documents of a YAML stream strictly, and returns them as
// they were written.
func decode(stream []byte) ([]any, error) {
	kinds, err := known()
	if err != nil {
		return nil, err
	}
	var docs []any
	for _, text := range split(stream) {
		var doc map[string]any
		if err := yaml.UnmarshalStrict(text, &doc); err != nil {
			return nil, err
		}
		version, _ := doc["apiVersion"].(string)
		kind, _ := doc["kind"].(string)
		typed, err := kinds.New(schema.FromAPIVersionAndKind(version, kind))
		if err != nil {
			return nil, err
		}
		if err := yaml.UnmarshalStrict(text, typed); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func compose(file string) (any, error) {
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SetProjectName("introspectd", true) })
}

// series returns the names of the series in PromQL expressions, one a line.
func series(in io.Reader) ([]string, error) {
	names := map[string]bool{}
	p := parser.NewParser(parser.Options{})
	for lines := bufio.NewScanner(in); lines.Scan(); {
		expr, err := p.ParseExpr(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", lines.Text(), err)
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			if v, ok := node.(*parser.VectorSelector); ok {
				names[v.Name] = true
			}
			return nil
		})
	}
	return slices.Sorted(maps.Keys(names)), nil
}
