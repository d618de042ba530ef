package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Nobody runs the scripts of k6 and of peers in a check; that they are
// JavaScript is seen all the same.
func TestScriptsAreJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is not installed")
		}
		t.Skip("SKIPPED, NOT PASSED: node is not installed")
	}
	ours, _ := filepath.Glob("k6/*.js") // the patterns are well-formed
	theirs, _ := filepath.Glob("peers/node/*.mjs")
	if len(ours) < 5 || len(theirs) != 2 {
		t.Fatalf("got %v and %v, want 5 scripts or more, and 2", ours, theirs)
	}
	for _, path := range slices.Concat(ours, theirs) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		module := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))+".mjs")
		if err := os.WriteFile(module, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(node, "--check", module).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
}
