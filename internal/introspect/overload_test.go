package introspect_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
	"introspectd/internal/verify"
)

// busy is a fixture with one turn at dear checks, which is taken until end is
// called, and an ES512 token.
func busy(t *testing.T) (f *fixture, token string, end func()) {
	t.Helper()
	f = newFixture(t)
	key := devissuer.NewKey("ES512")
	f.idp.AddKey(key)
	f.publish()
	var err error
	if f.turns, err = verify.NewTurns(1, f.meter); err != nil {
		t.Fatal(err)
	}
	if end, err = f.turns.Take(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	return f, key.Sign(fmt.Sprintf(`{"alg":"ES512","kid":%q}`, key.Kid), f.payload("")), end
}

func TestWhatHadNoTurnIsAnErrorAndNotRemembered(t *testing.T) {
	f, token, end := busy(t)
	in := f.introspector(nil)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a, err := in.Introspect(t.Context(), []byte(token), nil)
		if !errors.Is(err, verify.ErrOverloaded) || introspect.Unavailable(err) != "overloaded" || a.Active() || a.Reason() != verify.NoReason || a.Issuer() != "idp" {
			t.Errorf("got active %t, reason %q of %q, error %v, want an error that names the issuer", a.Active(), a.Reason(), a.Issuer(), err)
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %s, want 1s", waited)
		}
		if a, err := in.Introspect(t.Context(), []byte(f.sign("")), nil); err != nil || !a.Active() {
			t.Errorf("a token by ES256 meanwhile: got active %t, %v", a.Active(), err)
		}
	})
	if n := f.store.puts.Load(); n != 1 {
		t.Errorf("got %d verdicts remembered, want that of ES256 alone", n)
	}
	end()
	if a := f.judge(in, token); !a.Active() {
		t.Errorf("with a turn: got %q, want active", a.Reason())
	}
	again, err := f.turns.Take(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	defer again()
	if a := f.judge(in, token); !a.Active() { // a hit never waits
		t.Errorf("remembered, without a turn: got %q, want active", a.Reason())
	}
}

// Of those who ask about one token, one waits for its turn. Where that one
// leaves, another does; where all have left, nobody.
func TestAskersOfOneTokenHaveOneTurn(t *testing.T) {
	f, token, end := busy(t)
	in := f.introspector(nil)
	synctest.Test(t, func(t *testing.T) {
		var active, left atomic.Int64
		ask := func(ctx context.Context) {
			switch a, err := in.Introspect(ctx, []byte(token), nil); {
			case errors.Is(err, verify.ErrOverloaded):
				left.Add(1)
			case err == nil && a.Active():
				active.Add(1)
			}
		}
		first, leave := context.WithCancel(t.Context())
		go ask(first)
		synctest.Wait()
		others, leaveToo := context.WithCancel(t.Context())
		defer leaveToo()
		for range 63 {
			go ask(others)
		}
		synctest.Wait()
		if n := f.turns.Waiting(); n != 1 {
			t.Fatalf("P14: %d wait for a turn with one token, want 1", n)
		}
		leave()
		synctest.Wait()
		if n := f.turns.Waiting(); n != 1 || left.Load() != 1 || active.Load() != 0 {
			t.Fatalf("the first has left: %d wait, %d left, %d were answered, want 1, 1 and 0", n, left.Load(), active.Load())
		}
		end()
		synctest.Wait()
		if active.Load() != 63 || f.store.puts.Load() != 1 {
			t.Errorf("P14: got %d answers of %d verifications, want 63 of 1", active.Load(), f.store.puts.Load())
		}
	})
	f, token, end = busy(t)
	defer end()
	in = f.introspector(nil)
	synctest.Test(t, func(t *testing.T) {
		all, leave := context.WithCancel(t.Context())
		var left atomic.Int64
		for range 64 {
			go func() {
				if _, err := in.Introspect(all, []byte(token), nil); errors.Is(err, verify.ErrOverloaded) {
					left.Add(1)
				}
			}()
		}
		synctest.Wait()
		leave()
		synctest.Wait()
		if left.Load() != 64 || f.turns.Waiting() != 0 {
			t.Errorf("all have left: got %d, and %d who wait, want 64 and none", left.Load(), f.turns.Waiting())
		}
	})
}

// A turn may be a second away, and a token's end or its key's may not be.
func TestAnAnswerIsOfWhenItIsGiven(t *testing.T) {
	for _, row := range []struct {
		name      string
		meanwhile func(*fixture)
		want      verify.Reason
	}{
		{"nothing happens", func(*fixture) {}, verify.NoReason},
		{"INT-26 exp passes", func(f *fixture) { f.now.Add(1) }, verify.Expired},
		{"JWT-15 its key is removed", func(f *fixture) { f.replace(f.idp.Key("ES512"), devissuer.NewKey("ES512")) }, verify.UnknownKey},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, token, end := busy(t)
			f.now.Add(3600 + 29) // the last second, by the leeway
			in := f.introspector(f.online)
			f.refresh()
			answers := make(chan introspect.Answer, 2)
			ask := func() { answers <- f.judge(in, token) }
			go ask()
			synctest.Wait()
			row.meanwhile(f)
			go ask() // who asks only now has to wait for the other
			synctest.Wait()
			end()
			for range cap(answers) {
				if a := <-answers; a.Reason() != row.want || a.Active() != (row.want == verify.NoReason) {
					t.Errorf("%s: got active %t %q, want %q", row.name, a.Active(), a.Reason(), row.want)
				}
			}
		})
	}
}

// Nor is a refusal of before, where what it was for has passed.
func TestARefusalIsOfWhenItIsGiven(t *testing.T) {
	for _, row := range []struct {
		name      string
		token     func(*fixture, *devissuer.Key) string
		meanwhile func(f *fixture, old, next *devissuer.Key)
		want      verify.Reason
	}{
		{
			"JWT-15 nothing happens", (*fixture).by,
			func(*fixture, *devissuer.Key, *devissuer.Key) {}, verify.BadSignature,
		},
		{
			"JWT-15 its key is published", (*fixture).by,
			func(f *fixture, old, next *devissuer.Key) { f.replace(old, next) }, verify.NoReason,
		},
		{
			"JWT-15 another key is", (*fixture).by,
			func(f *fixture, _, _ *devissuer.Key) { f.idp.AddKey(devissuer.NewKey("ES256")); f.refresh() }, verify.BadSignature,
		},
		{
			"INT-26 its nbf comes", func(f *fixture, _ *devissuer.Key) string {
				key := f.idp.Key("ES512")
				return key.Sign(fmt.Sprintf(`{"alg":"ES512","kid":%q}`, key.Kid), f.payload(fmt.Sprintf(`"nbf":%d`, start.Unix()+31)))
			},
			func(f *fixture, _, _ *devissuer.Key) { f.now.Add(1) }, verify.NoReason,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, _, end := busy(t)
				old, next := f.idp.Key("ES512"), devissuer.NewKey("ES512")
				next.Kid = old.Kid
				token := row.token(f, next)
				in := f.introspector(f.online)
				f.refresh()
				answers := make(chan introspect.Answer, 2)
				ask := func() { answers <- f.judge(in, token) }
				go ask()
				synctest.Wait()
				row.meanwhile(f, old, next)
				go ask()
				synctest.Wait()
				end()
				for range cap(answers) {
					if a := <-answers; a.Reason() != row.want || a.Active() != (row.want == verify.NoReason) {
						t.Errorf("got active %t %q, want %q", a.Active(), a.Reason(), row.want)
					}
				}
			})
		})
	}
}

// by is a token that key signed.
func (f *fixture) by(key *devissuer.Key) string {
	return key.Sign(fmt.Sprintf(`{"alg":"ES512","kid":%q}`, key.Kid), f.payload(""))
}

func TestARefusalIsBoundToTheKeysThatItWasJudgedBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, end := busy(t)
		old, next := f.idp.Key("ES512"), devissuer.NewKey("ES512")
		next.Kid = old.Kid
		token := next.Sign(fmt.Sprintf(`{"alg":"ES512","kid":%q}`, next.Kid), f.payload(""))
		in := f.introspector(f.online)
		f.refresh()
		asked := make(chan introspect.Answer)
		go func() { asked <- f.judge(in, token) }()
		synctest.Wait()
		f.replace(old, next)
		end()
		<-asked // judged by either
		if a := f.judge(in, token); !a.Active() {
			t.Errorf("JWT-15 once its key was published: got %q, want active", a.Reason())
		}
	})
}

// panicking is a store whose next look panics.
type panicking struct {
	introspect.Cache
	next atomic.Bool
}

func (p *panicking) Put(ctx context.Context, key introspect.Key, value []byte, d time.Duration, refused bool) {
	if p.next.Swap(false) {
		panic("a bug")
	}
	p.Cache.Put(ctx, key, value, d, refused)
}

func TestAPanicLeavesNobodyWaiting(t *testing.T) {
	f, token, end := busy(t)
	faulty := &panicking{Cache: f.store.Cache}
	faulty.next.Store(true)
	f.store.Cache = faulty
	in := f.introspector(nil)
	synctest.Test(t, func(t *testing.T) {
		var active, panics atomic.Int64
		for range 8 {
			go func() {
				defer func() {
					if recover() != nil {
						panics.Add(1)
					}
				}()
				if a, err := in.Introspect(t.Context(), []byte(token), nil); err == nil && a.Active() {
					active.Add(1)
				}
			}()
		}
		synctest.Wait()
		end()
		synctest.Wait()
		if panics.Load() != 1 || active.Load() != 7 {
			t.Errorf("got %d panics and %d answers, want 1 and 7", panics.Load(), active.Load())
		}
	})
}
