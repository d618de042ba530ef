package httpapi

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

var errForm = errors.New("the parameters are not well-formed")

// eachParameter calls each with every parameter of a form or query in
// application/x-www-form-urlencoded, decoded. It refuses what parsers read
// differently: a bare ";", a broken percent-encoding, text that is not UTF-8.
func eachParameter(form string, each func(name, value string) error) error {
	if strings.IndexByte(form, ';') >= 0 {
		return errForm
	}
	for pair := range strings.SplitSeq(form, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, ok := unescape(name)
		if !ok {
			return errForm
		}
		if value, ok = unescape(value); !ok {
			return errForm
		}
		if err := each(name, value); err != nil {
			return err
		}
	}
	return nil
}

// unescape decodes a name or a value. One without escapes is itself.
func unescape(s string) (string, bool) {
	if strings.IndexByte(s, '%') >= 0 || strings.IndexByte(s, '+') >= 0 {
		decoded, err := url.QueryUnescape(s)
		if err != nil {
			return "", false
		}
		s = decoded
	}
	return s, utf8.ValidString(s)
}

// parameter is one that may be sent once.
type parameter struct {
	value string
	sent  bool
}

var errTwice = errors.New("a parameter is sent twice")

func (p *parameter) set(value string) error {
	if p.sent {
		return errTwice
	}
	p.value, p.sent = value, true
	return nil
}

// parameters are what a judging endpoint reads of its form.
type parameters struct {
	token, hint, profile, output            parameter
	clientID, clientSecret, clientAssertion parameter
	// profiled says that profile and output are parameters of this endpoint;
	// elsewhere they are unknown ones.
	profiled bool
}

// take is for eachParameter. Unknown parameters are ignored, repeated or not
// (RFC 6749 section 3.2).
func (p *parameters) take(name, value string) error {
	switch name {
	case "token":
		return p.token.set(value)
	case "token_type_hint":
		return p.hint.set(value)
	case "profile":
		if p.profiled {
			return p.profile.set(value)
		}
	case "output":
		if p.profiled {
			return p.output.set(value)
		}
	case "client_id":
		return p.clientID.set(value)
	case "client_secret":
		return p.clientSecret.set(value)
	case "client_assertion":
		return p.clientAssertion.set(value)
	}
	return nil
}

var errCredential = errors.New("a token or credential is in the URL")

// refuseCredential is for eachParameter over a query: what stands in a URL
// ends up in logs (RFC 6749 section 2.3.1, RFC 7662 section 4).
func refuseCredential(name, _ string) error {
	switch name {
	case "token", "access_token", "client_secret", "client_assertion":
		return errCredential
	}
	return nil
}
