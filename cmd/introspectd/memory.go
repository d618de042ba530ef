package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"
)

// collecting paces the collection of garbage beside caches.
type collecting struct {
	caches func() int64 // their size in bytes
	share  int          // what the runtime was told last
}

const (
	// leastGarbage comes together before there is a collection, in bytes; of
	// eight times what lives beside the program itself, up to mostExtra does.
	leastGarbage = 32 << 20
	itself       = 8 << 20
	mostExtra    = 192 << 20
	paceEvery    = 5 * time.Second
)

// collectsByItself says whether the environment leaves the pace to us.
func collectsByItself(env []string) bool {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "GOGC="); ok && value != "" {
			return false
		}
	}
	return true
}

// run keeps the pace until ctx ends.
func (c *collecting) run(ctx context.Context) {
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for {
		c.pace(liveHeap())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pace tells the runtime after which growth to collect, in percent of a heap of
// which live bytes were in use after the last collection.
func (c *collecting) pace(live int64) {
	// A small change is not worth stopping the world for.
	if share := garbageShare(live, c.caches()); math.Abs(float64(share-c.share)) > float64(c.share)/8 {
		c.share = share
		debug.SetGCPercent(share)
	}
}

// garbageShare is the growth after which to collect, in percent of a heap of
// live bytes with caches in it.
func garbageShare(live, caches int64) int {
	live = max(live, caches+1<<20) // there may have been no collection since they were made
	marked := live - caches
	garbage := max(leastGarbage, min(8*(marked-itself), mostExtra), marked)
	return int(max(1, 100*garbage/live))
}

// liveHeap is what was in use after the last collection, in bytes.
func liveHeap() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}
