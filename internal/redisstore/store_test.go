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
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"introspectd/internal/redisstore"
	"introspectd/internal/redistest"
	"introspectd/internal/seal"
)

// watched is a store whose log and counters can be looked at.
type watched struct {
	*redisstore.Store
	t      testing.TB
	log    *logBuffer
	reader *sdkmetric.ManualReader
}

// open starts a store that ends with the test.
func open(t testing.TB, cfg redisstore.Config, keys ...[]byte) *redisstore.Store {
	t.Helper()
	return watch(t, cfg, keys...).Store
}

func watch(t testing.TB, cfg redisstore.Config, keys ...[]byte) watched {
	t.Helper()
	if len(keys) == 0 {
		keys = [][]byte{sealKey(1)}
	}
	box, err := seal.New(cfg.Prefix, keys...)
	if err != nil {
		t.Fatal(err)
	}
	w := watched{t: t, log: &logBuffer{}, reader: sdkmetric.NewManualReader()}
	w.Store, err = redisstore.Open(cfg, box, redisstore.Options{
		Log:   slog.New(slog.NewTextHandler(w.log, nil)),
		Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(w.reader)).Meter(""),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	return w
}

// metric is what an instrument shows now, summed up over what matches labels,
// each of the form name=value.
func (w watched) metric(name string, labels ...string) (sum int64) {
	w.t.Helper()
	var all metricdata.ResourceMetrics
	if err := w.reader.Collect(context.Background(), &all); err != nil {
		w.t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			var points []metricdata.DataPoint[int64]
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = data.DataPoints
			case metricdata.Gauge[int64]:
				points = data.DataPoints
			}
			for _, p := range points {
				text := "," + p.Attributes.Encoded(attribute.DefaultEncoder()) + ","
				if !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(text, ","+l+",") }) {
					sum += p.Value
				}
			}
		}
	}
	return sum
}

func (w watched) refusals(kind, reason string) int64 {
	return w.metric("introspectd.redis.refused_entries", "kind="+kind, "reason="+reason)
}

// put writes a verdict and waits until redis has it.
func put(t testing.TB, s *redisstore.Store, key byte, value string, lifetime time.Duration) {
	t.Helper()
	eventually(t, 15*time.Second, "it is in redis", func() bool {
		s.Verdicts().Put(t.Context(), [32]byte{key}, []byte(value), lifetime, false)
		time.Sleep(5 * time.Millisecond)
		return got(s, key) == value
	})
}

func got(s *redisstore.Store, key byte) string {
	return string(s.Verdicts().Get(context.Background(), [32]byte{key}, nil))
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

func TestWhatIsPlantedIsAMissAndCounted(t *testing.T) {
	_, cfg, client := standalone(t)
	cfg.Timeout = 5 * time.Second // 8 MB take their time on a slow machine
	s := watch(t, cfg)
	put(t, s.Store, 1, "one", time.Hour)
	put(t, s.Store, 2, "two", time.Hour)
	if err := s.KeySets().Put("keys/a", []byte("set"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	one := client.Get(t.Context(), verdictKey(1)).Val()
	set := client.Get(t.Context(), "introspectd:keys/a").Val()
	foreign, err := seal.New(cfg.Prefix, sealKey(9))
	if err != nil {
		t.Fatal(err)
	}
	// planted puts something under a name, by whatever means redis has.
	planted := func(key, reason string, plant func(key string) error) {
		t.Helper()
		client.Del(t.Context(), key)
		if err := plant(key); err != nil {
			t.Fatal(err)
		}
		if key == verdictKey(1) {
			before := s.refusals("verdict", reason)
			if v := got(s.Store, 1); v != "" {
				t.Errorf("%s verdict: got %.20q", reason, v)
			}
			if n := s.refusals("verdict", reason) - before; n != 1 {
				t.Errorf("%s verdict: counted %d times", reason, n)
			}
			return
		}
		before := s.refusals("key_set", reason)
		if v, err := s.KeySets().Get("keys/a"); v != nil || err != nil {
			t.Errorf("%s key set: got %.20q, %v", reason, v, err)
		}
		if n := s.refusals("key_set", reason) - before; n != 1 {
			t.Errorf("%s key set: counted %d times", reason, n)
		}
	}
	for _, key := range []string{verdictKey(1), "introspectd:keys/a"} {
		good, other := one, set
		if key != verdictKey(1) {
			good, other = set, one
		}
		text := func(value string) func(string) error {
			return func(key string) error { return client.Set(t.Context(), key, value, time.Hour).Err() }
		}
		planted(key, "broken", text(good[:len(good)-1]))
		planted(key, "broken", text(good+"x"))
		planted(key, "broken", text(other)) // of another kind
		planted(key, "broken", text(client.Get(t.Context(), verdictKey(2)).Val()))
		planted(key, "version", text("\x02"+good[1:]))
		planted(key, "broken", text("garbage"))
		planted(key, "broken", text(`{"active":true}`))
		planted(key, "unknown_key", text(string(foreign.Seal(seal.Verdict, key, []byte("12345678forged")))))
		planted(key, "oversized", text(strings.Repeat("x", 8<<20)))
		planted(key, "oversized", text(good+strings.Repeat("x", 8<<20)))
		planted(key, "wrong_type", func(key string) error { return client.RPush(t.Context(), key, "a list").Err() })
	}
	if v := got(s.Store, 2); v != "two" {
		t.Errorf("after all that: got %q, want two", v)
	}
	if n := s.metric("introspectd.redis.breaker_state"); n != 0 {
		t.Errorf("values opened the breaker: %d", n)
	}
}

// What one look-up brings is bounded by what we keep, not by what was planted.
func TestAPlantedValueCostsNoMoreThanOneOfOurs(t *testing.T) {
	server, cfg, client := standalone(t)
	s := open(t, cfg)
	put(t, s, 1, "one", time.Hour)
	if err := client.Set(t.Context(), verdictKey(1), strings.Repeat("x", 8<<20), time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	sent := func() (n int64) {
		text, err := server.Do("INFO", "stats")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(text, "total_net_output_bytes:")
		if _, err := fmt.Sscan(after, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := sent()
	if v := got(s, 1); v != "" {
		t.Errorf("got %.20q", v)
	}
	if n := sent() - before; n > 1<<20 {
		t.Errorf("redis sent %d bytes for one look-up", n)
	}
}

func TestAnEternalLockIsRemoved(t *testing.T) {
	_, cfg, client := standalone(t)
	w := watch(t, cfg)
	a, b := w.KeySets(), open(t, cfg).KeySets()
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
	if n := w.metric("introspectd.redis.removed_locks"); n != 2 {
		t.Errorf("%d removed locks counted, want 2", n)
	}
}

func TestAClaimAlwaysHasAnEnd(t *testing.T) {
	_, cfg, client := standalone(t)
	k := open(t, cfg).KeySets()
	for _, lifetime := range []time.Duration{0, -time.Second, time.Microsecond} {
		if ok, err := k.Claim("fetch/x", lifetime); ok || err == nil {
			t.Errorf("for %s: got %t, %v", lifetime, ok, err)
		}
		if keys := client.Keys(t.Context(), "*").Val(); len(keys) != 0 {
			t.Errorf("for %s: redis has %q", lifetime, keys)
		}
	}
}

// T10: a redis that is away or hangs costs a request next to nothing.
func TestRequestsDoWithoutARedisThatDoesNotAnswer(t *testing.T) {
	for name, fault := range map[string]struct {
		break_, mend func(*redistest.Server) error
		first        time.Duration // that one of the first three may take
	}{
		"refuses": {
			func(s *redistest.Server) error { s.Kill(); return nil }, (*redistest.Server).Restart, 5 * time.Millisecond,
		},
		"hangs": {
			func(s *redistest.Server) error { s.Pause(); return nil }, func(s *redistest.Server) error { s.Resume(); return nil }, 60 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			server, cfg, _ := standalone(t)
			s := open(t, cfg)
			put(t, s, 1, "value", time.Hour)
			if err := fault.break_(server); err != nil {
				t.Fatal(err)
			}
			slow, quickest, total := 0, time.Hour, time.Duration(0)
			for n := range 200 {
				began := time.Now()
				s.Verdicts().Put(t.Context(), [32]byte{9}, []byte("x"), time.Hour, false)
				if v := got(s, 1); v != "" && v != "value" {
					t.Errorf("got %q", v)
				}
				took := time.Since(began)
				if total += took; took > 20*time.Millisecond {
					slow++
				}
				if n < 3 { // of several: this machine may be busy
					quickest = min(quickest, took)
				}
			}
			if quickest > fault.first {
				t.Errorf("each of the first look-ups took %s or more, want %s at most", quickest, fault.first)
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

// What an ACL user needs, in a cluster besides, and at sentinels;
// deploy/README.md quotes these.
const (
	leastACL    = "~introspectd:* resetchannels -@all +getrange +set +del +pttl +zadd +zrem +zcount +zscan +zremrangebyscore +xadd +xread +xrevrange +multi +exec +ping +info +hello +auth +select +wait"
	clusterACL  = "+cluster|slots +command"
	sentinelACL = "allchannels -@all +sentinel|get-master-addr-by-name +sentinel|sentinels +sentinel|replicas +subscribe +ping +hello +auth"
)

const aclUser, aclPassword = "introspectd", "a-long-password-of-its-own"

// grant makes the ACL user at each server.
func grant(t *testing.T, rights string, servers ...*redistest.Server) {
	t.Helper()
	for _, s := range servers {
		if _, err := s.Do(append([]string{"ACL", "SETUSER", aclUser, "on", ">" + aclPassword}, strings.Fields(rights)...)...); err != nil {
			t.Fatal(err)
		}
	}
}

func secret(t *testing.T, text string) redisstore.Secret {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return redisstore.Secret{File: file}
}

func TestTheLeastACLIsEnough(t *testing.T) {
	text, err := os.ReadFile("../../deploy/README.md")
	for _, acl := range []string{leastACL, clusterACL, sentinelACL} {
		if err != nil || !strings.Contains(string(text), acl) {
			t.Errorf("deploy/README.md does not quote %q, which is tested: %v", acl, err)
		}
	}
	t.Run("standalone", func(t *testing.T) {
		server, cfg, _ := standalone(t)
		grant(t, leastACL, server)
		enough(t, cfg, server)
	})
	t.Run("cluster", func(t *testing.T) {
		needRedis(t)
		c, err := redistest.StartCluster(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		grant(t, leastACL+" "+clusterACL, c.Nodes...)
		cfg := configFor(c.Addresses()...)
		cfg.Mode, cfg.WaitReplicas = redisstore.Cluster, 0 // there are none
		enough(t, cfg, c.Nodes...)
	})
	t.Run("sentinel", func(t *testing.T) {
		needRedis(t)
		w, err := redistest.StartSentinels(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		grant(t, leastACL, w.Servers...)
		grant(t, sentinelACL, w.Sentinels...)
		cfg := configFor(w.Addresses()...)
		cfg.Mode, cfg.Master = redisstore.Sentinel, redistest.MasterName
		cfg.Sentinel.Username, cfg.Sentinel.Password = aclUser, secret(t, aclPassword)
		enough(t, cfg, append(w.Sentinels, w.Servers...)...)
	})
}

// enough does all that this package does as the ACL user, and holds that none
// of the servers denied anything.
func enough(t *testing.T, cfg redisstore.Config, servers ...*redistest.Server) {
	t.Helper()
	cfg.Username, cfg.Password = aclUser, secret(t, aclPassword)
	s := watch(t, cfg)
	for n := range byte(10) { // on all nodes
		put(t, s.Store, n, "value", time.Hour)
	}
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
	eventually(t, 10*time.Second, "a comparison has tidied up", func() bool {
		return slices.ContainsFunc(servers, func(s *redistest.Server) bool {
			stats, err := s.Do("INFO", "commandstats")
			return err == nil && strings.Contains(stats, "cmdstat_zremrangebyscore:")
		})
	})
	for _, server := range servers {
		if denied, err := server.Do("ACL", "LOG"); err != nil || denied != "" {
			t.Errorf("redis denied something: %s %v", strings.ReplaceAll(denied, "\n", " "), err)
		}
	}
	if log := s.log.String(); strings.Contains(log, "NOPERM") {
		t.Error(log)
	}
}

func TestALackOfRightsIsSaid(t *testing.T) {
	for name, rights := range map[string]string{
		"of keys":  "resetkeys ~another:*",
		"of reads": "-getrange",
	} {
		t.Run(name, func(t *testing.T) {
			server, cfg, _ := standalone(t)
			grant(t, leastACL+" "+rights, server)
			cfg.Username, cfg.Password = aclUser, secret(t, aclPassword)
			s := watch(t, cfg)
			eventually(t, 5*time.Second, "it is among the problems", func() bool {
				if v := got(s.Store, 1); v != "" {
					t.Errorf("got %q", v)
				}
				return strings.Contains(strings.Join(s.Degraded(), " "), "forbids")
			})
			if v, err := s.KeySets().Get("keys/a"); err == nil {
				t.Errorf("a key set that may not be read is none: %q", v)
			}
			if log := s.log.String(); !strings.Contains(log, "NOPERM") {
				t.Errorf("the log does not say it: %s", log)
			}
			if n := s.metric("introspectd.redis.breaker_state"); n != 0 {
				t.Errorf("breaker_state is %d", n)
			}
		})
	}
}

func TestAWrongPasswordIsSaidAndMended(t *testing.T) {
	server, cfg, _ := standalone(t)
	grant(t, leastACL, server)
	cfg.Username, cfg.Password = aclUser, secret(t, "another")
	s := watch(t, cfg)
	eventually(t, 5*time.Second, "the log says why", func() bool { return strings.Contains(s.log.String(), "WRONGPASS") })
	if log := s.log.String(); strings.Contains(log, "another") {
		t.Errorf("the log has the password: %s", log)
	}
	quickest := time.Hour
	for range 10 {
		began := time.Now()
		if v := got(s.Store, 1); v != "" {
			t.Errorf("got %q", v)
		}
		quickest = min(quickest, time.Since(began))
	}
	if quickest > time.Millisecond {
		t.Errorf("each look-up took %s or more", quickest)
	}
	if _, err := server.Do("ACL", "SETUSER", aclUser, ">another"); err != nil {
		t.Fatal(err)
	}
	put(t, s.Store, 1, "value", time.Hour)
	if log := s.log.String(); !strings.Contains(log, "answers again") {
		t.Errorf("the log does not say that it is over: %s", log)
	}
}

func TestDatabasesAreKeptApart(t *testing.T) {
	_, cfg, client := standalone(t)
	cfg.DB = 3
	put(t, open(t, cfg), 1, "value", time.Hour)
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("database 0 has %d keys", n)
	}
	cfg.DB = 0
	if v := got(open(t, cfg), 1); v != "" {
		t.Errorf("got %q out of another database", v)
	}
}

// One hung node of several must not hold up requests for as long as the cluster
// takes to notice.
func TestOneHungNodeOfAClusterHoldsUpNobody(t *testing.T) {
	needRedis(t)
	c, err := redistest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	for _, n := range c.Nodes { // else they would soon help
		if _, err := n.Do("CONFIG", "SET", "cluster-node-timeout", "60000"); err != nil {
			t.Fatal(err)
		}
	}
	cfg := configFor(c.Addresses()...)
	cfg.Mode = redisstore.Cluster
	s := watch(t, cfg)
	for n := range byte(30) { // on all nodes
		put(t, s.Store, n, "value", time.Hour)
	}
	c.Nodes[1].Pause()
	eventually(t, 3*time.Second, "it is noticed", func() bool { return s.metric("introspectd.redis.up") == 0 })
	slow := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for n := range byte(30) {
			began := time.Now()
			if v := got(s.Store, n); v != "" && v != "value" {
				t.Errorf("got %q", v)
			}
			if time.Since(began) > 20*time.Millisecond {
				slow++
			}
		}
	}
	if slow > 3 {
		t.Errorf("%d look-ups waited", slow)
	}
	if n := strings.Count(s.log.String(), "does not answer"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, s.log.String())
	}
	c.Nodes[1].Resume()
	began := time.Now()
	for n := range byte(30) {
		put(t, s.Store, n, "again", time.Hour)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("used again after %s, want 5 s at most", took)
	}
}

func TestRedisOverTLS(t *testing.T) {
	dir := t.TempDir()
	certificate, key := selfSigned(t, dir)
	needRedis(t)
	addr, err := redistest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
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
