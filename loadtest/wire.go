package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// load is what is sent to one address, and how.
type load struct {
	address     string // host:port, HTTP/1.1
	connections int
	// requests are sent in turn, whole as they stand. With once set the load
	// ends when each has been answered, otherwise it begins anew.
	requests [][]byte
	once     bool
	// greeting, if any, is answered on each connection before the load begins: a
	// connection that was just made costs the server more than a request.
	greeting []byte
	greeted  func(a answer) bool // judges the answer to it
	// from is where it begins in requests, counted on beyond their number.
	from int
	// right judges the answer to request n.
	right func(n int, a answer) bool
	// length ends it: nothing is sent afterwards, and what is on its way is
	// waited for.
	length time.Duration
	// rate is how many requests are due each second, whatever becomes of those
	// before: latency counts from when a request was due, so that a server that
	// stalls is charged for all that had to wait. 0 is a closed loop: each
	// connection sends when its last request is answered.
	rate float64
	// awake keeps the load from sleeping while it waits. Otherwise the server
	// pays for waking it with each answer, the more often the slower it is itself.
	awake bool
}

// answer is one response, valid until the next.
type answer struct {
	status     int
	head, body []byte
}

// seen is what came of a load.
type seen struct {
	requests, wrong uint64
	lasted          time.Duration
	latencies       histogram
	// example is one of the answers that were wrong.
	example string
}

// merge adds what came of another load, which ran after or before s.
func (s *seen) merge(other seen) {
	s.requests, s.wrong, s.lasted = s.requests+other.requests, s.wrong+other.wrong, s.lasted+other.lasted
	s.latencies.merge(&other.latencies)
	if other.example != "" {
		s.example = other.example
	}
}

// errWrong is of a load whose answers were not all right.
var errWrong = errors.New("wrong answers")

// allRight is nil, or an error that is errWrong.
func (s *seen) allRight() error {
	if s.wrong == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of %d, such as %s", errWrong, s.wrong, s.requests, s.example)
}

var errAnswer = errors.New("the answer is not HTTP/1.1 with a length")

// readAnswer reads one response at the beginning of in (RFC 9112). size is how
// many bytes it took, 0 while some of it are missing. A chunked body is left in
// its chunks: what is sought in it is shorter than one.
func readAnswer(in []byte) (a answer, size int, err error) {
	end := bytes.Index(in, []byte("\r\n\r\n"))
	if end < 0 {
		return a, 0, nil
	}
	a.head = in[:end+2]
	if end < 12 || !bytes.HasPrefix(in, []byte("HTTP/1.1 ")) {
		return a, 0, errAnswer
	}
	if a.status, err = strconv.Atoi(string(in[9:12])); err != nil {
		return a, 0, errAnswer
	}
	rest := in[end+4:]
	if text := header(a.head, "content-length"); text != nil {
		length, err := strconv.Atoi(string(text))
		if err != nil || length < 0 {
			return a, 0, errAnswer
		}
		if len(rest) < length {
			return a, 0, nil
		}
		a.body = rest[:length]
		return a, end + 4 + length, nil
	}
	if a.status == 204 {
		return a, end + 4, nil
	}
	if header(a.head, "transfer-encoding") == nil {
		return a, 0, errAnswer
	}
	const last = "0\r\n\r\n"
	switch at := bytes.Index(rest, []byte("\r\n"+last)); {
	case bytes.HasPrefix(rest, []byte(last)):
		return a, end + 4 + len(last), nil
	case at < 0:
		return a, 0, nil
	default:
		a.body = rest[:at]
		return a, end + 4 + at + 2 + len(last), nil
	}
}

// header is the value of the field with the given name in lower case, nil
// where there is none.
func header(head []byte, name string) []byte {
	for {
		eol := bytes.Index(head, []byte("\r\n"))
		if eol < 0 {
			return nil
		}
		line := head[:eol]
		head = head[eol+2:]
		if len(line) > len(name) && line[len(name)] == ':' && equalFold(line[:len(name)], name) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
}

// equalFold compares ASCII with text in lower case.
func equalFold(s []byte, lower string) bool {
	for i, c := range s {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
