package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"introspectd/internal/devissuer"
)

// putStore writes a PKCS#12 trust store that holds keys by alias.
func putStore(t *testing.T, path, password string, keys map[string]*devissuer.Key) {
	t.Helper()
	var rows []pkcs12.TrustStoreEntry
	for alias, key := range keys {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Signer.Public(), key.Signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, pkcs12.TrustStoreEntry{Cert: c, FriendlyName: alias})
	}
	body, err := pkcs12.Modern.EncodeTrustStoreEntries(rows, password)
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, path, body)
}

// putFile replaces a file at once, as keytool does not and operators should.
func putFile(t *testing.T, path string, body []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", body, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestTrustStoreOfARunningService changes the file under the service, which
// nobody tells of it.
func TestTrustStoreOfARunningService(t *testing.T) {
	const iss, secret = "https://apim.example:9443/oauth2/token", "open-sesame-one"
	dir := t.TempDir()
	path, pass := filepath.Join(dir, "client-truststore.jks"), filepath.Join(dir, "password")
	putFile(t, pass, []byte(secret+"\n"))
	first, second, spare := devissuer.NewKey("RS256"), devissuer.NewKey("RS256"), devissuer.NewKey("ES256")
	token := func(key *devissuer.Key, kid string) string {
		header := fmt.Sprintf(`{"alg":%q,"kid":%q}`, key.Alg, kid)
		if kid == "" {
			header = fmt.Sprintf(`{"alg":%q}`, key.Alg)
		}
		return key.Sign(header, fmt.Sprintf(`{"iss":%q,"sub":"a","iat":%d,"exp":%d}`, iss, time.Now().Unix(), time.Now().Unix()+3600))
	}
	putStore(t, path, secret, map[string]*devissuer.Key{"Signer": first, "gateway_certificate_alias": spare})
	s := start(t, oneCaller+fmt.Sprintf(`issuers:
  - name: apim
    issuer: %s
    keys:
      truststore: {path: %s, password: {file: %s}, aliases: [signer], no_kid_alias: gateway_certificate_alias}
`, iss, path, pass))
	byFirst, bySecond := token(first, "SIGNER"), token(second, "SIGNER")
	active := func(what, token string, want bool) {
		t.Helper()
		s.eventually(what, func() bool { return s.introspect(token)["active"] == want })
	}
	active("a kid that is the alias but for its letters' case", byFirst, true)
	active("a token without a kid", token(spare, ""), true)
	active("a token by a key that isn't there", bySecond, false)

	// Nobody is told that these keys were dropped, as they would go on verifying.
	if status, _, body, err := post(s.client, s.Admin+"/issuers/apim/refresh?drop=true", "app", testSecret, nil); err != nil || status != http.StatusConflict {
		t.Errorf("drop=true: got %d %s, %v, want 409", status, body, err)
	}

	putStore(t, path, secret, map[string]*devissuer.Key{"signer": second, "gateway_certificate_alias": spare})
	active("the new key verifies", bySecond, true)
	active("and the old one does not, nor what was remembered of it", byFirst, false)

	putFile(t, path, []byte("half a file"))
	s.eventually("the reload is refused", func() bool { return len(s.lines(refused)) == 1 })
	active("the last good keys stay", token(second, "signer"), true)
	if got := s.metric(lastReload); got != "0" {
		t.Errorf("%s: got %q, want 0", lastReload, got)
	}
	var shown struct {
		Issuers []struct {
			Keys struct {
				LastError string `json:"last_error"`
			}
		}
	}
	s.eventually("the state tells of it", func() bool {
		if err := json.Unmarshal([]byte(s.issuers()), &shown); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(shown.Issuers[0].Keys.LastError, path)
	})

	// A compromised certificate was deleted, and the configuration still names
	// its alias: that refuses a reload, and must not keep the key.
	putStore(t, path, secret, map[string]*devissuer.Key{"gateway_certificate_alias": spare})
	active("the key that was deleted", bySecond, false)
	active("the other one", token(spare, ""), true)
	s.tells(`alias \"signer\" is bound and gone from `)
	s.eventually("the reload is refused for the alias that is missing", func() bool {
		lines := s.lines(refused)
		return strings.Contains(fmt.Sprint(lines[len(lines)-1]["cause"]), `no entry has the alias "signer"`)
	})

	// The password changes with its file.
	putFile(t, pass, []byte("open-sesame-two"))
	putStore(t, path, "open-sesame-two", map[string]*devissuer.Key{"signer": first, "gateway_certificate_alias": spare})
	active("with another password", byFirst, true)
	s.eventually("the reload went well", func() bool { return s.metric(lastReload) == "1" })

	if all := s.log.String(); strings.Contains(all, "sesame") {
		t.Error("the log holds a password")
	}
}

// TestTrustStoreNeedsItsPassword has the service end at once, with the file's
// name and without the password.
func TestTrustStoreNeedsItsPassword(t *testing.T) {
	dir := t.TempDir()
	path, pass := filepath.Join(dir, "client-truststore.jks"), filepath.Join(dir, "password")
	putStore(t, path, "right-sesame", map[string]*devissuer.Key{"a": devissuer.NewKey("ES256")})
	putFile(t, pass, []byte("wrong-sesame\n"))
	s := launch(t, oneCaller+fmt.Sprintf("issuers:\n  - {name: apim, issuer: https://apim.example, keys: {truststore: {path: %s, password: {file: %s}, aliases: [a]}}}\n", path, pass))
	if status := s.exit(); status != 2 {
		t.Errorf("exit status: got %d, want 2", status)
	}
	if text := s.log.String(); !strings.Contains(text, path+": wrong password") || strings.Contains(text, "sesame") {
		t.Errorf("got %s, want the file's name and nothing of a password", text)
	}
	// Unready, not wrong: nothing in the store is bound.
	putFile(t, pass, []byte("right-sesame\n"))
	s = launch(t, oneCaller+fmt.Sprintf("issuers:\n  - {name: apim, issuer: https://apim.example, keys: {truststore: {path: %s, password: {file: %s}}}}\n", path, pass))
	s.eventually("it listens", func() bool { return s.status(s.Admin+"/livez") == http.StatusOK })
	if status := s.status(s.Admin + "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("readyz: got %d, want 503", status)
	}
	s.tells("no alias of " + path + " may sign")
	s.signal(syscall.SIGTERM)
}
