package introspect_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"introspectd/internal/config"
	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/memstore"
	"introspectd/internal/verify"
)

const wso2 = "../wso2/testdata/"

// configured is an introspector of a configuration in YAML, by one clock.
func configured(t *testing.T, yaml string, now *time.Time) *introspect.Introspector {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return *now }
	var issuers []introspect.Issuer
	for _, row := range c.Issuers {
		keys, err := jwks.New(row.Keys, jwks.Options{Name: row.Name, Issuer: row.Issuer, Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, keys)})
	}
	in, err := introspect.New(issuers, introspect.Options{Cache: c.Cache, Store: memstore.New(64 << 20), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func text(t *testing.T, path string) string {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(body))
}

func fromJSON(t *testing.T, path string, value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text(t, path)), value); err != nil {
		t.Fatal(err)
	}
}

// TestWSO2TrustStoreTokens judges every token that WSO2's gateway would look up
// in its trust store, with each of the three files.
func TestWSO2TrustStoreTokens(t *testing.T) {
	var bindings map[string][]string
	fromJSON(t, wso2+"bindings.json", &bindings)
	var cases []struct {
		File   string
		Config string
		Active bool
		Why    string
		Expect map[string]any
	}
	fromJSON(t, wso2+"tokens/cases.json", &cases)
	reasons := map[string]verify.Reason{
		"03-no-kid-wrong-key.jwt": verify.BadSignature, "04-kid-unknown-alias.jwt": verify.UnknownKey, "23-ca-cert-alias.jwt": verify.UnknownKey,
		"24-foreign-alias.jwt": verify.UnknownKey, "25-expired-signer-cert.jwt": verify.UnknownKey, "26-weak-rsa-1024.jwt": verify.UnknownKey,
	}
	pass := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(pass, []byte("wso2carbon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := start
	for _, file := range []string{"client-truststore.jks", "client-truststore.p12", "client-truststore-pkcs12-named.jks"} {
		yaml := "issuers:\n"
		for iss, aliases := range bindings {
			name := fmt.Sprintf("i%x", sha256.Sum256([]byte(iss)))[:8]
			yaml += fmt.Sprintf("- {name: %s, issuer: %q, keys: {truststore: {path: %s, password: {file: %s}, aliases: [%s], no_kid_alias: gateway_certificate_alias}}}\n",
				name, iss, wso2+file, pass, strings.Join(aliases, ", "))
		}
		in := configured(t, yaml, &now)
		for _, row := range cases {
			if row.Config != "01-truststore-only.toml" {
				continue // judged under the imported configurations
			}
			t.Run(row.File[:2]+" "+file+" "+row.Why, func(t *testing.T) {
				token := text(t, wso2+"tokens/"+row.File)
				for _, once := range []string{"fresh", "remembered"} {
					a, err := in.Introspect(context.Background(), []byte(token), nil)
					if err != nil || a.Active() != row.Active {
						t.Fatalf("%s: got active %t (%s), error %v, want %t", once, a.Active(), a.Reason(), err, row.Active)
					}
					if want := reasons[row.File]; want != verify.NoReason && a.Reason() != want {
						t.Errorf("%s: got %s, want %s", once, a.Reason(), want)
					}
					var body map[string]any
					if a.Active() {
						if err := json.Unmarshal(a.Body(), &body); err != nil {
							t.Fatal(err)
						}
					}
					for member, want := range row.Expect {
						if body[member] != want {
							t.Errorf("%s: %s: got %v, want %v", once, member, body[member], want)
						}
					}
				}
			})
		}
	}
}

// signer is a key of an issuer whose certificates lie in a trust store.
type signer struct{ *devissuer.Key }

func newSigner() signer { return signer{devissuer.NewKey("ES256")} }

func (s signer) certificate(t *testing.T, until time.Time) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(until.Unix()), NotBefore: start.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.Signer.Public(), s.Signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s signer) token(kid string) string {
	return s.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, kid), fmt.Sprintf(`{"iss":%q,"sub":"a","iat":%d,"exp":%d}`, iss, start.Unix(), start.Unix()+3600))
}

func trustStore(t *testing.T, path string, entries map[string]*x509.Certificate) {
	t.Helper()
	var rows []pkcs12.TrustStoreEntry
	for alias, c := range entries {
		rows = append(rows, pkcs12.TrustStoreEntry{Cert: c, FriendlyName: alias})
	}
	body, err := pkcs12.Passwordless.EncodeTrustStoreEntries(rows, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestVerdictsEndWithTheCertificate has no verdict remembered beyond the
// certificate of its key, neither here nor in another replica, though ttl and
// exp are longer, and though another certificate has the same key.
func TestVerdictsEndWithTheCertificate(t *testing.T) {
	s := newSigner()
	path := filepath.Join(t.TempDir(), "store.p12")
	trustStore(t, path, map[string]*x509.Certificate{"old": s.certificate(t, start.Add(100*time.Second)), "new": s.certificate(t, start.Add(24*time.Hour))})
	for _, dates := range []jwks.CertificateDates{jwks.Enforce, jwks.WarnDates, jwks.IgnoreDates} {
		t.Run(string(dates), func(t *testing.T) {
			f := newFixture(t)
			o := f.meeting(introspect.Always)
			change := func(c *introspect.IssuerConfig) {
				c.Keys.Files = nil
				c.Keys.TrustStore = jwks.TrustStore{Path: path, Aliases: []string{"old", "new"}, CertificateDates: dates}
			}
			token := s.token("OLD")
			first := f.replica(change)
			f.want(first, token, verify.NoReason)
			lifetime := time.Duration(f.store.lifetime.Load())
			if want := map[bool]time.Duration{true: 100 * time.Second, false: 5 * time.Minute}[dates == jwks.Enforce]; lifetime != want {
				t.Errorf("remembered for %s, want %s", lifetime, want)
			}
			f.now.Add(99)
			f.want(first, token, verify.NoReason)
			if _, hits, _ := o.count(); hits != 0 {
				t.Errorf("got %d answers from elsewhere, want its own", hits)
			}
			second := f.replica(change)
			f.want(second, token, verify.NoReason)
			if _, hits, _ := o.count(); hits != 1 {
				t.Errorf("got %d answers from elsewhere, want one", hits)
			}
			f.now.Add(2) // the certificate has ended
			want := verify.NoReason
			if dates == jwks.Enforce {
				want = verify.UnknownKey
			}
			for name, in := range map[string]*introspect.Introspector{"the first": first, "the second": second, "a new one": f.replica(change)} {
				if a := f.judge(in, token); a.Reason() != want {
					t.Errorf("%s: got %q, want %q", name, a.Reason(), want)
				}
			}
			f.want(first, s.token("new"), verify.NoReason)
		})
	}
}

// TestVerdictsEndWithTheAlias has a verdict die with the key that verified it
// when the store is another.
func TestVerdictsEndWithTheAlias(t *testing.T) {
	s, path := newSigner(), filepath.Join(t.TempDir(), "store.p12")
	trustStore(t, path, map[string]*x509.Certificate{"a": s.certificate(t, start.Add(time.Hour))})
	config := jwks.Config{TrustStore: jwks.TrustStore{Path: path, Aliases: []string{"a"}}, Refresh: time.Minute, MaxStale: time.Hour}
	f := newFixture(t)
	keys, err := jwks.New(config, jwks.Options{Name: "idp", Issuer: iss, Now: f.clock})
	if err != nil {
		t.Fatal(err)
	}
	c := f.config()
	c.Keys = config
	in, err := introspect.New([]introspect.Issuer{{Config: c, Verifier: verify.NewIssuer(c.Config, keys)}}, introspect.Options{
		Cache: introspect.CacheConfig{Verdicts: introspect.VerdictsConfig{TTL: 5 * time.Minute}}, Store: f.store, Now: f.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	token := s.token("a")
	f.want(in, token, verify.NoReason)
	trustStore(t, path, map[string]*x509.Certificate{"a": newSigner().certificate(t, start.Add(time.Hour))})
	f.want(in, token, verify.NoReason)
	if err := keys.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.want(in, token, verify.BadSignature)
	trustStore(t, path, map[string]*x509.Certificate{"b": s.certificate(t, start.Add(time.Hour))})
	if err := keys.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.want(in, token, verify.UnknownKey)
}

// TestPublishedTokens judges two tokens of WSO2's own documentation, at their
// own time and today. Everybody has the keys that signed them.
func TestPublishedTokens(t *testing.T) {
	const public = "../../../shared/wso2/public/"
	if _, err := os.Stat(public); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not there, and CI must not go without it", public)
		}
		t.Skipf("SKIPPED, NOT PASSED: %s is not there; the seed's own token was not judged", public)
	}
	const kid = "MzYxMmFkOGYwMWI0ZWNmNDcxNGYwYmM4ZTA3MWI2NDAzZGQzNGM0ZGRlNjJkODFkZDRiOTFkMWFhMzU2ZGVlNg_RS256"
	t.Setenv("STORE_PASSWORD", "wso2carbon")
	store := "{truststore: {path: " + public + "client-truststore.jks, password: {env: STORE_PASSWORD}, aliases: [" + kid + "], no_kid_alias: gateway_certificate_alias}, allow_known_public_keys: ALLOW}"
	files := "{files: [" + public + "wso2carbon-2019-10.crt.pem, " + public + "wso2carbon-2019-08.crt.pem], allow_known_public_keys: ALLOW}"
	set := "{files: [" + public + "jwks.json], allow_known_public_keys: ALLOW}"
	seed, docs := text(t, public+"seed-token.jwt"), text(t, public+"docs30-token.jwt")
	at := func(epoch int64) time.Time { return time.Unix(epoch, 0) }
	for _, row := range []struct {
		name, keys, token string
		allow             bool
		at                time.Time
		want              verify.Reason
	}{
		{"the seed's, as it began", store, seed, true, at(1602581290), verify.NoReason},
		{"the seed's, in its last second", store, seed, true, at(1602584889), verify.NoReason},
		{"the seed's, at its end", store, seed, true, at(1602584890), verify.Expired},
		{"the seed's, a day before", store, seed, true, time.Date(2020, 10, 12, 9, 56, 40, 0, time.UTC), verify.NotYetValid},
		{"the seed's, today, when its certificate has ended, too", store, seed, true, start, verify.Expired},
		{"the seed's with another signature, today", store, seed[:len(seed)-8] + "AAAAAAAA", true, start, verify.BadSignature},
		{"the seed's, with certificates by file, today", files, seed, true, start, verify.Expired},
		{"the seed's, refused by default", store, seed, false, at(1602581290), verify.KnownPublicKey},
		{"the seed's, refused by default, today", store, seed, false, start, verify.KnownPublicKey},
		{"the seed's, with certificates by file", files, seed, true, at(1602581290), verify.NoReason},
		{"the seed's, with certificates by file, refused", files, seed, false, at(1602581290), verify.KnownPublicKey},
		{"the seed's, with a JWK set", set, seed, true, at(1602581290), verify.NoReason},
		{"the seed's, with a JWK set, today", set, seed, true, start, verify.Expired},
		{"the seed's, with a JWK set, refused", set, seed, false, at(1602581290), verify.KnownPublicKey},
		{"the older one, without a kid", store, docs, true, at(1571911841), verify.NoReason},
		{"the older one, today", store, docs, true, start, verify.Expired},
		{"the older one, refused", store, docs, false, at(1571911841), verify.KnownPublicKey},
	} {
		t.Run(row.name, func(t *testing.T) {
			var claims struct{ Iss string }
			payload, err := base64.RawURLEncoding.DecodeString(strings.Split(row.token, ".")[1])
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(payload, &claims); err != nil {
				t.Fatal(err)
			}
			keys := strings.ReplaceAll(row.keys, "ALLOW", fmt.Sprint(row.allow))
			in := configured(t, fmt.Sprintf("issuers: [{name: apim, issuer: %q, leeway: 0s, require: [iss, exp], keys: %s}]\n", claims.Iss, keys), &row.at)
			a, err := in.Introspect(t.Context(), []byte(row.token), nil)
			if err != nil || a.Reason() != row.want || a.Active() != (row.want == verify.NoReason) {
				t.Errorf("got active %t %q, %v, want %q", a.Active(), a.Reason(), err, row.want)
			}
		})
	}
}
