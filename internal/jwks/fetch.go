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

// memory is what one fetch leaves for the next.
type memory struct {
	place   place // where discovery said the keys are
	doubt   bool  // fetching from there went wrong: ask discovery again
	from    string
	etag    string
	body    [32]byte // digest of the set in use, as read from `from`
	raw     []byte   // that set, for the Store
	kept    time.Time
	failing bool
}

// place is an address to fetch keys from and what may be dialled for it.
type place struct {
	url  *url.URL
	rule rule
}

// fetch reads the source once and takes over what it brought. It returns how
// long the source may be left alone. A set is replaced only by one with a
// usable key; anything else leaves it, and its age, alone.
func (k *Keys) fetch(ctx context.Context) (next time.Duration, err error) {
	started := time.Now()
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
		k.meter.fetched(label, time.Since(started))
		k.conclude(err)
	}()
	a, err := k.read(ctx)
	if err != nil {
		return 0, err
	}
	label, err = k.take(a)
	return k.untilNext(a.maxAge), err
}

// read asks for the set, at the configured address or at the one that
// discovery tells.
func (k *Keys) read(ctx context.Context) (answer, error) {
	p, err := k.locate(ctx)
	if err != nil {
		return answer{}, err
	}
	etag := ""
	if k.memory.from == p.url.String() && k.held.Load() != nil {
		etag = k.memory.etag
	}
	k.mu.Lock()
	k.url = p.url.String()
	k.mu.Unlock()
	a, err := k.request(ctx, p, etag)
	if err == nil && a.status != http.StatusOK && (a.status != http.StatusNotModified || etag == "") {
		err = failure{resultStatus, fmt.Errorf("status %d, expected 200", a.status)}
	}
	return a, err
}

// take puts what was read in place of the present set.
func (k *Keys) take(a answer) (result, error) {
	now := time.Now()
	old := k.held.Load()
	body := sha256.Sum256(a.body)
	same := old != nil && k.memory.from == a.from && k.memory.body == body
	if same {
		k.memory.etag = a.etag
	}
	if a.status == http.StatusNotModified || same {
		k.held.Store(&held{set: old.set, read: now})
		k.keep(false)
		return resultUnchanged, nil
	}
	s, err := parseSet(a.body)
	if s != nil {
		k.meter.skip(s.skipped)
	}
	switch {
	case errors.Is(err, errNoUsableKeys):
		return "", failure{resultNoKeys, fmt.Errorf("%w (skipped: %v)", err, s.skipped)}
	case err != nil:
		return "", failure{resultMalformed, err}
	}
	k.held.Store(&held{set: s, read: now})
	k.memory.from, k.memory.etag, k.memory.body = a.from, a.etag, body
	if k.store != nil {
		k.memory.raw = a.body
	}
	k.keep(true)
	if old != nil && old.set.digest == s.digest {
		return resultUnchanged, nil
	}
	k.unknown.clear()
	message := "keys changed"
	if old == nil {
		message = "keys read"
	}
	k.log.Info(message, "url", a.from, "keys", len(s.entries), "skipped", s.skipped)
	return resultChanged, nil
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
	a.etag = res.Header.Get("Etag")
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
