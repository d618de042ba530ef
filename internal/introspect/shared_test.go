package introspect_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"pgregory.net/rapid"

	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
	"introspectd/internal/memstore"
	"introspectd/internal/revoke"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// others is where replicas meet: bytes under keys. It hands out whatever it
// holds, however old.
type others struct {
	mu         sync.Mutex
	kept       map[introspect.Key][]byte
	gets, hits int
	trip       time.Duration
}

func newOthers() *others { return &others{kept: map[introspect.Key][]byte{}} }

func (o *others) Get(_ context.Context, key introspect.Key, _ []byte) []byte {
	time.Sleep(o.trip) // the network between
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gets++
	if v := o.kept[key]; v != nil {
		o.hits++
		return slices.Clone(v)
	}
	return nil
}

func (o *others) Put(_ context.Context, key introspect.Key, value []byte, _ time.Duration, refused bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if refused {
		panic("a refused verdict was shared")
	}
	o.kept[key] = slices.Clone(value)
}

func (o *others) count() (gets, hits, kept int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gets, o.hits, len(o.kept)
}

// only is a copy of the one value there is.
func (o *others) only() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range o.kept {
		return slices.Clone(v)
	}
	return nil
}

// replica is an introspector with a memory of its own.
func (f *fixture) replica(change func(*introspect.IssuerConfig)) *introspect.Introspector {
	f.t.Helper()
	f.store = &counted{Cache: memstore.New(16 << 20)}
	return f.introspector(change)
}

// meeting gives the fixture a place where its replicas meet.
func (f *fixture) meeting(how introspect.Sharing) *others {
	o := newOthers()
	f.others, f.sharing = o, how
	return o
}

// T7: a hit from anywhere and a fresh verification answer the same bytes,
// whatever the claims and the map.
func TestAHitAnswersWhatAFreshVerdictAnswers(t *testing.T) {
	value := rapid.OneOf(
		rapid.SampledFrom([]string{"9007199254740993", "-0", "1e400", "true", "null", `"a\/b<>&\u00e9"`, `{"a":[1,{"b":"c"}]}`, `[]`, `"\u0000"`}),
		rapid.Map(rapid.String(), func(s string) string {
			b, err := json.Marshal(s)
			if err != nil {
				return `""`
			}
			return string(b)
		}),
	)
	names := rapid.SampledFrom([]string{"active", "scope", "scp", "client_id", "username", "token_type", "azp", "acr", "amr", "act", "auth_time", "sub", "jti", "sid", "http://wso2.org/claims/role", "a b"})
	name := rapid.OneOf(names, rapid.StringMatching(`[a-z\p{L}"\\]{1,12}`))
	f := newFixture(t)
	meeting := f.meeting(introspect.Always)
	f.withdrawing(revoke.Options{})
	stores := [3]*counted{f.store, {Cache: memstore.New(64 << 20)}, nil}
	rapid.Check(t, func(t *rapid.T) {
		rules := map[string]string{}
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			rules[names.Draw(t, "local")] = name.Draw(t, "remote")
		}
		change := func(c *introspect.IssuerConfig) {
			c.Claims.AllowReserved = []string{"sub", "jti", "aud"}
			for local, remote := range rules {
				c.Claims.Map = append(c.Claims.Map, transform.Rename{RemoteClaim: remote, LocalClaim: local})
			}
			slices.SortFunc(c.Claims.Map, func(a, b transform.Rename) int { return strings.Compare(a.LocalClaim, b.LocalClaim) })
		}
		members := map[string]string{}
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			members[name.Draw(t, "name")] = value.Draw(t, "value")
		}
		var parts []string
		for n, v := range members {
			quoted, err := json.Marshal(n)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, string(quoted)+":"+v)
		}
		token := f.sign(strings.Join(parts, ","))

		var replicas [3]*introspect.Introspector
		for n, store := range stores {
			f.store, f.others = store, meeting
			if store == nil {
				f.others = nil
			}
			replicas[n] = f.introspector(change)
		}
		first, second, alone := replicas[0], replicas[1], replicas[2]
		_, before, _ := meeting.count()
		var seen []introspect.Answer
		for _, in := range []*introspect.Introspector{first, first, second, second, alone} {
			a, err := in.Introspect(context.Background(), []byte(token), nil)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, a)
		}
		fresh := seen[4]
		for n, a := range seen {
			if !bytes.Equal(a.Body(), fresh.Body()) || a.Active() != fresh.Active() || a.Reason() != fresh.Reason() || a.Ref() != fresh.Ref() || a.Expires() != fresh.Expires() || a.Issuer() != fresh.Issuer() {
				t.Fatalf("answer %d: %s %s\nfresh:    %s %s", n, a.Body(), a.Reason(), fresh.Body(), fresh.Reason())
			}
		}
		if _, hits, _ := meeting.count(); fresh.Active() != (hits == before+1) {
			t.Fatalf("active %t, and %d hits at the others'", fresh.Active(), hits-before)
		}
		if fresh.Active() && !json.Valid(fresh.Body()) {
			t.Fatalf("not JSON: %s", fresh.Body())
		}
	})
}

func TestAVerdictFromElsewhereIsJudgedLikeOnesOwn(t *testing.T) {
	for _, row := range []struct {
		name   string
		before func(*fixture, []byte) []byte // what comes back
		change func(*introspect.IssuerConfig)
		want   verify.Reason
		taken  bool
	}{
		{"nothing changed", nil, nil, verify.NoReason, true},
		{"R8 replayed, its key was removed", func(f *fixture, e []byte) []byte {
			f.idp.AddKey(devissuer.NewKey("ES384"))
			f.idp.RemoveKey(f.idp.Key("ES256"))
			f.publish()
			return e
		}, nil, verify.UnknownKey, false},
		{"R8 replayed, the algorithm is no longer allowed", nil, func(c *introspect.IssuerConfig) { c.Algorithms = []string{"RS256"} }, verify.AlgorithmNotAllowed, false},
		{"R8 replayed, a claim is required now", nil, func(c *introspect.IssuerConfig) { c.Require = []string{"exp", "iss", "tenant"} }, verify.MissingClaim, false},
		{"TRN-08 replayed, the claim map was edited", nil, func(c *introspect.IssuerConfig) {
			c.Claims.Map = []transform.Rename{{RemoteClaim: "sub", LocalClaim: "b"}}
		}, verify.NoReason, false},
		{"replayed past its sealed end", func(f *fixture, e []byte) []byte { f.now.Add(300); return e }, nil, verify.NoReason, false},
		{"INT-26 replayed past exp", func(f *fixture, e []byte) []byte { f.now.Add(3630); return e }, nil, verify.Expired, false},
		{"replayed to a clock that went back", func(f *fixture, e []byte) []byte { f.now.Add(-3600); return e }, nil, verify.NotYetValid, false},
		{"replayed after a revocation", func(f *fixture, e []byte) []byte {
			f.now.Add(1)
			f.withdraw(f.introspector(nil), introspect.Withdrawal{Kind: revoke.Subject, Value: "a"})
			return e
		}, nil, verify.Revoked, true},
		{"of a later version", func(_ *fixture, e []byte) []byte { e[0]++; return e }, nil, verify.NoReason, false},
		{"of an earlier version", func(_ *fixture, e []byte) []byte { e[0]--; return e }, nil, verify.NoReason, false},
		{"cut short", func(_ *fixture, e []byte) []byte { return e[:len(e)-1] }, nil, verify.NoReason, false},
		{"another token's", func(f *fixture, _ []byte) []byte {
			f.judge(f.replica(nil), f.sign(`"sub":"mallory"`))
			return *f.store.kept.Load()
		}, nil, verify.NoReason, false},
		{"another issuer's key of the same configuration", func(f *fixture, _ []byte) []byte {
			evil := newFixture(f.t)
			evil.path = f.path
			own, err := os.ReadFile(f.path)
			if err != nil {
				f.t.Fatal(err)
			}
			evil.publish()
			evil.judge(evil.replica(nil), evil.sign(`"sub":"a","scope":"admin"`))
			if err := os.WriteFile(f.path, own, 0o600); err != nil {
				f.t.Fatal(err)
			}
			return *evil.store.kept.Load()
		}, nil, verify.NoReason, false},
		{"a refusal, of which none is ever shared", func(f *fixture, _ []byte) []byte {
			token := f.sign(`"sub":"a"`)
			f.judge(f.replica(nil), token[:len(token)-8]+"AAAAAAAA")
			return *f.store.kept.Load()
		}, nil, verify.NoReason, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			f.withdrawing(revoke.Options{})
			o := f.meeting(introspect.Always)
			token := f.sign(`"sub":"a"`)
			f.judge(f.replica(nil), token)
			replayed := o.only()
			if row.before != nil {
				f.others = nil
				replayed = row.before(f, replayed)
			}
			f.others, f.sharing = planted(replayed), introspect.Always
			in := f.replica(row.change)
			f.want(in, token, row.want)
			kept := f.store.kept.Load()
			if taken := kept != nil && bytes.Equal(*kept, replayed); taken != row.taken {
				t.Errorf("taken over: %t, want %t", taken, row.taken)
			}
			if a := f.judge(in, token); a.Active() && string(a.Find("scope")) == `"admin"` {
				t.Errorf("it was believed: %s", a.Body())
			}
		})
	}
}

func TestSharingLengthensNothing(t *testing.T) {
	f := newFixture(t)
	o := f.meeting(introspect.Always)
	token := f.sign(`"sub":"a"`)
	f.judge(f.replica(nil), token)
	made := o.only()
	for _, row := range []struct{ at, left int64 }{{0, 300}, {100, 200}, {200, 100}, {299, 1}} {
		f.now.Store(start.Unix() + row.at)
		f.want(f.replica(nil), token, verify.NoReason)
		if left := f.store.lifetime.Load() / 1e9; left != row.left || !bytes.Equal(*f.store.kept.Load(), made) || !bytes.Equal(o.only(), made) {
			t.Errorf("after %d s: kept for %d s, want %d and the same bytes", row.at, left, row.left)
		}
	}
	f.now.Store(start.Unix() - 20) // in a replica whose clock is behind
	f.want(f.replica(nil), token, verify.NoReason)
	if left := time.Duration(f.store.lifetime.Load()); left != 5*time.Minute {
		t.Errorf("with a clock 20 s behind it is kept for %s, want no longer than ttl", left)
	}
}

func TestWhatIsSharedAndAsked(t *testing.T) {
	f := newFixture(t)
	forged := f.sign("")
	forged = forged[:len(forged)-8] + "AAAAAAAA"
	early := f.sign(fmt.Sprintf(`"nbf":%d`, start.Unix()+600))
	garbage := []string{
		"x", "a.b.c", f.idp.Key("ES256").Sign(`{"alg":"ES256"}`, `{"iss":"https://evil.example","exp":4102444800}`),
		f.idp.Key("ES256").Sign(`{"alg":"none"}`, f.payload("")), f.idp.Key("ES256").Sign(`{"alg":"ES256","crit":["a"]}`, f.payload("")),
	}
	for _, how := range []introspect.Sharing{introspect.Always, introspect.Auto, introspect.Never} {
		o := f.meeting(how)
		in := f.replica(nil)
		for _, token := range append(garbage, garbage...) {
			f.judge(in, token)
		}
		if gets, _, kept := o.count(); gets+kept != 0 {
			t.Errorf("%s: garbage: asked %d times, told %d times", how, gets, kept)
		}
		for _, token := range []string{forged, early, f.sign(`"sub":""`)} {
			f.judge(in, token)
		}
		if _, _, kept := o.count(); kept != 0 {
			t.Errorf("%s: what was refused was shared", how)
		}
		f.judge(in, f.sign(""))
		want := 1
		if how == introspect.Never {
			want = 0
		}
		if gets, _, kept := o.count(); kept != want || how != introspect.Always && gets != 0 || how == introspect.Always && gets != 3 {
			t.Errorf("%s: asked %d times, told %d times", how, gets, kept)
		}
	}
}

func TestManyAskersAskTheOthersOnce(t *testing.T) {
	f := newFixture(t)
	o := f.meeting(introspect.Always)
	token := f.sign("")
	f.judge(f.replica(nil), token)
	before, _, _ := o.count()
	o.trip = 20 * time.Millisecond
	in := f.replica(nil)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() { f.want(in, token, verify.NoReason) })
	}
	all.Wait()
	if gets, hits, _ := o.count(); gets != before+1 || hits != 1 {
		t.Errorf("P14: got %d questions and %d hits for 64 askers, want one", gets-before, hits)
	}
}

func TestWithoutAMemoryOfItsOwnAReplicaAsksTheOthers(t *testing.T) {
	f := newFixture(t)
	o := f.meeting(introspect.Always)
	f.store = nil
	in := f.introspector(nil)
	token := f.sign("")
	for range 3 {
		f.want(in, token, verify.NoReason)
	}
	if _, hits, _ := o.count(); hits != 2 {
		t.Errorf("got %d hits, want 2", hits)
	}
}

// running runs in until the test ends, and waits for its first measurement.
func (f *fixture) running(in *introspect.Introspector, o *others) {
	f.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); in.Run(ctx) }()
	f.t.Cleanup(func() { stop(); <-done })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if gets, _, _ := o.count(); gets > 0 {
			break
		}
		if time.Now().After(deadline) {
			f.t.Fatal("nobody measured")
		}
	}
}

// asked is how many of n new tokens with the key of alg others were asked for.
func (f *fixture) asked(in *introspect.Introspector, o *others, alg string, n int) int {
	f.t.Helper()
	key := f.idp.Key(alg)
	before, _, _ := o.count()
	for i := range n {
		f.want(in, key.Sign(fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, key.Kid), f.payload(fmt.Sprintf(`"n":%d`, i))), verify.NoReason)
	}
	after, _, _ := o.count()
	return after - before
}

// untilAsked judges tokens with the key of alg until others are asked for one.
func (f *fixture) untilAsked(in *introspect.Introspector, o *others, alg string) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); f.asked(in, o, alg, 1) == 0; {
		if time.Now().After(deadline) {
			f.t.Fatal("others are never asked")
		}
	}
}

func TestAutoAsksOnlyWhereThatIsCheaper(t *testing.T) {
	f := newFixture(t)
	f.idp.AddKey(devissuer.NewKey("ES512"))
	f.publish()
	t.Run("not without a measurement of the way", func(t *testing.T) {
		o := f.meeting(introspect.Auto)
		if n := f.asked(f.replica(nil), o, "ES512", 10); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("not where verifying is cheaper", func(t *testing.T) {
		o := f.meeting(introspect.Auto)
		o.trip = 200 * time.Millisecond
		in := f.replica(nil)
		f.running(in, o)
		if n := f.asked(in, o, "ES256", 10); n > 1 { // one may be a measurement
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("where it is cheaper, and now and then not even there", func(t *testing.T) {
		o := f.meeting(introspect.Auto)
		in := f.replica(nil)
		f.running(in, o)
		f.untilAsked(in, o, "ES512")
		if n := f.asked(in, o, "ES512", 64); n < 20 || n > 62+1 { // one may be a measurement
			t.Errorf("asked %d of 64 times, want all but 2", n)
		}
	})
	t.Run("headers of their own can't fill the measurement", func(t *testing.T) {
		o := f.meeting(introspect.Auto)
		in := f.replica(nil)
		f.running(in, o)
		f.untilAsked(in, o, "ES512")
		key := f.idp.Key("ES256")
		for n := range 300 {
			f.judge(in, key.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q,"n":%d}`, key.Kid, n), f.payload("")))
		}
		f.untilAsked(in, o, "ES512")
	})
}

func TestTheWayIsMeasuredOnceASecondWhileNobodyAsks(t *testing.T) {
	f := newFixture(t)
	synctest.Test(t, func(t *testing.T) {
		for how, want := range map[introspect.Sharing]int{introspect.Auto: 11, introspect.Always: 0, introspect.Never: 0} {
			o := f.meeting(how)
			in := f.replica(nil)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); in.Run(ctx) }()
			time.Sleep(10*time.Second + time.Millisecond)
			stop()
			<-done
			if gets, _, _ := o.count(); gets != want {
				t.Errorf("%s: got %d questions in 10 s, want %d", how, gets, want)
			}
		}
	})
}

func TestLooksAreCountedByTier(t *testing.T) {
	f := newFixture(t)
	reader := sdkmetric.NewManualReader()
	f.meeting(introspect.Always)
	token := f.sign("")
	f.judge(f.replica(nil), token)
	f.meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("")
	in := f.replica(nil)
	f.judge(in, token)                  // from the others
	f.judge(in, token)                  // from here
	f.judge(in, f.sign(`"sub":"anew"`)) // from nobody
	head, _, _ := strings.Cut(token, ".")
	f.judge(in, head+".!.x") // looked for here, and garbage to nobody else
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				got[p.Attributes.Encoded(attribute.DefaultEncoder())] += p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				got[p.Attributes.Encoded(attribute.DefaultEncoder())] += int64(p.Count)
			}
		}
	}
	want := map[string]int64{
		"result=hit,tier=process": 1, "result=miss,tier=process": 3, "result=hit,tier=redis": 1, "result=miss,tier=redis": 1,
		"path=hit": 1, "path=shared": 1, "path=verified": 2,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

var update = flag.Bool("update", false, "write testdata anew, for a new version of entries")

// Replicas of two releases share verdicts during a rollout: what the one before
// wrote must still read. A change of this test's entry needs a new version of
// entries, with a directory of its own beside this one.
func TestAnEntryOfTheReleaseBeforeStillReads(t *testing.T) {
	const dir = "testdata/entry-2"
	f := newFixture(t)
	f.path = filepath.Join(dir, "keys.json")
	if *update {
		f.publish()
		token := f.sign(typical)
		a := f.judge(f.replica(nil), token)
		f.write(dir, "token.txt", token)
		f.write(dir, "answer.json", string(a.Body()))
		f.write(dir, "entry.hex", hex.EncodeToString(*f.store.kept.Load()))
	}
	token := f.read(dir, "token.txt")
	entry, err := hex.DecodeString(f.read(dir, "entry.hex"))
	if err != nil {
		t.Fatal(err)
	}
	f.others, f.sharing = planted(entry), introspect.Always
	in := f.replica(nil)
	if a := f.judge(in, token); string(a.Body()) != f.read(dir, "answer.json") || !bytes.Equal(*f.store.kept.Load(), entry) {
		t.Errorf("it was not taken for %s", a.Body())
	}
	f.others = nil
	f.judge(f.replica(nil), token)
	if made := *f.store.kept.Load(); !bytes.Equal(made, entry) {
		t.Errorf("what is written today is another entry under the same version:\n%x\n%x", made, entry)
	}
}

func (f *fixture) write(dir, name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(dir, name string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

// What another replica found out, for a process that remembers nothing itself:
// the whole of it but the network and the seal.
func BenchmarkSharedHit(b *testing.B) {
	f := newFixture(b)
	f.withdrawing(revoke.Options{})
	f.meeting(introspect.Always)
	token := f.sign(typical)
	f.judge(f.replica(nil), token)
	f.store = nil
	in := f.introspector(nil)
	f.judge(in, f.sign(typical)) // its header is known then
	b.ReportAllocs()
	for b.Loop() {
		f.judge(in, token)
	}
}
