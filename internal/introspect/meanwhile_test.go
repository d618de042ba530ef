package introspect_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"introspectd/internal/introspect"
	"introspectd/internal/verify"
)

// meeting is a shared store that holds nothing, and in which something happens the
// next time that it is asked or told.
type meeting struct{ asked, told func() }

func (m *meeting) Get(context.Context, introspect.Key, []byte) []byte {
	once(&m.asked)
	return nil
}

func (m *meeting) Put(context.Context, introspect.Key, []byte, time.Duration, bool) { once(&m.told) }

func once(f *func()) {
	if then := *f; then != nil {
		*f = nil
		then()
	}
}

// A token that has been read waits for an answer of the others, and meanwhile
// another is judged. Whatever went before, the two lie in different memory.
func TestWhatIsReadMeanwhileLiesElsewhere(t *testing.T) {
	f, dear, end := busy(t)
	defer end()
	f.store = nil
	m := &meeting{}
	f.others, f.sharing = m, introspect.Always
	in := f.introspector(nil)
	headers := 0
	good := func(sub string) string { // by a header that nobody knows, so that it is read before the others are asked
		headers++
		key := f.idp.Key("ES256")
		return key.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q,"n":%d}`, key.Kid, headers), f.payload(fmt.Sprintf(`"sub":%q`, sub)))
	}
	of := func(token string) verify.Reason { return f.judge(in, token).Reason() }
	for _, row := range []struct {
		name   string
		before func() bool
	}{
		{"nothing", func() bool { return true }},
		{"one was good", func() bool { return of(good("earlier")) == verify.NoReason }},
		{"one was refused for its claims", func() bool { return of(f.sign(`"sub":7`)) == verify.BadClaims }},
		{"one was forged", func() bool {
			token := good("earlier")
			return of(token[:len(token)-8]+"AAAAAAAA") == verify.BadSignature
		}},
		{"one had no turn", func() bool {
			left, leave := context.WithCancel(t.Context())
			leave()
			_, err := in.Introspect(left, []byte(dear), nil)
			return errors.Is(err, verify.ErrOverloaded)
		}},
		{"one was judged twice", func() bool {
			m.told = func() { f.now.Add(4000) }
			defer f.now.Add(-4000)
			return of(good("earlier")) == verify.Expired
		}},
	} {
		for n := range 20 { // pools forget some with -race
			if !row.before() {
				t.Fatalf("before, %s: it did not happen", row.name)
			}
			own, other, met := fmt.Sprintf("own-%d", n), good("other"), false
			m.asked = func() {
				met = true
				f.judge(in, other)
			}
			a := f.judge(in, good(own))
			if !met || !strings.Contains(string(a.Body()), own) {
				t.Errorf("before, %s: met %t, got %q %s, want it of %s", row.name, met, a.Reason(), a.Body(), own)
				break
			}
		}
	}
}
