package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRunbookHasEachSectionOnce holds deploy/README.md, which is long, to one
// section for each thing, and its links within to sections that are there.
func TestRunbookHasEachSectionOnce(t *testing.T) {
	text := deployed(t, "README.md")
	sections := map[string]int{}
	for _, heading := range regexp.MustCompile(`(?m)^##? (.+)$`).FindAllStringSubmatch(text, -1) {
		sections[anchor(heading[1])]++
	}
	for name, n := range sections {
		if n > 1 {
			t.Errorf("section #%s is there %d times", name, n)
		}
	}
	links := regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(text, -1)
	if len(links) < 10 {
		t.Errorf("got %d links to sections, want the tables'", len(links))
	}
	for _, link := range links {
		if sections[link[1]] == 0 {
			t.Errorf("no section is #%s", link[1])
		}
	}
}

// anchor is what a heading is linked to by.
func anchor(heading string) string {
	kept := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(kept, " ", "-")
}

// TestRunbookNamesEveryMetric holds its table to the instruments in the source.
func TestRunbookNamesEveryMetric(t *testing.T) {
	text := deployed(t, "README.md")
	instrument := regexp.MustCompile(`(?:Counter|Gauge|Histogram)\("(introspectd\.[a-z_.]+)"`)
	var found int
	for _, tree := range []string{"../../internal", "."} {
		err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, name := range instrument.FindAllStringSubmatch(string(source), -1) {
				found++
				// What it counts, or its unit, stands behind.
				if !regexp.MustCompile("`" + strings.ReplaceAll(name[1], ".", "_") + "(_total|_seconds)?[`{]").MatchString(text) {
					t.Errorf("%s of %s is not in deploy/README.md", name[1], path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 25 {
		t.Errorf("found %d instruments, want all", found)
	}
}
