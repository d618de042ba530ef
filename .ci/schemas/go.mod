// Schemas that deploy/ is held to: modules that are read for the files in them
// and never built. `manifests conform` says which file of which is for what.
module introspectd/schemas

go 1.26.7

require (
	github.com/envoyproxy/gateway v1.9.1
	github.com/kong/go-database-reconciler v1.31.0
	github.com/kong/kubernetes-configuration v1.5.3
	github.com/nginx/nginx-gateway-fabric v1.6.2
	// The newest that is a module: versions 2 to 5 go without a /v2 to /v5.
	github.com/nginxinc/kubernetes-ingress v1.12.4
	github.com/projectcontour/contour v1.33.8
	// The newest that could be had whole; .ci/manifests has newer types.
	github.com/prometheus-operator/prometheus-operator v0.85.0
	istio.io/api v1.32.0
	k8s.io/kubernetes v1.37.2
	sigs.k8s.io/gateway-api v1.6.3
)

// The same commit by the project's former name, under which it could be had.
replace github.com/nginx/nginx-gateway-fabric => github.com/nginxinc/nginx-gateway-fabric v1.6.2
