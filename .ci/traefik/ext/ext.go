// Package ext is Traefik's own pkg/config/dynamic/ext, which its module's zip
// leaves out as it is a module of its own.
package ext

type (
	// HTTP is what forks of Traefik add to its HTTP configuration: nothing here.
	HTTP struct{}
	// Router is what they add to a router.
	Router struct{}
)
