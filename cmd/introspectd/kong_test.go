package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"introspectd/internal/devissuer"
)

// kongFiles is where the plugin lies.
const kongFiles = "../../deploy/kong"

// TestKongPluginSpecs runs the plugin's linter and specs, which know Kong's
// side by a stand-in.
func TestKongPluginSpecs(t *testing.T) {
	for _, tool := range []string{"luacheck", "busted"} {
		t.Run(tool, func(t *testing.T) {
			command := exec.Command(need(t, tool), ".")
			if tool == "busted" {
				command = exec.Command(need(t, tool), "--output=TAP")
			}
			command.Dir = kongFiles
			said, err := command.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", tool, err, said)
			}
			if passed := bytes.Count(said, []byte("\nok ")); tool == "busted" && passed < 20 {
				t.Errorf("busted: got %d specs that passed, want them all:\n%s", passed, said)
			}
		})
	}
}

// routes are a test's routes through Kong, each with the settings of the
// plugin, or under "functions" a serverless function.
type routes map[string]map[string]any

// luaModules are nginx's modules for Lua.
func luaModules(t *testing.T) []string {
	t.Helper()
	modules := []string{"/usr/lib/nginx/modules/ndk_http_module.so", "/usr/lib/nginx/modules/ngx_http_lua_module.so"}
	for _, module := range modules {
		if _, err := os.Stat(module); err != nil {
			missing(t, "nginx's Lua module (libnginx-mod-http-lua)")
		}
	}
	if found, err := filepath.Glob("/usr/lib/*/lua/5.1/cjson.so"); err != nil || len(found) == 0 {
		missing(t, "lua-cjson")
	}
	return modules
}

// startKong runs the plugin's own files in nginx, with stand-ins for what else
// Kong has: its PDK, resty.http and resty.sha256. A route's path is its name.
func startKong(t *testing.T, backend string, given routes) *nginx {
	t.Helper()
	need(t, "nginx")
	modules := luaModules(t)
	files, err := filepath.Abs(kongFiles)
	if err != nil {
		t.Fatal(err)
	}
	n := newNginx(t)
	settings, err := json.Marshal(map[string]any{
		"routes":    given,
		"consumers": []map[string]string{{"id": "c-1", "username": "the shop", "custom_id": "shop"}, {"id": "c-2", "username": "guest"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(n.dir, "routes.json"), string(settings))
	// As Kong's own template has it where it matters here: headers with
	// underscores pass.
	conf := fmt.Sprintf(`
lua_package_path "%[1]s/?.lua;%[1]s/spec/standin/?.lua;;";
init_by_lua_block { require("gate").load("%[2]s/routes.json") }
server {
    listen %[3]s ssl;
    ssl_certificate %[4]s;
    ssl_certificate_key %[5]s;
    underscores_in_headers on;
    client_max_body_size 16m;
    large_client_header_buffers 4 32k;
    proxy_http_version 1.1;
    proxy_request_buffering off;
    set $upstream_connection "";
    set $upstream_upgrade "";
    proxy_set_header Connection $upstream_connection;
    proxy_set_header Upgrade $upstream_upgrade;
`, files, n.dir, n.Address, n.certificate, n.key)
	for name := range given {
		conf += fmt.Sprintf("    location /%[1]s { access_by_lua_block { require(\"gate\").access(\"%[1]s\") } proxy_pass http://%[2]s; }\n", name, backend)
	}
	n.start(conf+"}\n", modules...)
	return n
}

// newKong is Kong's part played by nginx, before a backend, judged by
// introspectd. Routes without a url ask that one.
func newKong(t *testing.T, given routes) *gateway {
	t.Helper()
	need(t, "nginx")
	g := &gateway{backend: newBackend(t)}
	g.issuer, g.iss = newIssuer(t)
	g.service = start(t, "auth: {cacheable: true}\n"+oneCaller+gatewayPolicies+"issuers:\n"+row("idp", g.iss))
	g.tap = newTap(t, strings.TrimPrefix(g.service.URL, "http://"))
	for _, settings := range given {
		if settings["url"] == nil && settings["functions"] == nil {
			settings["url"] = "http://" + g.tap.Addr().String()
		}
		if settings["consumer_required"] != nil {
			settings["consumer_issuers"] = []string{g.iss}
		}
		if code, ok := settings["functions"].(string); ok {
			settings["functions"] = strings.ReplaceAll(code, "http://127.0.0.1:8080", "http://"+g.tap.Addr().String())
		}
	}
	g.nginx = startKong(t, g.backend.Listener.Addr().String(), given)
	return g
}

// byVerdict and byClaims are settings of the plugin, more of them in pairs.
func byVerdict(policy string, more ...any) map[string]any {
	return with(map[string]any{"policy": policy}, more)
}

func byClaims(more ...any) map[string]any {
	return with(map[string]any{"ask": "claims", "caller_id": "app", "caller_secret": testSecret}, more)
}

func with(m map[string]any, more []any) map[string]any {
	for n := 0; n < len(more); n += 2 {
		m[more[n].(string)] = more[n+1]
	}
	return m
}

// kongPlugin is a plugin in a declarative file or, as a custom resource, alone.
type kongPlugin struct {
	Name          string
	Plugin        string
	Config        map[string]any
	ConfigPatches []struct{ Path string } `yaml:"configPatches"`
}

// declared is a declarative file.
type declared struct {
	Services []struct {
		Routes []struct {
			Name    string
			Plugins []kongPlugin
		}
	}
	Plugins []kongPlugin
}

func declarative(t *testing.T, name string) (file declared) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kongFiles, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// serverless is the function of kong-serverless.yaml.
func serverless(t *testing.T) string {
	t.Helper()
	for _, plugin := range declarative(t, "kong-serverless.yaml").Plugins {
		if access, ok := plugin.Config["access"].([]any); ok && plugin.Name == "pre-function" && len(access) == 1 {
			return access[0].(string)
		}
	}
	t.Fatal("kong-serverless.yaml has no pre-function with one function for access")
	return ""
}

func TestKongVerdicts(t *testing.T) {
	g := newKong(t, routes{
		"verdict":            byVerdict("default"),
		"verdict-reports":    byVerdict("reports"),
		"claims":             byClaims(),
		"claims-reports":     byClaims("scopes", []string{"reports:read"}),
		"serverless":         {"functions": serverless(t)},
		"serverless-reports": {"functions": strings.ReplaceAll(serverless(t), `"default"`, `"reports"`)},
	})
	expired := g.issuer.Mint(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})
	invalid := `Bearer realm="introspectd", error="invalid_token", error_description="The access token is invalid"`
	for _, route := range []string{"verdict", "claims", "serverless"} {
		expiry := strings.Replace(invalid, "is invalid", "expired", 1)
		if route == "claims" {
			expiry = invalid // /introspect says no reason
		}
		for _, tt := range []struct {
			name, line string
			headers    []string
			status     int
			challenge  string
		}{
			{"ATH-01 a good token", "GET /" + route, []string{bearer(g.issuer.Mint(nil))}, 200, ""},
			{"ATH-01 the scheme in lower case", "GET /" + route, []string{"authorization: bearer " + g.issuer.Mint(nil)}, 200, ""},
			{"ATH-02 no token", "GET /" + route, nil, 401, `Bearer realm="introspectd"`},
			{"ATH-03 another scheme", "GET /" + route, []string{"Authorization: Basic YTpi"}, 401, `Bearer realm="introspectd"`},
			{"ATH-04 a scheme alone", "GET /" + route, []string{"Authorization: Bearer"}, 400, `Bearer realm="introspectd", error="invalid_request"`},
			{"ATH-04 two tokens in a line", "GET /" + route, []string{bearer("a b")}, 400, `Bearer realm="introspectd", error="invalid_request"`},
			{"ATH-04 two lines, which end at nginx", "GET /" + route, []string{bearer(g.issuer.Mint(nil)), bearer("garbage")}, 400, ""},
			{"ATH-05 garbage", "GET /" + route, []string{bearer("garbage")}, 401, invalid},
			{"ATH-05 expired", "GET /" + route, []string{bearer(expired)}, 401, expiry},
			{"ATH-05 an unknown issuer", "GET /" + route, []string{bearer(devissuer.New("https://elsewhere.example").Mint(nil))}, 401, invalid},
			{"ATH-05 a token over 16 KiB", "GET /" + route, []string{bearer(strings.Repeat("a", 20<<10))}, 401, invalid},
			{"§9b a header that nginx itself has no room for", "GET /" + route, []string{bearer(strings.Repeat("a", 40<<10))}, 400, ""},
			{"ATH-06 a missing scope", "GET /" + route + "-reports", []string{bearer(g.issuer.Mint(map[string]any{"scope": "reports:write xreports:read"}))}, 403, `Bearer realm="introspectd", error="insufficient_scope", scope="reports:read"`},
			{"ATH-06 no scope", "GET /" + route + "-reports", []string{bearer(g.issuer.Mint(nil))}, 403, `Bearer realm="introspectd", error="insufficient_scope", scope="reports:read"`},
			{"ATH-01 the scope is there", "GET /" + route + "-reports", []string{bearer(g.issuer.Mint(map[string]any{"scope": "x reports:read"}))}, 200, ""},
			{"ATH-10 a method that nobody has heard of", "BREW /" + route, []string{bearer(g.issuer.Mint(nil))}, 200, ""},
			{"ATH-11 OPTIONS is judged like any other", "OPTIONS /" + route, nil, 401, `Bearer realm="introspectd"`},
			{"ATH-12 a token bound to a key", "GET /" + route, []string{bearer(g.issuer.Mint(map[string]any{"cnf": map[string]any{"jkt": "x"}}))}, 401, invalid},
			{"GW-01 a path with parameters", "GET /" + route + ";x/1", []string{bearer(g.issuer.Mint(nil))}, 400, ""},
			{"GW-01 a path that comes back", "GET /" + route + "/x%2F../1", []string{bearer(g.issuer.Mint(nil))}, 400, ""},
			{"GW-01 an empty segment", "GET /" + route + "//1", []string{bearer(g.issuer.Mint(nil))}, 400, ""},
			{"GW-01 a query is no path", "GET /" + route + "?u=http://x/../y;z", []string{bearer(g.issuer.Mint(nil))}, 200, ""},
		} {
			t.Run(route+"/"+tt.name, func(t *testing.T) {
				before := g.backend.count()
				got := g.send(tt.line, tt.headers...)
				if got.Status != tt.status || strings.Join(got.Challenges, "\n") != tt.challenge {
					t.Errorf("%s: got %d with %q, want %d with %q", tt.line, got.Status, got.Challenges, tt.status, tt.challenge)
				}
				if reached := g.backend.count() > before; reached != (tt.status == 200) {
					t.Errorf("%s: the backend was reached: %v, with status %d", tt.line, reached, got.Status)
				}
			})
		}
	}
}

func TestKongTellsTheBackendWhoAsks(t *testing.T) {
	g := newKong(t, routes{
		"verdict":    byVerdict("default"),
		"claims":     byClaims(),
		"serverless": {"functions": serverless(t)},
		"mapped":     byClaims("headers", map[string]string{"X-User": "sub", "X-Issuer": "iss", "X-Groups": "groups", "X-Level": "level"}, "hide_credentials", true),
	})
	for _, route := range []string{"verdict", "claims", "serverless"} {
		t.Run(route+"/GW-05 the same spelling as introspectd's own", func(t *testing.T) {
			got := g.send("GET /"+route+"?x=1", bearer(g.issuer.Mint(map[string]any{
				"sub": " Zoë 100% ", "client_id": "shop", "preferred_username": "a\r\nX-Admin: 1", "scope": "read write",
			}))).Arrival
			for name, want := range map[string]string{
				"X-Auth-Subject": "%20Zo%C3%AB 100%25%20", "X-Auth-Issuer": g.iss, "X-Auth-Client-Id": "shop", "X-Auth-Scope": "read write",
			} {
				if v := got.Header.Values(name); len(v) != 1 || v[0] != want {
					t.Errorf("%s at the backend: got %q, want %q", name, v, want)
				}
			}
			for _, name := range []string{"X-Auth-Username", "X-Admin"} {
				if v, ok := got.Header[name]; ok {
					t.Errorf("%s at the backend: got %q, want none", name, v)
				}
			}
			if got.URI != "/"+route+"?x=1" || got.Header.Get("Authorization") == "" {
				t.Errorf("at the backend: got %s and %v, want path and token as they were sent", got.URI, got.Header)
			}
		})
		t.Run(route+"/GW-05 a sub that can't be shown", func(t *testing.T) {
			if got := g.send("GET /"+route, bearer(g.issuer.Mint(map[string]any{"sub": "a\nb"}))); got.Status != 401 {
				t.Errorf("got %d, want 401", got.Status)
			}
		})
	}
	t.Run("GW-04 any claim, and the token stays here", func(t *testing.T) {
		got := g.send("GET /mapped", bearer(g.issuer.Mint(map[string]any{"groups": []string{"a", "b"}, "level": 7})), "X-Groups: admin").Arrival.Header
		if got.Get("X-Groups") != "a b" || got.Get("X-Level") != "7" || got["Authorization"] != nil {
			t.Errorf("at the backend: got %v, want X-Groups: a b, X-Level: 7 and no Authorization", got)
		}
		got = g.send("GET /mapped", bearer(g.issuer.Mint(map[string]any{"groups": []string{"a b", "c"}})), "X-Groups: admin").Arrival.Header
		if got["X-Groups"] != nil {
			t.Errorf("a group with a space: got %q, want no header", got["X-Groups"])
		}
	})
}

func TestKongStopsSpoofedIdentities(t *testing.T) {
	g := newKong(t, routes{
		"verdict":    byVerdict("default"),
		"claims":     byClaims(),
		"serverless": {"functions": serverless(t)},
		"public":     {"ask": "nothing"},
	})
	var forged []string
	for n := range 150 { // more than the hundred that Lua looks at by itself
		forged = append(forged, fmt.Sprintf("A%d: x", n))
	}
	names := []string{"X-Auth-Subject", "X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Username", "X-Auth-Scope"}
	for _, name := range append(names, "X-Consumer-Id", "X-Consumer-Custom-Id", "X-Consumer-Username", "X-Consumer-Groups", "X-Anonymous-Consumer", "X-Credential-Identifier") {
		for _, spelling := range spellings(name) {
			forged = append(forged, spelling+": root", strings.ToLower(spelling)+": root")
		}
	}
	token := bearer(g.issuer.Mint(map[string]any{"sub": "u-1", "client_id": nil}))
	check := func(t *testing.T, line string, headers ...string) http.Header {
		t.Helper()
		got := g.send(line, headers...)
		if got.Status != 200 {
			t.Fatalf("%s: got %d, want 200", line, got.Status)
		}
		for name, values := range got.Arrival.Header {
			if strings.Contains(strings.Join(values, " "), "root") {
				t.Errorf("%s: the backend got %s: %q of the client", line, name, values)
			}
		}
		return got.Arrival.Header
	}
	t.Run("GW-03 public", func(t *testing.T) { check(t, "GET /public", forged...) })
	for _, route := range []string{"verdict", "claims", "serverless"} {
		t.Run("GW-03 "+route, func(t *testing.T) {
			if got := check(t, "GET /"+route, append(forged, token)...); got.Get("X-Auth-Subject") != "u-1" || got.Get("X-Auth-Issuer") != g.iss {
				t.Errorf("identity at the backend: got %v, want that of the token", got)
			}
		})
		t.Run("GW-03 hop by hop "+route, func(t *testing.T) {
			for _, connection := range []string{"X-Auth-Subject", "close, X-Auth-Subject, X-Auth-Issuer", "keep-alive, x-auth-subject", "upgrade,X-Auth-Subject"} {
				got := check(t, "GET /"+route, token, "X-Auth-Subject: root", "Connection: "+connection+", close")
				if got.Get("X-Auth-Subject") != "u-1" || got.Get("X-Auth-Issuer") != g.iss {
					t.Errorf("Connection: %s: got %v at the backend, want the token's identity", connection, got)
				}
				if named := strings.ToLower(got.Get("Connection")); strings.Contains(named, "x-") {
					t.Errorf("Connection at the backend: got %q, want nothing that the client named", named)
				}
			}
		})
	}
}

// forwards are headers by which proxies tell of a request. Some frameworks believe
// them over the request itself, also over the path that was asked for.
func forwards() []string {
	return []string{
		"Forwarded", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-User", "X-Forwarded-Client-Cert", "X-Original-Uri", "X-Original-Url", "X-Original-Method",
		"X-Rewrite-Url", "X-Client-Cert", "X-Introspectd-Policy", "X-Introspectd-Caller",
	}
}

// forgeries are headers with names in every spelling, each said to be forged.
func forgeries(names ...string) (headers []string) {
	for _, name := range names {
		for _, spelling := range spellings(name) {
			headers = append(headers, spelling+": forged", strings.ToLower(spelling)+": forged")
		}
	}
	return headers
}

func TestKongPassesOnNoForgedFacts(t *testing.T) {
	g := newKong(t, routes{"verdict": byVerdict("default"), "claims": byClaims(), "serverless": {"functions": serverless(t)}, "public": {"ask": "nothing"}})
	headers := append(forgeries(forwards()...), bearer(g.issuer.Mint(nil)))
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Real-Ip"} {
		// By its own name each is Kong's, which believes or replaces it as trusted_ips says.
		headers = append(headers, slices.DeleteFunc(forgeries(name), func(h string) bool { return !strings.Contains(h, "_") })...)
	}
	for _, route := range []string{"verdict", "claims", "serverless", "public"} {
		t.Run("GW-02 "+route, func(t *testing.T) {
			got := g.send("GET /"+route, headers...)
			if got.Status != 200 {
				t.Fatalf("got %d, want 200", got.Status)
			}
			for name, values := range got.Arrival.Header {
				if slices.Contains(values, "forged") {
					t.Errorf("the backend got %s: %q of the client", name, values)
				}
			}
		})
	}
	if got := g.send("GET /verdict", bearer(g.issuer.Mint(nil)), "X-Forwarded-Host: shop.example").Arrival.Header.Get("X-Forwarded-Host"); got != "shop.example" {
		t.Errorf("X-Forwarded-Host, which is Kong's to replace: the plugin left %q", got)
	}
}

func TestKongAsksWithItsOwnWords(t *testing.T) {
	for route, policy := range map[string]string{"verdict": "reports", "serverless": "default"} {
		g := newKong(t, routes{"verdict": byVerdict("reports", "caller_id", "app", "caller_secret", testSecret), "serverless": {"functions": serverless(t)}})
		g.send("POST /"+route+"/%31?policy=x", bearer("garbage"), "Content-Length: 2", "X-Introspectd-Policy: lenient", "X-Introspectd-Caller: Basic Zm9yZ2Vk",
			"X-Forwarded-Uri: /healthz", "X-Forwarded-Method: HEAD", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: gopher", "X-Forwarded-For: 203.0.113.9",
			"X-Client-Cert: forged", "Cookie: a=b")
		head := strings.Join(g.tap.connections(), "")
		t.Run("GW-01 the policy is Kong's: "+route, func(t *testing.T) {
			if !strings.HasPrefix(head, "GET /ext-authz/"+policy+"/ HTTP/1.1\r\n") || strings.Count(head, "X-Introspectd-Policy: "+policy+"\r\n") != 1 || strings.Contains(head, "lenient") {
				t.Errorf("asked:\n%s\nwant GET /ext-authz/%s/ with that policy alone", head, policy)
			}
		})
		t.Run("GW-02 nothing of the client but its credential: "+route, func(t *testing.T) {
			for _, said := range []string{"Zm9yZ2Vk", "healthz", "HEAD", "evil", "gopher", "203.0.113.9", "forged", "Cookie", "Content-Length: 2"} {
				if strings.Contains(head, said) {
					t.Errorf("asked with %q of the client:\n%s", said, head)
				}
			}
			if route == "verdict" && !strings.Contains(head, "X-Forwarded-Method: POST\r\n") {
				t.Errorf("asked:\n%s\nwant X-Forwarded-Method: POST", head)
			}
		})
	}
}

func TestKongKeepsConnections(t *testing.T) {
	g := newKong(t, routes{"verdict": byVerdict("default"), "claims": byClaims(), "serverless": {"functions": serverless(t)}})
	for _, route := range []string{"verdict", "claims", "serverless"} {
		t.Run("§9b many questions on one connection: "+route, func(t *testing.T) {
			for _, token := range []string{g.issuer.Mint(nil), "garbage", g.issuer.Mint(nil), "garbage"} {
				if good := g.send("GET /"+route, bearer(token)).Status == 200; good == (token == "garbage") {
					t.Errorf("token %.10s: passed: %v", token, good)
				}
			}
		})
	}
	if got := g.tap.connections(); len(got) != 1 || strings.Count(got[0], " HTTP/1.1\r\n") != 12 {
		t.Errorf("connections: got %d, %q; want one with twelve questions", len(got), got)
	}
}

func TestKongLeavesBodiesAndUpgradesToTheBackend(t *testing.T) {
	g := newKong(t, routes{"verdict": byVerdict("default"), "claims": byClaims()})
	const size = 8 << 20
	for _, route := range []string{"verdict", "claims"} {
		t.Run("ATH-10 a large body passes unread: "+route, func(t *testing.T) {
			g.tap.connections()
			r, err := http.NewRequest(http.MethodPost, "https://"+g.Address+"/"+route, io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("body"), size/4))))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+g.issuer.Mint(nil))
			answer, err := g.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if got, err := read(answer); err != nil || got.Status != 200 || got.Arrival.Body != size {
				t.Errorf("got %d, %d bytes at the backend and %v, want 200 and %d", got.Status, got.Arrival.Body, err, size)
			}
			if asked := strings.Join(g.tap.connections(), ""); strings.Contains(asked, "bodybody") {
				t.Error("the body went to introspectd")
			}
		})
		t.Run("§9b WebSocket: "+route, func(t *testing.T) {
			conn, answer := g.open("GET /"+route, bearer(g.issuer.Mint(nil)), "Upgrade: websocket", "Connection: Upgrade")
			defer conn.Close()
			if answer.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("got %s, want 101", answer.Status)
			}
			if _, err := io.WriteString(conn, "hello\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := conn.buffer.ReadString('\n'); err != nil || line != "echo hello\n" {
				t.Errorf("over the WebSocket: got %q, %v; want it echoed", line, err)
			}
			before := g.backend.count()
			refused, answer := g.open("GET /"+route, "Upgrade: websocket", "Connection: Upgrade")
			defer refused.Close()
			if answer.StatusCode != 401 || g.backend.count() != before {
				t.Errorf("without a token: got %s, backend reached: %v; want 401 and not reached", answer.Status, g.backend.count() != before)
			}
		})
	}
}

func TestKongFailsClosed(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	down := "http://" + freeAddress(t)
	given := routes{
		"down":   byVerdict("default", "url", down),
		"silent": byVerdict("default", "url", "http://"+silent.Addr().String(), "timeout", 100),
		// With a cache, whose lock and lifetimes are one way more to go wrong.
		"down-cached":     byVerdict("default", "url", down, "cache_ttl", 10),
		"down-claims":     byClaims("url", down, "cache_ttl", 10),
		"down-anonymous":  byVerdict("default", "url", down, "anonymous", "guest"),
		"silent-claims":   byClaims("url", "http://"+silent.Addr().String(), "timeout", 100),
		"nosuch":          byVerdict("nosuch"),
		"wrong-secret":    byClaims("caller_secret", "wrong-horse-battery-staple"),
		"unnamed-headers": byVerdict("default", "headers", map[string]string{"X-User": "sub", "X-Issuer": "iss"}),
		"no-guest":        byVerdict("default", "anonymous", "nobody"),
	}
	// Somebody else's answers.
	for name, answer := range map[string]func(http.Header) (int, string){
		"says-503":       func(h http.Header) (int, string) { h.Set("Retry-After", "1"); return 503, "" },
		"says-200":       func(http.Header) (int, string) { return 200, "" },
		"says-204":       func(http.Header) (int, string) { return 204, "" },
		"says-302":       func(h http.Header) (int, string) { h.Set("Location", "/"); return 302, "" },
		"says-403":       func(http.Header) (int, string) { return 403, `{"error":"access_denied"}` },
		"says-500":       func(http.Header) (int, string) { return 500, "" },
		"says-less":      func(h http.Header) (int, string) { h.Set("X-Auth-Subject", "u-1"); return 200, "" },
		"says-text":      func(http.Header) (int, string) { return 200, `{"active":"true"}` },
		"says-truncated": func(http.Header) (int, string) { return 200, `{"active":true` },
		"says-twice": func(h http.Header) (int, string) {
			for _, name := range []string{"X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Username", "X-Auth-Scope", "X-Auth-Subject"} {
				h.Set(name, "a")
			}
			h.Add("X-Auth-Subject", "b")
			return 200, ""
		},
	} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status, body := answer(w.Header())
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(other.Close)
		given[name] = byVerdict("default", "url", other.URL)
		given[name+"-claims"] = byClaims("url", other.URL)
	}
	code := serverless(t)
	for _, name := range []string{"down", "silent", "says-503", "says-200", "says-204", "says-302", "says-403", "says-less", "says-twice"} {
		url := fmt.Sprint(given[name]["url"])
		given["serverless-"+name] = map[string]any{"functions": strings.NewReplacer("http://127.0.0.1:8080", url, "2000", "100").Replace(code)}
	}
	g := newKong(t, given)
	token := bearer(g.issuer.Mint(nil))
	for name := range given {
		t.Run("ATH-08 "+name, func(t *testing.T) {
			before := g.backend.count()
			headers := []string{token}
			if name == "no-guest" {
				headers = nil
			}
			if got := g.send("GET /"+name, headers...); got.Status != 503 || g.backend.count() != before || got.Challenges != nil {
				t.Errorf("got %d with %q, backend reached: %v; want 503 and not reached", got.Status, got.Challenges, g.backend.count() != before)
			}
		})
	}
}

func TestKongMustBeLetIn(t *testing.T) {
	g := &gateway{backend: newBackend(t)}
	g.issuer, g.iss = newIssuer(t)
	g.service = start(t, oneCaller+gatewayPolicies+"auth: {allow_from: []}\nissuers:\n"+row("idp", g.iss))
	g.nginx = startKong(t, g.backend.Listener.Addr().String(), routes{
		"stranger": byVerdict("default", "url", g.service.URL),
		"caller":   byVerdict("default", "url", g.service.URL, "caller_id", "app", "caller_secret", testSecret),
	})
	t.Run("AUT-06 a stranger's 403 is not the client's", func(t *testing.T) {
		if got := g.send("GET /stranger", bearer(g.issuer.Mint(nil))); got.Status != 503 {
			t.Errorf("got %d, want 503", got.Status)
		}
	})
	t.Run("AUT-06 X-Introspectd-Caller", func(t *testing.T) {
		if got := g.send("GET /caller", bearer(g.issuer.Mint(nil)), "X-Introspectd-Caller: Basic Zm9yZ2Vk"); got.Status != 200 {
			t.Errorf("got %d, want 200", got.Status)
		}
	})
}

func TestKongRemembersNoLongerThanItMay(t *testing.T) {
	g := newKong(t, routes{
		"uncached":      byVerdict("default"),
		"verdict":       byVerdict("default", "cache_ttl", 60),
		"verdict-brief": byVerdict("default", "cache_ttl", 0.2),
		"reports":       byVerdict("reports", "cache_ttl", 60),
		"claims":        byClaims("cache_ttl", 60),
		"claims-scope":  byClaims("cache_ttl", 60, "scopes", []string{"reports:read"}),
	})
	token := bearer(g.issuer.Mint(nil))
	brief := bearer(g.issuer.Mint(map[string]any{"exp": time.Now().Add(2 * time.Second).Unix()}))
	for _, route := range []string{"uncached", "verdict", "verdict-brief", "claims"} {
		if got := g.send("GET /"+route, token); got.Status != 200 {
			t.Fatalf("%s: got %d, want 200", route, got.Status)
		}
	}
	if got := g.send("GET /claims", brief); got.Status != 200 {
		t.Fatalf("claims: got %d, want 200", got.Status)
	}
	g.send("GET /verdict", bearer("garbage"))
	g.service.kill()
	for _, tt := range []struct {
		name, route, token string
		status             int
	}{
		{"nothing without being asked to", "uncached", token, 503},
		{"a verdict", "verdict", token, 200},
		{"claims", "claims", token, 200},
		{"not under another policy", "reports", token, 503},
		{"claims are held against each route's scopes", "claims-scope", token, 403},
		{"not for a credential that is nearly the same", "verdict", token + "x", 503},
		{"not for another scheme's spelling", "verdict", "Authorization: bearer" + strings.TrimPrefix(token, "Authorization: Bearer"), 503},
		{"not where a proof of possession came along", "verdict", token + "\r\nDPoP: x", 503},
		{"no refusal", "verdict", bearer("garbage"), 503},
	} {
		t.Run("INT-26 "+tt.name, func(t *testing.T) {
			if got := g.send("GET /"+tt.route, tt.token); got.Status != tt.status {
				t.Errorf("got %d, want %d", got.Status, tt.status)
			}
		})
	}
	t.Run("INT-26 an expired answer does not come back because nobody answers", func(t *testing.T) {
		until(t, "verdict-brief has forgotten", nil, func() bool { return g.send("GET /verdict-brief", token).Status == 503 })
		until(t, "the token's exp has come", nil, func() bool { return g.send("GET /claims", brief).Status == 503 })
		if got := g.send("GET /claims", token); got.Status != 200 {
			t.Errorf("a token with a later exp: got %d, want 200", got.Status)
		}
	})
}

func TestKongConsumers(t *testing.T) {
	g := newKong(t, routes{
		"required":  byVerdict("default", "consumer_required", true),
		"claims":    byClaims("consumer_required", true),
		"foreign":   byVerdict("default", "consumer_issuers", []string{"https://other.example"}),
		"anonymous": byVerdict("default", "anonymous", "guest"),
	})
	shop := bearer(g.issuer.Mint(map[string]any{"client_id": "shop"}))
	for _, tt := range []struct {
		name, route string
		headers     []string
		status      int
		consumer    string // its id
	}{
		{"a client is a consumer", "required", []string{shop}, 200, "c-1"},
		{"a client is a consumer, by claims", "claims", []string{shop}, 200, "c-1"},
		{"an unknown client", "required", []string{bearer(g.issuer.Mint(map[string]any{"client_id": "who"}))}, 403, ""},
		{"a client that is called as a consumer's id", "required", []string{bearer(g.issuer.Mint(map[string]any{"client_id": "c-1"}))}, 403, ""},
		{"no client", "required", []string{bearer(g.issuer.Mint(map[string]any{"client_id": nil}))}, 403, ""},
		{"another issuer's client of that name is somebody else", "foreign", []string{shop}, 200, ""},
		{"no token, where that is allowed", "anonymous", nil, 200, "c-2"},
		{"a client that is called as a consumer, who was seen before", "required", []string{bearer(g.issuer.Mint(map[string]any{"client_id": "guest"}))}, 403, ""},
		{"a good token there", "anonymous", []string{shop}, 200, ""},
		{"a bad token is not nobody", "anonymous", []string{bearer("garbage")}, 401, ""},
		{"nor is a malformed one", "anonymous", []string{"Authorization: Bearer"}, 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := g.send("GET /"+tt.route, append(tt.headers, "X-Consumer-Id: root", "X_Consumer_Id: root", "X-Anonymous-Consumer: false")...)
			if h := got.Arrival.Header; got.Status != tt.status || h.Get("X-Consumer-Id") != tt.consumer || h["X_consumer_id"] != nil {
				t.Errorf("got %d and %v, want %d and consumer %q", got.Status, h, tt.status, tt.consumer)
			}
			if anonymous := got.Arrival.Header.Get("X-Anonymous-Consumer"); (anonymous == "true") != (tt.consumer == "c-2") || anonymous == "false" {
				t.Errorf("X-Anonymous-Consumer: got %q", anonymous)
			}
		})
	}
}

// TestKongExamples runs the settings of kong.yaml and of kubernetes.yaml, each
// route's by itself, with addresses and secrets replaced.
func TestKongExamples(t *testing.T) {
	given := routes{}
	file := declarative(t, "kong.yaml")
	for _, plugin := range file.Plugins {
		given["api"] = plugin.Config
	}
	for _, service := range file.Services {
		for _, route := range service.Routes {
			for _, plugin := range route.Plugins {
				given[route.Name] = plugin.Config
			}
		}
	}
	resources, err := os.Open(kongFiles + "/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer resources.Close()
	for decoder := yaml.NewDecoder(resources); ; {
		var one kongPlugin
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if one.Plugin == "introspectd" {
			for _, patch := range one.ConfigPatches {
				one.Config[strings.TrimPrefix(patch.Path, "/")] = "patched"
			}
			given[fmt.Sprint("resource-", len(given))] = one.Config
		}
	}
	if len(given) != 6 {
		t.Fatalf("examples: got %d, want 6", len(given))
	}
	for _, settings := range given {
		delete(settings, "url") // newKong writes the test's own
		if settings["caller_secret"] != nil {
			settings["caller_id"], settings["caller_secret"] = "app", testSecret
		}
	}
	g := newKong(t, given)
	for _, tt := range []struct {
		route, scope string
		status       int
	}{
		{"api", "", 401},
		{"api", "x", 200},
		{"reports", "x", 403},
		{"reports", "reports:read", 200},
		{"health", "", 200},
		{"accounts", "", 401},
		{"accounts", "x", 403},
		{"accounts", "accounts:read", 200},
		{"resource-4", "x", 200},
		{"resource-5", "x", 403},
		{"resource-5", "reports:read", 200},
	} {
		t.Run(tt.route+" with scope "+tt.scope, func(t *testing.T) {
			var headers []string
			if tt.scope != "" {
				headers = []string{bearer(g.issuer.Mint(map[string]any{"scope": tt.scope}))}
			}
			if got := g.send("GET /"+tt.route, headers...); got.Status != tt.status {
				t.Errorf("got %d, want %d", got.Status, tt.status)
			}
		})
	}
}
