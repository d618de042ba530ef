package introspect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/goleak"

	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/memstore"
	"introspectd/internal/revoke"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

const iss = "https://idp.example"

var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is one issuer, a store that outlives introspectors, and a clock.
type fixture struct {
	t     testing.TB
	idp   *devissuer.Issuer
	path  string // of its key set
	store *counted
	key   []byte
	now   atomic.Int64
	list  *revoke.List // nil for none
	// What the next introspectors share, and how; nil for nothing.
	others  introspect.Cache
	sharing introspect.Sharing
	meter   metric.Meter
	turns   *verify.Turns // nil for their own
	keys    *jwks.Keys    // of the last introspector
}

// counted is the process's store with its uses counted.
type counted struct {
	introspect.Cache
	puts, refused atomic.Int64
	kept          atomic.Pointer[[]byte]
	lifetime      atomic.Int64 // of kept
}

func (c *counted) Put(ctx context.Context, key introspect.Key, value []byte, d time.Duration, refused bool) {
	c.puts.Add(1)
	if refused {
		c.refused.Add(1)
	}
	c.kept.Store(&value)
	c.lifetime.Store(int64(d))
	c.Cache.Put(ctx, key, value, d, refused)
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{
		t: t, idp: devissuer.New(iss, "ES256"), path: filepath.Join(t.TempDir(), "keys.json"),
		store: &counted{Cache: memstore.New(64 << 20)}, key: introspect.NewDigestKey(), meter: noop.Meter{},
	}
	f.now.Store(start.Unix())
	f.publish()
	return f
}

// online has the next introspector fetch the issuer's keys, which can change then.
func (f *fixture) online(c *introspect.IssuerConfig) {
	c.Keys.Files, c.Keys.JWKSURL = nil, iss+"/jwks.json"
}

// RoundTrip answers whoever is online with the issuer's present keys.
func (f *fixture) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(f.idp.JWKS())), Request: r}, nil
}

// replace puts one key in the place of another, for the last introspector as well.
func (f *fixture) replace(old, by *devissuer.Key) {
	f.idp.RemoveKey(old)
	f.idp.AddKey(by)
	f.refresh()
}

func (f *fixture) refresh() {
	f.t.Helper()
	if err := f.keys.Refresh(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

// publish writes the issuer's present keys to its file.
func (f *fixture) publish() {
	f.t.Helper()
	if err := os.WriteFile(f.path, f.idp.JWKS(), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) clock() time.Time { return time.Unix(f.now.Load(), 0) }

func (f *fixture) config() introspect.IssuerConfig {
	return introspect.IssuerConfig{
		Config: verify.Config{
			Name: "idp", Issuer: iss, TokenTypes: verify.Compat, Require: []string{"exp", "iss"}, Leeway: 30 * time.Second,
			Keys: jwks.Config{Files: []jwks.File{{Path: f.path}}, Refresh: 5 * time.Minute, MaxStale: 24 * time.Hour},
		},
		Claims: transform.Config{
			Scope: []string{"scope", "scp"}, ClientID: []string{"client_id", "azp", "cid", "appid", "consumerKey"},
			Username: []string{"preferred_username", "username", "upn", "cognito:username"},
		},
	}
}

// introspector is a new one over the same store, as after a reload or in
// another replica.
func (f *fixture) introspector(change func(*introspect.IssuerConfig)) *introspect.Introspector {
	f.t.Helper()
	c := f.config()
	if change != nil {
		change(&c)
	}
	keys, err := jwks.New(c.Keys, jwks.Options{Name: c.Name, Issuer: c.Issuer, Log: slog.New(slog.DiscardHandler), Meter: noop.Meter{}, Now: f.clock, Transport: f})
	if err != nil {
		f.t.Fatal(err)
	}
	f.keys = keys
	metrics, err := introspect.NewMetrics(f.meter)
	if err != nil {
		f.t.Fatal(err)
	}
	o := introspect.Options{
		Cache:     introspect.CacheConfig{Verdicts: introspect.VerdictsConfig{TTL: 5 * time.Minute, InactiveTTL: 10 * time.Second, Shared: f.sharing}},
		DigestKey: f.key, Metrics: metrics, Now: f.clock, Revocations: f.list, Shared: f.others, Turns: f.turns,
	}
	if f.store != nil {
		o.Store = f.store
	}
	in, err := introspect.New([]introspect.Issuer{{Config: c, Verifier: verify.NewIssuer(c.Config, keys)}}, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return in
}

// sign makes a token of the fixture's issuer: claims are members of JSON text.
func (f *fixture) sign(claims string) string {
	key := f.idp.Key("ES256")
	return key.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, key.Kid), f.payload(claims))
}

func (f *fixture) payload(claims string) string {
	base := fmt.Sprintf(`{"iss":%q,"exp":%d,"iat":%d`, iss, start.Unix()+3600, start.Unix())
	if claims != "" {
		base += "," + claims
	}
	return base + "}"
}

func (f *fixture) judge(in *introspect.Introspector, token string) introspect.Answer {
	f.t.Helper()
	a, err := in.Introspect(context.Background(), []byte(token), nil)
	if err != nil {
		f.t.Fatalf("could not tell: %v", err)
	}
	return a
}

func TestRememberedVerdictDiesWithWhatMadeIt(t *testing.T) {
	for _, row := range []struct {
		name   string
		before func(*fixture)
		change func(*introspect.IssuerConfig)
		want   verify.Reason
		puts   int64 // verdicts made anew
	}{
		{"nothing changed: it is not made again", func(*fixture) {}, nil, verify.NoReason, 0},
		{"JWT-15 a key was added: it costs nothing", func(f *fixture) { f.idp.AddKey(devissuer.NewKey("ES256")); f.publish() }, nil, verify.NoReason, 0},
		{"JWT-15 its key was removed", func(f *fixture) {
			f.idp.AddKey(devissuer.NewKey("ES384"))
			f.idp.RemoveKey(f.idp.Key("ES256"))
			f.publish()
		}, nil, verify.UnknownKey, 0},
		{"R8 the issuer's algorithms changed", func(*fixture) {}, func(c *introspect.IssuerConfig) { c.Algorithms = []string{"RS256"} }, verify.AlgorithmNotAllowed, 0},
		{"R8 a claim is required now", func(*fixture) {}, func(c *introspect.IssuerConfig) { c.Require = []string{"exp", "iss", "tenant"} }, verify.MissingClaim, 0},
		{"TRN-08 the claim map changed", func(*fixture) {}, func(c *introspect.IssuerConfig) {
			c.Claims.Map = []transform.Rename{{RemoteClaim: "a", LocalClaim: "b"}}
		}, verify.NoReason, 1},
		{"INT-26 exp passed", func(f *fixture) { f.now.Add(3600 + 30) }, nil, verify.Expired, 1},
		{"INT-26 exp within the leeway", func(f *fixture) { f.now.Add(3600 + 29); f.store.puts.Add(-1) }, nil, verify.NoReason, 0},
		{"the clock went back an hour", func(f *fixture) { f.now.Add(-3600) }, nil, verify.NotYetValid, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			token := f.sign(`"sub":"a"`)
			if a := f.judge(f.introspector(nil), token); !a.Active() {
				t.Fatalf("at first: got %s, want active", a.Reason())
			}
			row.before(f)
			before := f.store.puts.Load()
			a := f.judge(f.introspector(row.change), token)
			if a.Reason() != row.want || a.Active() != (row.want == verify.NoReason) {
				t.Errorf("then: got active %t %q, want %q", a.Active(), a.Reason(), row.want)
			}
			if made := f.store.puts.Load() - before; made != row.puts && row.name != "INT-26 exp within the leeway" {
				t.Errorf("got %d verdicts remembered anew, want %d", made, row.puts)
			}
		})
	}
}

func TestRefusalIsForgottenWithWhatMadeIt(t *testing.T) {
	t.Run("JWT-15 the key set changed", func(t *testing.T) {
		f := newFixture(t)
		next := devissuer.NewKey("ES256")
		next.Kid = f.idp.Key("ES256").Kid
		token := next.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, next.Kid), f.payload(""))
		if a := f.judge(f.introspector(nil), token); a.Reason() != verify.BadSignature {
			t.Fatalf("got %q, want bad_signature", a.Reason())
		}
		f.idp.RemoveKey(f.idp.Key("ES256"))
		f.idp.AddKey(next)
		f.publish()
		if a := f.judge(f.introspector(nil), token); !a.Active() {
			t.Errorf("with the key published: got %q, want active", a.Reason())
		}
	})
	t.Run("a negative entry never outlives nbf", func(t *testing.T) {
		f := newFixture(t)
		token := f.sign(fmt.Sprintf(`"nbf":%d`, start.Unix()+35))
		in := f.introspector(nil)
		if a := f.judge(in, token); a.Reason() != verify.NotYetValid {
			t.Fatalf("got %q, want not_yet_valid", a.Reason())
		}
		f.now.Add(5) // nbf - leeway, within inactive_ttl
		if a := f.judge(in, token); !a.Active() {
			t.Errorf("at nbf less leeway: got %q, want active", a.Reason())
		}
	})
}

func TestOnlyWhatCostASignatureCheckIsRemembered(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	key := f.idp.Key("ES256")
	good := f.sign("")
	for name, token := range map[string]string{
		"malformed":      "x",
		"no token":       "a.b.c",
		"unknown issuer": key.Sign(`{"alg":"ES256"}`, `{"iss":"https://evil.example","exp":4102444800}`),
		"unknown kid":    key.Sign(`{"alg":"ES256","kid":"nope"}`, f.payload("")),
		"alg none":       strings.Repeat("A", 8) + good[8:],
	} {
		if a := f.judge(in, token); a.Active() {
			t.Errorf("%s is active", name)
		}
		if n := f.store.puts.Load(); n != 0 {
			t.Fatalf("%s: got %d values put, want none", name, n)
		}
	}
	f.judge(in, good[:len(good)-8]+"AAAAAAAA")
	if f.store.refused.Load() != 1 {
		t.Error("a bad signature was not remembered among the refused")
	}
}

func TestErrorsAreNeverRemembered(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(func(c *introspect.IssuerConfig) {
		c.Keys.Files, c.Keys.JWKSURL = nil, "http://127.0.0.1:1/jwks.json"
	})
	for range 2 {
		a, err := in.Introspect(context.Background(), []byte(f.sign("")), nil)
		if !errors.Is(err, jwks.ErrUnavailable) || a.Active() || a.Issuer() != "idp" {
			t.Errorf("INT-19: got active %t of %q, error %v, want an error that names the issuer", a.Active(), a.Issuer(), err)
		}
	}
	if n := f.store.puts.Load(); n != 0 {
		t.Errorf("got %d values put, want none", n)
	}
}

func TestManyAskersOneVerification(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	token := f.sign(`"sub":"a"`)
	var wg sync.WaitGroup
	bodies := make([]string, 64)
	for n := range bodies {
		wg.Go(func() {
			a, err := in.Introspect(context.Background(), []byte(token), nil)
			if err == nil {
				bodies[n] = string(a.Body())
			}
		})
	}
	wg.Wait()
	if n := f.store.puts.Load(); n != 1 {
		t.Errorf("P14: got %d verifications for 64 askers, want 1", n)
	}
	if slices.ContainsFunc(bodies, func(b string) bool { return b != bodies[0] || b == "" }) {
		t.Error("askers were told different things")
	}
}

// The askers' contexts end; the work that others share goes on.
func TestAnAskerThatHangsUpSpoilsNothing(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if a, err := in.Introspect(ctx, []byte(f.sign("")), nil); err != nil || !a.Active() {
		t.Errorf("got active %t, %v", a.Active(), err)
	}
}

func TestWhatIsRememberedIsNotBelievedUnseen(t *testing.T) {
	f := newFixture(t)
	token := f.sign(`"sub":"a"`)
	in := f.introspector(nil)
	f.judge(in, token)
	entry := *f.store.kept.Load()
	for n := range entry {
		planted := slices.Clone(entry)
		planted[n] ^= 0x55
		in := f.reading(planted)
		a, err := in.Introspect(context.Background(), []byte(token), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body()
		a.Find("sub")
	}
	for _, planted := range [][]byte{nil, {}, {1}, entry[:len(entry)/2], entry[:140], bytes.Repeat([]byte{0xff}, 4096)} {
		if a := f.judge(f.reading(planted), token); !a.Active() || string(a.Find("sub")) != `"a"` {
			t.Errorf("%d planted bytes: got %q, want the token judged anew", len(planted), a.Reason())
		}
	}
}

// planted is a store that answers everything with the same bytes.
type planted []byte

func (p planted) Get(context.Context, introspect.Key, []byte) []byte               { return slices.Clone(p) }
func (p planted) Put(context.Context, introspect.Key, []byte, time.Duration, bool) {}

func (f *fixture) reading(entry []byte) *introspect.Introspector {
	f.t.Helper()
	own := f.store
	defer func() { f.store = own }()
	f.store = &counted{Cache: planted(entry)}
	return f.introspector(nil)
}

func FuzzRemembered(f *testing.F) {
	x := newFixture(f)
	token := x.sign(`"sub":"a","aud":["b"],"cnf":{"jkt":"x"}`)
	x.judge(x.introspector(nil), token)
	f.Add(*x.store.kept.Load())
	f.Fuzz(func(t *testing.T, entry []byte) {
		x.t = t
		a, err := x.reading(entry).Introspect(context.Background(), []byte(token), nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Find("aud")
		introspect.Minimal().AppendTransformed(nil, a)
	})
}

// overtaken is a store of which the next look finds nothing, and by whose end
// something else has happened.
type overtaken struct {
	introspect.Cache
	by   func()
	room int // of the last look
}

func (o *overtaken) Get(ctx context.Context, key introspect.Key, room []byte) []byte {
	if by := o.by; by != nil {
		o.by = nil
		by()
		return nil
	}
	o.room = cap(room)
	return o.Cache.Get(ctx, key, room)
}

func TestAnAskerThatWasOvertakenVerifiesNothing(t *testing.T) {
	f := newFixture(t)
	store := &overtaken{Cache: f.store.Cache}
	f.store.Cache = store
	in, token := f.introspector(nil), f.sign(`"sub":"a"`)
	store.by = func() { f.judge(in, token) } // between our look and our flight
	a, err := in.Introspect(t.Context(), []byte(token), make([]byte, 0, 4096))
	if err != nil || !a.Active() {
		t.Errorf("got %v, %v, want an active token", a.Reason(), err)
	}
	if n := f.store.puts.Load(); n != 1 {
		t.Errorf("P14: got %d verifications for two askers, want 1", n)
	}
	if store.room != 0 {
		t.Errorf("what a flight recalls lies in its asker's room of %d bytes, which others who share it may outlive", store.room)
	}
}
