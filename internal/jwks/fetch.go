package jwks

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	fetchTime    = 5 * time.Second // for one fetch with all its requests
	maxErrorText = 1024
	maxETag      = 256 // bytes of one that we send back; a longer one may be too much for its own source
)

// result is how a fetch ended. It is a metric label: the set is closed.
type result string

const (
	resultChanged   result = "changed"
	resultUnchanged result = "unchanged"
	resultNetwork   result = "network"
	resultTimeout   result = "timeout"
	resultAddress   result = "address_refused"
	resultStatus    result = "status"
	resultTooLarge  result = "too_large"
	resultMalformed result = "malformed"
	resultNoKeys    result = "no_usable_keys"
	resultDiscovery result = "discovery"
	resultStopped   result = "stopped"
	resultPanic     result = "panic"
)

// failure is an error of a fetch with its metric label.
type failure struct {
	result result
	err    error
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// memory is what one flight leaves for the next.
type memory struct {
	place   place         // where discovery said the keys are
	located time.Time     // and when that was; zero asks it again
	doubt   bool          // fetching from there went wrong: ask discovery again
	known   saved         // the set in use as it was read; its body only for Store and Fleet
	body    [32]byte      // digest of that body
	maxAge  time.Duration // what the source last said of it
	kept    time.Time
	failing bool

	loadWrong, claimWrong bool // how asking the fleet last went
}

// beginning is when a fetch began.
type beginning struct {
	read, fetched time.Time // as in held
	prunes        int
}

func (k *Keys) begin() beginning {
	k.changing.Lock()
	defer k.changing.Unlock()
	return beginning{read: time.Now(), fetched: k.now().UTC(), prunes: k.prunes}
}

// place is an address to fetch keys from and what may be dialled for it.
type place struct {
	url  *url.URL
	rule rule
}

// fetch reads the source once and takes over what it brought. A set is
// replaced only by one with a usable key; anything else leaves it, and its
// age, alone.
func (k *Keys) fetch(ctx context.Context, f *flight) (err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	began := k.begin()
	f.fetched, f.asked = true, began.read
	var label result
	defer func() {
		// A panic in this goroutine would end the process, and what is parsed
		// here is the network's.
		if r := recover(); r != nil {
			err = failure{resultPanic, fmt.Errorf("panic: %v", r)}
		}
		if err != nil {
			label = labelOf(err)
			err = fmt.Errorf("fetching keys of issuer %s: %w", k.name, err)
		}
		k.meter.fetched(label, time.Since(began.read))
		k.conclude(err)
	}()
	a, err := k.read(ctx, f)
	if err != nil {
		return err
	}
	if label, err = k.take(a, began); err != nil {
		return err
	}
	f.leaves.read = k.lastRead()
	return nil
}

// read asks for the set, at the configured address or at the one that
// discovery tells.
func (k *Keys) read(ctx context.Context, f *flight) (answer, error) {
	p, err := k.locate(ctx, f)
	if err != nil {
		return answer{}, err
	}
	etag := k.condition(p)
	k.showURL(p.url.String())
	a, err := k.request(ctx, p, etag)
	if err == nil && a.status != http.StatusOK && (a.status != http.StatusNotModified || etag == "") {
		err = failure{resultStatus, fmt.Errorf("status %d, expected 200", a.status)}
	}
	return a, err
}

// condition is the tag of the present set if it came from p, else empty. After
// a failure it is empty too: the tag may be why, and would be so for ever.
func (k *Keys) condition(p place) string {
	k.changing.Lock()
	defer k.changing.Unlock()
	if k.memory.failing || k.memory.known.From != p.url.String() || k.held.Load() == nil {
		return ""
	}
	return k.memory.known.ETag
}

func (k *Keys) showURL(u string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.url = u
}

// lastRead is the present set as it was read.
func (k *Keys) lastRead() *saved {
	k.changing.Lock()
	defer k.changing.Unlock()
	known := k.memory.known
	return &known
}

// take puts what was read in place of the present set.
func (k *Keys) take(a answer, began beginning) (result, error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	old := k.held.Load()
	k.memory.maxAge = a.maxAge
	next := held{
		read: began.read, fetched: began.fetched, due: began.read.Add(k.untilNext(a.maxAge)),
		// A key was withdrawn since: what the source says now is to be heard.
		unconfirmed: began.prunes != k.prunes,
	}
	known := saved{
		Issuer: k.issuer, From: a.from, ETag: a.etag, FetchedAt: began.fetched, Body: a.body,
		Inside: k.source == sourceDiscover && !k.memory.place.rule.publicOnly,
	}
	body := sha256.Sum256(a.body)
	if a.status == http.StatusNotModified {
		if old == nil {
			return "", failure{resultStatus, errors.New("status 304 for keys that are no longer held")}
		}
		// It confirms what is held, and no more than that.
		known.ETag, known.Body, body = k.memory.known.ETag, k.memory.known.Body, k.memory.body
		next.set = old.set
	}
	changed, err := k.replace(next, known, body)
	switch {
	case errors.Is(err, errNoUsableKeys):
		return "", failure{resultNoKeys, err}
	case err != nil:
		return "", failure{resultMalformed, err}
	case !changed:
		return resultUnchanged, nil
	}
	message := "keys changed"
	if old == nil {
		message = "keys read"
	}
	s := k.held.Load().set
	k.log.Info(message, "url", a.from, "keys", len(s.entries), "skipped", s.skipped)
	return resultChanged, nil
}

// replace puts next in place of the present set, less the keys that were
// withdrawn since it was asked for, and reports whether that makes a
// difference. known is how it was read and body the digest of that; a set that
// next does not have yet is read from there. The caller holds changing.
func (k *Keys) replace(next held, known saved, body [32]byte) (changed bool, err error) {
	old := k.held.Load()
	same := old != nil && k.memory.known.From == known.From && k.memory.body == body
	if same {
		next.set = old.set
	}
	if next.set == nil {
		s, err := parseSet(known.Body)
		if s != nil {
			s = s.apart(k.cfg.AllowKnownPublicKeys)
			k.meter.skip(s.skipped)
		}
		if errors.Is(err, errNoUsableKeys) {
			return false, fmt.Errorf("%w (skipped: %v)", err, s.skipped)
		}
		if err != nil {
			return false, err
		}
		next.set = s
	}
	s, n := k.remaining(&next)
	// A set of refused keys alone tells why their tokens are refused, but it
	// takes no place from keys that verify.
	if len(s.entries) == 0 && (s.refused == nil || old != nil && len(old.set.entries) > 0) {
		return false, fmt.Errorf("%w (skipped: %v)", errNoUsableKeys, s.skipped)
	}
	if n > 0 {
		// An answer that is "unchanged" would keep the key away for ever.
		known.ETag, body = "", [32]byte{}
	}
	if k.saveAs == "" {
		known.Body = nil
	}
	next.set, next.left = s, n
	k.held.Store(&next)
	k.memory.known, k.memory.body = known, body
	if old != nil && next.due.Before(old.due) {
		k.wake() // Run may wait for the later of them
	}
	if next.from != fromState {
		k.keep(!same)
	}
	if old != nil && old.set.digest == s.digest {
		return false, nil
	}
	k.unknown.clear()
	k.warn(s)
	return true, nil
}

// conclude keeps the outcome for State and logs it when it is news.
func (k *Keys) conclude(err error) {
	var f failure
	if errors.As(err, &f) && f.result == resultStopped {
		return
	}
	k.memory.doubt = err != nil
	text := ""
	if err != nil {
		text = err.Error()
		// It may quote what the other side sent.
		text = strings.ToValidUTF8(text[:min(len(text), maxErrorText)], "")
	}
	k.mu.Lock()
	k.lastErr = text
	k.mu.Unlock()
	switch {
	case err != nil && !k.memory.failing:
		k.log.Warn("keys can't be fetched", "error", text)
	case err == nil && k.memory.failing:
		k.log.Info("keys can be fetched again")
	}
	k.memory.failing = err != nil
}

// labelOf is the metric label of an error that ended a fetch.
func labelOf(err error) result {
	var f failure
	switch {
	case errors.As(err, &f):
		return f.result
	case errors.Is(err, errAddress):
		return resultAddress
	}
	return resultNetwork
}

// answer is a response that was read to its end.
type answer struct {
	from   string
	status int
	body   []byte
	etag   string
	maxAge time.Duration
	// peer is who answered; not valid behind a proxy or a replaced transport.
	peer netip.Addr
}

// request gets p once: no redirects, no cookies, no decompression, a bounded
// header and body. ctx bounds all of it, a body that drips included.
func (k *Keys) request(ctx context.Context, p place, etag string) (answer, error) {
	transport, err := k.transportFor(p)
	if err != nil {
		return answer{}, err
	}
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a := answer{from: p.url.String()}
	var peer netip.Addr
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if ap, err := netip.ParseAddrPort(c.Conn.RemoteAddr().String()); err == nil {
			peer = ap.Addr()
		}
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.from, nil)
	if err != nil {
		return answer{}, failure{resultNetwork, err}
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "introspectd")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{}, broken(p.url, err)
	}
	defer res.Body.Close()
	k.compareClocks(res.Header.Get("Date"))
	if p.rule.proxy == nil {
		a.peer = peer
	}
	a.status = res.StatusCode
	if tag := res.Header.Get("Etag"); len(tag) <= maxETag {
		a.etag = tag
	}
	a.maxAge = maxAge(res.Header)
	if a.status != http.StatusOK {
		return a, nil
	}
	a.body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return answer{}, broken(p.url, err)
	}
	if len(a.body) > maxBody {
		return answer{}, failure{resultTooLarge, fmt.Errorf("%s: more than %d bytes", p.url, maxBody)}
	}
	return a, nil
}

// broken labels an error of the transport. Its text names the address once.
func broken(u *url.URL, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var timeout interface{ Timeout() bool }
	label := resultNetwork
	switch {
	case errors.Is(err, errAddress):
		label = resultAddress
	case errors.Is(err, context.Canceled):
		label = resultStopped
	case errors.As(err, &timeout) && timeout.Timeout():
		label = resultTimeout
	}
	return failure{label, fmt.Errorf("%s: %w", u, err)}
}

// compareClocks keeps by how much the source's clock is ahead of ours. A clock
// that is off shows as tokens refused for their times.
func (k *Keys) compareClocks(date string) {
	if t, err := http.ParseTime(date); err == nil {
		ahead := t.Sub(k.now())
		k.skew.Store(&ahead)
	}
}

// maxAge is Cache-Control's max-age (RFC 9111 section 5.2.2.1), zero when
// there is none. no-cache and no-store are ignored: Keycloak sends them, and
// fetching for every token is not what it means.
func maxAge(h http.Header) time.Duration {
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if !strings.EqualFold(name, "max-age") {
				continue
			}
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err == nil {
				return time.Duration(seconds) * time.Second
			}
		}
	}
	return 0
}
