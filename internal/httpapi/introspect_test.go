package httpapi_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
)

func TestIntrospectAnswers(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), nil)

	t.Run("INT-01 a good token is answered in full", func(t *testing.T) {
		now := time.Now().Unix()
		token := sign(corpHeader("at+jwt"), fmt.Sprintf(
			`{"iss":"https:\/\/idp.example\/realms\/corp","sub":"raw-claim-bob","aud":["%s"],"exp":%d,"iat":%d,"nbf":%d,"jti":"j1","scope":"read  write","client_id":"app"}`,
			ordersAud, now+600, now, now))
		want := fmt.Sprintf(
			`{"active":true,"scope":"read write","client_id":"app","token_type":"Bearer","exp":%d,"iat":%d,"nbf":%d,"sub":"raw-claim-bob","aud":["%s"],"iss":"https:\/\/idp.example\/realms\/corp","jti":"j1"}`,
			now+600, now, now, ordersAud)
		for _, path := range []string{"/introspect", "/oauth2/introspect"} {
			for _, memory := range []string{"cold", "remembered"} {
				got := f.ask("orders", path, token).wantHeader(t, "Content-Type", "application/json").
					wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Vary", "Accept")
				if got.status != http.StatusOK || unslashed(got.body) != unslashed(want) {
					t.Errorf("%s, %s: got %d %s, want 200 %s", path, memory, got.status, got.body, want)
				}
			}
		}
		f.wantReason(t, "", "corp")
	})

	expired := mint(corp(), members{"exp": time.Now().Unix() - 3600})
	spare := good[:len(good)-1] + other(good[len(good)-1])
	for _, row := range []struct {
		name, token, reason, issuer string
	}{
		{"expired", expired, "expired", "corp"},
		{"nbf in the future", mint(corp(), members{"nbf": time.Now().Unix() + 3000}), "not_yet_valid", "corp"},
		{"iat in the future", mint(corp(), members{"iat": time.Now().Unix() + 3000}), "not_yet_valid", "corp"},
		{"bad signature", altered(good), "bad_signature", "corp"},
		{"spare bits or another last character", spare, "", "corp"},
		{"unknown issuer", noted(devissuer.New("https://elsewhere.example", "ES256").Mint(nil)), "unknown_issuer", ""},
		{"unknown kid", noted(corp().MintBy(devissuer.NewKey("ES256"), nil)), "unknown_key", "corp"},
		{"wrong audience for this caller", mint(corp(), members{"aud": "https://api.example/others"}), "wrong_audience", "corp"},
		{"no audience at all", mint(corp(), members{"aud": nil}), "wrong_audience", "corp"},
		{"issuer of another caller", mint(partner(), nil), "unknown_issuer", "partner"},
		{"garbage", "garbage", "malformed", ""},
		{"opaque", "2YotnFZFEjr1zCsicMWpAA", "malformed", ""},
		{"five parts as a JWE has", good + ".AAAA.AAAA", "malformed", ""},
		{"a line feed at the end", good + "\n", "malformed", ""},
		{"a NUL", "\x00", "malformed", ""},
		{"not ASCII", "tökén", "malformed", ""},
		{"a refresh token", mint(corp(), members{"typ": "Refresh"}), "wrong_type", "corp"},
		{"no sub", mint(corp(), members{"sub": nil}), "missing_claim", "corp"},
		{"alg none", sign(`{"alg":"none","typ":"at+jwt"}`, `{"iss":"`+corpIss+`"}`), "algorithm_not_allowed", "corp"},
		{"INT-11 longer than 16 KiB in a legal body", good + strings.Repeat("A", 16<<10), "malformed", ""},
	} {
		t.Run("INT-02 "+row.name, func(t *testing.T) {
			for range 2 {
				f.ask("orders", "/introspect", row.token).want(t, http.StatusOK, inactive).
					wantHeader(t, "Content-Type", "application/json").wantHeader(t, "Cache-Control", "no-store").
					wantHeader(t, "Vary", "Accept")
				if row.reason != "" {
					f.wantReason(t, row.reason, row.issuer)
				}
			}
		})
	}

	t.Run("INT-06 any hint", func(t *testing.T) {
		for _, hint := range []string{"refresh_token", "nonsense", "access_token", ""} {
			f.post("/introspect", form("token", good, "token_type_hint", hint), as("orders")...).wantActive(t)
		}
	})
	t.Run("INT-22 several audiences, all of them answered", func(t *testing.T) {
		got := f.ask("orders", "/introspect", mint(corp(), members{"aud": []string{"https://a.example", ordersAud, "https://z.example"}})).wantActive(t)
		if want := `"aud":["https://a.example","` + ordersAud + `","https://z.example"]`; !strings.Contains(got.body, want) {
			t.Errorf("got %s, want in it %s", got.body, want)
		}
	})
	t.Run("INT-22 an audience compares whole", func(t *testing.T) {
		for _, aud := range []any{ordersAud + "/", ordersAud[:len(ordersAud)-1], []string{ordersAud + "x"}, strings.ToUpper(ordersAud), []string{}} {
			f.ask("orders", "/introspect", mint(corp(), members{"aud": aud})).want(t, http.StatusOK, inactive)
		}
	})
	t.Run("INT-24 an Accept that can't be met", func(t *testing.T) {
		for _, accept := range []string{"text/html", "*/*", "application/json;q=0", "nonsense", ""} {
			got := f.post("/introspect", form("token", good), append(as("orders"), "Accept", accept)...).wantActive(t)
			got.wantHeader(t, "Content-Type", "application/json")
		}
	})
}

// unslashed spells `\/` as `/`: JSON knows both.
func unslashed(s string) string { return strings.ReplaceAll(s, `\/`, `/`) }

// other is another character of base64url with the same upper bits.
func other(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// altered changes one character in the middle of a token's signature.
func altered(token string) string {
	at := strings.LastIndexByte(token, '.') + 10
	return noted(token[:at] + other(token[at]) + token[at+1:])
}

func TestIntrospectRefusesRequests(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), nil)
	q := form("token", good)

	t.Run("INT-03 token missing or empty", func(t *testing.T) {
		for _, body := range []string{"", "token=", "token", "&", "token_type_hint=x", "Token=" + good, "token%20=" + good, "token=+", "token=%20%20"} {
			f.post("/introspect", body, as("orders")...).want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"token is missing"}`)
		}
	})
	t.Run("INT-03 the caller is asked for first", func(t *testing.T) {
		f.post("/introspect", "").wantError(t, http.StatusUnauthorized, "invalid_client")
	})
	t.Run("INT-04 token twice", func(t *testing.T) {
		for _, body := range []string{
			q + "&" + q, q + "&token=x", q + "&token=", q + "&token", "token=&" + q, q + "&tok%65n=x", q + "&x=y&&%74oken=x",
		} {
			f.post("/introspect", body, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
	})
	t.Run("INT-04 another known parameter twice", func(t *testing.T) {
		for _, name := range []string{"token_type_hint", "client_id", "client_secret", "client_assertion"} {
			f.post("/introspect", q+"&"+name+"=a&"+name+"=a", as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
			f.post("/introspect", q+"&"+name+"=&"+name+"=b").wantError(t, http.StatusBadRequest, "invalid_request")
		}
	})
	t.Run("INT-05 unknown parameters are ignored, also repeated", func(t *testing.T) {
		for _, more := range []string{"resource=a&resource=b", "x", "x=1&x=1&x=2", "=", "=v", "scope=read&scope=write", "profile=a&profile=b", "profile=wso2", "TOKEN=x"} {
			f.post("/introspect", q+"&"+more, as("orders")...).wantActive(t)
		}
	})
	t.Run("INT-07 other methods", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "QUERY", "post"} {
			for _, path := range []string{"/introspect", "/oauth2/introspect"} {
				f.send(method, path+"?"+q, "", as("orders")...).
					wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "POST")
			}
		}
	})
	t.Run("INT-08 token or credential in the URL", func(t *testing.T) {
		for _, query := range []string{
			q, "token=", "token", "a=b&tok%65n=x", "access_token=x", "client_secret=x", "client_assertion=x", "x;token=" + good, "token=%zz",
		} {
			f.post("/introspect?"+query, q, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
			f.post("/introspect?"+query, "", as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
		f.post("/introspect?trace=1", q, as("orders")...).wantActive(t)
	})
	t.Run("INT-09 another media type", func(t *testing.T) {
		for _, types := range [][]string{
			{"application/json"},
			{"multipart/form-data; boundary=x"},
			{},
			{""},
			{"text/plain"},
			{"application/x-www-form-urlencoded2"},
			{formType, "application/json"},
			{formType + ", application/json"},
			{"x/y; " + formType},
		} {
			headers := as("orders")
			for _, one := range types {
				headers = append(headers, "Content-Type", one)
			}
			f.send(http.MethodPost, "/introspect", q, headers...).wantError(t, http.StatusUnsupportedMediaType, "invalid_request").wantHeader(t, "Accept", formType)
		}
	})
	t.Run("INT-09 charset and odd case", func(t *testing.T) {
		for _, one := range []string{formType + "; charset=UTF-8", formType + ";charset=utf-8", "Application/X-WWW-Form-URLEncoded", formType + " ;x", formType + "; charset=\"iso-8859-1\""} {
			f.send(http.MethodPost, "/introspect", q, append(as("orders"), "Content-Type", one)...).wantActive(t)
		}
	})
	t.Run("INT-10 an encoded body is never inflated", func(t *testing.T) {
		for _, encodings := range [][]string{{"gzip"}, {"GZIP"}, {"deflate"}, {"br"}, {"identity, gzip"}, {"gzip, identity"}, {"identity", "gzip"}, {"", "gzip"}} {
			headers := as("orders")
			for _, one := range encodings {
				headers = append(headers, "Content-Encoding", one)
			}
			f.post("/introspect", q, headers...).wantError(t, http.StatusUnsupportedMediaType, "invalid_request").wantHeader(t, "Accept-Encoding", "identity")
		}
		f.post("/introspect", q, append(as("orders"), "Content-Encoding", "identity")...).wantActive(t)
	})
	t.Run("INT-11 the largest body and one beyond it", func(t *testing.T) {
		fill := func(n int) string { return q + "&x=" + strings.Repeat("y", n-len(q)-3) }
		for _, declared := range []bool{true, false} {
			for n, status := range map[int]int{64 << 10: 200, 64<<10 + 1: 413, 1 << 20: 413} {
				r := newRequest(http.MethodPost, "/introspect", fill(n), append(as("orders"), "Content-Type", formType)...)
				if !declared {
					r.ContentLength = -1
				}
				got := f.through(f.api, r).wantStatus(t, status)
				if status == 413 {
					got.wantError(t, 413, "invalid_request")
				}
			}
		}
	})
	t.Run("INT-11 a body shorter than declared", func(t *testing.T) {
		r := newRequest(http.MethodPost, "/introspect", q, append(as("orders"), "Content-Type", formType)...)
		r.ContentLength += 10
		f.through(f.api, r).wantError(t, http.StatusBadRequest, "invalid_request")
	})
	t.Run("INT-23 what parsers read differently", func(t *testing.T) {
		for _, body := range []string{
			q + ";a=b", "a=b;" + q, "token=" + good + "%", "token=%zz", "token=%e", "%zz=1&" + q, "token=%ff", "token=\xff", "%c3%28=1&" + q, "x=%ed%a0%80&" + q,
		} {
			f.post("/introspect", body, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
	})
	t.Run("INT-04 INT-07 INT-09 INT-11 INT-12 the order of checks: method, media type, size, form, caller, token", func(t *testing.T) {
		large := strings.Repeat("x", 65<<10)
		f.send(http.MethodPut, "/introspect", large).wantStatus(t, http.StatusMethodNotAllowed)
		f.send(http.MethodPost, "/introspect", large).wantStatus(t, http.StatusUnsupportedMediaType)
		f.post("/introspect", large).wantStatus(t, http.StatusRequestEntityTooLarge)
		f.post("/introspect", q+"&"+q).wantStatus(t, http.StatusBadRequest)
		f.post("/introspect", "token=").wantStatus(t, http.StatusUnauthorized)
	})
}

func TestIntrospectWhenItCantTell(t *testing.T) {
	f := newFixture(t)
	t.Run("INT-19 no keys at hand", func(t *testing.T) {
		token := mint(dark(), nil)
		for range 3 {
			f.ask("any", "/introspect", token).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`).wantHeader(t, "Retry-After", "5")
			f.wantReason(t, "keys_unavailable", "dark")
		}
		if last := f.last(); last["active"] != nil || last["level"] != "ERROR" {
			t.Errorf("log line: got %v, want an error and no verdict", last)
		} else if ref, _ := last["token_ref"].(string); len(ref) != 16 {
			t.Errorf("log line: got token_ref %q, want the token's", ref)
		}
	})
	t.Run("INT-19 what needs no key is judged all the same", func(t *testing.T) {
		f.ask("any", "/introspect", mint(dark(), members{"exp": "never"})).want(t, http.StatusOK, inactive)
	})
	t.Run("INT-19 an unknown kid beside usable keys is a refusal", func(t *testing.T) {
		f.ask("any", "/introspect", noted(corp().MintBy(devissuer.NewKey("ES256"), nil))).want(t, http.StatusOK, inactive)
	})
	t.Run("INT-19 other issuers are answered", func(t *testing.T) {
		f.ask("any", "/introspect", mint(corp(), nil)).wantActive(t)
	})
	t.Run("INT-20 a store that loses everything costs nothing but time", func(t *testing.T) {
		good := mint(corp(), nil)
		for name, store := range map[string]introspect.Cache{"none": nil, "lost": lost{}, "garbage": garbage{}} {
			f := newFixture(t, func(s *setup) { s.store = store })
			for range 2 {
				f.ask("orders", "/introspect", good).wantActive(t)
				if got := f.ask("orders", "/introspect", altered(good)); got.body != inactive {
					t.Errorf("store %s: got %s, want %s", name, got.body, inactive)
				}
			}
		}
	})
}

// lost forgets everything.
type lost struct{}

func (lost) Get(context.Context, introspect.Key, []byte) []byte               { return nil }
func (lost) Put(context.Context, introspect.Key, []byte, time.Duration, bool) {}

// garbage answers with what nobody stored.
type garbage struct{ lost }

func (garbage) Get(context.Context, introspect.Key, []byte) []byte {
	return append([]byte{1, 1}, make([]byte, 300)...)
}

func TestRememberedVerdictsAreHeldAgainstEachCaller(t *testing.T) {
	f := newFixture(t)
	t.Run("INT-21 the audience of one caller", func(t *testing.T) {
		token := mint(corp(), nil)
		for range 2 {
			f.ask("orders", "/introspect", token).wantActive(t)
			f.ask("partner-desk", "/introspect", token).want(t, http.StatusOK, inactive)
			f.ask("any", "/introspect", token).wantActive(t)
		}
	})
	t.Run("INT-21 both audiences, one issuer", func(t *testing.T) {
		token := mint(partner(), members{"aud": []string{ordersAud, partnerAud}})
		for range 2 {
			f.ask("partner-desk", "/introspect", token).wantActive(t)
			f.ask("orders", "/introspect", token).want(t, http.StatusOK, inactive)
		}
	})
	t.Run("INT-21 what one caller sees is not what another sees", func(t *testing.T) {
		token := mint(corp(), members{"department": "raw-claim-sales"})
		for range 2 {
			all, few := f.ask("any", "/introspect", token), f.ask("small", "/introspect", token)
			if !strings.Contains(all.body, "raw-claim-sales") || strings.Contains(few.body, "raw-claim-sales") {
				t.Errorf("got %s and %s, want the claim in the first alone", all.body, few.body)
			}
		}
	})
	t.Run("INT-21 no audience counts only where the issuer is named", func(t *testing.T) {
		for _, row := range []struct {
			name   string
			token  string
			active bool
		}{
			{"corp without aud", mint(corp(), members{"aud": nil}), true},
			{"corp with the caller's aud", mint(corp(), nil), true},
			{"corp with another aud", mint(corp(), members{"aud": partnerAud}), false},
			{"partner without aud", mint(partner(), members{"aud": nil}), false},
		} {
			if got := f.ask("absent-audience", "/introspect", row.token); row.active == (got.body == inactive) {
				t.Errorf("%s: got %s, want active %t", row.name, got.body, row.active)
			}
		}
	})
	t.Run("INT-26 exp is looked at on every hit", func(t *testing.T) {
		f := newFixture(t)
		exp := time.Now().Unix() + 60
		token := mint(corp(), members{"exp": exp})
		f.ask("orders", "/introspect", token).wantActive(t)
		f.clock.advance(85 * time.Second) // within the leeway of 30 s
		f.ask("orders", "/introspect", token).wantActive(t)
		f.clock.advance(6 * time.Second)
		f.ask("orders", "/introspect", token).want(t, http.StatusOK, inactive)
		f.wantReason(t, "expired", "corp")
		f.get("/auth/lenient", token).wantStatus(t, http.StatusUnauthorized)
		f.clock.advance(-time.Hour)
		f.ask("orders", "/introspect", token).want(t, http.StatusOK, inactive)
		f.wantReason(t, "not_yet_valid", "corp")
	})
	t.Run("INT-26 a remembered refusal does not outlive nbf", func(t *testing.T) {
		f := newFixture(t)
		token := mint(corp(), members{"nbf": time.Now().Unix() + 34})
		f.ask("orders", "/introspect", token).want(t, http.StatusOK, inactive)
		f.clock.advance(6 * time.Second)
		f.ask("orders", "/introspect", token).wantActive(t)
	})
}

func TestOneLogLineForEachRequest(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), members{"scope": "read"})
	digest := sha256.Sum256([]byte(good[:strings.LastIndexByte(good, '.')]))
	ref := hex.EncodeToString(digest[:8])
	for _, row := range []struct {
		name string
		send func() response
		want map[string]any
	}{
		{
			"active", func() response { return f.ask("orders", "/introspect", good) },
			map[string]any{"route": "/introspect", "method": "POST", "status": 200.0, "caller": "orders", "issuer": "corp", "active": true, "token_ref": ref, "reason": nil},
		},
		{
			"the same signing input under another signature", func() response { return f.ask("orders", "/introspect", altered(good)) },
			map[string]any{"active": false, "reason": "bad_signature", "token_ref": ref, "issuer": "corp"},
		},
		{
			"refused for the caller", func() response { return f.ask("partner-desk", "/transform", good) },
			map[string]any{"route": "/transform", "caller": "partner-desk", "active": false, "reason": "unknown_issuer", "token_ref": ref},
		},
		{"alias", func() response { return f.ask("orders", "/oauth2/introspect", good) }, map[string]any{"route": "/oauth2/introspect"}},
		{
			"no caller", func() response { return f.post("/introspect", form("token", good)) },
			map[string]any{"status": 401.0, "error": "invalid_client", "caller": nil, "active": nil, "token_ref": nil},
		},
		{
			"not permitted", func() response { return f.ask("gateway", "/introspect", good) },
			map[string]any{"status": 403.0, "error": "access_denied", "caller": "gateway", "active": nil},
		},
		{
			"a bad request of a known caller", func() response { return f.post("/introspect", "", as("orders")...) },
			map[string]any{"status": 400.0, "error": "invalid_request", "caller": "orders"},
		},
		{
			"another method", func() response { return f.send("GET", "/introspect?token="+good, "") },
			map[string]any{"status": 405.0, "method": "GET"},
		},
		{
			"a method that nobody knows", func() response { return f.send("BREW", "/introspect", "") },
			map[string]any{"status": 405.0, "method": "_OTHER"},
		},
		{
			"no such path", func() response { return f.send("GET", "/"+good, "") },
			map[string]any{"status": 404.0, "route": ""},
		},
		{
			"gateway", func() response { return f.get("/auth/strict?scope=read", good) },
			map[string]any{"route": "/auth", "status": 403.0, "policy": "strict", "reason": "insufficient_scope", "issuer": "corp", "token_ref": ref},
		},
		{
			"gateway without a token", func() response { return f.send("GET", "/ext-authz/lenient/"+good+"?"+good, "") },
			map[string]any{"route": "/ext-authz", "status": 401.0, "policy": "lenient", "active": nil},
		},
		{
			"no such policy", func() response { return f.get("/auth/"+good, good) },
			map[string]any{"route": "/auth", "status": 503.0, "policy": nil, "level": "ERROR"},
		},
	} {
		t.Run("R13 "+row.name, func(t *testing.T) {
			before := len(f.lines("request"))
			row.send()
			lines := f.lines("request")
			if len(lines) != before+1 {
				t.Fatalf("got %d lines, want one", len(lines)-before)
			}
			for key, want := range row.want {
				if got := lines[before][key]; got != want {
					t.Errorf("%s: got %v, want %v in %v", key, got, want, lines[before])
				}
			}
		})
	}
	t.Run("R13 the suite would notice a leak", func(t *testing.T) {
		watched := everything{words: map[string]bool{"raw-claim-": true}, segments: map[string]bool{}}
		watched.keepOutToken(good)
		_, _ = watched.Write([]byte(`{"cause":"` + good + ` of raw-claim-x"}`))
		if got := watched.leaks(); len(got) != 4 {
			t.Errorf("got %d leaks, want the claim and the three segments", len(got))
		}
	})
}
