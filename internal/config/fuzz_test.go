package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"introspectd/internal/config"
)

func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// trustStore makes a PKCS#12 store of one certificate under that alias.
func trustStore(t *testing.T, password, alias string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	store, err := pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: c, FriendlyName: alias}}, password)
	if err != nil {
		t.Fatal(err)
	}
	return string(store)
}

// FuzzLoad holds three things for any file: no panic, no error without a
// problem in it, and a configuration that was let through has an issuer.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		corp, corp + "policies: [{name: p, any_audience: true, headers: {X-A: null}}]\n", "a: &a [*a]\n", "a: &a {<<: *a}\n",
		"<<: [1]\n", "? [a]\n: b\n", "issuers: [[[[[[[[\n", "server: {tls: {}}\n---\n", "issuers:\n- &x {name: *x}\n", "5: 6\n",
		"include: ['[', '../*', 5]\n", "callers: [null, 5, {}, {claims: {}}]\n", "!!binary a: b\n", "server: 2020-01-01\n", "\xff\xfe",
	} {
		f.Add([]byte(seed))
	}
	file := filepath.Join(f.TempDir(), "c.yaml")
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file, config.Options{})
		if err == nil {
			if len(c.Issuers) == 0 {
				t.Fatalf("no fault in %q, but no issuer", body)
			}
			return
		}
		var list config.Faults
		if !errors.As(err, &list) || len(list) == 0 {
			t.Fatalf("got %T of %d faults for %q", err, len(list), body)
		}
		for _, fault := range list {
			if fault.Problem == "" || fault.Source == "" {
				t.Fatalf("got %#v for %q, want a source and a problem", fault, body)
			}
		}
	})
}
