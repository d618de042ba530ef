package devissuer_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/devissuer"
)

const form = "application/x-www-form-urlencoded"

// started serves an issuer under /dev of a free port.
func started(t *testing.T) (*devissuer.Issuer, *httptest.Server) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	i := devissuer.New("http://"+s.Listener.Addr().String()+"/dev", "EdDSA")
	s.Config.Handler = i.Handler()
	s.Start()
	t.Cleanup(s.Close)
	return i, s
}

func TestTokenEndpoint(t *testing.T) {
	i, s := started(t)
	body := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"dev"}, "client_secret": {"dev-secret"},
		"scope": {"read write"}, "audience": {"https://api.example/orders"}, "lifetime": {"90s"},
		"claims": {`{"sub":"amy","big":9007199254740993,"jti":null}`},
	}
	status, header, answer := post(t, s, body.Encode(), nil)
	if status != http.StatusOK {
		t.Fatalf("status: got %d, want 200: %v", status, answer)
	}
	if got := header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control: got %q, want no-store", got)
	}
	if answer["token_type"] != "Bearer" || answer["expires_in"] != 90.0 || answer["scope"] != "read write" {
		t.Errorf("answer: got %v, want Bearer, 90 and the scope", answer)
	}
	token := answer["access_token"].(string)
	claims, err := verified(i.JWKS(), token)
	if err != nil {
		t.Fatalf("the token: %v", err)
	}
	if claims["sub"] != "amy" || claims["aud"] != "https://api.example/orders" || claims["scope"] != "read write" {
		t.Errorf("claims: got %v, want the sub, audience and scope asked for", claims)
	}
	if got := claims["exp"].(float64) - claims["iat"].(float64); got < 89 || got > 91 {
		t.Errorf("exp - iat: got %v, want 90", got)
	}
	if _, ok := claims["jti"]; ok {
		t.Error("jti: present, want it removed by null")
	}
	if payload := string(unbase64(strings.Split(token, ".")[1])); !strings.Contains(payload, "9007199254740993") {
		t.Errorf("payload: got %s, want the number of claims as written", payload)
	}
}

func TestTokenEndpointTakesBasicAndItsEncoding(t *testing.T) {
	_, s := started(t)
	for _, secret := range []string{"dev-secret", "dev%2Dsecret"} {
		status, _, answer := post(t, s, "grant_type=client_credentials", func(r *http.Request) { r.SetBasicAuth("dev", secret) })
		if status != http.StatusOK || answer["expires_in"] != 3600.0 {
			t.Errorf("secret %q: got %d %v, want 200 and an hour", secret, status, answer)
		}
		if _, ok := answer["scope"]; ok {
			t.Errorf("scope: got %v, want none where none was asked for", answer["scope"])
		}
	}
}

func TestTokenWithItsOwnExpiryHasNoExpiresIn(t *testing.T) {
	_, s := started(t)
	status, _, answer := post(t, s, credentials+"&claims="+url.QueryEscape(`{"exp":5}`), nil)
	if status != http.StatusOK {
		t.Fatalf("status: got %d, want 200: %v", status, answer)
	}
	if got, ok := answer["expires_in"]; ok {
		t.Errorf("expires_in: got %v, want none: claims set exp", got)
	}
	if _, claims := decoded(t, answer["access_token"].(string)); claims["exp"] != 5.0 {
		t.Errorf("exp: got %v, want 5", claims["exp"])
	}
}

const credentials = "grant_type=client_credentials&client_id=dev&client_secret=dev-secret"

func TestTokenEndpointRefusals(t *testing.T) {
	_, s := started(t)
	basic := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	tests := []struct {
		name   string
		body   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"wrong secret", "grant_type=client_credentials&client_id=dev&client_secret=x", nil, 401, "invalid_client"},
		{"wrong client", "grant_type=client_credentials&client_id=x&client_secret=dev-secret", nil, 401, "invalid_client"},
		{"no client", "grant_type=client_credentials", nil, 401, "invalid_client"},
		{"wrong Basic", "grant_type=client_credentials", basic("dev", "x"), 401, "invalid_client"},
		{"Basic that can't be decoded", "grant_type=client_credentials", basic("dev", "dev-secret%"), 401, "invalid_client"},
		{"two ways at once", credentials, basic("dev", "dev-secret"), 400, "invalid_request"},
		{"no grant_type", "client_id=dev&client_secret=dev-secret", nil, 400, "invalid_request"},
		{"another grant", "grant_type=password&client_id=dev&client_secret=dev-secret", nil, 400, "unsupported_grant_type"},
		{"a parameter twice", credentials + "&scope=a&scope=b", nil, 400, "invalid_request"},
		{"lifetime without unit", credentials + "&lifetime=60", nil, 400, "invalid_request"},
		{"lifetime zero", credentials + "&lifetime=0s", nil, 400, "invalid_request"},
		{"lifetime negative", credentials + "&lifetime=-5m", nil, 400, "invalid_request"},
		{"lifetime over a day", credentials + "&lifetime=24h1s", nil, 400, "invalid_request"},
		{"claims not JSON", credentials + "&claims=x", nil, 400, "invalid_request"},
		{"claims an array", credentials + "&claims=%5B%5D", nil, 400, "invalid_request"},
		{"claims null", credentials + "&claims=null", nil, 400, "invalid_request"},
		{"claims and more", credentials + "&claims=%7B%7D%7B%7D", nil, 400, "invalid_request"},
		{"body too large", credentials + "&claims=" + strings.Repeat("x", 64<<10), nil, 400, "invalid_request"},
		{"broken encoding", credentials + "&scope=%zz", nil, 400, "invalid_request"},
		{
			"JSON body", `{"grant_type":"client_credentials"}`,
			func(r *http.Request) { r.Header.Set("Content-Type", "application/json") },
			400, "invalid_request",
		},
		{
			"parameters in the query", "", func(r *http.Request) { r.URL.RawQuery = credentials },
			401, "invalid_client",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, header, answer := post(t, s, tt.body, tt.change)
			if status != tt.status || answer["error"] != tt.code {
				t.Errorf("got %d %v, want %d %s", status, answer["error"], tt.status, tt.code)
			}
			if answer["access_token"] != nil {
				t.Error("a refusal carries a token")
			}
			if got := header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control: got %q, want no-store", got)
			}
			if challenge := header.Get("WWW-Authenticate"); (challenge != "") != (tt.status == 401) {
				t.Errorf("WWW-Authenticate: got %q at status %d", challenge, tt.status)
			}
		})
	}
}

func TestAnswersOnlyToItsOwnHost(t *testing.T) {
	i, s := started(t)
	for _, host := range []string{"evil.example", "127.0.0.1", "localhost" + s.URL[strings.LastIndex(s.URL, ":"):]} {
		for _, path := range []string{"/dev/jwks.json", "/dev/.well-known/openid-configuration"} {
			r, _ := http.NewRequest("GET", s.URL+path, nil)
			r.Host = host
			if status, _ := do(t, s, r); status != http.StatusMisdirectedRequest {
				t.Errorf("GET %s with Host %s: got %d, want 421", path, host, status)
			}
		}
		status, _, answer := post(t, s, credentials, func(r *http.Request) { r.Host = host })
		if status != http.StatusMisdirectedRequest || answer["access_token"] != nil {
			t.Errorf("POST /dev/token with Host %s: got %d %v, want 421 and no token", host, status, answer)
		}
	}
	if got := i.Requests(); got != 0 {
		t.Errorf("Requests: got %d, want 0: misdirected ones don't count", got)
	}
}

func TestPathsAndMethods(t *testing.T) {
	_, s := started(t)
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/dev/jwks.json", 200},
		{"GET", "/jwks.json", 404},
		{"GET", "/dev/other", 404},
		{"GET", "/dev/token", 405},
		{"POST", "/dev/jwks.json", 405},
	} {
		r, _ := http.NewRequest(tt.method, s.URL+tt.path, nil)
		if status, _ := do(t, s, r); status != tt.status {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, status, tt.status)
		}
	}
}

func TestDiscovery(t *testing.T) {
	t.Run("MET-03 the document names its issuer byte for byte", func(t *testing.T) {
		_, s := started(t)
		r, _ := http.NewRequest("GET", s.URL+"/dev/.well-known/openid-configuration", nil)
		_, body := do(t, s, r)
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatalf("document: %v in %s", err, body)
		}
		for name, want := range map[string]string{
			"issuer": s.URL + "/dev", "jwks_uri": s.URL + "/dev/jwks.json", "token_endpoint": s.URL + "/dev/token",
		} {
			if doc[name] != want {
				t.Errorf("%s: got %v, want %s", name, doc[name], want)
			}
		}
	})
}

func TestOutages(t *testing.T) {
	i, s := started(t)
	set := string(i.JWKS())
	tests := []struct {
		mode   devissuer.Outage
		status int
		body   string
	}{
		{devissuer.Refuse500, 500, "internal server error\n"},
		{devissuer.NotFound, 404, "404 page not found\n"},
		{devissuer.HTML, 200, "<!doctype html><title>Down for maintenance</title>"},
		{devissuer.Truncated, 200, set[:len(set)/2]},
		{devissuer.EmptyKeys, 200, `{"keys":[]}`},
		{devissuer.Null, 200, "null"},
		{devissuer.ErrorObject, 200, `{"error":"temporarily_unavailable"}`},
		{devissuer.None, 200, set},
	}
	for n, tt := range tests {
		t.Run(string(tt.mode), func(t *testing.T) {
			i.Fail(tt.mode)
			status, body := do(t, s, jwksRequest(t.Context(), s))
			if status != tt.status || string(body) != tt.body {
				t.Errorf("got %d %s, want %d %s", status, body, tt.status, tt.body)
			}
			if got := i.Requests(); got != n+1 {
				t.Errorf("Requests: got %d, want %d", got, n+1)
			}
		})
	}
}

func TestRedirectOutageGoesRoundForEver(t *testing.T) {
	i, s := started(t)
	i.Fail(devissuer.Redirect)
	res, err := s.Client().Do(jwksRequest(t.Context(), s))
	if err == nil {
		res.Body.Close()
		t.Fatalf("got %d, want the client to give up", res.StatusCode)
	}
	if !strings.Contains(err.Error(), "stopped after 10 redirects") || i.Requests() != 10 {
		t.Errorf("got %v after %d requests, want a loop of 10", err, i.Requests())
	}
}

func TestHugeOutageIsLargerThanAnyLimit(t *testing.T) {
	i, s := started(t)
	i.Fail(devissuer.Huge)
	res, err := s.Client().Do(jwksRequest(t.Context(), s))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n < 110_000_000 {
		t.Errorf("got %d bytes and %v, want more than 110 MB", n, err)
	}
}

// The two outages without an end run on a fake clock, without a network.
func TestEndlessOutagesEndWithTheRequest(t *testing.T) {
	for mode, want := range map[devissuer.Outage]int{devissuer.Hang: 0, devissuer.Drip: 100} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := devissuer.New(issuerURL, "EdDSA")
				i.Fail(mode)
				ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
				defer stop()
				w := httptest.NewRecorder()
				begun := time.Now()
				i.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", issuerURL+"/jwks.json", nil))
				if took := time.Since(begun); took != 5*time.Second {
					t.Errorf("took %v, want the 5s of the request", took)
				}
				if got := w.Body.Len(); got < want || got > want+1 {
					t.Errorf("got %d bytes, want %d: one each 50 ms", got, want)
				}
			})
		})
	}
}

func jwksRequest(ctx context.Context, s *httptest.Server) *http.Request {
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/dev/jwks.json", nil)
	if err != nil {
		panic(err)
	}
	return r
}

func post(t *testing.T, s *httptest.Server, body string, change func(*http.Request)) (int, http.Header, map[string]any) {
	t.Helper()
	r, err := http.NewRequest("POST", s.URL+"/dev/token", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", form)
	if change != nil {
		change(r)
	}
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil && res.StatusCode != http.StatusMisdirectedRequest {
		t.Fatalf("answer: %v", err)
	}
	return res.StatusCode, res.Header, answer
}

func do(t *testing.T, s *httptest.Server, r *http.Request) (int, []byte) {
	t.Helper()
	res, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body
}
