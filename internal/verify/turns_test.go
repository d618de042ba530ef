package verify_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/goleak"

	"introspectd/internal/devissuer"
	"introspectd/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func turns(t testing.TB) *verify.Turns { return someTurns(t, 0) }

func someTurns(t testing.TB, places int) *verify.Turns {
	t.Helper()
	turns, err := verify.NewTurns(places, noop.Meter{})
	if err != nil {
		t.Fatal(err)
	}
	return turns
}

// take takes a turn that is there to be had.
func take(t *testing.T, turns *verify.Turns, issuer string) (end func()) {
	t.Helper()
	end, err := turns.Take(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func TestNoMoreDearChecksAtOnceThanThereArePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := someTurns(t, 3)
		var at, most atomic.Int64
		for n := range 100 {
			go func() {
				end, err := turns.Take(t.Context(), fmt.Sprint("issuer ", n%7))
				if err != nil {
					t.Error(err)
					return
				}
				for now := at.Add(1); ; {
					if m := most.Load(); now <= m || most.CompareAndSwap(m, now) {
						break
					}
				}
				runtime.Gosched()
				at.Add(-1)
				end()
			}()
		}
		synctest.Wait()
		if most.Load() > 3 || turns.Waiting() != 0 {
			t.Errorf("got %d at once and %d who still wait, want 3 and none", most.Load(), turns.Waiting())
		}
	})
}

func TestHalfOfTheProcessorsCheckWhatIsDear(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 7: 3} {
		runtime.GOMAXPROCS(processors)
		turns := turns(t)
		gone, leave := context.WithCancel(t.Context())
		leave()
		got := 0
		for ; ; got++ {
			if _, err := turns.Take(gone, "a"); err != nil {
				break // it would have had to wait
			}
		}
		if got != want {
			t.Errorf("%d processors: got %d turns at once, want %d", processors, got, want)
		}
	}
}

func TestIssuersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := someTurns(t, 1)
		end := take(t, turns, "flood")
		var mu sync.Mutex
		var order []string
		for _, issuer := range strings.Fields("flood flood flood flood flood corp corp partner") {
			go func() {
				end := take(t, turns, issuer)
				mu.Lock()
				order = append(order, issuer)
				mu.Unlock()
				end()
			}()
			synctest.Wait() // they come one after the other
		}
		end()
		synctest.Wait()
		if want := "flood corp partner flood corp flood flood flood"; strings.Join(order, " ") != want {
			t.Errorf("got %v, want %s", order, want)
		}
	})
}

func TestAFloodOfOneIssuerLeavesTheLinesOfOthersEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := someTurns(t, 1)
		end := take(t, turns, "flood")
		var full atomic.Int64
		for range 1000 {
			go func() {
				if end, err := turns.Take(t.Context(), "flood"); errors.Is(err, verify.ErrOverloaded) {
					full.Add(1)
				} else {
					end()
				}
			}()
		}
		synctest.Wait()
		if full.Load() != 1000-256 || turns.Waiting() != 256 {
			t.Errorf("got %d turned away and %d who wait, want 744 and 256", full.Load(), turns.Waiting())
		}
		var served atomic.Bool
		go func() {
			end := take(t, turns, "corp")
			served.Store(true)
			if turns.Waiting() < 254 {
				t.Errorf("%d of the flood wait still: it was served before", turns.Waiting())
			}
			end()
		}()
		synctest.Wait()
		end()
		synctest.Wait()
		if !served.Load() {
			t.Error("another issuer's token had no turn")
		}
	})
}

func TestWhoWaitsForATurnDoesSoForASecondOrUntilItLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := someTurns(t, 1)
		end := take(t, turns, "a")
		began := time.Now()
		if _, err := turns.Take(t.Context(), "a"); !errors.Is(err, verify.ErrOverloaded) || time.Since(began) != time.Second {
			t.Errorf("got %v after %s, want %v after 1s", err, time.Since(began), verify.ErrOverloaded)
		}
		if turns.Waiting() != 0 {
			t.Error("who gave up is still in its line")
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := turns.Take(ctx, "a")
			left <- err
		}()
		synctest.Wait()
		if turns.Waiting() != 1 {
			t.Fatalf("%d wait, want 1", turns.Waiting())
		}
		leave()
		if err := <-left; !errors.Is(err, verify.ErrOverloaded) || turns.Waiting() != 0 {
			t.Errorf("got %v with %d who wait, want %v and none", err, turns.Waiting(), verify.ErrOverloaded)
		}
		end()
		take(t, turns, "a")()
	})
}

// On one processor nothing would look for what has arrived while dear checks
// follow each other.
func TestOnOneProcessorWhatHasArrivedComesFirst(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	// Long enough that a machine which is busy otherwise makes no calm of a moment
	// between two checks, nor the reverse.
	const check, times = 5 * time.Millisecond, 60
	for _, tt := range []struct {
		name        string
		calm        time.Duration // before each check
		least, most int           // how many come first: of a few the system calls may take long
	}{
		{"checks without end", 0, times * 4 / 5, times},
		{"P14 a check after a calm waits for nobody", 5 * check, 0, times / 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			turns := turns(t)
			from, to, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _, _ = from.Close(), to.Close() }()
			var served atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for b := make([]byte, 1); ; served.Add(1) {
					if _, err := from.Read(b); err != nil || b[0] == 'q' {
						return
					}
				}
			}()
			take(t, turns, "a")() // no check is under way
			first := 0
			for n := range int64(times) {
				for served.Load() < n { // the one before has been seen to
					runtime.Gosched()
				}
				work(tt.calm)
				if _, err := to.Write([]byte{'x'}); err != nil {
					t.Fatal(err)
				}
				end := take(t, turns, "a")
				if served.Load() > n {
					first++
				}
				work(check)
				end()
			}
			if first < tt.least || first > tt.most {
				t.Errorf("of %d requests that had arrived, %d came before the check, want %d to %d", times, first, tt.least, tt.most)
			}
			if _, err := to.Write([]byte{'q'}); err != nil {
				t.Fatal(err)
			}
			<-done
		})
	}
}

// work takes the processor for d.
func work(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

func TestOnlyDearSignaturesWaitForATurn(t *testing.T) {
	big, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	idp := devissuer.New(issA, algorithms...)
	keys := []*devissuer.Key{{Kid: "big", Alg: "RS256", Signer: big}, {Kid: "big-pss", Alg: "PS256", Signer: big}}
	for _, key := range keys {
		idp.AddKey(key)
	}
	for _, alg := range algorithms {
		keys = append(keys, idp.Key(alg))
	}
	turns := someTurns(t, 1)
	verifier, err := verify.New(turns, issuer(t, config("a", issA, keyFile(t, idp.JWKS()))))
	if err != nil {
		t.Fatal(err)
	}
	end := take(t, turns, "b") // and nobody gives it back
	gone, leave := context.WithCancel(t.Context())
	leave()
	for _, key := range keys {
		token := key.Sign(fmt.Sprintf(`{"alg":%q,"kid":%q}`, key.Alg, key.Kid), payload())
		waits := key.Signer == big || key.Alg == "ES384" || key.Alg == "ES512"
		for _, forged := range []bool{false, true} {
			if forged {
				token = token[:len(token)-8] + "AAAAAAAA"
			}
			v, err := verifier.Verify(gone, token, now)
			if waits {
				if !errors.Is(err, verify.ErrOverloaded) || v.Active || v.Reason != verify.NoReason || v.Step != verify.Signature {
					t.Errorf("%s %s, forged %t: got active %t, reason %q, error %v, want an error that is no refusal", key.Alg, key.Kid, forged, v.Active, v.Reason, err)
				}
			} else if err != nil || v.Active == forged {
				t.Errorf("%s, forged %t: got active %t, error %v, want it judged", key.Alg, forged, v.Active, err)
			}
		}
	}
	end()
	if n := turns.Waiting(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}
