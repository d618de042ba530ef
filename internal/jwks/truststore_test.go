package jwks_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"introspectd/internal/jwks"
	"introspectd/internal/truststore"
)

const (
	stores   = "../wso2/testdata/"
	password = "wso2carbon"
	wso2Kid  = "YTgwYzYwYTY0MjliMWZlMzA1YTcwMjg5NGI1MTkyMDdiNjg1NTgyOTJiZDRhMzE5MmIwYjMzMzAyOTFjNzMzNQ_RS256"
)

// entry is one entry of a store to be made.
type entry struct {
	alias       string
	public      crypto.PublicKey
	from, until time.Time
	ca          bool
}

var (
	longAgo  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	farAhead = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
)

// storeOf makes a PKCS#12 store; entries without dates are good for ever.
func storeOf(t testing.TB, password string, entries ...entry) string {
	t.Helper()
	var rows []pkcs12.TrustStoreEntry
	for _, e := range entries {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: e.alias}, NotBefore: longAgo, NotAfter: farAhead,
			IsCA: e.ca, BasicConstraintsValid: e.ca,
		}
		if !e.until.IsZero() {
			template.NotBefore, template.NotAfter = e.from, e.until
		}
		c := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, e.public, p384Key()))))
		rows = append(rows, pkcs12.TrustStoreEntry{Cert: c, FriendlyName: e.alias})
	}
	return string(must(pkcs12.Modern.WithIterations(1).EncodeTrustStoreEntries(rows, password)))
}

// records keeps what is logged.
type records struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// storeConfig is a trust store with its password in a file.
func storeConfig(t testing.TB, path string, aliases ...string) jwks.Config {
	t.Helper()
	pass := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(pass, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return jwks.Config{
		TrustStore: jwks.TrustStore{Path: path, Password: jwks.Password{File: pass}, Aliases: aliases},
		Refresh:    5 * time.Minute, MaxStale: 24 * time.Hour,
	}
}

func storeKeys(t testing.TB, c jwks.Config, change ...func(*jwks.Options)) *jwks.Keys {
	t.Helper()
	o := jwks.Options{Name: "apim", Issuer: issuer}
	for _, f := range change {
		f(&o)
	}
	k, err := jwks.New(c, o)
	if err != nil {
		t.Fatalf("New: got %v, want no error", err)
	}
	return k
}

// TestAliasesAreKids looks keys up in the three stores of one content.
func TestAliasesAreKids(t *testing.T) {
	own := must(x509.ParseCertificate(decode(t, stores+"wso2.crt"))).PublicKey
	for _, file := range []string{"client-truststore.jks", "client-truststore.p12", "client-truststore-pkcs12-named.jks"} {
		t.Run("JWT-11 "+file, func(t *testing.T) {
			c := storeConfig(t, stores+file, wso2Kid, "LegacyRootCA", "ExpiredCertKid", "weak-1024", "IDP3-EC-P256")
			c.TrustStore.NoKidAlias = "Gateway_Certificate_Alias"
			k := storeKeys(t, c)
			for _, row := range []struct {
				name, kid, alg string
				want           crypto.PublicKey
			}{
				{"as it is spelled in the configuration", wso2Kid, "RS256", own},
				{"in lower case", strings.ToLower(wso2Kid), "RS256", own},
				{"in upper case", strings.ToUpper(wso2Kid), "PS512", own},
				{"no kid", "", "RS256", own},
				{"the alias that no kid means", "gateway_certificate_alias", "RS256", own},
				{"no kid and an algorithm of another key", "", "ES256", nil},
				{"no alias: never a fallback", "no-such-alias", "RS256", nil},
				{"a part of an alias", wso2Kid[:20], "RS256", nil},
				{"an alias with a space", wso2Kid + " ", "RS256", nil},
				{"the same certificate under an alias that is not bound", "wso2carbon", "RS256", nil},
				{"an alias of another issuer", "Idp1-Signing-2026", "RS256", nil},
				{"a CA's", "LegacyRootCA", "RS256", nil},
				{"an expired one", "ExpiredCertKid", "RS256", nil},
				{"RSA of 1024 bits", "weak-1024", "RS256", nil},
				{"a curve with another", "idp3-ec-p256", "ES384", nil},
				{"too long", strings.Repeat("k", 300), "RS256", nil},
			} {
				t.Run(row.name, func(t *testing.T) { wantKey(t, k, row.kid, row.alg, row.want) })
			}
			if find(t, k, "idp3-ec-p256", "ES256") == nil {
				t.Error("a curve with its algorithm: got a refusal, want the key")
			}
			s := k.State()
			if s.Source != "truststore" || !s.Usable || s.URL != "" || s.AgeSeconds != 0 || len(s.TrustStore.Entries) != 9 {
				t.Errorf("State: got %+v, want the nine entries of a trust store", s)
			}
			if diff := cmp.Diff(map[string]int{"ca": 1, "rsa_size": 1}, s.Skipped); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhatIsBound has only those sign that the configuration names.
func TestWhatIsBound(t *testing.T) {
	path := write(t, "store.jks", storeOf(t, password, entry{alias: "a", public: p256Key().Public()}, entry{alias: "b", public: rsaKey().Public()}))
	t.Run("JWT-06 nothing named, nothing signs", func(t *testing.T) {
		k := storeKeys(t, storeConfig(t, path))
		wantKey(t, k, "a", "ES256", nil)
		wantKey(t, k, "", "ES256", nil)
		if k.Ready() || k.State().Usable {
			t.Error("got ready, want a replica that can't judge a token never to take traffic")
		}
	})
	t.Run("JWT-11 one alias is not what no kid means", func(t *testing.T) {
		k := storeKeys(t, storeConfig(t, path, "a"))
		wantKey(t, k, "a", "ES256", p256Key().Public())
		wantKey(t, k, "", "ES256", nil)
	})
	t.Run("JWT-11 no_kid_alias binds that one", func(t *testing.T) {
		c := storeConfig(t, path)
		c.TrustStore.NoKidAlias = "b"
		k := storeKeys(t, c)
		wantKey(t, k, "", "RS256", rsaKey().Public())
		wantKey(t, k, "a", "ES256", nil)
		wantKey(t, k, "c", "RS256", nil)
	})
	t.Run("without a kid, a fetch is never the answer", func(t *testing.T) {
		k := storeKeys(t, storeConfig(t, path, "a"))
		if key, err := k.Find(t.Context(), "unknown", "ES256", time.Now(), true); key != nil || err != nil {
			t.Errorf("got %v, %v, want a refusal", key, err)
		}
	})
}

// TestCertificateDates judges by the time asked for, on each use.
func TestCertificateDates(t *testing.T) {
	from, until := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	path := write(t, "store.p12", storeOf(t, password, entry{alias: "a", public: p256Key().Public(), from: from, until: until}))
	for _, row := range []struct {
		dates  jwks.CertificateDates
		always bool
	}{{"", false}, {jwks.Enforce, false}, {jwks.WarnDates, true}, {jwks.IgnoreDates, true}} {
		for _, when := range []struct {
			name   string
			now    time.Time
			within bool
		}{
			{"a second too early", from.Add(-time.Second), false},
			{"at its start", from, true},
			{"at its end", until, true},
			{"a second too late", until.Add(time.Second), false},
		} {
			t.Run(string(row.dates)+" "+when.name, func(t *testing.T) {
				c := storeConfig(t, path, "a")
				c.TrustStore.CertificateDates = row.dates
				now := from // its dates are looked at on use, not when it was read
				log := &records{}
				k := storeKeys(t, c, func(o *jwks.Options) {
					o.Now = func() time.Time { return now }
					o.Log = slog.New(slog.NewTextHandler(log, nil))
				})
				if log.String() != "" {
					t.Errorf("log at its start: got %s, want nothing", log)
				}
				now = when.now
				want := when.within || row.always
				key := findAt(t, k, now, "a", "ES256")
				if (key != nil) != want {
					t.Fatalf("Find: got %v, want a key: %t", key, want)
				}
				if got := k.Holds(k.State().Keys[0].Thumbprint, "ES256"); got != want {
					t.Errorf("Holds: got %t, want %t", got, want)
				}
				// A remembered verdict ends with the certificate, or does not
				// know of it.
				if key != nil && key.NotAfter.IsZero() != row.always {
					t.Errorf("NotAfter: got %s, want none: %t", key.NotAfter, row.always)
				}
				warned := strings.Join(k.Warnings(), "\n")
				if wantWarning := !when.within && row.dates != jwks.IgnoreDates; strings.Contains(warned, `kid "a"`) != wantWarning {
					t.Errorf("Warnings: got %q, want one: %t", warned, wantWarning)
				}
			})
		}
	}
}

// TestExpiryIsLogged has the log tell once when a certificate comes to its end
// in a running service.
func TestExpiryIsLogged(t *testing.T) {
	for _, dates := range []jwks.CertificateDates{jwks.Enforce, jwks.WarnDates} {
		synctest.Test(t, func(t *testing.T) {
			until := time.Now().Add(12 * time.Minute)
			path := write(t, "store.p12", storeOf(t, password, entry{alias: "a", public: p256Key().Public(), from: longAgo, until: until}, entry{alias: "b", public: rsaKey().Public()}))
			c, log := storeConfig(t, path, "a", "b"), &records{}
			c.TrustStore.CertificateDates = dates
			k := storeKeys(t, c, func(o *jwks.Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) })
			run(t, k)
			time.Sleep(11 * time.Minute)
			synctest.Wait()
			if log.String() != "" {
				t.Errorf("before: got %s, want nothing", log)
			}
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if n := strings.Count(log.String(), "ended on"); n != 1 || !strings.Contains(log.String(), "level=WARN") {
				t.Errorf("after: got %s, want one warning", log)
			}
		})
	}
}

// TestStoreIsReadAgain rewrites the file of a running service.
func TestStoreIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "store.jks")
		put := func(body string) {
			if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a, b := entry{alias: "a", public: p256Key().Public()}, entry{alias: "b", public: rsaKey().Public()}
		put(storeOf(t, password, a, b))
		c, log := storeConfig(t, path, "a", "b"), &records{}
		k := storeKeys(t, c, func(o *jwks.Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) })
		run(t, k)
		before := k.Digest()

		// A key is replaced under its alias.
		put(storeOf(t, password, entry{alias: "a", public: p521Key().Public()}, b))
		wantKey(t, k, "a", "ES256", p256Key().Public())
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		wantKey(t, k, "a", "ES512", p521Key().Public())
		wantKey(t, k, "a", "ES256", nil)
		if k.Digest() == before || !strings.Contains(log.String(), "keys changed") {
			t.Errorf("log: got %s, want the change, and another digest", log)
		}

		// One that can't be read leaves the last good one in place, whatever
		// is wrong with it, for as long as it takes, and is told of once.
		for _, broken := range []string{"garbage", storeOf(t, "another", a, b), storeOf(t, password, a, entry{alias: "A", public: otherRSA().Public()}), ""} {
			put(broken)
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			wantKey(t, k, "a", "ES512", p521Key().Public())
			if s := k.State(); s.LastError == "" || !strings.Contains(s.LastError, path) || strings.Contains(s.LastError, password) || !s.Usable {
				t.Errorf("State: got %+v, want the error with the file's name, and usable keys", s)
			}
		}
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		wantKey(t, k, "a", "ES512", p521Key().Public())
		if n := strings.Count(log.String(), "the keys from before go on"); n != 4 {
			t.Errorf("log: got %d complaints, want one for each: %s", n, log)
		}

		// What is gone is gone, though the configuration still names it.
		put(storeOf(t, password, b))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		wantKey(t, k, "a", "ES512", nil)
		wantKey(t, k, "b", "RS256", rsaKey().Public())
		if s := k.State(); s.LastError != "" {
			t.Errorf("last error: got %q, want none", s.LastError)
		}

		// Asked for, it is read at once.
		put(storeOf(t, password, a, b))
		if err := k.Refresh(t.Context()); err != nil {
			t.Errorf("Refresh: got %v, want no error", err)
		}
		wantKey(t, k, "a", "ES256", p256Key().Public())
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := k.Refresh(t.Context()); err == nil {
			t.Error("Refresh without the file: got no error, want one")
		}
		wantKey(t, k, "a", "ES256", p256Key().Public())
	})
}

// TestWithdrawnKeysOfATrustStore leaves configuration to the operator.
func TestWithdrawnKeysOfATrustStore(t *testing.T) {
	path := write(t, "store.jks", storeOf(t, password, entry{alias: "a", public: p256Key().Public()}))
	k := storeKeys(t, storeConfig(t, path, "a"), func(o *jwks.Options) { o.Dropped = func(jwks.Thumbprint) time.Time { return time.Now() } })
	k.Prune()
	wantKey(t, k, "a", "ES256", p256Key().Public())
}

// TestStoreFaults has Check name the key and the file, and no password.
func TestStoreFaults(t *testing.T) {
	good := write(t, "good.jks", storeOf(t, password, entry{alias: "first", public: p256Key().Public()}, entry{alias: "Second", public: rsaKey().Public()}, entry{alias: "Root", public: rsaKey().Public(), ca: true}))
	alike := write(t, "alike.jks", storeOf(t, password, entry{alias: "x", public: p256Key().Public()}, entry{alias: "X", public: rsaKey().Public()}))
	wrong := write(t, "wrong", "not-"+password)
	long := write(t, "long", strings.Repeat(password, 200))
	t.Setenv("STORE_PASSWORD", password)
	t.Setenv("WRONG_PASSWORD", "not-"+password)
	for _, row := range []struct {
		name   string
		change func(*jwks.Config)
		want   []string
	}{
		{"in order", func(c *jwks.Config) { c.TrustStore.NoKidAlias = "second" }, nil},
		{"bound and left out: a warning, no fault", func(c *jwks.Config) { c.TrustStore.Aliases = []string{"root"} }, nil},
		{"by a variable", func(c *jwks.Config) { c.TrustStore.Password = jwks.Password{Env: "STORE_PASSWORD"} }, nil},
		{"two sources", func(c *jwks.Config) { c.JWKSURL = jwksURL }, []string{"jwks_url: exactly one of discover, jwks_url, files and truststore"}},
		{"no path", func(c *jwks.Config) { c.TrustStore.Path = "" }, []string{"truststore.path: file of the trust store"}},
		{"no file", func(c *jwks.Config) { c.TrustStore.Path = "/nonexistent.jks" }, []string{"truststore.path: /nonexistent.jks"}},
		{"a directory", func(c *jwks.Config) { c.TrustStore.Path = "/" }, []string{"truststore.path: directory"}},
		{"without end", func(c *jwks.Config) { c.TrustStore.Path = "/dev/zero" }, []string{"truststore.path: more than"}},
		{"no store", func(c *jwks.Config) { c.TrustStore.Path = wrong }, []string{"truststore.path: expected a JKS"}},
		{"two aliases alike", func(c *jwks.Config) { c.TrustStore.Path, c.TrustStore.Aliases = alike, nil }, []string{`truststore.path: "X" and "x"`}},
		{"a wrong password", func(c *jwks.Config) { c.TrustStore.Password.File = wrong }, []string{"truststore.password: good.jks: wrong password"}},
		{"a wrong variable", func(c *jwks.Config) { c.TrustStore.Password = jwks.Password{Env: "WRONG_PASSWORD"} }, []string{"truststore.password: good.jks: wrong password"}},
		{"no password", func(c *jwks.Config) { c.TrustStore.Password = jwks.Password{} }, []string{"truststore.password: wrong password"}},
		{"no variable", func(c *jwks.Config) { c.TrustStore.Password = jwks.Password{Env: "NONE_SUCH"} }, []string{"truststore.password: NONE_SUCH"}},
		{"no password file", func(c *jwks.Config) { c.TrustStore.Password.File = "/nonexistent" }, []string{"truststore.password: /nonexistent"}},
		{"a long password", func(c *jwks.Config) { c.TrustStore.Password.File = long }, []string{"truststore.password: at most"}},
		{"file and variable", func(c *jwks.Config) { c.TrustStore.Password.Env = "STORE_PASSWORD" }, []string{"truststore.password: got both"}},
		{"aliases that aren't there", func(c *jwks.Config) {
			c.TrustStore.Aliases = []string{"first", "third", ""}
			c.TrustStore.NoKidAlias = "fourth"
		}, []string{
			`truststore.aliases[1]: no entry has the alias "third"; ` + good + ` (PKCS12) has "Second", "first"`,
			`truststore.aliases[2]: no entry has the alias ""`, `truststore.no_kid_alias: no entry has the alias "fourth"`,
		}},
		{"no kid required and meant", func(c *jwks.Config) { c.KidRequired = true; c.TrustStore.NoKidAlias = "first" }, []string{"truststore.no_kid_alias: expected none"}},
		{"another word for dates", func(c *jwks.Config) { c.TrustStore.CertificateDates = "strict" }, []string{"truststore.certificate_dates: enforce, warn, ignore"}},
		{"roots for nothing", func(c *jwks.Config) { c.CA = "ca.pem" }, []string{"ca: not fetched"}},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			c := storeConfig(t, good, "first")
			row.change(&c)
			var got []string
			c.Check(issuer, func(key, problem string) { got = append(got, key+": "+problem) })
			if len(got) != len(row.want) {
				t.Fatalf("faults: got %q, want %q", got, row.want)
			}
			for i, want := range row.want {
				key, part, _ := strings.Cut(want, ": ")
				if !strings.HasPrefix(got[i], key+": ") || !strings.Contains(got[i], part) {
					t.Errorf("fault %d: got %q, want %q with %q", i, got[i], key, part)
				}
				if strings.Contains(got[i], password) {
					t.Errorf("fault %d: got %q, with the password in it", i, got[i])
				}
			}
			if _, err := jwks.New(c, jwks.Options{Issuer: issuer}); (err != nil) != (len(row.want) > 0) {
				t.Errorf("New: got %v, want an error: %t", err, len(row.want) > 0)
			}
		})
	}
}

// TestUnwrittenSectionChangesNothing keeps the fingerprint of issuers that have
// no trust store: replicas of both releases share verdicts in a rollout.
func TestUnwrittenSectionChangesNothing(t *testing.T) {
	for _, row := range []struct {
		store jwks.TrustStore
		want  bool
	}{
		{jwks.TrustStore{}, true},
		{jwks.TrustStore{Aliases: []string{}, CertificateDates: jwks.Enforce}, true},
		{jwks.TrustStore{Path: "a"}, false},
		{jwks.TrustStore{Password: jwks.Password{Env: "A"}}, false},
		{jwks.TrustStore{Aliases: []string{"a"}}, false},
		{jwks.TrustStore{NoKidAlias: "a"}, false},
		{jwks.TrustStore{CertificateDates: jwks.WarnDates}, false},
	} {
		if got := row.store.IsZero(); got != row.want {
			t.Errorf("%+v: got %t, want %t", row.store, got, row.want)
		}
	}
}

// TestExplainTrustStore says what people get wrong with aliases.
func TestExplainTrustStore(t *testing.T) {
	path := write(t, "store.jks", storeOf(t, password,
		entry{alias: "Signer", public: p256Key().Public()}, entry{alias: "Free", public: rsaKey().Public()}, entry{alias: "Root", public: otherRSA().Public(), ca: true},
		entry{alias: "Old", public: otherRSA().Public(), from: longAgo, until: longAgo.AddDate(1, 0, 0)}))
	c := storeConfig(t, path, "signer", "root", "old")
	k := storeKeys(t, c)
	var kid string
	for _, e := range k.State().TrustStore.Entries {
		if e.Alias == "Free" {
			kid = e.WSO2Kid
		}
	}
	for _, row := range []struct{ kid, want string }{
		{"SIGNER", `alias "Signer" (ES256); there may sign: "Signer"; outside its certificate's dates (enforce): "Old"; not bound to this issuer: "Free"; left out: "Root" (ca)`},
		{"free", `alias "Free" is not among the aliases of this issuer`},
		{"root", `alias "Root" is left out: ca, a CA certificate`},
		{"old", `alias "Old" does not count: its certificate ended on 2001-01-01T00:00:00Z`},
		{"none", "no entry has this alias; there"},
		{kid, `no entry has this alias, but the certificate with this WSO2 kid lies under "Free"`},
		{"", "no no_kid_alias says what a token without a kid means"},
	} {
		if got := k.Explain(row.kid, "ES256", time.Now()); !strings.Contains(got, row.want) || !strings.Contains(got, path+" (PKCS12)") {
			t.Errorf("Explain(%q): got %q, want %q in it", row.kid, got, row.want)
		}
	}
	if got := k.Explain("old", "RS256", longAgo); !strings.Contains(got, `alias "Old" (RS256`) || !strings.Contains(got, `may sign: "Old", "Signer"`) {
		t.Errorf("at its time: got %q, want it among those that sign", got)
	}
}

// known are the certificates of two keys whose private half is public. They
// stay outside the project.
func known(t *testing.T) (august, october *x509.Certificate) {
	t.Helper()
	const dir = "../../../shared/wso2/public/"
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not there, and CI must not go without it", dir)
		}
		t.Skipf("SKIPPED, NOT PASSED: %s is not there; refusing public keys was not tested", dir)
	}
	return must(x509.ParseCertificate(decode(t, dir+"wso2carbon-2019-08.crt.pem"))), must(x509.ParseCertificate(decode(t, dir+"wso2carbon-2019-10.crt.pem")))
}

// wellKnown answers discovery and the key set that it tells of.
func wellKnown(body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		if strings.Contains(r.URL.Path, ".well-known") {
			return ok(`{"issuer":"` + issuer + `","jwks_uri":"` + jwksURL + `"}`)(r)
		}
		return ok(body)(r)
	}
}

// TestKnownPublicKeys refuses them from every source, unless they are allowed.
func TestKnownPublicKeys(t *testing.T) {
	c, _ := known(t)
	bad, good := c.PublicKey, rsaKey().Public()
	body := keySet(jwk("bad", bad), jwk("good", good))
	file := func(content string) string { return write(t, "key", content) }
	goodFile := jwks.File{Path: file(keySet(jwk("good", good)))}
	pemKey := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(bad))}))
	for _, row := range []struct {
		name   string
		answer func(*http.Request) (*http.Response, error)
		config jwks.Config
		kid    string
	}{
		{"jwks_url", ok(body), jwks.Config{JWKSURL: jwksURL}, "bad"},
		{"discover", wellKnown(body), jwks.Config{Discover: true}, "bad"},
		{"a certificate by file, under WSO2's kid", nil, jwks.Config{Files: []jwks.File{{Path: file(string(c.Raw))}, goodFile}}, truststore.Kid(c.Raw)},
		{"a public key by file", nil, jwks.Config{Files: []jwks.File{{Path: file(pemKey), Kid: "bad"}, goodFile}}, "bad"},
		{"a set by file", nil, jwks.Config{Files: []jwks.File{{Path: file(body)}}}, "bad"},
		{"a trust store", nil, storeConfig(t, file(storeOf(t, password, entry{alias: "Bad", public: bad}, entry{alias: "good", public: good})), "bad", "good"), "bad"},
	} {
		for _, allow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, allowed %t", row.name, allow), func(t *testing.T) {
				log, registry := &records{}, prometheus.NewRegistry()
				exporter := must(otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo()))
				provider := sdk.NewMeterProvider(sdk.WithReader(exporter))
				defer func() { _ = provider.Shutdown(context.Background()) }()
				row.config.AllowKnownPublicKeys = allow
				k := storeKeys(t, row.config, func(o *jwks.Options) {
					o.Transport = &source{answer: row.answer}
					o.Meter, o.Log = provider.Meter("test"), slog.New(slog.NewTextHandler(log, nil))
					o.Now = func() time.Time { return c.NotBefore.Add(time.Hour) }
				})
				if err := k.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				want := bad
				if !allow {
					want = nil
				}
				wantKeyAt(t, k, c.NotBefore.Add(time.Hour), row.kid, "RS256", want)
				wantKey(t, k, "good", "RS256", good)
				if got := k.Refuses(row.kid, "RS256"); got == allow {
					t.Errorf("Refuses: got %t, want %t", got, !allow)
				}
				if k.Refuses("good", "RS256") || k.Refuses(row.kid, "ES256") {
					t.Error("another key or algorithm: got a refusal as public, want none")
				}
				count := map[bool]int{false: 1}[allow]
				if got := gathered(t, registry)["introspectd_jwks_skipped_keys_total{issuer=apim,reason=known_public_key}"]; got != float64(count) {
					t.Errorf("metric: got %v, want %d", got, count)
				}
				if strings.Count(log.String(), "private half is public") != 1 || !strings.Contains(log.String(), "level=WARN") {
					t.Errorf("log: got %s, want one warning", log)
				}
				if s := k.State(); len(s.Refused) != count || s.Skipped["known_public_key"] != count || len(s.Keys) != 2-count {
					t.Errorf("State: got %+v, want %d refused", s, count)
				}
			})
		}
	}
}

// TestOnlyKnownPublicKeys is about an issuer that has no other: its tokens are
// refused for what they are, and not for want of keys.
func TestOnlyKnownPublicKeys(t *testing.T) {
	c, other := known(t)
	bad := keySet(jwk("bad", c.PublicKey))
	refused := func(t *testing.T, k *jwks.Keys, kid string) {
		t.Helper()
		wantKey(t, k, kid, "RS256", nil)
		if !k.Refuses(kid, "RS256") {
			t.Errorf("Refuses(%q): got false, want true", kid)
		}
	}
	t.Run("told apart from an unknown kid", func(t *testing.T) {
		k := holding(t, bad)
		refused(t, k, "bad")
		refused(t, k, "")
		if k.Refuses("other", "RS256") || k.Ready() {
			t.Errorf("got another kid refused %t, ready %t, want neither", k.Refuses("other", "RS256"), k.Ready())
		}
	})
	t.Run("whatever the dates of the certificate", func(t *testing.T) {
		path := write(t, "s.p12", storeOf(t, password, entry{alias: "old", public: c.PublicKey, from: longAgo, until: longAgo.AddDate(1, 0, 0)}))
		k := storeKeys(t, storeConfig(t, path, "old"))
		refused(t, k, "old")
	})
	t.Run("no kid, and a good key beside it", func(t *testing.T) {
		k := holding(t, keySet(jwk("bad", c.PublicKey), jwk("good", rsaKey().Public())))
		wantKey(t, k, "", "RS256", rsaKey().Public())
	})
	t.Run("T9 it takes no place from keys that verify", func(t *testing.T) {
		s := &source{answer: ok(keySet(jwk("good", rsaKey().Public())))}
		k := fromSource(t, s)
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.set(ok(bad))
		if err := k.Refresh(t.Context()); err == nil {
			t.Error("Refresh: got no error, want one")
		}
		wantKey(t, k, "good", "RS256", rsaKey().Public())
	})
	t.Run("and makes way for them", func(t *testing.T) {
		s := &source{answer: ok(bad)}
		k := fromSource(t, s)
		_ = k.Refresh(t.Context())
		s.set(ok(keySet(jwk("good", rsaKey().Public()), jwk("worse", other.PublicKey))))
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantKey(t, k, "good", "RS256", rsaKey().Public())
		refused(t, k, "worse")
	})
	t.Run("a saved set, and one of the fleet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			allowed := func(c *jwks.Config, _ *jwks.Options) { c.AllowKnownPublicKeys = true }
			var s shelf
			s.ranOnce(t, ok(bad), allowed)
			k := fromSource(t, &source{answer: down}, s.with())
			refused(t, k, "bad")
			k = fromSource(t, &source{answer: down}, s.with(), allowed)
			wantKey(t, k, "bad", "RS256", c.PublicKey)
			shared := &fleet{values: s.values}
			k = fromSource(t, &source{answer: down}, func(_ *jwks.Config, o *jwks.Options) { o.Fleet = shared })
			run(t, k)
			synctest.Wait()
			refused(t, k, "bad")
		})
	})
	t.Run("a reload that ceases to allow them, or begins to", func(t *testing.T) {
		before := holding(t, bad, func(c *jwks.Config, _ *jwks.Options) { c.AllowKnownPublicKeys = true })
		print := before.State().Keys[0].Thumbprint
		if !before.Holds(print, "RS256") {
			t.Error("allowed: got its verdicts void, want them to hold")
		}
		after := fromSource(t, &source{answer: down}, func(_ *jwks.Config, o *jwks.Options) { o.Before = before })
		refused(t, after, "bad")
		if after.Holds(print, "RS256") {
			t.Error("got remembered verdicts that hold, want none")
		}
		again := fromSource(t, &source{answer: down}, func(c *jwks.Config, o *jwks.Options) { c.AllowKnownPublicKeys, o.Before = true, after })
		wantKey(t, again, "bad", "RS256", c.PublicKey)
	})
}
