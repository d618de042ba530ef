// Package auth stands for github.com/abbot/go-http-auth as Traefik's basicAuth
// and digestAuth use it, and refuses everybody.
package auth

import "net/http"

// SecretProvider returns a user's secret.
type SecretProvider func(user, realm string) string

// BasicAuth refuses.
type BasicAuth struct {
	Realm   string
	Secrets SecretProvider
}

// RequireAuth answers 401.
func (*BasicAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// CheckSecret says that no password is the secret.
func CheckSecret(_, _ string) bool { return false }

// DigestAuth refuses.
type DigestAuth struct{}

// NewDigestAuthenticator asks for no secret.
func NewDigestAuthenticator(string, SecretProvider) *DigestAuth { return &DigestAuth{} }

// CheckAuth knows no user.
func (*DigestAuth) CheckAuth(*http.Request) (string, *string) { return "", nil }

// RequireAuth answers 401.
func (*DigestAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// RequireAuthStale answers 401.
func (*DigestAuth) RequireAuthStale(w http.ResponseWriter, _ *http.Request) { refuse(w) }

// DigestAuthParams reads nothing.
func DigestAuthParams(string) map[string]string { return nil }

func refuse(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }
