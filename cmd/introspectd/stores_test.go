package main

import (
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"introspectd/internal/config"
	"introspectd/internal/filestore"
	"introspectd/internal/redisstore"
	"introspectd/internal/revoke"
	"introspectd/internal/seal"
)

// Whoever writes to the file next finds out, and what was in it is written to the
// new one: also where the service is told to stop just then.
func TestRevocationsOutliveAStateFileThatWasRemovedBeforeTheEnd(t *testing.T) {
	t.Setenv("SEAL_KEY", base64.StdEncoding.EncodeToString(slices.Repeat([]byte{1}, seal.KeySize)))
	for name, redis := range map[string]redisstore.Config{
		"alone": {},
		"beside a redis that is away": {
			Set: true, Mode: redisstore.Standalone, Addresses: []string{"127.0.0.1:1"}, Prefix: "introspectd:",
			SealKeys: []redisstore.Secret{{Env: "SEAL_KEY"}}, Timeout: 100 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			cfg := &config.Config{
				State: filestore.Config{Path: path}, Redis: redis,
				Revocation: revoke.Config{MaxDelay: time.Second, MaxEntries: 100, Grace: time.Minute, OnOutage: revoke.Deny},
			}
			opened := func() *stores {
				kept, err := openStores(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)), nil)
				if err != nil {
					t.Fatal(err)
				}
				return kept
			}
			id := revoke.Of(revoke.Subject, "https://idp.example", "alice")
			kept := opened()
			ctx, stop := context.WithCancel(t.Context())
			ran := make(chan struct{})
			go func() {
				defer close(ran)
				kept.run(ctx, func() redisstore.Pace { return redisstore.Pace{MaxDelay: time.Second} })
			}()
			_, err := kept.revocations.Add(ctx, revoke.Revocation{
				Kind: revoke.Subject, IDs: []revoke.ID{id}, Issuer: "https://idp.example", Value: "alice", Expires: time.Now().Add(time.Hour),
			})
			if err != nil && !redis.Set {
				t.Fatal(err)
			}
			if redis.Set {
				kept.revocations.Current(time.Now())
				time.Sleep(500 * time.Millisecond) // until it is in the file
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := kept.file.Put("keys", []byte("{}"), time.Now().Add(time.Hour)); err == nil {
				t.Fatal("a value was written to a file without a name")
			}
			stop()
			<-ran
			kept.close()

			kept = opened()
			defer kept.close()
			if is, err := kept.revocations.Revoked(time.Now(), 0, nil, id[:]); !is {
				t.Errorf("REV-06 after a restart a token that was revoked is said to be none (error %v): %+v", err, kept.revocations.State())
			}
		})
	}
}
