// Schemas that deploy/ is held to: modules that are read for the files in them
// and never built. `manifests conform` says which file of which is for what.
module introspectd/schemas

go 1.26.7

require (
	github.com/envoyproxy/gateway v1.9.1
	github.com/projectcontour/contour v1.33.8
	// The newest that could be had whole; .ci/manifests has newer types.
	github.com/prometheus-operator/prometheus-operator v0.85.0
	istio.io/api v1.32.0
	k8s.io/kubernetes v1.37.2
	sigs.k8s.io/gateway-api v1.6.3
)
