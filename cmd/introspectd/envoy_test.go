package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthz "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	mutation "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// envoyRecipe is a file of deploy/envoy read as Envoy reads it, strictly, and
// held against Envoy's own rules for each message. No Envoy runs here.
type envoyRecipe struct {
	manager *hcm.HttpConnectionManager
	remove  *mutation.HeaderMutation
	judge   *extauthz.ExtAuthz
}

func readEnvoyRecipe(t *testing.T, name string) envoyRecipe {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy/envoy", name))
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	object, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	whole := &bootstrap.Bootstrap{}
	if err := protojson.Unmarshal(object, whole); err != nil {
		t.Fatalf("%s is no bootstrap of Envoy: %v", name, err)
	}
	var found envoyRecipe
	var order []string
	each(t, whole, func(m proto.Message) {
		if checked, ok := m.(interface{ ValidateAll() error }); ok {
			if err := checked.ValidateAll(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		switch m := m.(type) {
		case *hcm.HttpConnectionManager:
			found.manager = m
		case *mutation.HeaderMutation:
			found.remove, order = m, append(order, "removed")
		case *extauthz.ExtAuthz:
			found.judge, order = m, append(order, "judged")
		}
	})
	if found.manager == nil || !slices.Equal(order, []string{"removed", "judged"}) {
		t.Fatalf("%s: got the filters %v, want headers removed and then requests judged", name, order)
	}
	return found
}

// each visits a message and all that it holds, typed configurations unpacked,
// lists in their order.
func each(t *testing.T, m proto.Message, visit func(proto.Message)) {
	t.Helper()
	if packed, ok := m.(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		each(t, inner, visit)
		return
	}
	visit(m)
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				each(t, v.Message().Interface(), visit)
				return true
			})
		case f.IsList() && f.Message() != nil:
			for n := range v.List().Len() {
				each(t, v.List().Get(n).Message().Interface(), visit)
			}
		case !f.IsMap() && f.Message() != nil:
			each(t, v.Message().Interface(), visit)
		}
		return true
	})
}

// perRoute is what a route says to ext_authz, nil where it says nothing.
func perRoute(t *testing.T, r *route.Route) *extauthz.ExtAuthzPerRoute {
	t.Helper()
	packed := r.GetTypedPerFilterConfig()["envoy.filters.http.ext_authz"]
	if packed == nil {
		return nil
	}
	said := &extauthz.ExtAuthzPerRoute{}
	if err := packed.UnmarshalTo(said); err != nil {
		t.Fatal(err)
	}
	return said
}

func TestEnvoyRecipesAreValidAndFailClosed(t *testing.T) {
	for _, name := range []string{"grpc.yaml", "http.yaml"} {
		t.Run(name, func(t *testing.T) {
			r := readEnvoyRecipe(t, name)
			for line, holds := range map[string]bool{
				"failure_mode_allow: false":      !r.judge.GetFailureModeAllow() && !r.judge.GetShadowMode() && r.judge.GetFilterEnabled() == nil,
				"no body":                        r.judge.GetWithRequestBody() == nil,
				"encode_raw_headers":             r.judge.GetEncodeRawHeaders(),
				"clear_route_cache: false":       !r.judge.GetClearRouteCache() && r.judge.GetClearRouteCacheHeaders() == nil,
				"normalize_path":                 r.manager.GetNormalizePath().GetValue(),
				"merge_slashes":                  r.manager.GetMergeSlashes(),
				"escaped slashes are refused":    r.manager.GetPathWithEscapedSlashesAction() == hcm.HttpConnectionManager_REJECT_REQUEST,
				"underscores are refused":        r.manager.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction().String() == "REJECT_REQUEST",
				"use_remote_address":             r.manager.GetUseRemoteAddress().GetValue(),
				"the filters are three, in line": len(r.manager.GetHttpFilters()) == 3,
			} {
				if !holds {
					t.Errorf("it does not hold: %s", line)
				}
			}
			t.Run("GW-03 the client's identity headers end here, in every spelling", func(t *testing.T) {
				gone := regexp.MustCompile("^(?:" + r.remove.GetMutations().GetRequestMutations()[0].GetRemoveOnMatch().GetKeyMatcher().GetSafeRegex().GetRegex() + ")$")
				for _, header := range []string{"X-Auth-Subject", "X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Username", "X-Auth-Scope"} {
					for _, spelled := range []string{header, strings.ToLower(header), strings.ReplaceAll(header, "-", "_"), strings.Replace(header, "-", "_", 1), strings.ReplaceAll(header, "-", ".")} {
						if !gone.MatchString(spelled) {
							t.Errorf("%s is not removed", spelled)
						}
					}
				}
				if gone.MatchString("x-auth-token") || gone.MatchString("authorization") {
					t.Error("headers that are none of ours are removed")
				}
			})
			t.Run("only exact paths are for everyone", func(t *testing.T) {
				routes := r.manager.GetRouteConfig().GetVirtualHosts()[0].GetRoutes()
				for _, one := range routes {
					if perRoute(t, one).GetDisabled() && one.GetMatch().GetPath() == "" {
						t.Errorf("%v is judged by nobody", one.GetMatch())
					}
				}
				if last := routes[len(routes)-1]; last.GetMatch().GetPrefix() != "/" || perRoute(t, last) != nil {
					t.Errorf("the last route: got %v, want all the rest judged by the policy default", last)
				}
			})
		})
	}
}

// The questions that an Envoy with these files asks are answered by a running
// introspectd.
func TestEnvoyRecipesAskWhatIntrospectdAnswers(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	address := freeAddress(t)
	s := start(t, oneCaller+gatewayPolicies+"server: {ext_authz_grpc: '"+address+"'}\nissuers:\n"+row("idp", iss))
	good, reader := issuer.Mint(map[string]any{"scope": "x"}), issuer.Mint(map[string]any{"scope": "reports:read"})

	t.Run("gRPC", func(t *testing.T) {
		connection := connect(t, address, insecure.NewCredentials())
		asked := 0
		for _, one := range readEnvoyRecipe(t, "grpc.yaml").manager.GetRouteConfig().GetVirtualHosts()[0].GetRoutes() {
			extensions := perRoute(t, one).GetCheckSettings().GetContextExtensions()
			if extensions == nil {
				continue
			}
			asked++
			if len(extensions) != 1 || checkOverGRPC(t, connection, extensions["policy"], good) != 403 || checkOverGRPC(t, connection, extensions["policy"], reader) != 200 {
				t.Errorf("%v: want 403 without reports:read, and 200 with it", extensions)
			}
		}
		if asked != 1 {
			t.Errorf("got %d routes with a policy, want 1", asked)
		}
	})
	t.Run("HTTP", func(t *testing.T) {
		r := readEnvoyRecipe(t, "http.yaml")
		services := map[string]*extauthz.HttpService{"default": r.judge.GetHttpService()}
		for _, one := range r.manager.GetRouteConfig().GetVirtualHosts()[0].GetRoutes() {
			if service := perRoute(t, one).GetCheckSettings().GetHttpService(); service != nil {
				services["reports"] = service
			}
		}
		for name, want := range map[string]int{"default": 200, "reports": 403} {
			service := services[name]
			if got := s.asEnvoy(service, good); got.StatusCode != want {
				t.Errorf("%s: got %d, want %d", name, got.StatusCode, want)
			}
			got := s.asEnvoy(service, reader)
			if got.StatusCode != 200 {
				t.Errorf("%s with reports:read: got %d, want 200", name, got.StatusCode)
			}
			for header := range got.Header {
				passed := slices.ContainsFunc(service.GetAuthorizationResponse().GetAllowedUpstreamHeaders().GetPatterns(),
					func(m *matcher.StringMatcher) bool { return strings.EqualFold(m.GetExact(), header) })
				if strings.HasPrefix(header, "X-Auth-") && !passed {
					t.Errorf("%s: %s is not passed on", name, header)
				}
			}
		}
	})
}

// asEnvoy asks as Envoy's HTTP service does: the prefix before the client's
// path, the client's Authorization, the headers to add.
func (s *service) asEnvoy(service *extauthz.HttpService, token string) *http.Response {
	s.t.Helper()
	if !strings.HasSuffix(service.GetPathPrefix(), "/") {
		s.t.Errorf("%s does not end in a slash", service.GetPathPrefix())
	}
	r, err := http.NewRequest(http.MethodPatch, s.URL, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.URL.Opaque = service.GetPathPrefix() + "/a/../b?policy=x"
	r.Header.Set("Authorization", "Bearer "+token)
	for _, h := range service.GetAuthorizationRequest().GetHeadersToAdd() {
		r.Header.Set(h.GetKey(), h.GetValue())
	}
	answer, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer
}

// What configures other gateways is read, no more: each file is YAML in which
// nothing fails open, no prefix runs into a policy's name and no policy is
// misspelled. deploy/README.md says how else they were checked.
func TestGatewayManifestsFailClosed(t *testing.T) {
	for _, name := range []string{"envoy/istio.yaml", "envoy/envoy-gateway.yaml", "envoy/contour.yaml", "nginx/gateway-fabric.yaml", "nginx/f5-ingress.yaml", "nginx/ingress-nginx.yaml"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../deploy", name))
			if err != nil {
				t.Fatal(err)
			}
			documents := 0
			for d := yaml.NewDecoder(bytes.NewReader(text)); ; documents++ {
				var tree any
				if err := d.Decode(&tree); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				eachKey(tree, func(key string, value any) {
					said := fmt.Sprint(value)
					switch {
					case key == "failOpen" && value != false,
						key == "pathPrefix" && !strings.HasSuffix(said, "/"),
						strings.HasSuffix(key, "auth-url") && !strings.HasSuffix(said, "/auth/default") && !strings.HasSuffix(said, "/auth/reports"),
						key == "contextExtensions" && !strings.Contains(said, "name:policy"),
						key == "context" && said != "map[policy:default]" && said != "map[policy:reports]" && said != "GATEWAY" && !strings.HasPrefix(said, "http."):
						t.Errorf("%s: got %v", key, value)
					}
				})
			}
			if documents == 0 {
				t.Error("it is empty")
			}
		})
	}
}

// An EnvoyFilter's schema lets anything be a filter's configuration; Envoy's own
// messages don't. One that is merged into Istio's may lack what those have.
func TestIstiosFiltersAreEnvoys(t *testing.T) {
	filters := 0
	for _, document := range strings.Split(deployed(t, "envoy/istio.yaml"), "\n---") {
		var tree any
		if err := yaml.Unmarshal([]byte(document), &tree); err != nil {
			t.Fatal(err)
		}
		eachKey(tree, func(key string, value any) {
			patch, _ := value.(map[string]any)
			if key != "patch" {
				return
			}
			filters++
			object, err := json.Marshal(patch["value"].(map[string]any)["typed_config"])
			if err != nil {
				t.Fatal(err)
			}
			packed := &anypb.Any{}
			if err := protojson.Unmarshal(object, packed); err != nil {
				t.Fatalf("%s: %v", object, err)
			}
			each(t, packed, func(m proto.Message) {
				if checked, ok := m.(interface{ ValidateAll() error }); ok && patch["operation"] != "MERGE" {
					if err := checked.ValidateAll(); err != nil {
						t.Errorf("%s: %v", object, err)
					}
				}
			})
		})
	}
	if filters != 2 {
		t.Errorf("got %d filters, want 2", filters)
	}
}

// The snippets of the Kubernetes gateways that are nginx run in Debian's nginx,
// in the contexts that they are for. What ingress-nginx makes of its global-auth
// keys is put in their place by its documentation.
func TestNginxSnippetsOfManifests(t *testing.T) {
	program := need(t, "nginx")
	issuer, iss := newIssuer(t, "ES256")
	s := start(t, oneCaller+gatewayPolicies+"issuers:\n"+row("idp", iss))
	good := issuer.Mint(nil)
	for _, name := range []string{"gateway-fabric.yaml", "f5-ingress.yaml", "ingress-nginx.yaml"} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			server, location := snippetsOf(t, filepath.Join("../../deploy/nginx", name))
			server = strings.ReplaceAll(server, "http://introspectd.introspectd.svc.cluster.local:8080", s.URL)
			address, dir := freeAddress(t), t.TempDir()
			user := ""
			if os.Geteuid() == 0 {
				user = "user root;\n"
			}
			writeFile(t, filepath.Join(dir, "nginx.conf"), user+"daemon off;\npid "+dir+"/pid;\nerror_log "+dir+"/log;\nevents {}\nhttp {\naccess_log off;\n"+
				"client_body_temp_path "+dir+"/body;\nproxy_temp_path "+dir+"/proxy;\nfastcgi_temp_path "+dir+"/f;\nuwsgi_temp_path "+dir+"/u;\nscgi_temp_path "+dir+"/s;\n"+
				"server {\nlisten "+address+";\n"+server+"location / {\nproxy_set_header Host $host;\n"+location+"proxy_pass "+b.URL+";\n}\n}\n}\n")
			command := exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = command.Process.Signal(syscall.SIGTERM)
				_ = command.Wait()
			})
			client := newClient(t, &http.Transport{})
			ask := func(path, token string) (int, http.Header) {
				r, err := http.NewRequest(http.MethodGet, "http://"+address, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.URL.Opaque = path
				if token != "" {
					r.Header.Set("Authorization", "Bearer "+token)
				}
				for _, spoofed := range []string{
					"X-Auth-Subject", "X_Auth_Subject", "X-Auth-Username", "X-Introspectd-Policy", "X-Introspectd-Caller",
					"Forwarded", "X-Forwarded-Uri", "X-Original-Url", "X-Rewrite-Url", "X-Client-Cert",
				} {
					r.Header[spoofed] = []string{"root"}
				}
				answer, err := client.Do(r)
				if err != nil {
					return 0, nil
				}
				defer answer.Body.Close()
				var got arrival
				_ = json.NewDecoder(answer.Body).Decode(&got)
				return answer.StatusCode, got.Header
			}
			s.eventually("nginx answers", func() bool { status, _ := ask("/", ""); return status != 0 })
			status, got := ask("/orders", good)
			if status != 200 || got.Get("X-Auth-Issuer") != iss {
				t.Errorf("a good token: got %d, %v", status, got)
			}
			for header, values := range got {
				if slices.Contains(values, "root") || strings.Contains(header, "_") {
					t.Errorf("the backend got %s: %q", header, values)
				}
			}
			for path, want := range map[string]int{"/orders": 401, "/_introspectd/default": 404, "/a/../orders": 400, "/a%2fb": 400, "/a;b": 400, "/a\\b": 400} {
				if status, _ := ask(path, ""); status != want {
					t.Errorf("%s without a token: got %d, want %d", path, status, want)
				}
			}
			s.signal(syscall.SIGSTOP)
			defer s.signal(syscall.SIGCONT)
			// A stopped process may still answer for a moment.
			s.eventually("every request is a 500", func() bool {
				status, _ := ask("/orders", good)
				return status == 500
			})
		})
	}
}

// snippetsOf returns the lines of a manifest for nginx's server and location.
func snippetsOf(t *testing.T, path string) (server, location string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var tree any
	if err := documents.Decode(&tree); err != nil { // the first document
		t.Fatal(err)
	}
	var url, question string // of ingress-nginx
	eachKey(tree, func(key string, value any) {
		switch key {
		case "server-snippets", "server-snippet":
			server += value.(string)
		case "global-auth-url":
			url = value.(string)
		case "global-auth-snippet":
			question = value.(string)
		case "proxy-set-headers": // the next document
			var headers struct{ Data map[string]string }
			if err := documents.Decode(&headers); err != nil {
				t.Fatal(err)
			}
			for header, value := range headers.Data {
				location += "proxy_set_header " + header + " \"" + value + "\";\n"
			}
		case "global-auth-response-headers":
			for header := range strings.SplitSeq(value.(string), ",") {
				name := strings.ToLower(strings.ReplaceAll(header, "-", "_"))
				location += "auth_request_set $" + name + " $upstream_http_" + name + ";\nproxy_set_header " + header + " $" + name + ";\n"
			}
		case "location-snippets":
			location += value.(string)
		case "snippets":
			for _, one := range value.([]any) {
				one := one.(map[string]any)
				if one["context"] == "http.server" {
					server += one["value"].(string)
				} else {
					location += one["value"].(string)
				}
			}
		}
	})
	if url != "" {
		server += "location = /_introspectd/default {\ninternal;\nproxy_pass_request_body off;\nproxy_set_header Content-Length \"\";\n" + question + "proxy_pass " + url + ";\n}\n"
		location += "auth_request /_introspectd/default;\n"
	}
	if server == "" || location == "" {
		t.Fatalf("%s: no snippets", path)
	}
	return server, location
}

func eachKey(tree any, visit func(key string, value any)) {
	switch tree := tree.(type) {
	case map[string]any:
		for key, value := range tree {
			visit(key, value)
			eachKey(value, visit)
		}
	case []any:
		for _, value := range tree {
			eachKey(value, visit)
		}
	}
}
