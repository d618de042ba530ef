package main

import "testing"

func TestCachesDoNotCountForThePaceOfCollections(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name         string
		live, caches int64
		want         int // percent of what is live
	}{
		{"a small heap", 8 * mib, 0, 400},
		{"before any collection", 0, 128 * mib, 24},
		{"the same, and a cache", 136 * mib, 128 * mib, 23},
		{"some callers", 12 * mib, 0, 266},
		{"the keys of a thousand issuers", 24 * mib, 0, 533},
		{"the same, and a cache", 152 * mib, 128 * mib, 84},
		{"a heap in between", 100 * mib, 0, 192},
		{"a large heap collects as ever", 200 * mib, 0, 100},
		{"a large heap and a cache", 328 * mib, 128 * mib, 60},
		{"a cache of many gigabytes", 8000 * mib, 7990 * mib, 1},
	} {
		if got := garbageShare(tt.live, tt.caches); got != tt.want {
			t.Errorf("%s: got %d %%, want %d %%", tt.name, got, tt.want)
		}
	}
}

func TestGOGCIsObeyed(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		want bool
	}{
		{nil, true}, {[]string{"GOGC="}, true}, {[]string{"GOGCX=1", "A=GOGC=1"}, true}, {[]string{"A=1", "GOGC=off"}, false},
	} {
		if got := collectsByItself(tt.env); got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.env, got, tt.want)
		}
	}
}
