package introspect_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/revoke"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// paper is a store that says yes, or what it is told to say.
type paper struct{ err error }

func (p *paper) Append(context.Context, revoke.Name, []byte, time.Time) error { return p.err }

// withdrawing gives the fixture a list that paper keeps.
func (f *fixture) withdrawing(o revoke.Options) *paper {
	f.t.Helper()
	p := &paper{}
	if o.Config == (revoke.Config{}) {
		o.Config = revoke.Config{MaxDelay: time.Second, MaxEntries: 100, Grace: time.Minute, OnOutage: revoke.Deny}
	}
	if o.Shared == nil {
		o.File = p
	}
	o.Now = f.clock
	var err error
	if f.list, err = revoke.New(o); err != nil {
		f.t.Fatal(err)
	}
	return p
}

// withdraw is Withdraw that succeeds.
func (f *fixture) withdraw(in *introspect.Introspector, w introspect.Withdrawal) []revoke.Revocation {
	f.t.Helper()
	w.Issuer, w.By = "idp", "ops"
	all, err := in.Withdraw(f.t.Context(), w)
	if err != nil {
		f.t.Fatalf("withdrawing %v %q: %v", w.Kind, w.Value, err)
	}
	return all
}

// revokes is Candidate and Revoke that succeed.
func (f *fixture) revokes(in *introspect.Introspector, token string) revoke.Revocation {
	f.t.Helper()
	c, err := in.Candidate(f.t.Context(), token)
	if err != nil || !c.Revocable() {
		f.t.Fatalf("got revocable %t, %v, of %s", c.Revocable(), err, token)
	}
	r, err := in.Revoke(f.t.Context(), c, "app")
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fixture) want(in *introspect.Introspector, token string, want verify.Reason) {
	f.t.Helper()
	if a := f.judge(in, token); a.Reason() != want || a.Active() != (want == verify.NoReason) || a.Active() == (a.Body() == nil) {
		f.t.Errorf("got active %t %q, want %q", a.Active(), a.Reason(), want)
	}
}

func TestWhatIsWithdrawnIsInactiveAtOnceAndUntilThatIsTakenBack(t *testing.T) {
	const token = `"jti":"j","sub":"alice","sid":"s","azp":"app","app":"App One"`
	for _, row := range []struct {
		name string
		w    introspect.Withdrawal
		want verify.Reason
	}{
		{"REV-07 jti", introspect.Withdrawal{Kind: revoke.JTI, Value: "j"}, verify.Revoked},
		{"REV-07 sub", introspect.Withdrawal{Kind: revoke.Subject, Value: "alice"}, verify.Revoked},
		{"REV-07 sid", introspect.Withdrawal{Kind: revoke.Session, Value: "s"}, verify.Revoked},
		{"REV-07 client as signed", introspect.Withdrawal{Kind: revoke.Client, Value: "app"}, verify.Revoked},
		{"REV-07 client as callers see it", introspect.Withdrawal{Kind: revoke.Client, Value: "App One"}, verify.Revoked},
		{"REV-07 issuer", introspect.Withdrawal{Kind: revoke.Issuer, Value: "means nothing"}, verify.Revoked},
		{"another jti", introspect.Withdrawal{Kind: revoke.JTI, Value: "alice"}, verify.NoReason},
		{"sub as mapped: what was signed counts", introspect.Withdrawal{Kind: revoke.Subject, Value: "App One"}, verify.NoReason},
		{"issued at the not-before", introspect.Withdrawal{Kind: revoke.Subject, Value: "alice", NotBefore: start}, verify.NoReason},
		{"issued before it", introspect.Withdrawal{Kind: revoke.Subject, Value: "alice", NotBefore: start.Add(time.Second)}, verify.Revoked},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFixture(t)
			f.withdrawing(revoke.Options{})
			in := f.introspector(func(c *introspect.IssuerConfig) {
				c.Claims.AllowReserved = []string{"sub"}
				c.Claims.Map = []transform.Rename{{RemoteClaim: "app", LocalClaim: "client_id"}, {RemoteClaim: "app", LocalClaim: "sub"}}
			})
			f.now.Add(1)
			remembered, fresh := f.sign(token), f.sign(token+`,"n":1`)
			f.want(in, remembered, verify.NoReason)
			all := f.withdraw(in, row.w)
			f.want(in, remembered, row.want)
			f.want(in, fresh, row.want)
			puts := f.store.puts.Load()
			for _, r := range all {
				if err := f.list.Delete(t.Context(), r.Name, "ops"); err != nil {
					t.Fatal(err)
				}
			}
			f.want(in, remembered, verify.NoReason)
			f.want(in, fresh, verify.NoReason)
			if n := f.store.puts.Load() - puts; n != 0 {
				t.Errorf("%d verdicts were made again: what is remembered is the underlying one", n)
			}
		})
	}
}

func TestHowLongAWithdrawalLives(t *testing.T) {
	early := start.Add(-time.Hour)
	for _, row := range []struct {
		name        string
		w           introspect.Withdrawal
		maxLifetime time.Duration
		notBefore   time.Time
		expires     time.Time
	}{
		{"jti", introspect.Withdrawal{Kind: revoke.JTI, Value: "j", NotBefore: early}, 2 * time.Hour, time.Time{}, start.Add(2*time.Hour + 600*time.Second)},
		{"jti with an end", introspect.Withdrawal{Kind: revoke.JTI, Value: "j", Expires: start.Add(time.Minute)}, 2 * time.Hour, time.Time{}, start.Add(time.Minute)},
		{"jti without max_lifetime", introspect.Withdrawal{Kind: revoke.JTI, Value: "j"}, 0, time.Time{}, revoke.Forever},
		{"sub", introspect.Withdrawal{Kind: revoke.Subject, Value: "a"}, 2 * time.Hour, start, start.Add(2*time.Hour + 300*time.Second)},
		{"sid from a time on", introspect.Withdrawal{Kind: revoke.Session, Value: "s", NotBefore: early}, 2 * time.Hour, early, start.Add(time.Hour + 300*time.Second)},
		{"client without max_lifetime", introspect.Withdrawal{Kind: revoke.Client, Value: "c"}, 0, start, revoke.Forever},
		{"issuer", introspect.Withdrawal{Kind: revoke.Issuer}, 2 * time.Hour, start, start.Add(2*time.Hour + 300*time.Second)},
		{"kid that no key has", introspect.Withdrawal{Kind: revoke.KeyID, Value: "k"}, 2 * time.Hour, time.Time{}, revoke.Forever},
		{"kid from a time on", introspect.Withdrawal{Kind: revoke.KeyID, Value: "k", NotBefore: early}, 2 * time.Hour, early, start.Add(time.Hour + 300*time.Second)},
	} {
		t.Run("REV-07 "+row.name, func(t *testing.T) {
			f := newFixture(t)
			f.withdrawing(revoke.Options{})
			in := f.introspector(func(c *introspect.IssuerConfig) { c.MaxLifetime = row.maxLifetime })
			all := f.withdraw(in, row.w)
			if len(all) != 1 || !all[0].NotBefore.Equal(row.notBefore) || !all[0].Expires.Equal(row.expires) || all[0].Kind != row.w.Kind ||
				all[0].Value != row.w.Value || all[0].Issuer != iss || all[0].By != "ops" {
				t.Errorf("got %+v, want not before %s, until %s", all, row.notBefore, row.expires)
			}
		})
	}
}

// The leeway lets an iat be ahead, and grants as much on exp.
func TestREV07AWithdrawnJTIOutlivesItsLastToken(t *testing.T) {
	f := newFixture(t)
	f.withdrawing(revoke.Options{})
	in := f.introspector(func(c *introspect.IssuerConfig) { c.MaxLifetime, c.Leeway = time.Hour, 300*time.Second })
	last := start.Unix() + 300
	key := f.idp.Key("ES256")
	token := key.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, key.Kid), fmt.Sprintf(`{"iss":%q,"iat":%d,"exp":%d,"jti":"j"}`, iss, last, last+3600))
	f.want(in, token, verify.NoReason)
	f.withdraw(in, introspect.Withdrawal{Kind: revoke.JTI, Value: "j"})
	f.now.Add(3600 + 599)
	f.want(in, token, verify.Revoked)
	f.now.Add(1)
	f.want(in, token, verify.Expired)
}

func TestAWithdrawnKeySignsNothingUnderAnyName(t *testing.T) {
	f := newFixture(t)
	dropped := 0
	f.withdrawing(revoke.Options{Dropped: func() { dropped++ }})
	in := f.introspector(nil)
	old := f.sign(`"sub":"a"`)
	f.want(in, old, verify.NoReason)
	key := f.idp.Key("ES256")
	all := f.withdraw(in, introspect.Withdrawal{Kind: revoke.KeyID, Value: key.Kid})
	if len(all) != 2 || all[0].Kind != revoke.KeyID || len(all[0].IDs) != 2 || !all[0].Expires.Equal(revoke.Forever) || dropped != 1 {
		t.Fatalf("got %+v, told %d times", all, dropped)
	}
	thumbprint := thumbprintOf(t, f)
	if at := f.list.DroppedKey(iss, thumbprint); !at.Equal(f.clock()) || !all[1].Expires.Equal(f.clock().Add(24*time.Hour)) {
		t.Errorf("dropped at %s until %s, want now and max_stale", at, all[1].Expires)
	}
	f.want(in, old, verify.Revoked)

	renamed := *key
	renamed.Kid = "another"
	f.idp.RemoveKey(key)
	f.idp.AddKey(&renamed)
	f.publish()
	f.want(f.introspector(nil), renamed.Sign(`{"alg":"ES256","kid":"another"}`, f.payload("")), verify.Revoked)

	next := devissuer.NewKey("ES256")
	f.idp.AddKey(next)
	f.publish()
	f.want(f.introspector(nil), next.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, next.Kid), f.payload("")), verify.NoReason)
}

// thumbprintOf is that of the fixture's only key.
func thumbprintOf(t *testing.T, f *fixture) [32]byte {
	t.Helper()
	keys, err := jwks.New(f.config().Keys, jwks.Options{Name: "idp", Issuer: iss})
	if err != nil {
		t.Fatal(err)
	}
	return keys.State().Keys[0].Thumbprint
}

func TestDroppedKeysAreTheIssuersPresentOnes(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	if err := in.DropKeys(t.Context(), "idp", "ops"); !errors.Is(err, revoke.ErrNoStore) {
		t.Errorf("without a list: got %v", err)
	}
	f.withdrawing(revoke.Options{})
	in = f.introspector(nil)
	if err := in.DropKeys(t.Context(), "nobody", "ops"); !errors.Is(err, introspect.ErrNoIssuer) {
		t.Errorf("got %v, want ErrNoIssuer", err)
	}
	if err := in.DropKeys(t.Context(), "idp", "ops"); err != nil {
		t.Fatal(err)
	}
	if at := f.list.DroppedKey(iss, thumbprintOf(t, f)); !at.Equal(start) {
		t.Errorf("dropped at %s, want %s", at, start)
	}
	f.want(in, f.sign(""), verify.NoReason) // the issuer still publishes it
}

func TestOneTokenIsRevokedInEverySpellingAndByItsJTI(t *testing.T) {
	f := newFixture(t)
	f.withdrawing(revoke.Options{})
	in := f.introspector(nil)
	token, same, other := f.sign(`"jti":"j","n":1`), f.sign(`"jti":"j","n":2`), f.sign(`"n":1`)
	again := f.sign(`"jti":"j","n":1`) // another signature over the same
	if token == again {
		t.Fatal("the two have one spelling")
	}
	r := f.revokes(in, token)
	if want := time.Unix(start.Unix()+3600+300, 0); r.Kind != revoke.Token || !r.Expires.Equal(want) || !r.NotBefore.IsZero() || r.By != "app" || r.Ref() != f.judge(in, token).Ref().String() {
		t.Errorf("REV-06: got %+v, want it to live until %s", r, want)
	}
	for _, dead := range []string{token, again, same} {
		f.want(in, dead, verify.Revoked)
	}
	f.want(in, other, verify.NoReason)
	f.revokes(in, other) // without a jti: by itself
	f.want(in, other, verify.Revoked)
	f.want(in, f.sign(`"n":2`), verify.NoReason)

	empty := f.sign(`"jti":"","n":1`) // an empty jti is none
	f.revokes(in, empty)
	f.want(in, f.sign(`"jti":"","n":2`), verify.NoReason)
}

func TestWhatCanBeRevoked(t *testing.T) {
	f := newFixture(t)
	f.withdrawing(revoke.Options{})
	in := f.introspector(func(c *introspect.IssuerConfig) {
		c.Claims.AllowReserved = []string{"sub"}
		c.Claims.Map = []transform.Rename{{RemoteClaim: "uid", LocalClaim: "sub"}}
	})
	in600 := fmt.Sprintf(`"nbf":%d`, start.Unix()+600)
	good := f.sign(`"azp":"app"`)
	for _, row := range []struct {
		name, token string
		after       time.Duration
		active      bool
		client      string
		revocable   bool
	}{
		{"a good one", good, 0, true, "app", true},
		{"within the leeway of exp", f.sign(`"azp":"app"`), 3629 * time.Second, true, "app", true},
		{"REV-02 an expired one", good, 3630 * time.Second, false, "", false},
		{"not yet valid", f.sign(`"azp":"app",` + in600), 0, false, "app", true},
		{"never valid", f.sign(fmt.Sprintf(`"azp":"app","nbf":%d`, start.Unix()+7200)), 0, false, "", false},
		{"REV-02 garbage", "x", 0, false, "", false},
		{"a forged one", good[:len(good)-8] + "AAAAAAAA", 0, false, "", false},
		{"no sound identity", f.sign(`"uid":7`), 0, false, "", false},
		{"no sound identity, not yet valid", f.sign(`"uid":7,` + in600), 0, false, "", false},
		{"REV-02 another issuer's", f.idp.Key("ES256").Sign(`{"alg":"ES256"}`, `{"iss":"https://evil.example","exp":4102444800}`), 0, false, "", false},
	} {
		f.now.Store(start.Add(row.after).Unix())
		c, err := in.Candidate(t.Context(), row.token)
		if err != nil || c.Doubt != nil || c.Answer.Active() != row.active || c.ClientID != row.client || c.Revocable() != row.revocable {
			t.Errorf("%s: got active %t, client %q, revocable %t, %v, want %t %q %t", row.name, c.Answer.Active(), c.ClientID, c.Revocable(), err, row.active, row.client, row.revocable)
		}
		if !row.revocable {
			if _, err := in.Revoke(t.Context(), c, "app"); !errors.Is(err, introspect.ErrNotRevocable) {
				t.Errorf("%s: revoking it anyway: %v", row.name, err)
			}
		}
	}
	f.now.Store(start.Unix())
	soon := f.sign(`"azp":"app","jti":"soon",` + in600)
	f.revokes(in, soon)
	f.now.Add(600)
	f.want(in, soon, verify.Revoked)
	f.revokes(in, soon) // what is revoked can be revoked again
}

func TestADoubtfulListAnswersNothing(t *testing.T) {
	f := newFixture(t)
	f.withdrawing(revoke.Options{Shared: &paper{}}) // a list that has not been read yet
	in := f.introspector(nil)
	token := f.sign(`"sub":"a","azp":"app"`)
	for _, look := range []string{"fresh", "remembered"} {
		a, err := in.Introspect(t.Context(), []byte(token), nil)
		if !errors.Is(err, revoke.ErrUnavailable) || a.Active() || a.Body() != nil || a.Issuer() != "idp" || a.Ref() == (introspect.Ref{}) || introspect.Unavailable(err) != "revocation_unavailable" {
			t.Errorf("INT-19 %s: got active %t of %q, %v", look, a.Active(), a.Issuer(), err)
		}
	}
	f.want(in, "x", verify.Malformed) // what no list could change is answered
	c, err := in.Candidate(t.Context(), token)
	if err != nil || !errors.Is(c.Doubt, revoke.ErrUnavailable) || c.Answer.Active() || c.ClientID != "app" || !c.Revocable() {
		t.Errorf("got %+v, %v, want it revocable in doubt", c, err)
	}
	if _, err := in.Revoke(t.Context(), c, "app"); err != nil {
		t.Fatal(err)
	}
	f.want(in, token, verify.Revoked) // known all the same
	x := in.Explain(t.Context(), f.sign(""), start)
	if last := x.Steps[len(x.Steps)-1]; x.Active || x.Answer != nil || x.Reason != "revocation_unavailable" || last.Result != "unknown" {
		t.Errorf("explained as %+v", x)
	}
	f.list.Current(time.Now())
	f.want(in, f.sign(""), verify.NoReason)
}

func TestWhatWithdrawsNothing(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	if _, err := in.Withdraw(t.Context(), introspect.Withdrawal{Issuer: "idp", Kind: revoke.JTI, Value: "j"}); !errors.Is(err, revoke.ErrNoStore) {
		t.Errorf("without a list: got %v", err)
	}
	paper := f.withdrawing(revoke.Options{})
	in = f.introspector(nil)
	for _, row := range []struct {
		w    introspect.Withdrawal
		want error
	}{
		{introspect.Withdrawal{Issuer: "nobody", Kind: revoke.JTI, Value: "j"}, introspect.ErrNoIssuer},
		{introspect.Withdrawal{Issuer: "idp", Kind: revoke.JTI}, introspect.ErrNoTarget},
		{introspect.Withdrawal{Issuer: "idp", Kind: revoke.KeyID}, introspect.ErrNoTarget},
		{introspect.Withdrawal{Issuer: "idp", Value: "j"}, introspect.ErrNoTarget},
		{introspect.Withdrawal{Issuer: "idp", Kind: revoke.Token, Value: "j"}, introspect.ErrNoTarget},
		{introspect.Withdrawal{Issuer: "idp", Kind: revoke.DroppedKey, Value: "j"}, introspect.ErrNoTarget},
	} {
		if all, err := in.Withdraw(t.Context(), row.w); !errors.Is(err, row.want) || len(all) != 0 {
			t.Errorf("%+v: got %v, %v, want %v", row.w, all, err, row.want)
		}
	}
	if f.list.Live(time.Now()) != 0 {
		t.Errorf("%d revocations came of it", f.list.Live(time.Now()))
	}
	paper.err = errors.New("disk full")
	all, err := in.Withdraw(t.Context(), introspect.Withdrawal{Issuer: "idp", Kind: revoke.KeyID, Value: f.idp.Key("ES256").Kid})
	if !errors.Is(err, revoke.ErrNotDurable) || len(all) != 2 {
		t.Errorf("REV-05: got %d, %v, want both to hold here and ErrNotDurable", len(all), err)
	}
	f.want(in, f.sign(""), verify.Revoked)
}

func TestExplainNamesWhatWithdrewTheToken(t *testing.T) {
	f := newFixture(t)
	last := func(in *introspect.Introspector, token string) (introspect.Explanation, introspect.Rung) {
		x := in.Explain(t.Context(), token, f.clock(), introspect.For{Who: "caller app", Demand: introspect.Demand{AnyIssuer: true, Audiences: []string{"z"}}})
		return x, x.Steps[len(x.Steps)-1]
	}
	token := f.sign(`"sub":"a","azp":"app"`)
	if _, r := last(f.introspector(nil), token); r.Step != "revocation" || r.Result != "not checked" {
		t.Errorf("without a list: got %+v", r)
	}
	f.withdrawing(revoke.Options{})
	in := f.introspector(nil)
	if x, r := last(in, token); r.Result != "ok" || x.Reason != "wrong_audience" {
		t.Errorf("not revoked: got %s, %+v", x.Reason, r)
	}
	f.now.Add(1)
	f.withdraw(in, introspect.Withdrawal{Kind: revoke.Client, Value: "app"})
	f.withdraw(in, introspect.Withdrawal{Kind: revoke.Issuer})
	x, r := last(in, token)
	if x.Active || x.Answer != nil || x.Reason != "revoked" || r.Result != "failed" || !strings.HasSuffix(r.Detail, "by client_id, its issuer") {
		t.Errorf("revoked: got %s, %+v", x.Reason, r)
	}
	if !slices.ContainsFunc(x.Steps, func(r introspect.Rung) bool { return r.Step == "audience" && r.Result == "failed" }) {
		t.Error("what the caller demands is no longer told")
	}
	if _, r := last(in, "x"); r.Result != "not reached" {
		t.Errorf("garbage: got %+v", r)
	}
}
