package jwks

import "time"

// Prune takes the keys that Dropped tells of out of the present set, unless
// the source was asked for it after they were withdrawn. If there are any, the
// source is asked at once, and what it then answers holds: it is the
// authority. Until that has gone well there may be no key at all.
//
// Keys from files are configuration, and Prune leaves them: the operator takes
// them out of the configuration. A file that is merely gone ends no key, since a
// configuration that names it is refused and the one before goes on.
func (k *Keys) Prune() {
	if k.prune(func() { k.launch(k.renew) }) {
		k.wake()
	}
}

// prune reports whether it took anything out. Before it does, it calls ask: who
// misses a key has to see that the source is being asked.
func (k *Keys) prune(ask func()) bool {
	if k.cfg.local() {
		return false
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	h := k.held.Load()
	if h == nil {
		return false
	}
	s, n := k.remaining(h)
	if !h.unconfirmed {
		n += h.left
	}
	if n == 0 {
		return false
	}
	k.prunes++
	// An answer that is "unchanged" would keep them away for ever.
	k.memory.known.ETag, k.memory.body = "", [32]byte{}
	pruned := *h
	pruned.unconfirmed, pruned.left = true, 0
	doubted := pruned // due, so that what ask begins doesn't end before the rest is done
	k.held.Store(&doubted)
	ask()
	pruned.set = s
	if len(s.entries) == 0 {
		k.held.Store(nil)
	} else {
		k.held.Store(&pruned)
	}
	k.unknown.clear()
	k.log.Warn("keys withdrawn", "withdrawn", n, "keys", len(s.entries))
	return true
}

// remaining is the set of h less the keys that were withdrawn no earlier than
// the source was asked for it, and how many those are.
func (k *Keys) remaining(h *held) (*set, int) {
	if k.dropped == nil {
		return h.set, 0
	}
	asked := k.asked(h)
	s, n := h.set.without(func(t Thumbprint) bool {
		at := k.dropped(t)
		return !at.IsZero() && !asked.After(at)
	})
	if n > 0 {
		k.meter.skip(map[skipReason]int{skipWithdrawn: n})
	}
	return s, n
}

// asked is when the source was asked for h at the latest, by our clock as it is
// now, which is what tells when a key was withdrawn. Another replica's may have
// been ahead of it, and ours may have been set back since.
func (k *Keys) asked(h *held) time.Time {
	age := time.Since(h.read)
	if at := k.now().Add(-age); at.Before(h.fetched) {
		return at
	}
	return h.fetched
}
