package main

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// instruction is one line of a Dockerfile, continuations joined.
type instruction struct{ word, rest string }

// stages reads the Dockerfile, one list of instructions for each FROM.
func stages(t *testing.T) (all [][]instruction) {
	t.Helper()
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word == "" || strings.HasPrefix(word, "#") {
			continue
		}
		if word == "FROM" {
			all = append(all, nil)
		}
		if len(all) == 0 {
			t.Fatalf("%s stands before the first FROM", word)
		}
		last := len(all) - 1
		all[last] = append(all[last], instruction{word, strings.TrimSpace(rest)})
	}
	return all
}

// of returns what follows each of a stage's instructions of one kind.
func of(stage []instruction, word string) (rests []string) {
	for _, i := range stage {
		if i.word == word {
			rests = append(rests, i.rest)
		}
	}
	return rests
}

func TestImageHoldsTheBinaryAndCertificatesAlone(t *testing.T) {
	all := stages(t)
	if len(all) != 2 {
		t.Fatalf("got %d stages, want one that builds and one that runs", len(all))
	}
	final := all[1]
	if got := of(final, "FROM"); got[0] != "scratch" {
		t.Errorf("FROM: got %s, want scratch", got[0])
	}
	want := []string{
		"--from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"--from=build /introspectd /introspectd",
	}
	if got := of(final, "COPY"); !slices.Equal(got, want) {
		t.Errorf("COPY: got %q, want %q", got, want)
	}
	// A volume or a working directory would be a place to write to.
	for _, word := range []string{"RUN", "ADD", "VOLUME", "WORKDIR"} {
		if got := of(final, word); len(got) > 0 {
			t.Errorf("%s: got %q, want none", word, got)
		}
	}
}

func TestImageRunsServeAsANumericUserWhoIsNotRoot(t *testing.T) {
	final := stages(t)[1]
	for word, want := range map[string][]string{
		"USER":       {"65532:65532"},
		"EXPOSE":     {"8080"},
		"ENTRYPOINT": {`["/introspectd"]`},
		"CMD":        {`["serve"]`},
	} {
		if got := of(final, word); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
	health := of(final, "HEALTHCHECK")
	if len(health) != 1 {
		t.Fatalf("HEALTHCHECK: got %q, want one", health)
	}
	// In the form of a list: there is no shell to run it.
	_, list, _ := strings.Cut(health[0], "CMD ")
	var command []string
	if err := json.Unmarshal([]byte(list), &command); err != nil || !slices.Equal(command, []string{"/introspectd", "healthcheck"}) {
		t.Errorf("HEALTHCHECK: got %s, want introspectd healthcheck as a list", health[0])
	}
}

func TestImageBuildsAStaticBinaryThatKnowsItsVersion(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOT PASSED: what the image's line builds here is no binary for Linux")
	}
	build := stages(t)[0]
	var line string
	for _, command := range of(build, "RUN") {
		if strings.Contains(command, "go build") {
			line = command
		}
	}
	for _, part := range []string{"CGO_ENABLED=0", "-trimpath", "-tags nomsgpack", `-ldflags "-s -w -X main.version=$VERSION"`} {
		if !strings.Contains(line, part) {
			t.Errorf("the line that builds: got %q, want %s in it", line, part)
		}
	}
	if !slices.Contains(of(build, "ARG"), "VERSION=dev") {
		t.Errorf("ARG: got %q, want VERSION=dev among them", of(build, "ARG"))
	}

	binary := filepath.Join(t.TempDir(), "introspectd")
	here := strings.Replace(line, "-o /introspectd", "-o "+binary, 1)
	if here == line {
		t.Fatalf("the line that builds: got %q, want it to write /introspectd", line)
	}
	run := exec.CommandContext(t.Context(), "sh", "-c", here)
	run.Dir = "../.."
	run.Env = append(os.Environ(), "VERSION=9.8.7-test")
	if output, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", here, err, output)
	}

	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary has a %s segment, want a static one that needs no loader", p.Type)
		}
	}
	answer, err := exec.CommandContext(t.Context(), binary, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^introspectd 9\.8\.7-test \(commit \S+, go1\.\S+\)\n$`).Match(answer) {
		t.Errorf("version: got %q, want version 9.8.7-test, commit and Go version", answer)
	}
}
