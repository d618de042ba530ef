package httpapi

import (
	"bytes"
	"errors"
	"net/url"
	"unicode/utf8"
)

var errForm = errors.New("the parameters are not well-formed")

// eachParameter calls each with every parameter of a form or query in
// application/x-www-form-urlencoded, decoded. It refuses what parsers read
// differently: a bare ";", a broken percent-encoding, text that is not UTF-8.
// Names and values may be parts of form.
func eachParameter(form []byte, each func(name, value []byte) error) error {
	if bytes.IndexByte(form, ';') >= 0 {
		return errForm
	}
	for pair := range bytes.SplitSeq(form, []byte("&")) {
		if len(pair) == 0 {
			continue
		}
		name, value, _ := bytes.Cut(pair, []byte("="))
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

// eachInQuery is eachParameter of the query of a URL.
func eachInQuery(query string, each func(name, value string) error) error {
	return eachParameter([]byte(query), func(name, value []byte) error { return each(string(name), string(value)) })
}

// unescape decodes a name or a value. One without escapes is itself.
func unescape(s []byte) ([]byte, bool) {
	if bytes.IndexByte(s, '%') >= 0 || bytes.IndexByte(s, '+') >= 0 {
		decoded, err := url.QueryUnescape(string(s))
		if err != nil {
			return nil, false
		}
		s = []byte(decoded)
	}
	return s, utf8.Valid(s)
}

// parameter is one that may be sent once.
type parameter[T string | []byte] struct {
	value T
	sent  bool
}

var errTwice = errors.New("a parameter is sent twice")

func (p *parameter[T]) set(value []byte) error {
	if p.sent {
		return errTwice
	}
	p.value, p.sent = T(value), true
	return nil
}

// parameters are what a judging endpoint reads of its form.
type parameters struct {
	token                                   parameter[[]byte] // may be part of the body
	hint, profile, output                   parameter[string]
	clientID, clientSecret, clientAssertion parameter[string]
	room                                    []byte // for the answer, until the request is over
	// profiled says that profile and output are parameters of this endpoint;
	// elsewhere they are unknown ones.
	profiled bool
}

// take is for eachParameter. Unknown parameters are ignored, repeated or not
// (RFC 6749 section 3.2).
func (p *parameters) take(name, value []byte) error {
	switch string(name) {
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

// refuseCredential is for eachInQuery: what stands in a URL ends up in logs (RFC
// 6749 section 2.3.1, RFC 7662 section 4).
func refuseCredential(name, _ string) error {
	switch name {
	case "token", "access_token", "client_secret", "client_assertion":
		return errCredential
	}
	return nil
}
