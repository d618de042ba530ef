package main

import (
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
