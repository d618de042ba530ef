package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// fuzzed is a fixture whose log nobody keeps: fuzzing makes too much of it.
func fuzzed(f *testing.F) *fixture {
	return newFixture(f, func(s *setup) { s.log = io.Discard })
}

// FuzzForm feeds bodies to the form scanner, by way of POST /introspect, and
// holds it against net/url's own parser.
func FuzzForm(f *testing.F) {
	fix := fuzzed(f)
	good := mint(corp(), nil)
	for _, seed := range []string{
		"", "token=TOKEN", "token=TOKEN&token=x", "token=TOKEN&tok%65n=x", "token=TOKEN;a=b", "token=%zz", "token=%ff", "token=TOKEN&x=1&x=2", "&&token=TOKEN&&", "token", "=",
		"token=TOKEN&client_id=any&client_secret=x", "token=TOKEN&token_type_hint=a&token_type_hint=b", "token=TOKEN&client_assertion=x", "+token=TOKEN", "token=TOKEN%00", "token==TOKEN",
	} {
		f.Add(seed)
	}
	known := []string{"token", "token_type_hint", "client_id", "client_secret", "client_assertion"}
	f.Fuzz(func(t *testing.T, body string) {
		body = strings.ReplaceAll(body, "TOKEN", good)
		r := httptest.NewRequest(http.MethodPost, "/introspect", strings.NewReader(body))
		r.RemoteAddr = loopback
		r.Header.Set("Content-Type", formType)
		r.Header.Set("Authorization", basic("any", secretOf("any")))
		w := httptest.NewRecorder()
		fix.api.ServeHTTP(w, r)
		switch w.Code {
		case 200, 400, 413:
		case 401, 429: // the form names another caller, or denies this one
			t.Logf("caller refused: %d", w.Code)
		default:
			t.Fatalf("body %q: got %d %s, want 200 or 4xx", body, w.Code, w.Body)
		}
		values, err := url.ParseQuery(body)
		if err != nil && w.Code == 200 {
			t.Fatalf("INT-23 body %q: got 200 though net/url says %v", body, err)
		}
		for name, all := range values {
			twice := len(all) > 1 && slices.Contains(known, name)
			broken := !utf8.ValidString(name + strings.Join(all, ""))
			if (twice || broken) && w.Code != 400 && w.Code != 413 {
				t.Fatalf("INT-04 INT-23 body %q, %q: got %d, want 400", body, name, w.Code)
			}
		}
		if active := strings.HasPrefix(w.Body.String(), `{"active":true`); active && values.Get("token") != good {
			t.Fatalf("body %q: got active for the token %q", body, values.Get("token"))
		}
		if w.Code == 200 && values.Get("token") == good && w.Body.String() == inactive {
			t.Fatalf("body %q: got inactive for the good token", body)
		}
	})
}

// FuzzAuthorizationHeader feeds Authorization lines to both gateway routes:
// nothing but the good token, whole, is let in.
func FuzzAuthorizationHeader(f *testing.F) {
	fix := fuzzed(f)
	good := mint(corp(), nil)
	for _, seed := range []string{
		"", "Bearer", "Bearer TOKEN", "bearer  TOKEN", "Bearer TOKEN TOKEN", "Bearer\tTOKEN", "Bearer TOKEN=", "Bearer TOKEN,", "DPoP TOKEN", "Basic YTpi", "Bearer a.b.c", "Bearer TOKEN\r\nX-Auth-Subject: admin",
		"Bearer TOKEN\x00", "Bearer \x80", "TOKEN", "Bearer .TOKEN", "Bearer TOKEN.", "Bearer e30.e30.e30", "Bearer eyJhbGciOiJub25lIn0.e30.AA",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		line = strings.ReplaceAll(line, "TOKEN", good)
		for path, allowed := range map[string][]int{"/auth/lenient": {200, 401, 403, 503}, "/ext-authz/lenient/x": {200, 400, 401, 403, 503}} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.RemoteAddr = loopback
			r.Header["Authorization"] = []string{line}
			w := httptest.NewRecorder()
			fix.api.ServeHTTP(w, r)
			if !slices.Contains(allowed, w.Code) {
				t.Fatalf("%s %q: got %d, want one of %v", path, line, w.Code, allowed)
			}
			scheme, token, _ := strings.Cut(line, " ")
			if w.Code == 200 && (!strings.EqualFold(scheme, "Bearer") || strings.TrimLeft(token, " ") != good) {
				t.Fatalf("%s %q: got 200 for what isn't the good token", path, line)
			}
			for name, lines := range w.Header() {
				if strings.ContainsAny(name+strings.Join(lines, ""), "\r\n\x00") {
					t.Fatalf("%s %q: got the header %q: %q", path, line, name, lines)
				}
			}
			if w.Code != 200 && w.Header().Get("X-Auth-Subject") != "" {
				t.Fatalf("%s %q: got an identity with %d", path, line, w.Code)
			}
		}
	})
}

// FuzzWithdrawal feeds bodies to POST /revocations: what is taken has a target
// and an issuer by every JSON reader, and is listed as it was asked for.
func FuzzWithdrawal(f *testing.F) {
	fix := fuzzed(f)
	for _, seed := range []string{
		`{"issuer":"corp","sub":"a"}`, `{"issuer":"corp","all":true}`, `{"issuer":"partner","jti":"a","expires":"2095-11-25T09:30:00Z"}`, `{"issuer":"corp","kid":"a","not_before":"2026-11-25T09:30:00+01:00"}`,
		`{"issuer":"corp","sub":"a","sub":"b"}`, `{"issuer":"corp","sid":"\u0000"}`, `{"issuer":"corp","client_id":"\ud800"}`, `{"issuer":"nobody","sub":"a"}`, `{}`, `null`, ``, `{"issuer":"corp","sub":"a","not_before":"0001-01-01T00:00:00Z"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest(http.MethodPost, "http://localhost/revocations", strings.NewReader(body))
		r.RemoteAddr = loopback
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", basic("officer", secretOf("officer")))
		w := httptest.NewRecorder()
		fix.admin.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusServiceUnavailable:
			return
		case http.StatusCreated:
		default:
			t.Fatalf("body %q: got %d %s, want 201, 400, 404, 413, or 503 when the list is full", body, w.Code, w.Body)
		}
		var asked map[string]any
		if err := json.Unmarshal([]byte(body), &asked); err != nil {
			t.Fatalf("body %q: got 201, though encoding/json says %v", body, err)
		}
		var got page
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Revocations) == 0 {
			t.Fatalf("body %q: got %s, want revocations", body, w.Body)
		}
		first := got.Revocations[0]
		value, named := asked[first.Kind]
		if first.Kind == "issuer" {
			value, named = "", asked["all"] == true
		}
		if !named || first.Value != value || first.Issuer != asked["issuer"] {
			t.Fatalf("body %q: got %+v, want what was asked for", body, first)
		}
	})
}
