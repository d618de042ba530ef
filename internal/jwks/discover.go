package jwks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// relocateEvery is how long discovery is relied on while the address that it
// told answers: an issuer may move its keys and leave the old ones where they
// were.
const relocateEvery = time.Hour

// locate says where the keys are. What discovery told is relied on for an hour,
// or until a fetch from there goes wrong; should discovery be away by then, the
// old address is tried all the same.
func (k *Keys) locate(ctx context.Context, f *flight) (place, error) {
	if k.source == sourceURL {
		return k.place(k.cfg.JWKSURL, k.cfg.AllowHTTP)
	}
	known := k.memory.place
	if known.url != nil && !k.memory.doubt && time.Since(k.memory.located) < relocateEvery {
		return known, nil
	}
	f.located = true
	asking := ctx
	if known.url != nil {
		// An issuer that hangs leaves time for the address that is known.
		var stop context.CancelFunc
		asking, stop = context.WithTimeout(ctx, fetchTime/2)
		defer stop()
	}
	p, err := k.discover(asking)
	if err != nil {
		if known.url != nil && ctx.Err() == nil {
			return known, nil
		}
		return place{}, err
	}
	k.memory.place, k.memory.located = p, time.Now()
	return p, nil
}

// relocate is fetch that asks discovery in any case.
func (k *Keys) relocate(ctx context.Context, f *flight) error {
	k.memory.located = time.Time{}
	return k.fetch(ctx, f)
}

// moved asks discovery in any case, and tells whether the keys are elsewhere now.
func (k *Keys) moved(ctx context.Context, f *flight) (moved bool) {
	defer func() {
		if r := recover(); r != nil { // as in fetch
			k.log.Warn("discovery went wrong", "error", fmt.Sprint("panic: ", r))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	before := k.memory.place.url.String()
	k.memory.located = time.Time{}
	p, err := k.locate(ctx, f)
	return err == nil && p.url.String() != before
}

func (k *Keys) place(raw string, allowHTTP bool) (place, error) {
	u, err := parseURL(raw, allowHTTP)
	if err != nil {
		return place{}, err
	}
	r, err := k.ruleFor(u)
	return place{url: u, rule: r}, err
}

// discover asks the issuer's metadata for jwks_uri: OpenID Connect Discovery
// section 4, then RFC 8414 section 3. The first document that is in order is
// taken.
func (k *Keys) discover(ctx context.Context) (place, error) {
	var faults []error
	for _, address := range metadataURLs(k.issuer) {
		p, err := k.readMetadata(ctx, address)
		if err == nil {
			return p, nil
		}
		faults = append(faults, err)
		if ctx.Err() != nil {
			break
		}
	}
	return place{}, failure{discoveryLabel(faults), fmt.Errorf("discovery: %w", errors.Join(faults...))}
}

// discoveryLabel keeps apart what ends a fetch anyway from a document that is
// not in order.
func discoveryLabel(faults []error) result {
	for _, err := range faults {
		switch l := labelOf(err); l {
		case resultTimeout, resultStopped, resultAddress:
			return l
		}
	}
	return resultDiscovery
}

// metadataURLs are the addresses of an issuer's metadata, in the order in
// which they are tried. A slash at the end of the path is dropped, as both
// specifications say.
func metadataURLs(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil
	}
	base := u.Scheme + "://" + u.Host
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	urls := []string{
		base + path + "/.well-known/openid-configuration",
		base + "/.well-known/oauth-authorization-server" + path,
	}
	if path != "" {
		urls = append(urls, base+"/.well-known/openid-configuration"+path)
	}
	return urls
}

func (k *Keys) readMetadata(ctx context.Context, address string) (place, error) {
	from, err := k.place(address, k.cfg.AllowHTTP)
	if err != nil {
		return place{}, err
	}
	a, err := k.request(ctx, from, "")
	if err != nil {
		return place{}, err
	}
	if a.status != http.StatusOK {
		return place{}, fmt.Errorf("%s: status %d, expected 200", address, a.status)
	}
	raw, err := k.jwksURI(a.body)
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", address, err)
	}
	p, err := k.place(raw, k.cfg.AllowHTTP)
	if err != nil {
		return place{}, fmt.Errorf("%s: jwks_uri: %w", address, err)
	}
	if p.url.Scheme != "https" && from.url.Scheme == "https" {
		return place{}, fmt.Errorf("%s: jwks_uri: expected https, as the issuer is", address)
	}
	// Behind a proxy we don't see who answered; whoever is asked through one
	// counts as outside.
	p.rule.publicOnly = !a.peer.IsValid() || !private(embedded(a.peer.Unmap()))
	if err := p.rule.literal(p.url); err != nil {
		return place{}, fmt.Errorf("%s: jwks_uri: %w", address, err)
	}
	return p, nil
}

// jwksURI reads the two members that matter. The document must be about this
// issuer, byte for byte (RFC 8414 section 3.3), or one issuer could hand us
// another's keys.
func (k *Keys) jwksURI(body []byte) (string, error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(body, &members); err != nil {
		return "", errors.New("not a JSON object")
	}
	var issuer, uri string
	if err := json.Unmarshal(members["issuer"], &issuer); err != nil || issuer != k.issuer {
		return "", errors.New("issuer is not the configured one")
	}
	if err := json.Unmarshal(members["jwks_uri"], &uri); err != nil {
		return "", errors.New("no jwks_uri")
	}
	return uri, nil
}
