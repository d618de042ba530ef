package redisstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/redisstore"
	"introspectd/internal/redistest"
	"introspectd/internal/seal"
)

// open starts a store that ends with the test.
func open(t *testing.T, cfg redisstore.Config, keys ...[]byte) *redisstore.Store {
	t.Helper()
	if len(keys) == 0 {
		keys = [][]byte{sealKey(1)}
	}
	box, err := seal.New(cfg.Prefix, keys...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := redisstore.Open(cfg, box, redisstore.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// put writes a verdict and waits until redis has it.
func put(t *testing.T, s *redisstore.Store, key byte, value string, lifetime time.Duration) {
	t.Helper()
	eventually(t, 15*time.Second, "it is in redis", func() bool {
		s.Verdicts().Put(t.Context(), [32]byte{key}, []byte(value), lifetime, false)
		time.Sleep(5 * time.Millisecond)
		return got(s, key) == value
	})
}

func got(s *redisstore.Store, key byte) string {
	return string(s.Verdicts().Get(context.Background(), [32]byte{key}))
}

func verdictKey(key byte) string {
	digest := [32]byte{key}
	return "introspectd:verdict:" + base64.RawURLEncoding.EncodeToString(digest[:])
}

func TestVerdictsEndAndAreNeverKeptForEver(t *testing.T) {
	_, cfg, client := standalone(t)
	s := open(t, cfg)
	put(t, s, 1, "value", time.Hour)
	put(t, s, 2, "short", time.Second)
	eventually(t, 5*time.Second, "its time is over", func() bool { return got(s, 2) == "" })
	for _, lifetime := range []time.Duration{0, -time.Second, time.Microsecond} {
		s.Verdicts().Put(t.Context(), [32]byte{3}, []byte("x"), lifetime, false)
	}
	s.Verdicts().Put(t.Context(), [32]byte{4}, []byte("x"), time.Hour, true) // refused
	s.Verdicts().Put(t.Context(), [32]byte{5}, make([]byte, 1<<20), time.Hour, false)
	put(t, s, 6, "after them", time.Hour)
	if err := s.KeySets().Put("keys/a", []byte("set"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.KeySets().Put("keys/b", []byte("set"), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.KeySets().Claim("fetch/a", time.Hour); !ok || err != nil {
		t.Fatal(ok, err)
	}
	keys, err := client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 4 { // 1, 6, the set, the claim
		t.Errorf("redis has %q, %v", keys, err)
	}
	for _, key := range keys {
		if left := client.PTTL(t.Context(), key).Val(); left <= 0 || left > time.Hour || strings.Contains(key, "fetch") && left > time.Minute {
			t.Errorf("%s ends in %s", key, left)
		}
	}
}

func TestWhatIsPlantedIsAMiss(t *testing.T) {
	_, cfg, client := standalone(t)
	s := open(t, cfg)
	put(t, s, 1, "one", time.Hour)
	put(t, s, 2, "two", time.Hour)
	if err := s.KeySets().Put("keys/a", []byte("set"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	one := client.Get(t.Context(), verdictKey(1)).Val()
	set := client.Get(t.Context(), "introspectd:keys/a").Val()
	for name, value := range map[string]string{
		"garbage": "garbage", "JSON": `{"active":true}`, "another's entry": client.Get(t.Context(), verdictKey(2)).Val(),
		"a key set": set, "cut": one[:len(one)-1], "longer": one + "x", "a newer version": "\x02" + one[1:], "8 MB": strings.Repeat("x", 8<<20),
		"8 MB behind a good one": one + strings.Repeat("x", 8<<20),
	} {
		for _, key := range []string{verdictKey(1), "introspectd:keys/a"} {
			if key == "introspectd:keys/a" && value == set {
				continue
			}
			if err := client.Set(t.Context(), key, value, time.Hour).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if v := got(s, 1); v != "" {
			t.Errorf("%s: got %.20q", name, v)
		}
		if v, err := s.KeySets().Get("keys/a"); value != set && (v != nil || err != nil) {
			t.Errorf("%s as a key set: got %.20q, %v", name, v, err)
		}
	}
	for _, key := range []string{verdictKey(1), "introspectd:keys/a"} {
		client.Del(t.Context(), key)
		if err := client.RPush(t.Context(), key, "a list").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if v := got(s, 1); v != "" {
		t.Errorf("a list: got %q", v)
	}
	if v, err := s.KeySets().Get("keys/a"); v != nil || err != nil {
		t.Errorf("a list as a key set: got %q, %v", v, err)
	}
	if v := got(s, 2); v != "two" {
		t.Errorf("after all that: got %q, want two", v)
	}
}

func TestAnEternalLockIsRemoved(t *testing.T) {
	_, cfg, client := standalone(t)
	a, b := open(t, cfg).KeySets(), open(t, cfg).KeySets()
	for name, ttl := range map[string]time.Duration{"without an end": 0, "for an hour": time.Hour} {
		if err := client.Set(t.Context(), "introspectd:fetch/x", "somebody", ttl).Err(); err != nil {
			t.Fatal(err)
		}
		if ok, err := a.Claim("fetch/x", 10*time.Second); !ok || err != nil {
			t.Errorf("%s: got %t, %v", name, ok, err)
		}
		if ok, err := b.Claim("fetch/x", 10*time.Second); ok || err != nil {
			t.Errorf("%s: the other got %t, %v", name, ok, err)
		}
		b.Release("fetch/x") // not its own
		if ok, _ := b.Claim("fetch/x", 10*time.Second); ok {
			t.Errorf("%s: a claim was given back by another", name)
		}
		a.Release("fetch/x")
		if ok, err := b.Claim("fetch/x", 10*time.Second); !ok || err != nil {
			t.Errorf("%s: after it was given back: got %t, %v", name, ok, err)
		}
		b.Release("fetch/x")
	}
}

// T10: a redis that is away or hangs costs a request next to nothing.
func TestRequestsDoWithoutARedisThatDoesNotAnswer(t *testing.T) {
	for name, fault := range map[string]struct{ break_, mend func(*redistest.Server) error }{
		"refuses": {
			func(s *redistest.Server) error { s.Kill(); return nil }, (*redistest.Server).Restart,
		},
		"hangs": {
			func(s *redistest.Server) error { s.Pause(); return nil }, func(s *redistest.Server) error { s.Resume(); return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, cfg, _ := standalone(t)
			s := open(t, cfg)
			put(t, s, 1, "value", time.Hour)
			if err := fault.break_(server); err != nil {
				t.Fatal(err)
			}
			slow, total := 0, time.Duration(0)
			for range 200 {
				began := time.Now()
				s.Verdicts().Put(t.Context(), [32]byte{9}, []byte("x"), time.Hour, false)
				if v := got(s, 1); v != "" && v != "value" {
					t.Errorf("got %q", v)
				}
				took := time.Since(began)
				if total += took; took > 20*time.Millisecond {
					slow++
				}
			}
			if slow > 5 || total > 2*time.Second {
				t.Errorf("%d of 200 look-ups waited, %s in all; the breaker opens after 3", slow, total)
			}
			if err := fault.mend(server); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			put(t, s, 2, "again", time.Hour)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("used again after %s, want 5 s at most", took)
			}
		})
	}
}

func TestARedisThatTakesNoWritesStillAnswers(t *testing.T) {
	for name, args := range map[string][2][]string{
		"a replica":     {{"REPLICAOF", "127.0.0.1", "1"}, {"REPLICAOF", "NO", "ONE"}},
		"out of memory": {{"CONFIG", "SET", "maxmemory", "1"}, {"CONFIG", "SET", "maxmemory", "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			server, cfg, _ := standalone(t)
			s := open(t, cfg)
			put(t, s, 1, "value", time.Hour)
			if _, err := server.Do(args[0]...); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				s.Verdicts().Put(t.Context(), [32]byte{2}, []byte("x"), time.Hour, false)
				time.Sleep(time.Millisecond)
				if v := got(s, 1); v != "value" {
					t.Fatalf("got %q, want the value of before", v)
				}
			}
			if err := s.KeySets().Put("keys/a", []byte("x"), time.Now().Add(time.Hour)); err == nil {
				t.Error("a write was called done")
			}
			if _, err := server.Do(args[1]...); err != nil {
				t.Fatal(err)
			}
			put(t, s, 3, "again", time.Hour)
		})
	}
}

func TestVerdictsInAClusterAndOverAFailover(t *testing.T) {
	t.Parallel()
	needRedis(t)
	c, err := redistest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	cfg := configFor(c.Addresses()...)
	cfg.Mode = redisstore.Cluster
	s := open(t, cfg)
	for n := range byte(20) { // on all nodes
		put(t, s, n, "value", time.Hour)
	}

	w, err := redistest.StartSentinels(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	cfg = configFor(w.Addresses()...)
	cfg.Mode, cfg.Master = redisstore.Sentinel, redistest.MasterName
	s = open(t, cfg)
	put(t, s, 1, "value", time.Hour)
	var asking sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	asking.Go(func() {
		for ctx.Err() == nil {
			if v := got(s, 1); v != "" && v != "value" {
				t.Errorf("got %q", v)
			}
			time.Sleep(time.Millisecond)
		}
	})
	if err := w.Failover(); err != nil {
		t.Fatal(err)
	}
	put(t, s, 2, "after", time.Hour)
	stop()
	asking.Wait()
}

// LeastACL is what an ACL user needs; deploy/README.md quotes it.
const leastACL = "~introspectd:* resetchannels -@all +getrange +set +del +pttl +zadd +zrem +zcount +zscan +zremrangebyscore +xadd +xread +xrevrange +multi +exec +ping +info +hello +auth +select +wait"

func TestTheLeastACLIsEnough(t *testing.T) {
	text, err := os.ReadFile("../../deploy/README.md")
	if err != nil || !strings.Contains(string(text), leastACL) {
		t.Errorf("deploy/README.md does not quote the ACL that is tested: %v", err)
	}
	server, cfg, client := standalone(t)
	line := append([]string{"ACL", "SETUSER", "introspectd", "on", ">a-long-password-of-its-own"}, strings.Fields(leastACL)...)
	if _, err := server.Do(line...); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Do("ACL", "SETUSER", "default", "resetpass", ">another-password"); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	cfg.Username, cfg.Password.File = "introspectd", filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(cfg.Password.File, []byte("a-long-password-of-its-own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	put(t, s, 1, "value", time.Hour)
	k := s.KeySets()
	if err := k.Put("keys/a", []byte("set"), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	for range 2 {
		if _, err := k.Claim("fetch/a", 10*time.Second); err != nil {
			t.Error(err)
		}
	}
	k.Release("fetch/a")
	if ok, err := k.Claim("fetch/a", 10*time.Second); !ok || err != nil {
		t.Errorf("the claim was not given back: %t, %v", ok, err)
	}
	a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
	a.current()
	b.current()
	a.revoke("alice")
	eventually(t, time.Second, "it is at the other", func() bool { return b.knows("alice") })
	time.Sleep(3 * time.Second) // a comparison, and what it tidies up
	if denied, err := redisDo(cfg, server.Addr, "another-password", "ACL", "LOG"); err != nil || denied != "" {
		t.Errorf("redis denied something: %s %v", denied, err)
	}
}

// redisDo asks as the default user with a password.
func redisDo(_ redisstore.Config, addr, password string, args ...any) (string, error) {
	c := redis.NewClient(&redis.Options{Addr: addr, Password: password, DisableIdentity: true})
	defer c.Close()
	rows, err := c.Do(context.Background(), args...).Slice()
	if err != nil || len(rows) == 0 {
		return "", err
	}
	var text strings.Builder
	for _, row := range rows {
		if m, ok := row.(map[any]any); ok {
			text.WriteString(strings.TrimSpace(m["object"].(string)) + " ")
		}
	}
	return text.String(), nil
}

func TestRedisOverTLS(t *testing.T) {
	dir := t.TempDir()
	certificate, key := selfSigned(t, dir)
	needRedis(t)
	addr := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}()
	_, port, _ := net.SplitHostPort(addr)
	server, err := redistest.Start(dir, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "yes")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	cfg := configFor(addr)
	cfg.Timeout = time.Second
	cfg.TLS = redisstore.TLSConfig{Enabled: true, CA: certificate, Certificate: certificate, Key: key}
	put(t, open(t, cfg), 1, "value", time.Hour)

	cfg.TLS = redisstore.TLSConfig{Enabled: true} // the system's roots don't know it
	s := open(t, cfg)
	for range 5 {
		if v := got(s, 1); v != "" {
			t.Errorf("an unknown certificate was trusted: %q", v)
		}
	}
}

func selfSigned(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wanted := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, wanted, wanted, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, "redis.crt"), filepath.Join(dir, "redis.key")
	for name, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

func TestPrefixesAndSealKeysKeepFleetsApart(t *testing.T) {
	_, cfg, _ := standalone(t)
	s := open(t, cfg)
	put(t, s, 1, "value", time.Hour)
	other := cfg
	other.Prefix = "staging:"
	for name, s := range map[string]*redisstore.Store{"another prefix": open(t, other), "another seal key": open(t, cfg, sealKey(2))} {
		if v := got(s, 1); v != "" {
			t.Errorf("%s: got %q", name, v)
		}
	}
	if v := got(open(t, cfg, sealKey(2), sealKey(1)), 1); v != "value" {
		t.Errorf("with the old key as second: got %q", v)
	}
}

func TestAnEvictingRedisIsSaid(t *testing.T) {
	server, cfg, _ := standalone(t, "--maxmemory-policy", "allkeys-lru")
	s := open(t, cfg)
	eventually(t, 5*time.Second, "it says so", func() bool { return strings.Contains(strings.Join(s.Degraded(), " "), "allkeys-lru") })
	server.Kill()
	eventually(t, 5*time.Second, "it says that redis is away", func() bool { return strings.Contains(strings.Join(s.Degraded(), " "), "does not answer") })
}
