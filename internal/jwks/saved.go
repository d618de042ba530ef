package jwks

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// Store keeps the last good keys beyond the process. Its methods may be called
// concurrently, and may be slow: no request waits for them.
type Store interface {
	// Get returns what was put under name, nil when there is none.
	Get(name string) ([]byte, error)
	// Put keeps value under name until expires.
	Put(name string, value []byte, expires time.Time) error
}

const (
	// confirmEvery is the least time between two saves of an unchanged set.
	confirmEvery = time.Minute
	// maxAhead is how far a saved time may be ahead of our clock, which may
	// have been set back a little.
	maxAhead = time.Minute
	// maxSaved bounds what is read of a saved set: a body in base64, and
	// the rest.
	maxSaved = 2 * maxBody
)

// saved is a set as it was last read from its source.
type saved struct {
	Issuer string `json:"issuer"`
	// From is where it was read: with discovery, the jwks_uri.
	From string `json:"from"`
	// Inside says that discovery was answered from a private address, whose
	// jwks_uri may be private as well.
	Inside bool   `json:"inside,omitzero"`
	ETag   string `json:"etag,omitzero"`
	// FetchedAt is when the source was asked, not when it had answered: an
	// answer that was on its way when a key was withdrawn counts as older.
	FetchedAt time.Time `json:"fetched_at"`
	Body      []byte    `json:"body"`
}

// savedName is what the set is saved under. Keys that were trusted for another
// issuer, address or root certificate are not ours to take.
func (k *Keys) savedName(ca []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(k.issuer), []byte(k.source), []byte(k.cfg.JWKSURL), ca} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	return fmt.Sprintf("keys/%x", h.Sum(nil))
}

// restore takes over what was saved, with its age, if it may still be used. It
// is as good as a fetch of that time: anything wrong with it leaves us without
// keys until the first fetch, as without a store.
func (k *Keys) restore() {
	body, err := k.store.Get(k.saveAs)
	switch {
	case err != nil:
		k.meter.stored(opLoad, storeFailed)
		k.log.Warn("saved keys can't be read", "error", err.Error())
		return
	case body == nil:
		k.meter.stored(opLoad, storeNothing)
		return
	}
	taken, err := k.takeSaved(body, fromState)
	switch {
	case err != nil:
		k.meter.stored(opLoad, storeRefused)
		k.log.Warn("saved keys are not used", "error", err.Error())
		return
	case !taken:
		k.meter.stored(opLoad, storeOlder)
		return
	}
	k.meter.stored(opLoad, storeDone)
	h := k.held.Load()
	k.log.Info("keys taken from the state", "url", k.url, "keys", len(h.set.entries), "read", h.fetched)
}

// takeSaved judges a saved set and takes it over if it is newer than the
// set that was held last.
func (k *Keys) takeSaved(body []byte, from origin) (taken bool, err error) {
	// A panic here would come back at every start, and for all replicas.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if len(body) > maxSaved {
		return false, fmt.Errorf("more than %d bytes", maxSaved)
	}
	var r saved
	if err := json.Unmarshal(body, &r, json.RejectUnknownMembers(true)); err != nil {
		return false, fmt.Errorf("reading JSON: %w", err)
	}
	p, err := k.placeSaved(r)
	if err != nil {
		return false, err
	}
	age := k.now().Sub(r.FetchedAt)
	switch {
	case age < -maxAhead:
		return false, fmt.Errorf("they were read at %s, which is yet to come", r.FetchedAt.Format(time.RFC3339))
	case age > k.cfg.MaxStale:
		return false, fmt.Errorf("they were read at %s, longer ago than max_stale", r.FetchedAt.Format(time.RFC3339))
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	// What was held last counts also when it was pruned to nothing since.
	if !r.FetchedAt.After(k.memory.known.FetchedAt) {
		return false, nil
	}
	old := k.held.Load()
	// From here on the age goes by the monotonic clock, like any other.
	read := time.Now().Add(-max(age, 0))
	if _, err := k.replace(held{
		read: read, fetched: r.FetchedAt, due: read.Add(k.untilNext(k.memory.maxAge)), from: from,
		unconfirmed: old == nil || old.unconfirmed,
	}, r, sha256.Sum256(r.Body)); err != nil {
		return false, err
	}
	k.showURL(r.From)
	if known := k.memory.place; k.source == sourceDiscover && (known.url == nil || known.url.String() != r.From) {
		// The issuer may have moved since: it is asked first.
		k.memory.place, k.memory.doubt = p, true
	}
	return true, nil
}

// placeSaved holds issuer and address against what is configured now, as
// strictly as when they were fetched.
func (k *Keys) placeSaved(r saved) (place, error) {
	if r.Issuer != k.issuer {
		return place{}, errors.New("they are another issuer's")
	}
	p, err := k.place(r.From, k.cfg.AllowHTTP)
	if err != nil {
		return place{}, fmt.Errorf("address: %w", err)
	}
	if k.source == sourceURL {
		if own, err := k.place(k.cfg.JWKSURL, k.cfg.AllowHTTP); err != nil || own.url.String() != r.From {
			return place{}, errors.New("they are from another address")
		}
		return p, nil
	}
	if p.url.Scheme != "https" && strings.HasPrefix(strings.ToLower(k.issuer), "https:") {
		return place{}, errors.New("address: expected https, as the issuer is")
	}
	p.rule.publicOnly = !r.Inside
	return p, p.rule.literal(p.url)
}

// keep hands the set that was just read to the saver, which takes the latest.
// A confirmation only moves the age: with one save a minute, what is restored
// looks a minute older than it is, which errs to the safe side, and the disk
// is spared.
func (k *Keys) keep(changed bool) {
	if k.store == nil {
		return
	}
	if !changed && time.Since(k.memory.kept) < min(confirmEvery, k.cfg.MaxStale/4) {
		return
	}
	k.memory.kept = time.Now()
	select {
	case <-k.unsaved:
	default:
	}
	k.unsaved <- k.memory.known // one flight at a time fills it: there is room
}

// saving saves what fetches bring until the returned function is called, which
// waits for the last of it; no fetch may run then. A disk that hangs holds up
// this goroutine, and neither fetches nor requests.
func (k *Keys) saving() (end func()) {
	if k.store == nil {
		return func() {}
	}
	var saver sync.WaitGroup
	saver.Go(func() {
		failing := false
		for r := range k.unsaved {
			err := k.save(r)
			switch {
			case err != nil && !failing:
				k.log.Warn("keys can't be saved; a restart may find none", "error", err.Error())
			case err == nil && failing:
				k.log.Info("keys can be saved again")
			}
			failing = err != nil
		}
	})
	return func() {
		close(k.unsaved)
		saver.Wait()
	}
}

func (k *Keys) save(r saved) error {
	if err := k.put(k.store, r); err != nil {
		k.meter.stored(opSave, storeFailed)
		return err
	}
	k.meter.stored(opSave, storeDone)
	return nil
}

// put keeps r in s for as long as it may be used.
func (k *Keys) put(s Store, r saved) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.Put(k.saveAs, body, r.FetchedAt.Add(k.cfg.MaxStale))
}
