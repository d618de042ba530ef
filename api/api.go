// Package api holds the description of what introspectd answers.
package api

import _ "embed"

// OpenAPI is the description of the public and the admin listener, OpenAPI
// 3.1 in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte
