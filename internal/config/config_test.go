package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"introspectd/internal/config"
)

// corp is the least that starts; tests add to it.
const corp = `issuers:
  - name: corp
    issuer: https://idp.example
    keys: {discover: true}
`

const digest = "6b2a4e1c0d9f8a7b5c3e2d1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b"

// write puts files into a new working directory.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, body := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// load is Load where no fault is expected.
func load(t *testing.T, file string, o config.Options) *config.Config {
	t.Helper()
	c, err := config.Load(file, o)
	if err != nil {
		t.Fatalf("Load(%q): %v", file, err)
	}
	return c
}

// faults is the text of the faults of a load, which has to have some.
func faults(t *testing.T, file string, o config.Options) string {
	t.Helper()
	c, err := config.Load(file, o)
	if err == nil {
		t.Fatalf("Load(%q): got %+v, want faults", file, c)
	}
	if list := config.Faults(nil); !errors.As(err, &list) {
		t.Fatalf("Load(%q): got an error of type %T, want Faults: %v", file, err, err)
	}
	return err.Error()
}

func TestDefaultsHoldWhereNothingIsWritten(t *testing.T) {
	write(t, map[string]string{"c.yaml": corp + "server:\n"})
	c := load(t, "c.yaml", config.Options{})
	for _, check := range []struct {
		name      string
		got, want any
	}{
		{"server.listen", c.Server.Listen, "127.0.0.1:8080"},
		{"server.trusted_proxies", fmt.Sprint(c.Server.TrustedProxies), "[127.0.0.0/8 ::1/128 unix]"},
		{"auth.allow_from", fmt.Sprint(c.Auth.AllowFrom), "[127.0.0.0/8 ::1/128 unix]"},
		{"issuers[0].leeway", c.Issuers[0].Leeway, 30 * time.Second},
		{"issuers[0].keys.refresh", c.Issuers[0].Keys.Refresh, 5 * time.Minute},
		{"issuers[0].claims.scope", c.Issuers[0].Claims.Scope, []string{"scope", "scp"}},
		{"state.path", c.State.Path, ""},
		{"revocation", fmt.Sprintf("%+v", c.Revocation), "{MaxDelay:1s MaxEntries:2000000 RequireExisting:false Grace:5m0s OnOutage:deny}"},
		{"cache.verdicts.size", int64(c.Cache.Verdicts.Size), int64(128 << 20)},
		{"cache.verdicts.shared", string(c.Cache.Verdicts.Shared), "auto"},
		{"telemetry.traces.sample", c.Telemetry.Traces.Sample, 0.01},
	} {
		if diff := cmp.Diff(check.want, check.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", check.name, diff)
		}
	}
}

func TestFilesOfAllFormatsMeanTheSame(t *testing.T) {
	write(t, map[string]string{
		"c.yaml": "server: {listen: '127.0.0.1:9000', shutdown_delay: 5s}\ntelemetry: {traces: {sample: 1}}\nrevocation: {max_entries: 5}\n" + corp,
		"c.yml":  "server: {listen: '127.0.0.1:9000', shutdown_delay: 5s}\ntelemetry: {traces: {sample: 1.0}}\nrevocation: {max_entries: 5.0}\n" + corp,
		"c.toml": "[server]\nlisten = \"127.0.0.1:9000\"\nshutdown_delay = \"5s\"\n[telemetry.traces]\nsample = 1\n[revocation]\nmax_entries = 5\n[[issuers]]\nname = \"corp\"\nissuer = \"https://idp.example\"\nkeys.discover = true\n",
		"c.json": `{"server":{"listen":"127.0.0.1:9000","shutdown_delay":"5s"},"telemetry":{"traces":{"sample":1}},"revocation":{"max_entries":5},"issuers":[{"name":"corp","issuer":"https://idp.example","keys":{"discover":true}}]}`,
	})
	want := dump(t, load(t, "c.yaml", config.Options{}))
	for _, file := range []string{"c.yml", "c.toml", "c.json"} {
		if diff := cmp.Diff(want, dump(t, load(t, file, config.Options{}))); diff != "" {
			t.Errorf("%s differs from c.yaml:\n%s", file, diff)
		}
	}
}

func dump(t *testing.T, c *config.Config) string {
	t.Helper()
	text, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFlagsWinOverEnvironmentOverFile(t *testing.T) {
	write(t, map[string]string{"c.yaml": corp + "server:\n  listen: 127.0.0.1:1000\n  admin: 127.0.0.1:1001\n  public_url: https://file.example\n"})
	c := load(t, "c.yaml", config.Options{
		Env:   []string{"INTROSPECTD_SERVER__LISTEN=127.0.0.1:2000", "INTROSPECTD_SERVER__ADMIN=[::1]:2001"},
		Flags: map[string]string{"server.listen": "127.0.0.1:3000"},
	})
	got := []string{c.Server.Listen, c.Server.Admin, c.Server.PublicURL, c.Server.Metrics}
	want := []string{"127.0.0.1:3000", "[::1]:2001", "https://file.example", ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listen, admin, public_url, metrics (-want +got):\n%s", diff)
	}
}

func TestEnvironmentSetsEveryKindOfValue(t *testing.T) {
	write(t, map[string]string{"c.yaml": corp + "server: {admin: 127.0.0.1:9, admin_hosts: [old]}\n"})
	c := load(t, "c.yaml", config.Options{Env: []string{
		"INTROSPECTD_SERVER__ADMIN=",
		"INTROSPECTD_SERVER__PPROF=true",
		"INTROSPECTD_SERVER__ADMIN_HOSTS=[a.example, b.example]",
		"INTROSPECTD_SERVER__SHUTDOWN_DELAY=7s",
		"INTROSPECTD_AUTH__ALLOW_FROM=[]",
		"INTROSPECTD_CACHE__VERDICTS__SIZE=1GiB",
		"INTROSPECTD_TELEMETRY__TRACES__SAMPLE=0.5",
		"INTROSPECTD_TELEMETRY__LOG={format: text, level: debug}",
	}})
	got := []any{
		c.Server.Admin, c.Server.PProf, c.Server.AdminHosts, c.Server.ShutdownDelay, len(c.Auth.AllowFrom),
		int64(c.Cache.Verdicts.Size), c.Telemetry.Traces.Sample, string(c.Telemetry.Log.Format), string(c.Telemetry.Log.Level),
	}
	want := []any{"", true, []string{"a.example", "b.example"}, 7 * time.Second, 0, int64(1 << 30), 0.5, "text", "debug"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNamesWithoutTwoUnderscoresAreNoSettings(t *testing.T) {
	write(t, map[string]string{"c.yaml": corp})
	load(t, "c.yaml", config.Options{Env: []string{
		"INTROSPECTD_PORT=tcp://10.96.0.1:8080",
		"INTROSPECTD_SERVICE_HOST=10.96.0.1",
		"INTROSPECTD_PORT_8080_TCP_ADDR=10.96.0.1",
		"INTROSPECTD_SERVICE_PORT_HTTP=8080",
		"INTROSPECTD_CONFIG=/elsewhere.yaml",
		"INTROSPECTD_LISTEN=nonsense",
		"OTHER_SERVER__LISTEN=nonsense",
	}})
}

func TestWithoutAFileFlagsCanSayEverything(t *testing.T) {
	c := load(t, "", config.Options{Flags: map[string]string{"issuers": "[{name: dev, issuer: 'http://127.0.0.1:1/dev', keys: {discover: true}}]"}})
	if got := c.Issuers[0].Name; got != "dev" {
		t.Errorf("name of the issuer: got %q, want dev", got)
	}
}

func TestOnlyIssuerIsWrittenIntoRowsThatNameNone(t *testing.T) {
	write(t, map[string]string{"c.yaml": corp + `
callers:
  - {id: a, secrets: [{sha256: ` + digest + `}], may: [introspect], any_audience: true}
  - {id: b, secrets: [{sha256: ` + digest + `}], may: [introspect], any_audience: true, any_issuer: true}
policies:
  - {name: default, any_audience: true}
`})
	c := load(t, "c.yaml", config.Options{})
	got := [][]string{c.Callers[0].Issuers, c.Callers[1].Issuers, c.Policies[0].Issuers}
	want := [][]string{{"corp"}, nil, {"corp"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestIncludedFilesAddEntries(t *testing.T) {
	write(t, map[string]string{
		"main.yaml":          "include: [conf.d/*, none.d/*.yaml, conf.d/a.yaml]\n" + corp,
		"conf.d/a.yaml":      "policies: [{name: a, any_audience: true, any_issuer: true}]\n",
		"conf.d/b.toml":      "[[policies]]\nname = 'b'\nany_audience = true\nany_issuer = true\n",
		"conf.d/c.json":      `{"issuers": [{"name": "c", "issuer": "https://c.example", "keys": {"discover": true}}]}`,
		"elsewhere/main.yml": "include: [../conf.d/c.json]\n" + corp,
	})
	c := load(t, "main.yaml", config.Options{})
	got := []string{c.Policies[0].Name, c.Policies[1].Name, c.Issuers[0].Name, c.Issuers[1].Name}
	if diff := cmp.Diff([]string{"a", "b", "corp", "c"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	want := []string{"conf.d/a.yaml", "conf.d/b.toml", "conf.d/c.json", "main.yaml"}
	if diff := cmp.Diff(want, c.Files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if n := len(load(t, "elsewhere/main.yml", config.Options{}).Issuers); n != 2 {
		t.Errorf("a glob is relative to the file that holds it: got %d issuers, want 2", n)
	}
}

// What watches files compares them from one look to the next.
func TestFilesStayInOrderAndShowNewIncludes(t *testing.T) {
	var secrets strings.Builder
	files := map[string]string{"conf.d/a.yaml": "policies: []\n"}
	for _, name := range []string{"one", "two", "three", "four"} {
		files[name] = "a-secret-of-enough-characters-" + name
		fmt.Fprintf(&secrets, "  - {id: %s, secrets: [{file: %s}], may: [introspect], any_audience: true}\n", name, name)
	}
	files["main.yaml"] = "include: [conf.d/*.yaml]\n" + corp + "callers:\n" + secrets.String()
	write(t, files)
	c := load(t, "main.yaml", config.Options{})
	want := []string{"conf.d/a.yaml", "four", "main.yaml", "one", "three", "two"}
	for range 20 {
		if diff := cmp.Diff(want, c.Files()); diff != "" {
			t.Fatalf("files (-want +got):\n%s", diff)
		}
	}
	if err := os.WriteFile("conf.d/b.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.Files(); !slices.Contains(got, "conf.d/b.yaml") {
		t.Errorf("after a file came: got %q, want it among them", got)
	}
}

// What mends a fault is often not the file that it stands in.
func TestAConfigurationAtFaultNamesItsFiles(t *testing.T) {
	caller := "callers: [{id: a, secrets: [{file: secret}], may: [introspect], any_audience: true}]\n"
	for _, tt := range []struct {
		name, main, part string
		want             []string
	}{
		{"a secret that is not there", "include: [part.yaml]\n" + corp, caller, []string{"main.yaml", "part.yaml", "secret"}},
		{"an unknown key beside it", "include: [part.yaml]\nnonsense: 1\n" + corp, caller, []string{"main.yaml", "part.yaml", "secret"}},
		{"an included file that can't be read", "include: [part.yaml]\n" + corp, "\t{", []string{"main.yaml", "part.yaml"}},
		{"a file that can't be read", "\t{", "", []string{"main.yaml"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, map[string]string{"main.yaml": tt.main, "part.yaml": tt.part})
			c, err := config.Load("main.yaml", config.Options{})
			if err == nil {
				t.Fatal("got no fault")
			}
			if diff := cmp.Diff(tt.want, c.Files()); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAGlobThatCatchesTheFileItselfAddsNothing(t *testing.T) {
	write(t, map[string]string{"main.yaml": "include: ['*.yaml']\nserver: {pprof: true}\n" + corp})
	if n := len(load(t, "main.yaml", config.Options{}).Issuers); n != 1 {
		t.Errorf("issuers: got %d, want 1", n)
	}
}

func TestYAMLAnchorsAndMergesAreFollowed(t *testing.T) {
	write(t, map[string]string{"c.yaml": `issuers:
  - &first
    name: corp
    issuer: https://idp.example
    keys: &keys {discover: true, refresh: 1m}
  - <<: *first
    name: second
    issuer: https://second.example
    keys:
      <<: *keys
      max_stale: 30
`})
	got := faults(t, "c.yaml", config.Options{})
	want := "c.yaml:11:7: issuers[1].keys.max_stale: expected a duration with a unit such as 30s, got 30"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRestartNeeded(t *testing.T) {
	write(t, map[string]string{
		"a.yaml": corp,
		"b.yaml": corp + "server: {listen: '127.0.0.1:1', tls: {certificate: ''}, trusted_proxies: [unix], pprof: true}\ncache: {verdicts: {ttl: 1m}}\nstate: {path: state}\n",
	})
	a, b := load(t, "a.yaml", config.Options{}), load(t, "b.yaml", config.Options{})
	want := []string{"server.listen", "server.pprof", "server.trusted_proxies", "state.path"}
	if diff := cmp.Diff(want, a.RestartNeeded(b)); diff != "" {
		t.Errorf("changed server and state (-want +got):\n%s", diff)
	}
	if again := a.RestartNeeded(load(t, "a.yaml", config.Options{})); len(again) > 0 {
		t.Errorf("the same file again: got %q, want nothing", again)
	}
}

// The state file changes whenever we write it, so it is none to watch.
func TestFilesListsWhatIsNamed(t *testing.T) {
	secret := strings.Repeat("s", 22)
	write(t, map[string]string{"secret": secret, "bearer": secret, "state": "", "c.yaml": corp + `
state: {path: state}
callers:
  - id: a
    secrets: [{file: secret}]
    bearer_tokens: [{file: bearer}]
    may: [introspect]
    any_audience: true
`})
	want := []string{"bearer", "c.yaml", "secret"}
	if diff := cmp.Diff(want, load(t, "c.yaml", config.Options{}).Files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestWarnings(t *testing.T) {
	secret := strings.Repeat("s", 22)
	write(t, map[string]string{"open": secret, "group": secret, "c.yaml": `
server: {tls_terminated_upstream: true}
issuers:
  - {name: corp, issuer: https://idp.example, keys: {jwks_url: 'http://keys.example/jwks', allow_http: true}}
callers:
  - {id: a, secrets: [{file: open}, {file: group}], may: [introspect], any_audience: true}
`})
	for name, mode := range map[string]os.FileMode{"open": 0o644, "group": 0o640} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"INSECURE server.tls_terminated_upstream is on: tokens and credentials arrive in plaintext, and only what stands in front protects them",
		"INSECURE issuers[0].keys.allow_http is on: who can change the traffic to the keys of corp can sign tokens in its name",
		"callers[0].secrets[0].file: everyone on this machine can read open (mode 0644)",
	}
	if diff := cmp.Diff(want, load(t, "c.yaml", config.Options{}).Warnings()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	write(t, map[string]string{"secret": secret, "c.yaml": corp + `
callers:
  - {id: a, secrets: [{file: secret}], may: [introspect], any_audience: true}
`})
	c := load(t, "c.yaml", config.Options{})
	for _, text := range []string{fmt.Sprintf("%v", *c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", *c), dump(t, c)} {
		if strings.Contains(text, secret) {
			t.Errorf("the secret stands in %s", text)
		}
	}
}

// A secret that is written where something else belongs must not reach the
// terminal or the log through the fault.
func TestFaultsDoNotShowMisplacedSecrets(t *testing.T) {
	const secret = "hunter2-hunter2-hunter2"
	for _, body := range []string{
		"callers: [{id: a, secrets: " + secret + "}]",
		"callers: [{id: a, secrets: [" + secret + "]}]",
		"callers: [{id: a, secrets: {file: " + secret + "}}]",
		"callers: [{id: a, secrets: [{sha256: " + secret + "}]}]",
		"callers: [{id: a, secrets: [{secret: " + secret + "}]}]",
		"callers: [{id: a, secrets: [{file: [" + secret + "]}]}]",
		"callers: [{id: a, bearer_tokens: " + secret + "}]",
		"callers: [{id: a, any_audience: {secrets: [" + secret + "]}}]",
		"callers: [{id: a, any_audience: [{secret: " + secret + "}]}]",
		"callers: [{id: a, claims: {secret: " + secret + "}}]",
		"callers: [{id: a, claims: [[" + secret + "]]}]",
		"signing: {keys: [{active_from: {secret: " + secret + "}}]}",
		"callers: !!int " + secret,
		secret,
	} {
		write(t, map[string]string{"c.yaml": body})
		if got := faults(t, "c.yaml", config.Options{}); strings.Contains(got, secret) {
			t.Errorf("%s: the fault shows it: %s", body, got)
		}
	}
}
