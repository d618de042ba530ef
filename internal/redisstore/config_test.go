package redisstore_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"introspectd/internal/redisstore"
)

func TestEveryFaultOfTheSectionIsSaid(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := func(fill byte) string { return base64.StdEncoding.EncodeToString(sealKey(fill)) }
	one, two := redisstore.Secret{File: file("one", key(1)+"\n")}, redisstore.Secret{File: file("two", key(2))}
	certificate, private := selfSigned(t, dir)
	t.Setenv("EMPTY", "")
	t.Setenv("WINDOWS", key(3))

	good := redisstore.Config{
		Set: true, Mode: redisstore.Standalone, Addresses: []string{"redis.example:6379"}, Prefix: "introspectd:",
		SealKeys: []redisstore.Secret{one}, WaitReplicas: 1, Timeout: 100 * time.Millisecond,
	}
	for _, row := range []struct {
		name   string
		change func(c *redisstore.Config)
		faults string // key: a word of the problem; several apart by "; "
	}{
		{"nothing is wrong", func(*redisstore.Config) {}, ""},
		{"two keys, of a file and of the environment", func(c *redisstore.Config) { c.SealKeys = []redisstore.Secret{one, {Env: "WINDOWS"}} }, ""},
		{"an address of six", func(c *redisstore.Config) { c.Addresses = []string{"[::1]:6379"} }, ""},
		{"no address", func(c *redisstore.Config) { c.Addresses = nil }, "addresses: host:port"},
		{"no port", func(c *redisstore.Config) { c.Addresses = []string{"redis.example"} }, "addresses[0]: host:port"},
		{"no host", func(c *redisstore.Config) { c.Addresses = []string{":6379"} }, "addresses[0]: host:port"},
		{"a port of letters", func(c *redisstore.Config) { c.Addresses = []string{"redis.example:redis"} }, "addresses[0]: host:port"},
		{"port 0", func(c *redisstore.Config) { c.Addresses = []string{"redis.example:0"} }, "addresses[0]: host:port"},
		{"a port too far", func(c *redisstore.Config) { c.Addresses = []string{"redis.example:65536"} }, "addresses[0]: host:port"},
		{"a password in an address", func(c *redisstore.Config) { c.Addresses = []string{"redis://:" + key(1) + "@redis.example:6379"} }, "addresses[0]: host:port alone"},
		{"a password before a host", func(c *redisstore.Config) { c.Addresses = []string{key(1) + "@redis.example:6379"} }, "addresses[0]: host:port alone"},
		{"two standalone", func(c *redisstore.Config) { c.Addresses = []string{"a:1", "b:1"} }, "addresses: one address"},
		{"sentinels without a master", func(c *redisstore.Config) { c.Mode = redisstore.Sentinel }, "master: the name"},
		{"a master without sentinels", func(c *redisstore.Config) { c.Master = "m" }, "master: standalone"},
		{"a sentinel's user without sentinels", func(c *redisstore.Config) { c.Sentinel.Username = "u" }, "sentinel: standalone"},
		{"a user without a password", func(c *redisstore.Config) { c.Username = "u" }, "username: default user"},
		{"a user with a password", func(c *redisstore.Config) { c.Username, c.Password.File = "u", one.File }, ""},
		{"the default user", func(c *redisstore.Config) { c.Username = "default" }, ""},
		{"a user of a certificate", func(c *redisstore.Config) {
			c.Username, c.TLS = "u", redisstore.TLSConfig{Enabled: true, Certificate: certificate, Key: private}
		}, ""},
		{"a sentinel's user without a password", func(c *redisstore.Config) {
			c.Mode, c.Master, c.Sentinel.Username = redisstore.Sentinel, "m", "u"
		}, "sentinel.username: default user"},
		{"a database of a cluster", func(c *redisstore.Config) { c.Mode, c.DB = redisstore.Cluster, 1 }, "db: got 1"},
		{"a database below all", func(c *redisstore.Config) { c.DB = -1 }, "db: got -1"},
		{"no prefix", func(c *redisstore.Config) { c.Prefix = "" }, "prefix: visible ASCII"},
		{"a hash tag", func(c *redisstore.Config) { c.Prefix = "{a}" }, "prefix: visible ASCII"},
		{"a space", func(c *redisstore.Config) { c.Prefix = "a b" }, "prefix: visible ASCII"},
		{"a control character", func(c *redisstore.Config) { c.Prefix = "a\n" }, "prefix: visible ASCII"},
		{"a pattern", func(c *redisstore.Config) { c.Prefix = "a*" }, "prefix: visible ASCII"},
		{"too little time", func(c *redisstore.Config) { c.Timeout = 9 * time.Millisecond }, "timeout: 10ms to 5s"},
		{"too much time", func(c *redisstore.Config) { c.Timeout = 6 * time.Second }, "timeout: 10ms to 5s"},
		{"less than no replicas", func(c *redisstore.Config) { c.WaitReplicas = -1 }, "wait_replicas: 0 or more"},
		{"no seal key", func(c *redisstore.Config) { c.SealKeys = nil }, "seal_keys: openssl rand -base64 32"},
		{"an empty seal key", func(c *redisstore.Config) { c.SealKeys = []redisstore.Secret{{}} }, "seal_keys[0]: file or env"},
		{"a short seal key", func(c *redisstore.Config) { c.SealKeys = []redisstore.Secret{{File: file("short", "c2hvcnQ=")}} }, "seal_keys[0]: 32 bytes"},
		{"a seal key twice", func(c *redisstore.Config) { c.SealKeys = []redisstore.Secret{one, two, one} }, "seal_keys[2]: seal_keys[0]"},
		{"five seal keys", func(c *redisstore.Config) {
			for fill := range byte(4) {
				c.SealKeys = append(c.SealKeys, redisstore.Secret{File: file("more"+string('a'+fill), key(10+fill))})
			}
		}, "seal_keys: at most 4"},
		{"a password of two places", func(c *redisstore.Config) { c.Password = redisstore.Secret{File: one.File, Env: "EMPTY"} }, "password: either"},
		{"a password that is not there", func(c *redisstore.Config) { c.Password.File = filepath.Join(dir, "none") }, "password: readable"},
		{"an empty file", func(c *redisstore.Config) { c.Password.File = file("empty", "\n") }, "password: 1 to 1024"},
		{"an empty variable", func(c *redisstore.Config) { c.Password.Env = "EMPTY" }, "password: 1 to 1024"},
		{"no variable", func(c *redisstore.Config) { c.Password.Env = "NOT_SET_ANYWHERE" }, "password: NOT_SET_ANYWHERE"},
		{"a password without end", func(c *redisstore.Config) { c.Password.File = file("long", strings.Repeat("x", 4096)) }, "password: 1 to 1024"},
		{"TLS", func(c *redisstore.Config) {
			c.TLS = redisstore.TLSConfig{Enabled: true, CA: certificate, Certificate: certificate, Key: private, ServerName: "redis"}
		}, ""},
		{"TLS that is not enabled", func(c *redisstore.Config) { c.TLS.CA = certificate }, "tls.enabled: true"},
		{"roots that are none", func(c *redisstore.Config) { c.TLS = redisstore.TLSConfig{Enabled: true, CA: one.File} }, "tls.ca: PEM"},
		{"roots that are not there", func(c *redisstore.Config) { c.TLS = redisstore.TLSConfig{Enabled: true, CA: "none"} }, "tls.ca: readable"},
		{"a certificate without a key", func(c *redisstore.Config) { c.TLS = redisstore.TLSConfig{Enabled: true, Certificate: certificate} }, "tls.certificate: neither"},
		{"a key that is none", func(c *redisstore.Config) {
			c.TLS = redisstore.TLSConfig{Enabled: true, Certificate: certificate, Key: one.File}
		}, "tls.certificate: PEM"},
		{"several at once", func(c *redisstore.Config) { c.Prefix, c.Timeout, c.DB = "", 0, -1 }, "db: got; prefix: visible; timeout: 10ms"},
		{"a section that was not written", func(c *redisstore.Config) { *c = redisstore.Config{} }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := good
			row.change(&c)
			var got []string
			c.Check(func(key, problem string) { got = append(got, key+": "+problem) })
			want := strings.Split(row.faults, "; ")
			if row.faults == "" {
				want = nil
			}
			if len(got) != len(want) {
				t.Fatalf("got %q, want %q", got, want)
			}
			for i := range want {
				key, word, _ := strings.Cut(want[i], ": ")
				if !strings.HasPrefix(got[i], key+": ") || !strings.Contains(got[i], word) {
					t.Errorf("got %q, want %q with %q", got[i], key, word)
				}
			}
			for _, fault := range got {
				if strings.Contains(fault, key(1)) {
					t.Errorf("a secret is shown: %q", fault)
				}
			}
		})
	}
}
