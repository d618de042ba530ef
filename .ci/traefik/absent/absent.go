// Package absent stands for the providers of Traefik that would read routes from
// Kubernetes and ECS: a third of the time that it takes to build. The tests' routes
// are in a file.
package absent

import (
	"errors"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/safe"
)

// Provider has what the settings of those providers are read into, and no routes.
type Provider struct {
	EntryPoints                            map[string]Entrypoint
	NonTLSEntryPoints                      []string
	DefaultRuleSyntax                      string
	WatchNamespace, WatchNamespaceSelector string
}

// Entrypoint is what a provider is told of one.
type Entrypoint struct {
	Address        string
	HasHTTPTLSConf bool
}

// Init refuses.
func (*Provider) Init() error { return errors.New("built without this provider") }

// Provide has no routes.
func (*Provider) Provide(chan<- dynamic.Message, *safe.Pool) error { return nil }

// FillExtensionBuilderRegistry fills nothing.
func (*Provider) FillExtensionBuilderRegistry(any) {}
