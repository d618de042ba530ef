package devissuer

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// Outage is a way in which /jwks.json goes wrong.
type Outage string

const (
	None        Outage = "none"
	Refuse500   Outage = "refuse-500"
	NotFound    Outage = "not-found"
	Hang        Outage = "hang"         // no answer until the client gives up
	HTML        Outage = "html"         // 200 and a page
	Truncated   Outage = "truncated"    // 200 and half of the set
	EmptyKeys   Outage = "empty-keys"   // {"keys":[]}
	Null        Outage = "null"         // the JSON value null
	ErrorObject Outage = "error-object" // 200 and {"error":...}
	Huge        Outage = "huge"         // 110 MB of valid JSON around a good set
	Redirect    Outage = "redirect"     // to itself, for ever
	Drip        Outage = "drip"         // a byte each 50 ms, for ever
)

// Fail makes /jwks.json answer in the given way from the next request on; None
// ends it.
func (i *Issuer) Fail(mode Outage) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.outage = mode
}

func (i *Issuer) jwks(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.requests++
	mode := i.outage
	i.mu.Unlock()

	set := i.JWKS()
	contentType, body := "application/jwk-set+json", string(set)
	switch mode {
	case None:
	case Refuse500:
		http.Error(w, "internal server error", http.StatusInternalServerError)
		return
	case NotFound:
		http.NotFound(w, r)
		return
	case Hang:
		<-r.Context().Done()
		return
	case HTML:
		contentType, body = "text/html; charset=utf-8", "<!doctype html><title>Down for maintenance</title>"
	case Truncated:
		body = string(set[:len(set)/2])
	case EmptyKeys:
		body = `{"keys":[]}`
	case Null:
		body = "null"
	case ErrorObject:
		body = `{"error":"temporarily_unavailable"}`
	case Huge:
		writeHuge(w, set)
		return
	case Redirect:
		http.Redirect(w, r, i.path+"/jwks.json", http.StatusFound)
		return
	case Drip:
		drip(w, r)
		return
	default:
		panic("devissuer: no such outage: " + string(mode))
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = io.WriteString(w, body) // a client that hung up is no fault of ours
}

// writeHuge pads the set in front, so that a reader who stops early has no key.
func writeHuge(w http.ResponseWriter, set []byte) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for range 110 {
		if _, err := w.Write(spaces); err != nil {
			return
		}
	}
	_, _ = w.Write(set)
}

// drip keeps every single read of the client alive, so that only a limit on the
// whole fetch ends it.
func drip(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	flush := http.NewResponseController(w)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := w.Write([]byte(" ")); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}
