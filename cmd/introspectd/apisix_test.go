package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestAPISIXFunctions runs the functions of APISIX' recipes in nginx, where
// APISIX would: before what it asks and passes on. APISIX itself was not at hand.
func TestAPISIXFunctions(t *testing.T) {
	need(t, "nginx")
	for name, own := range map[string][]string{
		"forward-auth":   nil,
		"openid-connect": {"X-Userinfo", "X-Access-Token", "X-Id-Token", "X-Refresh-Token"}, // what the plugin may tell of a user
	} {
		t.Run(name, func(t *testing.T) {
			backend := newBackend(t)
			n := newNginx(t)
			writeFile(t, n.dir+"/function.lua", function(t, name))
			// As APISIX has it where it matters: headers with underscores pass, an
			// upgrade is passed on, and a function's number ends the request.
			n.start(fmt.Sprintf(`
init_by_lua_block { judge = assert(loadfile("%[1]s/function.lua"))() }
server {
    listen %[2]s ssl;
    ssl_certificate %[3]s;
    ssl_certificate_key %[4]s;
    underscores_in_headers on;
    large_client_header_buffers 4 32k;
    proxy_http_version 1.1;
    location / {
        rewrite_by_lua_block { local code = judge({}, {}) if code then ngx.exit(code) end }
        proxy_pass http://%[5]s;
        proxy_set_header Connection $http_connection;
        proxy_set_header Upgrade $http_upgrade;
    }
}
`, n.dir, n.Address, n.certificate, n.key, backend.Listener.Addr()), luaModules(t)...)
			var others []string
			for i := range 150 { // more than the hundred that Lua looks at by itself
				others = append(others, fmt.Sprintf("A%d: x", i))
			}
			names := append(append(own, forwards()...), "X-Auth-Subject", "X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Username", "X-Auth-Scope",
				"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip")
			t.Run("GW-03 nothing that a client says of itself", func(t *testing.T) {
				got := n.send("GET /reports/1?u=http://x/../y;z", append(append(others, forgeries(names...)...), "Connection: close, X-Auth-Subject", "X-Other: kept", bearer("t"))...)
				if got.Status != 200 || got.Arrival.URI != "/reports/1?u=http://x/../y;z" || got.Arrival.Header.Get("X-Other") != "kept" || got.Arrival.Header.Get("Authorization") != "Bearer t" {
					t.Fatalf("got %d, %s with %v at the backend; want the request as it was but for what is forged", got.Status, got.Arrival.URI, got.Arrival.Header)
				}
				for name, values := range got.Arrival.Header {
					if said := strings.Join(values, " "); forged(said) || strings.Contains(said, "X-Auth") {
						t.Errorf("the backend got %s: %q of the client", name, values)
					}
				}
			})
			t.Run("GW-01 a path with more than one reading", func(t *testing.T) {
				for _, path := range ambiguous() {
					before := backend.count()
					if got := n.send("GET " + path); got.Status != 400 || backend.count() > before {
						t.Errorf("%.60s: got %d, backend reached: %v; want 400", path, got.Status, backend.count() > before)
					}
				}
			})
			t.Run("ATH-01 WebSocket", func(t *testing.T) {
				conn, answer := n.open("GET /ws", "Upgrade: websocket", "Connection: keep-alive, Upgrade, X-Auth-Subject", "X_Auth_Subject: root", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
				defer conn.Close()
				if seen := answer.Header.Get("X-Seen"); answer.StatusCode != http.StatusSwitchingProtocols || seen != "Upgrade" {
					t.Errorf("got %s, and the backend saw %q; want 101, nobody's subject and Upgrade", answer.Status, seen)
				}
			})
		})
	}
}

// function is what a recipe of APISIX has run in the rewrite phase, a chunk that
// returns it.
func function(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/apisix/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Routes []struct {
			Plugins struct {
				Before struct {
					Phase     string
					Functions []string
				} `yaml:"serverless-pre-function"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Routes) != 1 || len(file.Routes[0].Plugins.Before.Functions) != 1 || file.Routes[0].Plugins.Before.Phase != "rewrite" {
		t.Fatalf("%s.yaml: got %+v, want one route with one function in the rewrite phase", name, file)
	}
	return file.Routes[0].Plugins.Before.Functions[0]
}
