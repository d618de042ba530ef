package listen_test

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// exchange sends one request over HTTP/2 by prior knowledge, with content-length
// and the body given and the end of its stream in a frame of its own: once
// answered returns. It returns the kinds of frames of the stream that came until
// the server answered a PING.
func exchange(t *testing.T, addr, length, body string, answered func()) (kinds []http2.FrameType) {
	t.Helper()
	c := dial(t, addr)
	check := func(err error) {
		if err != nil {
			t.Fatalf("after %v: %v", kinds, err)
		}
	}
	_, err := io.WriteString(c, http2.ClientPreface)
	check(err)
	f := http2.NewFramer(c, c)
	check(f.WriteSettings())
	var head bytes.Buffer
	fields := hpack.NewEncoder(&head)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}, {"content-length", length}} {
		check(fields.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	check(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}))
	if body != "" {
		check(f.WriteData(1, false, []byte(body)))
	}
	answered()
	check(f.WriteData(1, true, nil))
	for ended := false; ; {
		frame, err := f.ReadFrame()
		check(err)
		head := frame.Header()
		switch {
		case head.StreamID == 1:
			kinds = append(kinds, head.Type)
			if !ended && head.Flags.Has(http2.FlagDataEndStream) {
				ended = true
				check(f.WritePing(false, [8]byte{}))
			}
		case head.Type == http2.FramePing:
			return kinds
		}
	}
}

// libcurl 7.88 loses an answer that is followed by a reset.
func TestAnAnswerOverHTTP2IsNotFollowedByAReset(t *testing.T) {
	for _, row := range []struct {
		name, length, body string
		reads              int64
	}{
		{"the whole body is read, not its end", "3", "abc", 3},
		{"nothing is read", "3", "abc", 0},
		{"a body without bytes", "0", "", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			answered := make(chan struct{}, 1)
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n, err := io.CopyN(io.Discard, r.Body, row.reads); err != nil {
					t.Errorf("reading: %d bytes, %v", n, err)
				}
				io.WriteString(w, "answer")
				answered <- struct{}{}
			}, nil)
			kinds := exchange(t, s.addr, row.length, row.body, func() { <-answered })
			if want := []http2.FrameType{http2.FrameHeaders, http2.FrameData}; !slices.Equal(kinds, want) {
				t.Errorf("got %v, want %v", kinds, want)
			}
		})
	}
}

func TestAnAnswerOverHTTP2DoesNotWaitForABodyThatNeverComes(t *testing.T) {
	s := serve(t, echo, nil)
	h2c := client(t, func(tr *http.Transport) {
		tr.Protocols.SetHTTP1(false)
		tr.Protocols.SetUnencryptedHTTP2(true)
	})
	never, end := io.Pipe()
	defer end.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.addr+"/x", never)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h2c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if body, err := io.ReadAll(got.Body); err != nil || string(body) != "HTTP/2.0 /x" {
		t.Errorf("got %q, %v, want the answer", body, err)
	}
}
