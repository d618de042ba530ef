package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"introspectd/internal/introspect"
	"introspectd/internal/memstore"
	"introspectd/internal/transform"
)

func rename(remote, local string) transform.Rename {
	return transform.Rename{RemoteClaim: remote, LocalClaim: local}
}

func TestTransform(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), members{"department": "raw-claim-sales"})
	json := func(body string, headers ...string) response {
		return f.send(http.MethodPost, "/transform", body, append([]string{"Content-Type", "application/json"}, headers...)...)
	}

	t.Run("TRN-01 JSON and form say the same", func(t *testing.T) {
		want := f.ask("orders", "/transform", good)
		json(`{"token":"`+good+`"}`, as("orders")...).want(t, http.StatusOK, want.body)
		json(`{"profile":"","token":"`+good+`"}`, as("orders")...).want(t, http.StatusOK, want.body)
		f.send(http.MethodPost, "/transform", ` {"token":"`+good+"\"}\n", append(as("orders"), "Content-Type", "Application/JSON; charset=utf-8")...).want(t, http.StatusOK, want.body)
	})
	t.Run("TRN-01 JSON that isn't the one object", func(t *testing.T) {
		for _, body := range []string{
			``, `null`, `[]`, `"x"`, `{`, `{"token":"` + good + `"}x`, `{"token":"` + good + `"}{}`, `{"token":"` + good + `","token":"` + good + `"}`,
			`{"token":"` + good + `","to\u006ben":"x"}`, `{"token":"` + good + `","x":"y"}`, `{"token":"` + good + `","Token":"x"}`, `{"token":7}`, `{"token":null}`,
			`{"token":["` + good + `"]}`, `{"token":{"a":"` + good + `"}}`, `{"token":"` + good + `","profile":null}`, `{"token":"` + good + `","client_id":"orders"}`,
			`{"token":"` + "\xff" + `"}`, `{'token':'x'}`, "\ufeff" + `{"token":"` + good + `"}`, `{"token":"` + good + `","profile":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
		} {
			json(body, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
	})
	t.Run("TRN-01 the token is missing", func(t *testing.T) {
		for _, body := range []string{`{}`, `{"token":""}`, `{"profile":""}`} {
			json(body, as("orders")...).want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"token is missing"}`)
		}
		f.post("/transform", "token=", as("orders")...).want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"token is missing"}`)
	})
	t.Run("TRN-01 other media types", func(t *testing.T) {
		for _, kind := range []string{"text/json", "multipart/form-data", "application/jwt", ""} {
			f.send(http.MethodPost, "/transform", form("token", good), append(as("orders"), "Content-Type", kind)...).
				wantError(t, http.StatusUnsupportedMediaType, "invalid_request").wantHeader(t, "Accept", formType+", application/json")
		}
		json(`{"token":"x"}`, append(as("orders"), "Content-Encoding", "gzip")...).
			wantError(t, http.StatusUnsupportedMediaType, "invalid_request").wantHeader(t, "Accept-Encoding", "identity")
	})
	t.Run("TRN-01 the rules of introspect", func(t *testing.T) {
		q := form("token", good)
		f.post("/transform", q).wantError(t, http.StatusUnauthorized, "invalid_client").wantHeader(t, "WWW-Authenticate", `Basic realm="introspectd"`, `Bearer realm="introspectd"`)
		f.post("/transform", q, "Authorization", "Bearer nobody").wantError(t, http.StatusUnauthorized, "invalid_token")
		f.post("/transform", q, as("gateway")...).want(t, http.StatusForbidden, `{"error":"access_denied"}`)
		f.post("/transform", q, "Authorization", "Bearer "+bearerOf("gateway")).wantError(t, http.StatusUnauthorized, "insufficient_scope").
			wantHeader(t, "WWW-Authenticate", `Bearer realm="introspectd", error="insufficient_scope", scope="transform"`)
		f.post("/transform", q+"&"+q, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		f.post("/transform", q+"&profile=&profile=", as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		f.post("/transform?"+q, q, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		json(`{"token":"`+strings.Repeat("x", 65<<10)+`"}`, as("orders")...).wantError(t, http.StatusRequestEntityTooLarge, "invalid_request")
		for _, method := range []string{"GET", "HEAD", "PUT", "QUERY"} {
			f.send(method, "/transform", "", as("orders")...).wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "POST")
		}
		f.ask("any", "/transform", mint(dark(), nil)).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`).wantHeader(t, "Retry-After", "5")
		json(`{"token":"`+mint(dark(), nil)+`"}`, as("any")...).wantStatus(t, http.StatusServiceUnavailable)
	})
	t.Run("TRN-02 the claims stand in an object of their own", func(t *testing.T) {
		now := time.Now().Unix()
		token := sign(corpHeader(""), fmt.Sprintf(`{"exp":%d,"iss":"%s","sub":"raw-claim-bob","aud":"%s","iat":%d,"scp":["a","b"],"active":"x"}`, now+600, corpIss, ordersAud, now))
		want := fmt.Sprintf(`{"active":true,"iss":"%s","exp":%d,"claims":{"scope":"a b","token_type":"Bearer","exp":%d,"iat":%d,"sub":"raw-claim-bob","aud":"%s","iss":"%s","scp":["a","b"]}}`,
			corpIss, now+600, now+600, now, ordersAud, corpIss)
		for range 2 {
			f.ask("orders", "/transform", token).want(t, http.StatusOK, want)
		}
	})
	t.Run("TRN-02 only what the caller may be told", func(t *testing.T) {
		listed := f.ask("listed", "/transform", good).wantActive(t)
		if !strings.Contains(listed.body, "raw-claim-sales") || strings.Contains(listed.body, "raw-claim-alice") {
			t.Errorf("got %s, want the department and no sub", listed.body)
		}
	})
	t.Run("TRN-03 inactive as introspect says it", func(t *testing.T) {
		for _, token := range []string{"garbage", altered(good), mint(corp(), members{"aud": "x"}), mint(partner(), nil)} {
			f.ask("orders", "/transform", token).want(t, http.StatusOK, inactive)
			json(`{"token":"`+token+`"}`, as("orders")...).want(t, http.StatusOK, inactive)
		}
	})
	t.Run("TRN-03 an unknown profile", func(t *testing.T) {
		f.post("/transform", form("token", good, "profile", "wso2"), as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		json(`{"token":"`+good+`","profile":"wso2"}`, as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
	})
	t.Run("TRN-04 a source that is absent leaves its target as it was", func(t *testing.T) {
		f := newFixture(t, mapped("a", "b", "b", "a", "gone", "kept"))
		got := f.ask("any", "/introspect", signed(`"a":1,"b":2,"kept":3`))
		got.wantMembers(t, map[string]string{"a": "2", "b": "1", "kept": "3"})
	})
	t.Run("TRN-08 same token, same claims", func(t *testing.T) {
		first := f.ask("orders", "/transform", good)
		again := newFixture(t)
		for range 3 {
			again.ask("orders", "/transform", good).want(t, http.StatusOK, first.body)
		}
	})
	t.Run("TRN-08 another map, another answer, also from the same store", func(t *testing.T) {
		store, key := memstore.New(32<<20), introspect.NewDigestKey()
		shared := func(s *setup) { s.store, s.digests = store, key }
		before, after := newFixture(t, shared), newFixture(t, shared, mapped("department", "unit"))
		before.ask("orders", "/transform", good).wantActive(t)
		got := after.ask("orders", "/transform", good).wantActive(t)
		if !strings.Contains(got.body, `"unit":"raw-claim-sales"`) {
			t.Errorf("got %s, want the claim under its new name", got.body)
		}
	})
}
