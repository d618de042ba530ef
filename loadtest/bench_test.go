package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"introspectd/internal/devissuer"
)

func TestMediansAndRatios(t *testing.T) {
	if got := median(nil); got != 0 {
		t.Errorf("of nothing: got %v", got)
	}
	if odd, even := median([]float64{3, 1, 2}), median([]float64{4, 1, 3, 2}); odd != 2 || even != 2.5 {
		t.Errorf("got %v and %v, want 2 and 2.5", odd, even)
	}
	// The machine is twice as slow in one round, for both.
	f, base := &figure{CPURounds: []float64{20, 40, 21}}, &figure{CPURounds: []float64{10, 20, 10}}
	if got := ratio(f, base); got != 2 {
		t.Errorf("got %v, want 2", got)
	}
}

func TestGoalsAreHeldOnTheirOwnSide(t *testing.T) {
	for _, tt := range []struct {
		goal goal
		held bool
		row  string
	}{
		{atLeast("P1", "x", 0.8, 0.8), true, "P1 x ≥ 0.80 0.80 HELD"},
		{atLeast("P1", "x", 0.8, 0.79), false, "P1 x ≥ 0.80 0.79 NOT HELD"},
		{atMost("P5", "x", 2.1, 2.1), true, "P5 x ≤ 2.10 2.10 HELD"},
		{atMost("P15", "x", 25, 31).in("MiB"), false, "P15 x ≤ 25.00 MiB 31.00 MiB NOT HELD"},
	} {
		if got := strings.Join(tt.goal.row(), " "); tt.goal.Held != tt.held || got != tt.row {
			t.Errorf("got %v and %q, want %v and %q", tt.goal.Held, got, tt.held, tt.row)
		}
	}
}

func measured() *figures {
	f := &figure{Lane: "a <lane>", Requests: 3, CPURounds: []float64{10, 12, 11}, perSec: []float64{1, 2, 3}}
	for _, us := range []int{100, 200, 9000} {
		f.latencies.add(time.Duration(us) * time.Microsecond)
	}
	f.finish()
	work := &figure{Lane: "work without requests", CPURounds: []float64{30}}
	work.finish()
	return &figures{Machine: "a machine", Command: "loadtest x", Sections: []section{{
		Mode: "x", Figures: []*figure{f, work}, Goals: []goal{atMost("P5", "first sight", 2.1, 2)}, Notes: []string{"a note"},
	}}}
}

func TestFiguresAreWrittenAndSaved(t *testing.T) {
	f := measured()
	var text strings.Builder
	if err := f.write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a <lane>", "11.0", "10.0–12.0", "a note", "first sight", "HELD"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("got\n%s\nwant in it %q", &text, want)
		}
	}
	asJSON, asSVG := filepath.Join(t.TempDir(), "f.json"), filepath.Join(t.TempDir(), "f.svg")
	if err := f.save(asJSON, asSVG); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(asJSON)
	if err != nil {
		t.Fatal(err)
	}
	var back figures
	if err := json.Unmarshal(saved, &back); err != nil || back.Sections[0].Figures[0].CPU != 11 || back.Sections[0].Figures[0].Latency.Max != 9000 {
		t.Errorf("got %s, %v; want 11 µs of CPU and at most 9000", saved, err)
	}
	if f.wrong() {
		t.Error("no answer was wrong: got that some were")
	}
	f.Sections[0].Figures[0].Wrong = 1
	if !f.wrong() {
		t.Error("one answer was wrong: got that none were")
	}
}

func TestFiguresWithoutCPUHaveNoColumnsForIt(t *testing.T) {
	f := &figure{Lane: "a lane"}
	f.count(seen{requests: 3, lasted: time.Second})
	f.finish()
	all := &figures{Sections: []section{{Mode: "x", Figures: []*figure{f}}}}
	var text strings.Builder
	if err := all.write(&text); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if got := text.String(); strings.Contains(got, "CPU µs") || strings.Contains(got, "rounds") || strings.Contains(got, "RSS") || !strings.Contains(got, "requests") {
		t.Errorf("got\n%s\nwant no CPU and no memory", got)
	}
	if got := string(asJSON); strings.Contains(got, "cpu") || strings.Contains(got, "rss") {
		t.Errorf("got %s, want no CPU and no memory", got)
	}
	if got := plot(all); strings.Contains(got, ">0.0<") {
		t.Errorf("got\n%s\nwant no CPU of 0", got)
	}
}

func TestThePlotIsXMLWithARowForEachLane(t *testing.T) {
	plotted := plot(measured())
	d := xml.NewDecoder(strings.NewReader(plotted))
	circles := 0
	for {
		part, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, plotted)
		}
		if e, ok := part.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	// Four in the legend, four of the lane that has latencies.
	if circles != 8 || !strings.Contains(plotted, "a &lt;lane&gt;") || strings.Contains(plotted, "NaN") {
		t.Errorf("got %d circles in\n%s\nwant 8, and the names of lanes", circles, plotted)
	}
	path := filepath.Join(t.TempDir(), "plot.svg")
	if err := (&figures{Sections: []section{{Mode: "herd"}}}).save("", path); err == nil {
		t.Error("figures without a lane were plotted, want an error")
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("there is a plot of nothing")
	}
	if empty := plot(&figures{}); strings.Contains(empty, "NaN") || strings.Contains(empty, "Inf") {
		t.Errorf("of nothing: got\n%s", empty)
	}
}

func TestATreeIsCountedWithItsChildren(t *testing.T) {
	onLinux(t)
	sh := exec.Command("sh", "-c", "sleep 60 & wait")
	sh.SysProcAttr = dieWithParent()
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		children, _ := descendants(sh.Process.Pid)
		for _, pid := range children {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		_ = sh.Process.Kill()
		_ = sh.Wait()
	}()
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
		children, err := descendants(sh.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if len(children) == 1 {
			if _, rss, err := treeUsage(sh.Process.Pid); err != nil || rss == 0 {
				t.Errorf("got %d bytes, %v; want some", rss, err)
			}
			return
		}
	}
	t.Error("sh has no child after 10 s")
}

func TestTokensAreWhatTheirKindSays(t *testing.T) {
	d := newBenchDeck(devissuer.New("http://127.0.0.1:1", "RS256"), 3)
	for i, good := range d.good {
		if n := len(good.text); n < 900 || n > 1000 || strings.Count(good.text, ".") != 2 {
			t.Errorf("a good token: got %d bytes, want about 940", n)
		}
		for _, kind := range append(refusals, "bad signature") {
			bad := d.bad(kind, 3)[i]
			if bad.text == good.text || bad.kind != forged || len(bad.text) < 600 {
				t.Errorf("%s: got %s", kind, bad.text)
			}
		}
	}
}

func TestAGatewaysAnswerIsRightAboutTheVeryToken(t *testing.T) {
	tokens := newBenchDeck(devissuer.New("http://127.0.0.1:1", "RS256"), 2).good
	if one, other := len(tokens[0].text), len(tokens[1].text); one != other {
		t.Errorf("got tokens of %d and %d bytes, want them alike", one, other)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(tokens[0].text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var own struct{ Sub string }
	if err := json.Unmarshal(payload, &own); err != nil {
		t.Fatal(err)
	}
	right := tellsSubject(tokens)
	for _, tt := range []struct {
		n, status int
		sub       string
		want      bool
	}{{0, 200, own.Sub, true}, {1, 200, own.Sub, false}, {0, 200, "", false}, {0, 401, own.Sub, false}} {
		a, _, err := readAnswer(fmt.Appendf(nil, "HTTP/1.1 %d x\r\nX-Auth-Subject: %s\r\nContent-Length: 0\r\n\r\n", tt.status, tt.sub))
		if got := right(tt.n, a); err != nil || got != tt.want {
			t.Errorf("%d and %q about token %d: got %v, %v; want %v", tt.status, tt.sub, tt.n, got, err, tt.want)
		}
	}
}

func TestAConfigurationForgetsByBeingEdited(t *testing.T) {
	b := &bench{dir: "/d", secret: "s", issuer: &issuer{address: "127.0.0.1:1"}}
	v := variant{name: "x", size: "0KiB", redis: "127.0.0.1:2", shared: "always"}
	first, second := b.configuration(v, 0), b.configuration(v, 1)
	if first == second || !strings.Contains(second, "max_lifetime: 100001h") || !strings.Contains(second, "name: pass-1,") {
		t.Errorf("got\n%s\nand\n%s\nwant another issuer and another policy", first, second)
	}
	if want := "cache: {verdicts: {size: 0KiB, shared: always}}"; !strings.Contains(first, want) {
		t.Errorf("got\n%s\nwant %s", first, want)
	}
}

func TestAModeRefusesWhatItWouldLeaveOut(t *testing.T) {
	for mode, flags := range map[string][]string{"herd": {"--svg", "--cpuprofile", "--rate"}, "memory": {"--svg", "--cpuprofile", "--rate"}, "flood": {"--cpuprofile", "--rate"}} {
		for _, f := range flags {
			var out, progress strings.Builder
			// The last is refused by every mode, so that none of them starts.
			if got := run(t.Context(), []string{mode, f, "x", "--rounds", "0"}, &out, &progress); got != exitUsage || !strings.Contains(progress.String(), "flag provided but not defined: "+f[1:]) {
				t.Errorf("%s %s: got %d and %s\nwant 2, and that there is no such flag", mode, f, got, &progress)
			}
		}
	}
}

func TestAFileThatCantBeWrittenIsToldBeforeAnythingRuns(t *testing.T) {
	var out, progress strings.Builder
	for _, flag := range []string{"--json", "--svg"} {
		if got := run(t.Context(), []string{"hit", flag, filepath.Join(t.TempDir(), "none", "x")}, &out, &progress); got != exitUsage || !strings.Contains(progress.String(), "no such file or directory") {
			t.Errorf("%s: got %d and %s, want 2", flag, got, &progress)
		}
	}
}

func TestOnlyNamesWhatThereIs(t *testing.T) {
	for _, tt := range []struct{ mode, only, want string }{
		{"goals", "P99", `no "P99"; there are P1, P2, P3, P4, P5, P6, P7, P8, P9, P11, P12, P13, P14, P15, P16`},
		{"goals", "P1,p5", `no "p5"`},
		{"goals", "P1,P16", ""},
		{"scale", "nonsense", `no "nonsense"; there are issuers, callers, `},
		{"scale", "callers,", `no ""`},
		{"scale", "replicas,issuers", ""},
	} {
		err := new(benchFlags).parse(tt.mode, []string{"--only", tt.only}, io.Discard)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s --only %s: got %v, want %q", tt.mode, tt.only, err, tt.want)
		}
	}
}

// A whole run of a mode, so short that its figures mean nothing.
func TestMixRuns(t *testing.T) {
	onLinux(t)
	path := filepath.Join(t.TempDir(), "figures.json")
	var out, progress strings.Builder
	args := []string{"mix", "--seconds", "0.05", "--rounds", "1", "--connections", "4", "--tokens", "200", "--json", path, "--no-pin"}
	if got := run(t.Context(), args, &out, &progress); got != exitOK {
		t.Fatalf("exit status: got %d, want 0\n%s\n%s", got, &out, &progress)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got figures
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, f := range got.Sections[0].Figures {
		if f.Requests == 0 || f.Wrong > 0 || f.CPU <= 0 || f.RSS == 0 {
			t.Errorf("%s: got %d requests, %d wrong, %v µs, %d bytes; want some, 0, some and some", f.Lane, f.Requests, f.Wrong, f.CPU, f.RSS)
		}
	}
}

// What answers rightly until it is measured, and again from then on, is wrong all
// the same.
func TestNoAnswerIsLeftUnjudged(t *testing.T) {
	onLinux(t)
	var asked, wrongFrom, wrongUntil atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := asked.Add(1); n > wrongFrom.Load() && n <= wrongUntil.Load() {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer s.Close()
	address := s.Listener.Addr().String()
	b := &bench{benchFlags: benchFlags{seconds: 0.05, rounds: 1, connections: 2}, cpu: -1, loadCPU: -1, progress: io.Discard}
	l := &lane{
		name: "a lane", server: &server{address: address, process: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}},
		requests: get(address, "/0", "/1", "/2"), right: status(http.StatusOK),
	}
	wrongFrom.Store(3) // those that warm sends first are right
	wrongUntil.Store(5)
	if _, _, err := b.measure(t.Context(), l); !errors.Is(err, errWrong) {
		t.Errorf("wrong while the server was used for the first time: got %v, want %v", err, errWrong)
	}
	wrongFrom.Store(asked.Load())
	wrongUntil.Store(asked.Load() + 2)
	hello := load{address: address, connections: 2, greeting: get(address, "/hello")[0], greeted: func(a answer) bool { return a.status == http.StatusOK }, requests: get(address, "/0"), once: true, right: status(http.StatusOK)}
	if _, err := hello.run(t.Context(), -1); !errors.Is(err, errWrong) {
		t.Errorf("a wrong greeting: got %v, want %v", err, errWrong)
	}
}

func TestGoalsFailWhereAnAnswerWasWrong(t *testing.T) {
	was := goalModes
	defer func() { goalModes = was }()
	mode := func(err error) []struct {
		shows string
		run   func(*bench, context.Context) ([]section, error)
	} {
		modes := slices.Clone(was[:2])
		modes[0].run = func(*bench, context.Context) ([]section, error) { return nil, err }
		modes[1].run = func(*bench, context.Context) ([]section, error) { return []section{{Mode: "the next"}}, nil }
		return modes
	}
	for _, tt := range []struct {
		err  error
		want bool
	}{{fmt.Errorf("a lane: %w", errWrong), true}, {errors.New("a server has ended"), true}, {fmt.Errorf("redis: %w", exec.ErrNotFound), false}, {nil, false}} {
		goalModes = mode(tt.err)
		all, err := (&bench{progress: io.Discard}).goals(t.Context())
		if (err != nil) != tt.want || tt.want && !errors.Is(err, tt.err) {
			t.Errorf("%v: got %v, want an error: %t", tt.err, err, tt.want)
		}
		if last := all[len(all)-1].Mode; last != "the next" {
			t.Errorf("%v: got %s last, want what is left shown", tt.err, last)
		}
	}
}

func TestTooFewToMeasureAreRefused(t *testing.T) {
	for _, tt := range []struct {
		mode, flags string
		ok          bool
	}{
		{"memory", "--verdicts 0", false},
		{"goals", "--verdicts -1", false},
		{"memory", "--verdicts 10", true},
		{"hit", "--tokens 99", false},
		{"hit", "--seconds NaN", false},
		{"hit", "--seconds +Inf", false},
		{"scale", "--tokens 999", false},
		{"scale", "--tokens 999 --only callers,issuers", false},
		{"scale", "--tokens 999 --only callers", true},
		{"scale", "--tokens 1000", true},
		{"flood", "--tokens 399", false},
		{"flood", "--tokens 400", true},
		{"flood", "--tokens 100 --seconds 0.5", true},
	} {
		if err := new(benchFlags).parse(tt.mode, strings.Fields(tt.flags), io.Discard); (err == nil) != tt.ok {
			t.Errorf("%s %s: got %v, want it taken: %t", tt.mode, tt.flags, err, tt.ok)
		}
	}
}

// What a user has set up for a service of theirs changes nothing of ours, and sends
// nothing there.
func TestServersDoNotSeeTheUsersSettings(t *testing.T) {
	given := []string{"PATH=/bin", "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.example", "HOME=/h", "INTROSPECTD_TELEMETRY__LOG__LEVEL=info", "GOMAXPROCS=2"}
	want := []string{"PATH=/bin", "HOME=/h", "GOMAXPROCS=2"}
	if got := environment(given); !slices.Equal(got, want) || len(given) != 5 || given[1] != "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.example" {
		t.Errorf("got %v, want %v, and what was given as it was: %v", got, want, given)
	}
}
