package api_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"introspectd/api"
	"introspectd/internal/callers"
	"introspectd/internal/config"
	"introspectd/internal/devissuer"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/memstore"
	"introspectd/internal/revoke"
	"introspectd/internal/sign"
	"introspectd/internal/telemetry"
	"introspectd/internal/verify"
)

const (
	corp = "https://idp.example/realms/corp"
	away = "https://away.example" // its keys are never to be had

	truststore = "../internal/wso2/testdata/client-truststore.p12"

	secret = "correct-horse-battery-staple"
	bearer = "bearer-of-the-app-0123456789"
	idle   = "bearer-of-the-idle-987654321" // of a caller that may nothing of interest
)

// settings is what the listeners of these tests are configured with: %s is the
// directory of the keys.
const settings = `
server: {public_url: "https://introspect.example", pprof: true}
issuers:
  - {name: corp, issuer: "` + corp + `", keys: {files: [%[1]s/keys.json]}}
  - {name: away, issuer: "` + away + `", keys: {jwks_url: "http://127.0.0.1:1/jwks.json"}}
  - name: apim
    issuer: https://apim.example
    keys: {truststore: {path: ` + truststore + `, password: {file: %[1]s/store}, aliases: [wso2carbon, ExpiredCertKid, LegacyRootCA], no_kid_alias: gateway_certificate_alias}}
callers:
  - id: app
    secrets: [{file: %[1]s/secret}]
    bearer_tokens: [{file: %[1]s/bearer}]
    may: [introspect, transform, auth, revoke, revoke_broad, operate, explain]
    profiles: [backend, transaction]
    any_issuer: true
    any_audience: true
  - id: owner
    secrets: [{file: %[1]s/secret}]
    may: [revoke_broad]
    clients: [{issuer: corp, client_id: dev}]
    issuers: [corp]
    any_audience: true
  - id: idle
    secrets: [{file: %[1]s/secret}]
    bearer_tokens: [{file: %[1]s/idle}]
    may: [auth]
    any_issuer: true
    any_audience: true
policies:
  - {name: default, any_audience: true, any_issuer: true}
  - {name: signed, any_issuer: true, any_audience: true, assertion: {profile: backend}}
  - {name: transaction, any_issuer: true, any_audience: true, assertion: {profile: transaction}}
  - {name: orders, any_issuer: true, any_audience: true, scopes: [orders], remove_headers: [Authorization]}
profiles:
  - {name: backend, assertion: {audience: ["https://backend.example"]}}
  - {name: transaction, shape: transaction_token, output: jwt, assertion: {audience: [example.internal]}}
  - {name: others}
signing: {keys: [{file: %[1]s/signing.pem}]}
`

// world is both listeners of one configuration.
type world struct {
	public, admin *httptest.Server
	revocations   *revoke.List
	api           httpapi.Options
	ops           httpapi.AdminOptions
}

// issuer signs the tokens of corp; its key set is what the worlds trust.
func newIssuer(t *testing.T) (*devissuer.Issuer, string) {
	t.Helper()
	issuer, dir := devissuer.New(corp, "ES256"), t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(devissuer.NewKey("ES256").Signer)
	must(t, err)
	own := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for name, content := range map[string]string{"keys.json": string(issuer.JWKS()), "secret": secret, "bearer": bearer, "idle": idle, "store": "wso2carbon", "signing.pem": own} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return issuer, dir
}

// shelf keeps revocations in memory; err, when set, is what becomes of more.
type shelf struct{ err error }

func (s *shelf) Append(context.Context, revoke.Name, []byte, time.Time) error { return s.err }

// newWorld wires the listeners as the command does and serves them on
// loopback; change is applied before.
func newWorld(t *testing.T, dir string, change func(*world)) *world {
	t.Helper()
	return newWorldThatKeeps(t, dir, revoke.Options{File: &shelf{}}, change)
}

// newWorldThatKeeps is newWorld with a list of revocations of its own.
func newWorldThatKeeps(t *testing.T, dir string, kept revoke.Options, change func(*world)) *world {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, settings, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, config.Options{})
	must(t, err)
	tel, err := telemetry.New(t.Context(), cfg.Telemetry, telemetry.Options{LogTo: io.Discard, Version: "test"})
	must(t, err)
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) }) // nothing is exported
	observer, err := httpapi.NewObserver(tel.Log, tel.Access, tel.Meter, tel.Tracer, tel.Propagator)
	must(t, err)

	kept.Config, kept.Log, kept.Meter = cfg.Revocation, tel.Log, tel.Meter
	list, err := revoke.New(kept)
	must(t, err)
	names := map[string]string{}
	keys := map[string]*jwks.Keys{}
	var issuers []introspect.Issuer
	for _, row := range cfg.Issuers {
		k, err := jwks.New(row.Keys, jwks.Options{Name: row.Name, Issuer: row.Issuer, Log: tel.Log, Meter: tel.Meter})
		must(t, err)
		keys[row.Name], names[row.Issuer] = k, row.Name
		issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, k)})
	}
	metrics, err := introspect.NewMetrics(tel.Meter)
	must(t, err)
	introspector, err := introspect.New(issuers, introspect.Options{Cache: cfg.Cache, Store: memstore.New(1 << 20), Revocations: list, Metrics: metrics})
	must(t, err)
	who, err := callers.New(cfg.Callers, callers.NewLimits(time.Now))
	must(t, err)
	own, err := sign.Load(cfg.Signing)
	must(t, err)
	ready := func() httpapi.Readiness {
		return httpapi.Readiness{Ready: true, Status: "degraded", Missing: []string{"keys of away"}}
	}

	w := &world{
		revocations: list,
		api: httpapi.Options{
			Introspector: introspector, Callers: who, Rows: cfg.Callers, Auth: cfg.Auth, Policies: cfg.Policies,
			Profiles: cfg.Profiles, Signer: sign.New(sign.Options{Keys: own, Issuer: cfg.Server.PublicURL, Cache: memstore.New(32 << 20)}),
			PublicURL: cfg.Server.PublicURL, Observer: observer, Ready: ready,
		},
		ops: httpapi.AdminOptions{
			Callers: who, Observer: observer, Ready: ready, Metrics: tel.Metrics(), OpenAPI: api.OpenAPI,
			Issuers: func() any { return states(cfg.Issuers, keys) },
			Refresh: func(ctx context.Context, name string) error {
				if k := keys[name]; k != nil {
					return k.Refresh(ctx)
				}
				return httpapi.ErrNoIssuer
			},
			// Those of corp come from a file, and stand for some that are fetched.
			Local:        func(name string) bool { return name == "apim" },
			Introspector: introspector, Address: "127.0.0.1:8081", PProf: cfg.Server.PProf,
			Revocations: list, Names: names,
		},
	}
	if change != nil {
		change(w)
	}
	w.public, w.admin = serve(t, httpapi.New(w.api)), serve(t, httpapi.NewAdmin(w.ops))
	return w
}

// revoke revokes a token, and returns the id of the revocation.
func (w *world) revoke(t *testing.T, token string) string {
	t.Helper()
	c, err := w.api.Introspector.Candidate(t.Context(), token)
	must(t, err)
	r, err := w.api.Introspector.Revoke(t.Context(), c, "test")
	must(t, err)
	return hex.EncodeToString(r.Name[:])
}

// issuerState is a row of GET /issuers as the command shows it.
type issuerState struct {
	Name   string     `json:"name"`
	Issuer string     `json:"issuer"`
	Ready  bool       `json:"ready"`
	Keys   jwks.State `json:"keys"`
}

func states(rows []introspect.IssuerConfig, keys map[string]*jwks.Keys) any {
	all := []issuerState{}
	for _, row := range rows {
		k := keys[row.Name]
		all = append(all, issuerState{row.Name, row.Issuer, k.Ready(), k.State()})
	}
	return map[string]any{"issuers": all}
}

func serve(t *testing.T, h http.Handler) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
