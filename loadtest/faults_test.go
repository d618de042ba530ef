package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The modes start this program as a yardstick, which here is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "yardstick" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func TestFaultsWithoutRedis(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.json")
	var out, progress strings.Builder
	status := run(t.Context(), []string{"faults", "--no-redis", "--seconds", "0.2", "--connections", "4", "--json", path}, &out, &progress)
	if status != exitOK {
		t.Fatalf("exit status: got %d, want 0\n%s\n%s", status, &out, &progress)
	}
	figures, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(figures, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"warm-up", "baseline", "issuer-down", "issuer-back", "issuer-hangs", "issuer-answers", "replica-killed", "replica-drained", "baseline-again",
	}
	if len(got.Rows) != len(want) {
		t.Fatalf("got %d steps, want %d:\n%s", len(got.Rows), len(want), &out)
	}
	for i, r := range got.Rows {
		if r.Step != want[i] {
			t.Errorf("step %d: got %s, want %s", i, r.Step, want[i])
		}
		if !strings.Contains(out.String(), "\n"+r.Step+" ") {
			t.Errorf("the table has no line of %s:\n%s", r.Step, &out)
		}
		if r.Requests == 0 || r.Wrong > 0 || r.Refused > 0 {
			t.Errorf("%s: got %d requests, %d wrong answers and %d of 500 and above; want some, 0 and 0", r.Step, r.Requests, r.Wrong, r.Refused)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		want int
		says string
	}{
		{"", exitUsage, "usage:"},
		{"sideways", exitUsage, "usage:"},
		{"faults --help", exitOK, "-connections"},
		{"faults --no-redis --replicas 2", exitUsage, "replicas share nothing"},
		{"faults --no-redis --phases redis-hung", exitUsage, `no "redis-hung" among issuer-down`},
		{"faults --seconds 0", exitUsage, "more than 0 seconds"},
		{"hit --rounds 0", exitUsage, "at least 1 round"},
		{"goals --help", exitOK, "-only"},
		{"miss now", exitUsage, `unexpected "now"`},
		{"miss --binary /nowhere/introspectd --tokens 100", exitFailed, "/nowhere/introspectd"},
		{"yardstick --kind echo", exitUsage, "--kind gin or net/http"},
		{"faults now", exitUsage, `unexpected "now"`},
		{"faults --no-redis --binary /nowhere/introspectd", exitFailed, "/nowhere/introspectd"},
	} {
		var out, stderr strings.Builder
		if got := run(t.Context(), strings.Fields(tt.args), &out, &stderr); got != tt.want || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("loadtest %s: got %d and %q, want %d and %q", tt.args, got, &stderr, tt.want, tt.says)
		}
	}
}

func TestChosenFaultsKeepTheirOrder(t *testing.T) {
	chosen, err := choose("issuer-hangs,redis-oom", false)
	if got := strings.Join(namesOf(chosen), " "); err != nil || got != "redis-oom issuer-hangs" {
		t.Errorf("got %s, %v", got, err)
	}
}
