package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"introspectd/internal/config"
	"introspectd/internal/devissuer"
)

const (
	reloaded    = "reloaded"
	refused     = "reload refused; what runs goes on"
	lastReload  = "introspectd_config_last_reload_successful"
	cacheHits   = `introspectd_cache_requests_total{result="hit",tier="process"}`
	otherSecret = "another-horse-battery-staple"
)

// caller is a further row of `callers`.
func caller(id, secret string) string {
	digest := sha256.Sum256([]byte(secret))
	return fmt.Sprintf("  - {id: %s, secrets: [{sha256: %s}], may: [introspect], any_issuer: true, any_audience: true}\n", id, hex.EncodeToString(digest[:]))
}

// hangup makes the service read this configuration, and waits for the log line
// that says how that went.
func (s *service) hangup(config, outcome string) {
	s.t.Helper()
	before := len(s.lines(outcome))
	s.write(config)
	s.signal(syscall.SIGHUP)
	s.eventually("it says "+outcome, func() bool { return len(s.lines(outcome)) > before })
}

func TestReloadTakesOverWhatIsUnchanged(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	issuers := "issuers:\n" + row("idp", iss)
	s := start(t, oneCaller+caller("old", otherSecret)+issuers)
	token := issuer.Mint(nil)
	if got := s.introspect(token); got["active"] != true {
		t.Fatalf("before: got %v, want it active", got)
	}
	ask := func(id, token string) int {
		status, _ := s.postAs(id, otherSecret, "/introspect", url.Values{"token": {token}})
		return status
	}
	if got := ask("old", token); got != http.StatusOK {
		t.Fatalf("the caller that will go: got %d, want 200", got)
	}
	hits := s.metric(cacheHits)
	if hits != "1" {
		t.Fatalf("%s: got %q, want 1", cacheHits, hits)
	}
	// From here on there is nowhere to get keys from.
	issuer.Fail(devissuer.Refuse500)
	s.hangup(oneCaller+caller("new", otherSecret)+issuers, reloaded)

	t.Run("a caller that was added may ask", func(t *testing.T) {
		if got := ask("new", token); got != http.StatusOK {
			t.Errorf("got %d, want 200", got)
		}
	})
	t.Run("remembered verdicts are still remembered", func(t *testing.T) {
		if got := s.metric(cacheHits); got != "2" {
			t.Errorf("%s: got %q, want 2: the question of the new caller was one", cacheHits, got)
		}
	})
	t.Run("a caller that was removed may not", func(t *testing.T) {
		if got := ask("old", token); got != http.StatusUnauthorized {
			t.Errorf("got %d, want 401", got)
		}
	})
	t.Run("last good keys are kept", func(t *testing.T) {
		if got := s.introspect(issuer.Mint(nil)); got["active"] != true {
			t.Errorf("a new token: got %v, want it active", got)
		}
	})
	t.Run("an issuer whose rules changed forgets its verdicts and not its keys", func(t *testing.T) {
		s.hangup(oneCaller+issuers+"    claims: {map: [{remote_claim: jti, local_claim: ticket}], allow_reserved: [jti]}\n", reloaded)
		if got := s.introspect(token); got["active"] != true || got["ticket"] == nil {
			t.Errorf("got %v, want it active and mapped anew", got)
		}
	})
	t.Run("an issuer with another key source starts without the old keys", func(t *testing.T) {
		s.hangup(oneCaller+fmt.Sprintf("issuers:\n  - {name: idp, issuer: %s, keys: {jwks_url: %s/other.json}}\n", iss, iss), reloaded)
		if status, _ := s.post("/introspect", url.Values{"token": {token}}); status != http.StatusServiceUnavailable {
			t.Errorf("got %d, want 503: the keys of the old source are not those of the new", status)
		}
	})
}

func TestReloadOfABadFileChangesNothing(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	good := callerAndPolicy + "issuers:\n" + row("idp", iss)
	s := start(t, good)
	token := issuer.Mint(nil)
	if got := s.metric(lastReload); got != "1" {
		t.Errorf("%s before any reload: got %q, want 1", lastReload, got)
	}
	for _, tt := range []struct{ name, config, cause string }{
		{"an unknown key", "nonsense: 1\n" + good, s.Config + ":1:1: nonsense: "},
		{"a broken syntax", good + "\t{", s.Config + ":"},
		{"a setting of another type", good + "cache: {verdicts: {ttl: 5}}\n", "cache.verdicts.ttl"},
		{"a listener that would have to move", good + "server: {shutdown_delay: 1s, public_url: https://introspect.example}\n", "a change of [server.public_url server.shutdown_delay] needs a restart"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.hangup(tt.config, refused)
			lines := s.lines(refused)
			if cause := fmt.Sprint(lines[len(lines)-1]["cause"]); !strings.Contains(cause, tt.cause) {
				t.Errorf("the log's cause: got %q, want %q in it", cause, tt.cause)
			}
			if got := s.metric(lastReload); got != "0" {
				t.Errorf("%s: got %q, want 0", lastReload, got)
			}
			if got := s.introspect(token); got["active"] != true {
				t.Errorf("the running configuration: got %v, want the token active", got)
			}
			if got := s.status(s.Admin + "/readyz"); got != http.StatusOK {
				t.Errorf("/readyz: got %d, want 200: a refused reload makes nothing unready", got)
			}
		})
	}
	t.Run("a good file makes up for it", func(t *testing.T) {
		s.hangup(good, reloaded)
		if got := s.metric(lastReload); got != "1" {
			t.Errorf("%s: got %q, want 1", lastReload, got)
		}
	})
}

func TestChangedFilesAreReadWithoutASignal(t *testing.T) {
	t.Parallel() // it waits for the look at the files that happens every 2 s
	issuer, iss := newIssuer(t, "ES256")
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, otherSecret)
	from := fmt.Sprintf("callers:\n  - {id: app, secrets: [{file: %s}], may: [introspect], any_audience: true}\n", secret)
	s := start(t, from+"issuers:\n"+row("idp", iss))
	token := url.Values{"token": {issuer.Mint(nil)}}
	ask := func(secret string) int {
		status, _ := s.postAs("app", secret, "/introspect", token)
		return status
	}
	if got := ask(otherSecret); got != http.StatusOK {
		t.Fatalf("before: got %d, want 200", got)
	}
	writeFile(t, secret+".new", testSecret)
	if err := os.Rename(secret+".new", secret); err != nil {
		t.Fatal(err)
	}
	s.eventually("the new secret is the one", func() bool { return len(s.lines(reloaded)) == 1 })
	if got := ask(testSecret); got != http.StatusOK {
		t.Errorf("the new secret: got %d, want 200", got)
	}
	if got := ask(otherSecret); got != http.StatusUnauthorized {
		t.Errorf("the old secret: got %d, want 401", got)
	}
	s.write(from + caller("new", otherSecret) + "issuers:\n" + row("idp", iss))
	s.eventually("the configuration is read", func() bool {
		status, _ := s.postAs("new", otherSecret, "/introspect", token)
		return status == http.StatusOK
	})
}

func TestAChangeDuringTheStartIsSeen(t *testing.T) {
	t.Parallel()
	_, iss := newIssuer(t, "ES256")
	state := filepath.Join(t.TempDir(), "state")
	before := openStore(t, state) // of the process before, which is about to end
	config := "state: {path: " + state + "}\n" + oneCaller + "%sissuers:\n" + row("idp", iss)
	s := launch(t, fmt.Sprintf(config, ""))
	address := strings.TrimPrefix(s.URL, "http://")
	s.eventually("it has read its configuration", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	s.write(fmt.Sprintf(config, caller("new", otherSecret)))
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	s.wrote(reloaded, 1)
	if status, _ := s.postAs("new", otherSecret, "/introspect", url.Values{"token": {"x"}}); status != http.StatusOK {
		t.Errorf("the caller that was added: got %d, want 200", status)
	}
}

// Reading a configuration takes a while: one file can have changed before the
// last of them was read.
func TestAChangeWhileTheConfigurationIsReadIsSeen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	write := func(rows string) {
		if err := os.WriteFile(file, []byte("issuers:\n"+row("idp", "https://idp.example")+rows), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	changed := false
	cfg, seen, err := readFirst(func() (*config.Config, error) {
		cfg, err := config.Load(file, config.Options{})
		if !changed {
			changed = true
			write("policies: [{name: late, any_audience: true}]\n")
		}
		return cfg, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Policies) == 0 && seen == contentOf(cfg.Files()) {
		t.Error("got the configuration of before, and a change that counts as seen")
	}
}

func TestAPipeIsReadOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	times := 0
	_, _, err := readFirst(func() (*config.Config, error) {
		if times++; times > 1 {
			return nil, os.ErrClosed // a second reading would wait for ever
		}
		go func() { _ = os.WriteFile(file, []byte("issuers:\n"+row("idp", "https://idp.example")), 0o600) }()
		return config.Load(file, config.Options{})
	})
	if err != nil || times != 1 {
		t.Errorf("got %d readings and %v, want one", times, err)
	}
}

// What a refused configuration names is looked at as well: a Secret may come
// after the ConfigMap that names it.
func TestRefusedReloadIsTriedAgainWhenItsFilesChange(t *testing.T) {
	t.Parallel()
	_, iss := newIssuer(t, "ES256")
	issuers := "issuers:\n" + row("idp", iss)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	withSecret := oneCaller + fmt.Sprintf("  - {id: new, secrets: [{file: %s}], may: [introspect], any_issuer: true, any_audience: true}\n", file("secret")) + issuers
	for _, tt := range []struct{ name, config, file, bad, good string }{
		{"a secret that comes later", withSecret, file("secret"), "", otherSecret},
		{"a fault in an included file", oneCaller + "include: [" + file("part.yaml") + "]\n" + issuers, file("part.yaml"), "callers: [{id: new, nonsense: 1}]\n", "callers:\n" + caller("new", otherSecret)},
		{"an included file that can't be read as YAML", oneCaller + "include: [" + file("broken.yaml") + "]\n" + issuers, file("broken.yaml"), "\t{", "callers:\n" + caller("new", otherSecret)},
		{"a file that only an included one names", oneCaller + "include: [" + file("inner.yaml") + "]\n" + issuers, file("inner"), "", otherSecret},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, oneCaller+issuers)
			if tt.bad != "" {
				writeFile(t, tt.file, tt.bad)
			}
			writeFile(t, file("inner.yaml"), fmt.Sprintf("callers: [{id: new, secrets: [{file: %s}], may: [introspect], any_issuer: true, any_audience: true}]\n", file("inner")))
			s.write(tt.config)
			s.wrote(refused, 1)
			putFile(t, tt.file, []byte(tt.good))
			s.wrote(reloaded, 1)
			if got := s.metric(lastReload); got != "1" {
				t.Errorf("%s: got %q, want 1", lastReload, got)
			}
			if status, _ := s.postAs("new", otherSecret, "/introspect", url.Values{"token": {"x"}}); status != http.StatusOK {
				t.Errorf("the new caller: got %d, want 200", status)
			}
		})
	}
}

func TestTheSameRefusalIsToldOnce(t *testing.T) {
	_, iss := newIssuer(t, "ES256")
	dir := t.TempDir()
	secret, issuers := filepath.Join(dir, "secret"), "issuers:\n"+row("idp", iss)
	pid1 := newSystemd(t, filepath.Join(dir, "notify"))
	s := launch(t, oneCaller+issuers)
	pid1.wants("READY", "1")
	s.write(oneCaller + fmt.Sprintf("  - {id: new, secrets: [{file: %s}], may: [introspect], any_issuer: true, any_audience: true}\n", secret) + issuers)
	// The secret is a file that is new to us, so that there is a second try.
	for range 2 {
		pid1.wants("RELOADING", "1")
		pid1.wants("READY", "1")
	}
	writeFile(t, secret, otherSecret)
	s.wrote(reloaded, 1)
	if got := s.lines(refused); len(got) != 1 {
		t.Errorf("two tries with the same fault: got %v, want one line", got)
	}
}

// What is no file is never read to its end.
func TestPipesAndDevicesAreNotWatched(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	paths := []string{pipe, "/dev/zero", t.TempDir()}
	if first := contentOf(paths); contentOf(paths) != first {
		t.Error("got two digests of one content")
	}
}

// An operator who changes how long keys are good for while an issuer is away
// must not lose them by it.
func TestChangedKeySettingsKeepTheKeys(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	source := func(settings string) string {
		return oneCaller + fmt.Sprintf("issuers:\n  - {name: idp, issuer: %q, keys: {jwks_url: %q%s}}\n", iss, iss+"/jwks.json", settings)
	}
	s := start(t, source(""))
	issuer.Fail(devissuer.Refuse500)
	for _, settings := range []string{", max_stale: 23h", ", refresh: 1m", ", kid_required: true", ", allow_http: true"} {
		s.hangup(source(settings), reloaded)
		if got := s.introspect(issuer.Mint(nil)); got["active"] != true {
			t.Errorf("after %s: got %v, want the keys kept", settings, got)
		}
	}
	s.hangup(strings.Replace(source(""), "name: idp", "name: renamed", 1), reloaded)
	if got := s.introspect(issuer.Mint(nil)); got["active"] != true {
		t.Errorf("under another name: got %v, want the keys kept", got)
	}
}

func TestHangupIsNotHeldUpByAnIssuer(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	config := oneCaller + "issuers:\n" + row("idp", iss)
	s := start(t, config)
	issuer.Fail(devissuer.Hang)
	s.hangup(config, reloaded)
	s.hangup(config+caller("new", otherSecret), refused) // a caller's row where issuers end
	s.hangup(config, reloaded)
	if failures := s.lines("keys can't be fetched"); len(failures) > 0 {
		t.Errorf("got %v before the reloads were over, want them not to wait for it", failures)
	}
}

func TestHangupFetchesKeysAnew(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	config := oneCaller + "issuers:\n" + row("idp", iss)
	s := start(t, config)
	old := issuer.Mint(nil)
	if got := s.introspect(old); got["active"] != true {
		t.Fatalf("before: got %v, want it active", got)
	}
	issuer.Rotate("ES256")
	s.hangup(config, reloaded)
	s.eventually("the removed key is gone", func() bool { return s.introspect(old)["active"] == false })
}
