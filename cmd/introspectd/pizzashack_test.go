package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

// pizzaShack is deploy/pizzashack at work: a Key Manager, introspectd, and nginx
// with the menu.
type pizzaShack struct {
	gateway string // host:port
	renamed *strings.Replacer
	dir     string
	blocks  []block // of its README, behind those that start it
}

// startPizzaShack does what the README's first block says, on free ports.
func startPizzaShack(t *testing.T) *pizzaShack {
	t.Helper()
	need(t, "curl")
	program, openssl := need(t, "nginx"), need(t, "openssl")
	dev := startDev(t, t.Cleanup)
	p := &pizzaShack{gateway: freeAddress(t), dir: t.TempDir()}
	_, port, _ := net.SplitHostPort(p.gateway)
	judge := freeAddress(t)
	p.renamed = strings.NewReplacer("127.0.0.1:8080", dev.listen, "127.0.0.1:8081", dev.admin, "127.0.0.1:8090", judge,
		"127.0.0.1:8091", freeAddress(t), "127.0.0.1:9080", freeAddress(t), "127.0.0.1:8243", p.gateway, "localhost:8243", "localhost:"+port)
	for _, name := range []string{"introspectd.yaml", "nginx.conf", "menu.json"} {
		text, err := os.ReadFile("../../deploy/pizzashack/" + name)
		if err != nil {
			t.Fatal(err)
		}
		changed := p.renamed.Replace(string(text))
		if name == "nginx.conf" && os.Geteuid() == 0 {
			changed = "user root;\n" + changed // else the workers could not enter the test's directory
		}
		writeFile(t, filepath.Join(p.dir, name), changed)
	}
	readme, err := os.ReadFile("../../deploy/pizzashack/README.md")
	if err != nil {
		t.Fatal(err)
	}
	all := blocks(string(readme))
	begin := strings.Split(strings.TrimSpace(all[0].text), "\n")
	if len(begin) != 4 || !strings.HasPrefix(begin[0], "openssl ") || begin[1] != "introspectd dev" ||
		begin[2] != "introspectd serve --config introspectd.yaml" || begin[3] != "nginx -p . -c nginx.conf" {
		t.Fatalf("the README begins with %q", begin)
	}
	p.blocks = all[1:]
	certificate := exec.Command(openssl, strings.Fields(begin[0])[1:]...)
	certificate.Dir = p.dir
	if out, err := certificate.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", begin[0], err, out)
	}
	p.run(t, "introspectd", strings.Fields(begin[2])[1:]...)
	p.run(t, program, strings.Fields(begin[3])[1:]...)
	for _, address := range []string{judge, p.gateway} {
		until(t, address+" listens", nil, func() bool {
			c, err := net.Dial("tcp", address)
			return err == nil && c.Close() == nil
		})
	}
	until(t, "introspectd is ready", nil, func() bool {
		answer, err := http.Get("http://" + judge + "/readyz")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return p
}

// run starts a program in the directory until the test ends.
func (p *pizzaShack) run(t *testing.T, program string, args ...string) {
	t.Helper()
	command := exec.Command(program, args...)
	command.Dir = p.dir
	said := &syncBuffer{}
	command.Stdout, command.Stderr = said, said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(program), said)
		}
	})
}

// TestPizzaShackIsTrue walks through the README of deploy/pizzashack in one
// shell, and holds each output against the block that follows it.
func TestPizzaShackIsTrue(t *testing.T) {
	p := startPizzaShack(t)
	const mark = "-- end of block --"
	var script strings.Builder
	var expected []block
	for i, b := range p.blocks {
		if b.language != "sh" {
			continue
		}
		next := block{}
		if i+1 < len(p.blocks) && p.blocks[i+1].language != "sh" && follows(b, p.blocks[i+1]) {
			next = p.blocks[i+1]
		}
		expected = append(expected, next)
		fmt.Fprintf(&script, "%sprintf '%%s' '%s'\n", p.renamed.Replace(b.text), mark)
	}
	if len(expected) < 6 {
		t.Fatalf("%d blocks to run", len(expected))
	}
	command := exec.Command("sh", "-eu", "-c", script.String())
	command.Dir = t.TempDir()
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil || said.Len() > 0 {
		t.Fatalf("%v\n%s%s", err, &said, out)
	}
	for i, got := range strings.Split(string(out), mark)[:len(expected)] {
		got = strings.TrimSpace(got)
		switch expected[i].language {
		case "json":
			if diff := cmp.Diff(steady(t, expected[i].text), steady(t, got)); diff != "" {
				t.Errorf("%s (-README +got):\n%s", expected[i], diff)
			}
		case "text":
			if want := strings.TrimSpace(expected[i].text); got != want {
				t.Errorf("%s: got\n%s\nwant\n%s", expected[i], got, want)
			}
		}
	}
}

// What the README's shell doesn't look at.
func TestPizzaShackGateway(t *testing.T) {
	p := startPizzaShack(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 10 * time.Second} // a test's own certificate
	t.Cleanup(client.CloseIdleConnections)
	ask := func(path, token string, headers ...string) (int, http.Header, string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, "https://"+p.gateway+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header[headers[i]] = []string{headers[i+1]} // as it is spelled
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(answer.Body); err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, answer.Header, body.String()
	}
	token := func(form string) string {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, p.renamed.Replace("http://127.0.0.1:8080/dev/token"), strings.NewReader("grant_type=client_credentials&"+form))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("dev", "dev-secret")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var issued struct {
			Token string `json:"access_token"`
		}
		if err := json.NewDecoder(answer.Body).Decode(&issued); err != nil || issued.Token == "" {
			t.Fatalf("no token: %v", err)
		}
		return issued.Token
	}
	good := token("scope=menu:read")

	t.Run("ATH-05 no token and a bad one are 401 with a challenge", func(t *testing.T) {
		for _, tok := range []string{"", "nonsense", good[:len(good)-8] + "AAAAAAAA"} {
			status, header, body := ask("/pizzashack/1.0.0/menu", tok)
			if status != http.StatusUnauthorized || !strings.HasPrefix(header.Get("WWW-Authenticate"), `Bearer realm="pizzashack"`) || strings.Contains(body, "Garden") {
				t.Errorf("token %.10q: %d %v", tok, status, header)
			}
		}
	})
	t.Run("a missing scope is 403 and says so", func(t *testing.T) {
		status, header, _ := ask("/pizzashack/1.0.0/menu", token("scope=menu:write"))
		if c := header.Get("WWW-Authenticate"); status != http.StatusForbidden || !strings.Contains(c, "insufficient_scope") {
			t.Errorf("%d %q", status, c)
		}
	})
	t.Run("no spelling of a path gets by", func(t *testing.T) {
		for _, path := range []string{"/pizzashack/1.0.0//menu", "/pizzashack/1.0.0/%2e%2e/menu", "/pizzashack/1.0.0/me;a=b", "/_introspectd/pizzashack", "/other"} {
			if status, _, body := ask(path, ""); status == http.StatusOK || strings.Contains(body, "subject") {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
	})
	t.Run("a client sets nothing that the backend believes", func(t *testing.T) {
		_, _, body := ask("/pizzashack/1.0.0/me", good, "X-Auth-Subject", "admin", "X_Auth_Subject", "admin", "x-auth-given-name", "admin", "X-JWT-Assertion", "admin", "X_JWT_Assertion", "admin")
		if strings.Contains(body, "admin") {
			t.Error(body)
		}
	})
	t.Run("ASN-02 the backend verifies the assertion by the gateway's own keys", func(t *testing.T) {
		_, _, body := ask("/pizzashack/1.0.0/me", good)
		var seen struct{ Assertion string }
		if err := json.Unmarshal([]byte(body), &seen); err != nil {
			t.Fatal(err)
		}
		_, _, keys := ask("/jwks.json", "")
		published, err := keyfunc.NewJWKSetJSON(json.RawMessage(keys))
		if err != nil {
			t.Fatal(err)
		}
		claims := jwt.MapClaims{}
		_, port, _ := net.SplitHostPort(p.gateway)
		parsed, err := jwt.ParseWithClaims(seen.Assertion, claims, published.Keyfunc,
			jwt.WithAudience("https://backend.example/pizzashack"), jwt.WithIssuer("https://localhost:"+port), jwt.WithExpirationRequired(), jwt.WithValidMethods([]string{"ES256"}))
		if err != nil || !parsed.Valid {
			t.Fatalf("%v in %s", err, seen.Assertion)
		}
		if claims["http://wso2.org/claims/enduser"] != "dev" {
			t.Errorf("got %v", claims)
		}
	})
}
