package callers_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"introspectd/internal/callers"
)

var tooMany = &callers.Refusal{Status: 429, Code: "invalid_client", RetryAfter: time.Second}

func TestGuessesArePerPeerAndClaimedID(t *testing.T) {
	right, wrong := header(basic("orders-backend:"+rightSecret)), header(basic("orders-backend:"+wrongSecret))
	for _, c := range []struct {
		name  string
		then  callers.Credentials
		from  string
		after time.Duration
		want  int // 200 for let in
	}{
		{"INT-18 burst is 20", wrong, plainPeer, 0, 429},
		{"INT-18 one more after a second", wrong, plainPeer, time.Second, 401},
		{"INT-18 not before a second", wrong, plainPeer, 900 * time.Millisecond, 429},
		{"INT-18 a right secret waits too", right, plainPeer, 0, 429},
		{"INT-18 a right secret after a second", right, plainPeer, time.Second, 200},
		{"INT-18 a right secret by post waits too", post("orders-backend", rightSecret), plainPeer, 0, 429},
		{"INT-18 another port is the same peer", wrong, "192.0.2.7:50000", 0, 429},
		{"INT-18 the peer in IPv6 form is the same", wrong, "[::ffff:192.0.2.7]:1", 0, 429},
		{"INT-18 another peer has its own", wrong, "192.0.2.8:40000", 0, 401},
		{"INT-18 another id has its own", header(basic("other:" + wrongSecret)), plainPeer, 0, 401},
		{"INT-18 another id is let in", header(basic("other:" + nextSecret)), plainPeer, 0, 200},
		{"INT-18 an encoded id is the same id", header(basic("orders%2Dbackend:" + wrongSecret)), plainPeer, 0, 429},
		{"INT-18 an id encoded twice is the same id", header(basic("orders%252Dbackend:" + wrongSecret)), plainPeer, 0, 429},
		{"INT-18 post shares the bucket of Basic", post("orders-backend", wrongSecret), plainPeer, 0, 429},
		{"INT-18 bearer has its own", header("Bearer " + wrongSecret), plainPeer, 0, 401},
		{"INT-18 no credentials are no guess", callers.Credentials{}, plainPeer, 0, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := newClock()
			cs := limited(t, clock)
			if got := tries(cs, wrong, plainPeer, 20); got != "401*20" {
				t.Fatalf("first 20 tries = %s, want 401*20", got)
			}
			clock.advance(c.after)
			c.then.Peer = c.from
			if got := status(cs, c.then); got != c.want {
				t.Errorf("then %+v = %d, want %d", c.then, got, c.want)
			}
		})
	}
}

func TestTooManyTellsWhenToTryAgain(t *testing.T) {
	for name, given := range map[string]callers.Credentials{
		"INT-18 Basic":              header(basic("orders-backend:" + wrongSecret)),
		"INT-18 post":               post("orders-backend", wrongSecret),
		"INT-18 bearer":             header("Bearer " + wrongSecret),
		"INT-18 malformed Basic":    header("Basic ~~~"),
		"INT-18 post without an id": {ClientSecret: wrongSecret, HasClientSecret: true},
		"INT-18 unknown id":         header(basic("nobody:" + wrongSecret)),
	} {
		t.Run(name, func(t *testing.T) {
			cs := limited(t, newClock())
			tries(cs, given, plainPeer, 20)
			given.Peer = plainPeer
			_, refused := cs.Authenticate(given)
			if diff := cmp.Diff(tooMany, refused); diff != "" {
				t.Errorf("21st try (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever is sent, a known and an unknown id of the same shape get the same
// answers in the same order, or the limits would tell which ids exist.
func TestLimitsDontTellWhichIDsExist(t *testing.T) {
	for _, spelling := range []string{"raw", "%2D for -", "%6f for o", "post", "a + within", "after a colon"} {
		t.Run("ERR-10 INT-18 "+spelling, func(t *testing.T) {
			answers := func(id string) string {
				cs := limited(t, newClock())
				first := tries(cs, header(basic(id+":"+wrongSecret)), plainPeer, 15)
				var given callers.Credentials
				switch spelling {
				case "raw":
					given = header(basic(id + ":" + wrongSecret))
				case "%2D for -":
					given = header(basic(strings.ReplaceAll(id, "-", "%2D") + ":" + wrongSecret))
				case "%6f for o":
					given = header(basic(strings.ReplaceAll(id, "o", "%6f") + ":" + wrongSecret))
				case "post":
					given = post(id, wrongSecret)
				case "a + within":
					given = header(basic(strings.ReplaceAll(id, "-", "+") + ":" + wrongSecret))
				case "after a colon":
					given = header(basic(id + ":" + wrongSecret + ":x"))
				}
				return first + " " + tries(cs, given, plainPeer, 10)
			}
			known, unknown := answers("orders-backend"), answers("someone-beyond")
			if known != unknown {
				t.Errorf("known id: %s, unknown id: %s, want the same", known, unknown)
			}
		})
	}
}

func TestColonsInIDs(t *testing.T) {
	clock := newClock()
	cs := compile(t, clock, caller("urn:example:a", secrets(rightSecret)), caller("urn:example:b", secrets(nextSecret)))
	t.Run("INT-18 raw and encoded colons are one id", func(t *testing.T) {
		if got := tries(cs, header(basic("urn:example:a:"+wrongSecret)), plainPeer, 20); got != "401*20" {
			t.Fatalf("first tries = %s, want 401*20", got)
		}
		if got := tries(cs, header(basic("urn%3Aexample%3aa:"+wrongSecret)), plainPeer, 1); got != "429*1" {
			t.Errorf("encoded = %s, want 429", got)
		}
	})
	t.Run("INT-18 a neighbour under the same prefix is let in", func(t *testing.T) {
		if got := tries(cs, header(basic("urn:example:b:"+nextSecret)), plainPeer, 1); got != "200*1" {
			t.Errorf("neighbour = %s, want 200", got)
		}
	})
	t.Run("INT-18 an empty prefix doesn't spare the others' buckets", func(t *testing.T) {
		if got := tries(cs, header(basic("urn:example:c:"+wrongSecret)), plainPeer, 40); got != "429*40" {
			t.Fatalf("with the bucket of urn empty = %s, want 429*40", got)
		}
		if got := tries(cs, header(basic("urn%3Aexample%3Ac:"+wrongSecret)), plainPeer, 1); got != "429*1" {
			t.Errorf("the id that was guessed at meanwhile = %s, want 429", got)
		}
	})
}

func TestSuccessesNeverCount(t *testing.T) {
	t.Run("INT-18 one after another", func(t *testing.T) {
		cs := limited(t, newClock())
		if got := tries(cs, header(basic("orders-backend:"+rightSecret)), plainPeer, 1000); got != "200*1000" {
			t.Errorf("right secrets = %s, want 200*1000", got)
		}
		if got := tries(cs, header(basic("orders-backend:"+wrongSecret)), plainPeer, 21); got != "401*20 429*1" {
			t.Errorf("wrong ones after it = %s, want 401*20 429*1", got)
		}
	})
	t.Run("INT-18 a herd at start-up", func(t *testing.T) {
		cs := compile(t, time.Now, caller("orders-backend", secrets(rightSecret)))
		given := header(basic("orders-backend:" + rightSecret))
		given.Peer = plainPeer
		var herd sync.WaitGroup
		for range 500 {
			herd.Go(func() {
				if got := status(cs, given); got != 200 {
					t.Errorf("one of the herd = %d, want 200", got)
				}
			})
		}
		herd.Wait()
	})
}

func TestARightSecretIsLetInWhereItSucceeded(t *testing.T) {
	right, wrong := header(basic("orders-backend:"+rightSecret)), header(basic("orders-backend:"+wrongSecret))
	for _, c := range []struct {
		name  string
		since time.Duration
		then  callers.Credentials
		from  string
		want  string
	}{
		{"INT-18 at once", 0, right, plainPeer, "200*50"},
		{"INT-18 after an hour", time.Hour, right, plainPeer, "200*50"},
		{"INT-18 not after more", time.Hour + time.Second, right, plainPeer, "429*50"},
		{"INT-18 not from elsewhere", 0, right, "198.51.100.1:1", "429*50"},
		{"INT-18 not as another id", 0, header(basic("other:" + nextSecret)), plainPeer, "429*50"},
		{"INT-18 a wrong one isn't", 0, wrong, plainPeer, "429*50"},
		{"INT-18 by post as well", 0, post("orders-backend", rightSecret), plainPeer, "200*50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := newClock()
			cs := limited(t, clock)
			if got := tries(cs, right, plainPeer, 1); got != "200*1" {
				t.Fatalf("first = %s, want 200", got)
			}
			clock.advance(c.since)
			tries(cs, wrong, plainPeer, 25)
			tries(cs, header(basic("other:"+wrongSecret)), plainPeer, 25)
			tries(cs, wrong, c.from, 25)
			if got := tries(cs, c.then, c.from, 50); got != c.want {
				t.Errorf("then = %s, want %s", got, c.want)
			}
		})
	}
	t.Run("INT-18 each success counts from itself", func(t *testing.T) {
		clock := newClock()
		cs := limited(t, clock)
		tries(cs, right, plainPeer, 1)
		for range 4 {
			clock.advance(40 * time.Minute)
			tries(cs, wrong, plainPeer, 25)
			if got := tries(cs, right, plainPeer, 1); got != "200*1" {
				t.Fatalf("40 minutes after the last success = %s, want 200", got)
			}
		}
	})
	t.Run("INT-18 a failure doesn't prolong it", func(t *testing.T) {
		clock := newClock()
		cs := limited(t, clock)
		tries(cs, right, plainPeer, 1)
		clock.advance(40 * time.Minute)
		tries(cs, wrong, plainPeer, 1)
		clock.advance(40 * time.Minute)
		tries(cs, wrong, plainPeer, 20)
		if got := tries(cs, right, plainPeer, 1); got != "429*1" {
			t.Errorf("80 minutes after the success = %s, want 429", got)
		}
	})
	t.Run("INT-18 bearer", func(t *testing.T) {
		cs := limited(t, newClock())
		tries(cs, header("Bearer "+rightToken), plainPeer, 1)
		tries(cs, header("Bearer "+wrongSecret), plainPeer, 25)
		if got := tries(cs, header("Bearer "+rightToken), plainPeer, 5); got != "200*5" {
			t.Errorf("right bearer = %s, want 200*5", got)
		}
	})
}

func TestAPeerHas200ASecond(t *testing.T) {
	guess := func(i int) callers.Credentials {
		return header(basic(fmt.Sprintf("nobody-%d:%s", i, wrongSecret)))
	}
	spend := func(cs *callers.Callers, from string) {
		for i := range 200 {
			tries(cs, guess(i), from, 1)
		}
	}
	for _, c := range []struct {
		name  string
		spent string
		then  callers.Credentials
		from  string
		after time.Duration
		want  string
	}{
		{"INT-18 the 201st id", plainPeer, guess(999), plainPeer, 0, "429*2"},
		{"INT-18 a right secret waits too", plainPeer, header(basic("orders-backend:" + rightSecret)), plainPeer, 0, "429*2"},
		{"INT-18 a right bearer waits too", plainPeer, header("Bearer " + rightToken), plainPeer, 0, "429*2"},
		{"INT-18 one more each 5 ms", plainPeer, guess(999), plainPeer, 5 * time.Millisecond, "401*1 429*1"},
		{"INT-18 another peer", plainPeer, guess(999), "192.0.2.8:1", 0, "401*2"},
		{"INT-18 the same /64", "[2001:db8:1:2::1]:1", guess(999), "[2001:db8:1:2:ffff::9]:1", 0, "429*2"},
		{"INT-18 another /64", "[2001:db8:1:2::1]:1", guess(999), "[2001:db8:1:3::1]:1", 0, "401*2"},
		{"INT-18 a unix socket", "@", guess(999), "@", 0, "429*2"},
		{"INT-18 a nameless unix socket", "@", guess(999), "", 0, "429*2"},
		{"INT-18 loopback isn't the unix socket", "@", guess(999), "[::1]:1", 0, "401*2"},
		{"INT-18 a link-local peer", "[fe80::1%eth0]:1", guess(999), "[fe80::2%eth1]:1", 0, "429*2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := newClock()
			cs := limited(t, clock)
			spend(cs, c.spent)
			clock.advance(c.after)
			if got := tries(cs, c.then, c.from, 2); got != c.want {
				t.Errorf("then = %s, want %s", got, c.want)
			}
		})
	}
	t.Run("INT-18 where it succeeded a right secret is let in", func(t *testing.T) {
		cs := limited(t, newClock())
		tries(cs, header(basic("orders-backend:"+rightSecret)), plainPeer, 1)
		spend(cs, plainPeer)
		if got := tries(cs, header(basic("orders-backend:"+rightSecret)), plainPeer, 3); got != "200*3" {
			t.Errorf("right secret = %s, want 200*3", got)
		}
	})
	t.Run("INT-18 an empty peer takes nothing from an id", func(t *testing.T) {
		clock := newClock()
		cs := limited(t, clock)
		spend(cs, plainPeer)
		if got := tries(cs, header(basic("other:"+wrongSecret)), plainPeer, 30); got != "429*30" {
			t.Fatalf("from an empty peer = %s, want 429*30", got)
		}
		clock.advance(time.Second)
		if got := tries(cs, header(basic("other:"+wrongSecret)), plainPeer, 21); got != "401*20 429*1" {
			t.Errorf("a second later = %s, want 401*20 429*1", got)
		}
	})
	t.Run("INT-18 one id hammered leaves the rest for others", func(t *testing.T) {
		cs := limited(t, newClock())
		tries(cs, header(basic("other:"+wrongSecret)), plainPeer, 5000)
		if got := tries(cs, header(basic("orders-backend:"+rightSecret)), plainPeer, 1); got != "200*1" {
			t.Errorf("neighbour's right secret = %s, want 200", got)
		}
	})
}

func TestLimitsOutliveAReload(t *testing.T) {
	clock := newClock()
	l := callers.NewLimits(clock.now)
	before := compileWith(t, l, caller("orders-backend", secrets(rightSecret)), caller("other", secrets(nextSecret)))
	tries(before, header(basic("orders-backend:"+rightSecret)), plainPeer, 1)
	tries(before, header(basic("orders-backend:"+wrongSecret)), plainPeer, 20)
	tries(before, header(basic("other:"+wrongSecret)), plainPeer, 20)

	after := compileWith(t, l, caller("other", secrets(nextSecret)), caller("orders-backend", secrets(rightSecret)))
	if got := tries(after, header(basic("other:"+nextSecret)), plainPeer, 1); got != "429*1" {
		t.Errorf("INT-18 empty bucket after a reload = %s, want 429", got)
	}
	if got := tries(after, header(basic("orders-backend:"+rightSecret)), plainPeer, 1); got != "200*1" {
		t.Errorf("INT-18 remembered success after a reload = %s, want 200", got)
	}
}

// Guessed ids fill the buckets, never the memory of successes.
func TestRandomIDsDontEvictSuccesses(t *testing.T) {
	clock := newClock()
	cs := limited(t, clock)
	right, wrong := header(basic("orders-backend:"+rightSecret)), header(basic("orders-backend:"+wrongSecret))
	tries(cs, right, plainPeer, 1)
	for i := range 70_000 {
		given := header(basic(fmt.Sprintf("nobody-%d:%s", i, wrongSecret)))
		given.Peer = fmt.Sprintf("10.%d.%d.1:1", i>>8&0xff, i&0xff)
		if got := status(cs, given); got != 401 && got != 429 {
			t.Fatalf("guess %d = %d, want 401 or 429", i, got)
		}
	}
	tries(cs, wrong, plainPeer, 25)
	if got := tries(cs, right, plainPeer, 1); got != "200*1" {
		t.Errorf("INT-18 right secret after 70,000 random ids = %s, want 200", got)
	}
}

func TestLimitsNeedNoGoroutine(t *testing.T) {
	standing := goleak.IgnoreCurrent()
	cs := limited(t, newClock())
	tries(cs, header(basic("orders-backend:"+wrongSecret)), plainPeer, 30)
	goleak.VerifyNone(t, standing)
}

func limited(tb testing.TB, c *clock) *callers.Callers {
	tb.Helper()
	return compile(tb, c,
		caller("orders-backend", secrets(rightSecret)), caller("other", secrets(nextSecret)), caller("metrics", bearerTokens(rightToken)))
}

// status is what the request would be answered with, 200 where it is let in.
func status(cs *callers.Callers, given callers.Credentials) int {
	if _, refused := cs.Authenticate(given); refused != nil {
		return refused.Status
	}
	return 200
}

// tries sends the same n times from one peer: "401*20 429*5".
func tries(cs *callers.Callers, given callers.Credentials, from string, n int) string {
	given.Peer = from
	var out []string
	last, run := 0, 0
	for range n {
		got := status(cs, given)
		if got != last && run > 0 {
			out = append(out, fmt.Sprintf("%d*%d", last, run))
			run = 0
		}
		last, run = got, run+1
	}
	return strings.Join(append(out, fmt.Sprintf("%d*%d", last, run)), " ")
}
