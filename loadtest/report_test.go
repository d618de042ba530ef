package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// recorded is a row whose recording has the given endings, all about one good
// token and sent at once.
func recorded(name string, p promise, endings ...ending) *row {
	now := time.Now()
	r := &row{Step: name, promise: p, recording: &recording{began: now, shards: make([]shard, 2)}}
	good := token{kind: known, jti: "J", from: now.Add(-time.Hour), until: now.Add(time.Hour)}
	for i, e := range endings {
		latency := e.answered.Sub(e.asked)
		e.asked = now
		e.answered = now.Add(latency)
		r.recording.add(i%2, good, &replica{name: "replica 1"}, e)
	}
	r.cpu = time.Duration(len(endings)) * 100 * time.Microsecond
	r.finish()
	return r
}

// took is an answer after d.
func took(d time.Duration, status int, body string) ending {
	return ending{answered: time.Time{}.Add(d), status: status, body: []byte(body)}
}

const active = `{"active":true,"jti":"J"}`

func TestReport(t *testing.T) {
	fine, slow := took(2*time.Millisecond, http.StatusOK, active), took(80*time.Millisecond, http.StatusOK, active)
	lost := ending{err: errors.New("connection reset")}
	for _, tt := range []struct {
		name   string
		row    *row
		broken bool
		want   []string // in the text
	}{
		{"as it should be", recorded("x", redisAway, fine, fine), false, []string{"x                2      0    0     0"}},
		{"slower than the goal is shown, and no failure", recorded("x", redisAway, slow), false, []string{" 78.0!", "x: p99 in the first second grew by 78.0 ms, the goal is 50.0 ms"}},
		{"no goal", recorded("x", promise{}, slow), false, []string{" 78.0 "}},
		{"a good token taken for bad", recorded("x", redisAway, fine, took(0, 200, inactive)), true, []string{"x: 1 wrong answers", "WRONG: token (known)"}},
		{"another token's answer", recorded("x", redisAway, took(0, 200, `{"active":true,"jti":"K"}`)), true, []string{"x: 1 wrong answers"}},
		{"503", recorded("x", replicaEnd, took(0, 503, `{}`)), true, []string{"x: 1 answers of 500 and above", "token (known): 503 {}"}},
		{"401", recorded("x", redisAway, took(0, 401, `{}`)), true, []string{"x: 1 requests lost"}},
		{"a lost request", recorded("x", redisAway, lost), true, []string{"x: 1 requests lost", "connection reset"}},
		{"a lost request where it may be", recorded("x", replicaEnd, lost, fine), false, []string{"x                2      0    0     1"}},
		{"nothing was asked", recorded("x", replicaEnd), true, []string{"x: nothing was asked"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &report{Rows: []*row{recorded(baseline, promise{}, fine, fine), tt.row}}
			if got := p.broken(); got != tt.broken {
				t.Errorf("broken: got %v, want %v (%v)", got, tt.broken, tt.row.Broken)
			}
			var text strings.Builder
			if err := p.write(&text); err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(text.String(), want) {
					t.Errorf("got\n%s\nwant in it %q", &text, want)
				}
			}
			if got := strings.Contains(text.String(), "BROKEN PROMISES"); got != tt.broken {
				t.Errorf("got\n%s\nwant broken promises in it: %v", &text, tt.broken)
			}
		})
	}
}

func TestReportAsJSON(t *testing.T) {
	p := &report{Rows: []*row{recorded(baseline, promise{}, took(2*time.Millisecond, http.StatusOK, active), took(0, 500, ""))}}
	var text strings.Builder
	if err := p.writeJSON(&text); err != nil {
		t.Fatal(err)
	}
	var got struct{ Steps []row }
	if err := json.Unmarshal([]byte(text.String()), &got); err != nil {
		t.Fatal(err)
	}
	r := got.Steps[0]
	if r.Requests != 2 || r.Refused != 1 || r.First.Max != 2000 || r.CPU != 100 || len(r.Broken) != 1 || len(r.Examples) != 1 {
		t.Errorf("got %s, want 2 requests, one of them 5xx, 2000 µs at most, 100 µs of CPU each", text.String())
	}
}

func TestRightAnswers(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	good := token{jti: "J", from: now, until: now.Add(10 * time.Second)}
	at := func(seconds float64) time.Time { return now.Add(time.Duration(seconds * float64(time.Second))) }
	for _, tt := range []struct {
		name            string
		token           token
		asked, answered float64 // seconds after nbf
		active, refused bool    // whether such an answer is right
	}{
		{"good", good, 1, 2, true, false},
		{"before its nbf and the leeway", good, -3, -2, false, true},
		{"within the leeway before its nbf", good, -0.5, -0.4, true, true},
		{"asked before its nbf, answered after", good, -0.5, 0.5, true, true},
		{"asked before its exp, answered after", good, 9.9, 10.1, true, true},
		{"within the leeway after its exp", good, 10.2, 10.3, true, true},
		{"asked within the leeway, answered after", good, 10.9, 12, true, true},
		{"after its exp and the leeway", good, 11.1, 11.2, false, true},
		{"never good", never(good), 1, 2, false, true},
	} {
		if got := tt.token.rightly([]byte(active), at(tt.asked), at(tt.answered)); got != tt.active {
			t.Errorf("%s: active is right: got %v, want %v", tt.name, got, tt.active)
		}
		if got := tt.token.rightly([]byte(inactive), at(tt.asked), at(tt.answered)); got != tt.refused {
			t.Errorf("%s: inactive is right: got %v, want %v", tt.name, got, tt.refused)
		}
	}
	for _, body := range []string{`{"active":true,"jti":"K"}`, `{"active":false,"jti":"J"}`, `{"active":true}`, "", "\n" + inactive} {
		if good.rightly([]byte(body), at(1), at(2)) {
			t.Errorf("%s: taken for right", body)
		}
	}
}

func TestSharesAreAHundred(t *testing.T) {
	sum := 0
	for _, s := range shares {
		sum += s.share
	}
	if sum != 100 {
		t.Errorf("got %d, want 100", sum)
	}
}

func TestParseStat(t *testing.T) {
	stat := "4242 (a ) name) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 1234 99999999 1000 18446744073709551615 1 1"
	cpu, rss, err := parseStat(stat)
	if err != nil || cpu != 3*time.Second || rss%1000 != 0 || rss == 0 {
		t.Errorf("got %s, %d bytes, %v; want 3s and 1000 pages", cpu, rss, err)
	}
	for _, bad := range []string{"", "1 (x) S 2", strings.Replace(stat, "250", "x", 1)} {
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}
