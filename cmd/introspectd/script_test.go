package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the transcripts of testdata/script: what is typed, and what
// comes of it.
func TestScripts(t *testing.T) {
	need(t, "curl")
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Values[testingT{}] = t
			e.Setenv("GORACE", os.Getenv("GORACE"))
			e.Setenv("MATERIAL", wso2Material)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": status,
			"json":   jsonValue,
			"dev":    background,
			"expand": expand,
			"paste":  paste,
		},
	})
}

// testingT is the key of the *testing.T in a script's values.
type testingT struct{}

// status runs a command that is to end with an exit status: status 2 PROGRAM...
func status(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var exit *exec.ExitError
	got := 0
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status: got %d, want %d", got, want)
	}
}

// jsonValue compares a value within a JSON file: json FILE a.b.0.c VALUE.
func jsonValue(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for part := range strings.SplitSeq(args[1], ".") {
		switch inner := v.(type) {
		case map[string]any:
			v = inner[part]
		case []any:
			n, err := strconv.Atoi(part)
			if ts.Check(err); n >= len(inner) {
				ts.Fatalf("%s: there are %d entries", args[1], len(inner))
			}
			v = inner[n]
		default:
			ts.Fatalf("%s: nothing beneath %v", args[1], v)
		}
	}
	var want any
	ts.Check(json.Unmarshal([]byte(args[2]), &want))
	if diff := cmp.Diff(want, v); diff != "" {
		ts.Fatalf("%s (-want +got):\n%s", args[1], diff)
	}
}

// background starts `introspectd dev` on free addresses, which become $LISTEN
// and $ADMIN, and writes what it prints to a file: dev FILE.
func background(ts *testscript.TestScript, _ bool, args []string) {
	t := ts.Value(testingT{}).(*testing.T)
	d := startDev(t, ts.Defer)
	ts.Setenv("LISTEN", d.listen)
	ts.Setenv("ADMIN", d.admin)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(d.printed), 0o600))
}

// expand puts the values of $VARIABLES into a file.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// paste runs those lines of a text in one shell that somebody would paste:
// assignments and curl. An empty line follows the output of each.
func paste(ts *testscript.TestScript, _ bool, args []string) {
	var script strings.Builder
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if strings.HasPrefix(line, "TOKEN=") || strings.HasPrefix(line, "curl ") {
			script.WriteString(line + "echo; echo\n")
		}
	}
	ts.Check(ts.Exec("sh", "-euc", script.String()))
}

// devProcess is `introspectd dev`, running.
type devProcess struct {
	listen, admin string
	printed       string // all of its greeting
}

// startDev runs `introspectd dev` on free addresses until atEnd, and waits for
// its greeting.
func startDev(t *testing.T, atEnd func(func())) devProcess {
	t.Helper()
	d := devProcess{listen: freeAddress(t), admin: freeAddress(t)}
	command := exec.Command("introspectd", "dev", "--listen", d.listen, "--admin", d.admin)
	var out syncBuffer
	command.Stdout = &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	atEnd(func() {
		_ = command.Process.Kill()
		<-ended
	})
	until(t, "dev has printed its greeting", ended, func() bool {
		// It is printed at once, and ends with the fifth line to try.
		d.printed = out.String()
		return strings.Count(d.printed, "\ncurl ") == 5 && strings.HasSuffix(d.printed, "\n\n")
	})
	return d
}

// block is a fenced block of a Markdown file.
type block struct {
	language, text string
	line           int // of its first line of text
}

func (b block) String() string { return fmt.Sprintf("README.md:%d", b.line) }

// blocks are the fenced blocks of a text, in order.
func blocks(text string) (found []block) {
	var open *block
	n := 0
	for line := range strings.Lines(text) {
		n++
		fence, ok := strings.CutPrefix(line, "```")
		switch {
		case ok && open == nil:
			found = append(found, block{language: strings.TrimSpace(fence), line: n + 1})
			open = &found[len(found)-1]
		case ok:
			open = nil
		case open != nil:
			open.text += line
		}
	}
	return found
}

// TestREADMEIsTrue runs every ```sh block of README.md against `introspectd
// dev`, in one shell from top to bottom as a reader would, and holds the output
// of each against the ```json or ```text block that follows it. Only the
// addresses are others: 127.0.0.1:8080 and :8081 become free ones.
//
// The first block is not run by the shell: `go run ./cmd/introspectd dev` is
// this very binary, started before, and `.ci/test` is what runs this test.
func TestREADMEIsTrue(t *testing.T) {
	need(t, "curl")
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatalf("README.md is missing: %v", err)
	}
	all := blocks(string(readme))
	first := slices.IndexFunc(all, func(b block) bool { return b.language == "sh" })
	if first < 0 || all[first].text != "go run ./cmd/introspectd dev\n.ci/test\n" {
		t.Fatal("README.md: the first sh block is not the two commands to begin with")
	}
	if info, err := os.Stat("../../.ci/test"); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf(".ci/test: got %v, %v; want a program", info, err)
	}

	d := startDev(t, t.Cleanup)
	addresses := strings.NewReplacer("127.0.0.1:8080", d.listen, "127.0.0.1:8081", d.admin)
	back := strings.NewReplacer(d.listen, "127.0.0.1:8080", d.admin, "127.0.0.1:8081")
	const mark = "-- end of block --"
	var script strings.Builder
	var run, expected []block
	for i := first + 1; i < len(all); i++ {
		if all[i].language != "sh" {
			continue
		}
		run = append(run, all[i])
		next := block{}
		if i+1 < len(all) && (all[i+1].language == "json" || all[i+1].language == "text") && follows(all[i], all[i+1]) {
			next = all[i+1]
		}
		expected = append(expected, next)
		fmt.Fprintf(&script, "%sprintf '%%s' '%s'\n", addresses.Replace(all[i].text), mark)
	}
	if len(run) < 4 || !strings.Contains(script.String(), "\ncurl ") {
		t.Fatalf("README.md: %d blocks to run, want those with curl", len(run))
	}
	command := exec.Command("sh", "-eu", "-c", script.String())
	command.Dir = t.TempDir()
	// What a reader from WSO2 has at hand.
	for name, text := range map[string]string{
		"deployment.toml": material(t, "toml/01-truststore-only.toml"), "client-truststore.jks": material(t, "client-truststore.jks"),
		"bindings.json": `{"https://localhost:9443/oauth2/token": ["wso2carbon"], "https://idp3.example.test": ["idp3-ec-p256"]}`, "truststore.password": "wso2carbon",
	} {
		writeFile(t, filepath.Join(command.Dir, name), text)
	}
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil || said.Len() > 0 {
		t.Fatalf("README.md: %v\n%s%s", err, &said, out)
	}
	outputs := strings.Split(back.Replace(string(out)), mark)
	for i, b := range run {
		got := strings.TrimSpace(outputs[i])
		if strings.Contains(got, `"error"`) {
			t.Errorf("%s: got the error %s", b, got)
		}
		switch expected[i].language {
		case "json":
			if diff := cmp.Diff(steady(t, expected[i].text), steady(t, got)); diff != "" {
				t.Errorf("%s (-README +got):\n%s", expected[i], diff)
			}
		case "text":
			if want := strings.TrimSpace(expected[i].text); got != want {
				t.Errorf("%s: got\n%s\nwant\n%s", expected[i], got, want)
			}
		}
	}
}

// follows tells whether nothing but an empty line is between two blocks.
func follows(b, next block) bool { return next.line == b.line+strings.Count(b.text, "\n")+3 }

// volatile are the members whose values differ each time.
var volatile = regexp.MustCompile(`^(exp|iat|nbf|jti|at|token_ref|access_token|assertion|expires_in)$`)

// steady decodes JSON with only the types of volatile members left.
func steady(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%v in %s", err, text)
	}
	var settle func(any) any
	settle = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				if v[name] = settle(value); volatile.MatchString(name) {
					v[name] = fmt.Sprintf("any %T", value)
				}
			}
		case []any:
			for i, value := range v {
				v[i] = settle(value)
			}
		}
		return v
	}
	return settle(v)
}
