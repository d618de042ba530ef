package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"introspectd/internal/seal"
)

const (
	// maxKeySet is the largest key set, sealed.
	maxKeySet = 2 << 20
	// longestClaim is how long anybody may keep others off.
	longestClaim = time.Minute
)

// KeySets keeps values that any replica may renew, and who is at it. All of it
// is advice.
type KeySets struct {
	store *Store
	mu    sync.Mutex
	held  map[string]string // claims of this process, by name: what lies there
}

// KeySets returns the key sets of the store.
func (s *Store) KeySets() *KeySets { return &KeySets{store: s, held: map[string]string{}} }

// Get returns what was put under name, nil when there is none of ours. An error
// means that redis can't tell.
func (k *KeySets) Get(name string) ([]byte, error) {
	ctx, stop := k.store.limited()
	defer stop()
	key := k.store.key(name)
	entry, err := k.store.get(ctx, seal.KeySet, key, maxKeySet)
	switch {
	case errors.Is(err, errReplyTooLarge), err != nil && says(err, "WRONGTYPE"):
		k.store.refused(seal.KeySet, err)
		return nil, nil
	case err != nil:
		return nil, k.failed("reading", name, err)
	}
	return k.store.unseal(seal.KeySet, key, entry), nil
}

// Put keeps value under name until expires.
func (k *KeySets) Put(name string, value []byte, expires time.Time) error {
	left := time.Until(expires).Truncate(time.Millisecond)
	if left <= 0 {
		return nil
	}
	if len(value)+seal.Overhead > maxKeySet {
		return fmt.Errorf("writing %s to redis: %d bytes, at most %d can be kept", name, len(value), maxKeySet-seal.Overhead)
	}
	ctx, stop := k.store.limited()
	defer stop()
	key := k.store.key(name)
	if err := k.store.client.Set(ctx, key, k.store.box.Seal(seal.KeySet, key, value), left).Err(); err != nil {
		return k.failed("writing", name, err)
	}
	return nil
}

// failed is the error of an operation; a lack of rights is noted besides.
func (k *KeySets) failed(doing, name string, err error) error {
	k.store.refused(seal.KeySet, err)
	return fmt.Errorf("%s %s in redis: %w", doing, name, err)
}

// Claim takes name for lifetime, at most a minute, unless another replica has
// it. One that nobody could have taken for so long is removed, and counted.
func (k *KeySets) Claim(name string, lifetime time.Duration) (bool, error) {
	if lifetime < time.Millisecond { // to the library it would mean for ever
		return false, fmt.Errorf("claiming %s in redis: expected a lifetime, got %s", name, lifetime)
	}
	ctx, stop := k.store.limited()
	defer stop()
	key, owner := k.store.key(name), rand.Text()
	lifetime = min(lifetime, longestClaim)
	for range 2 {
		got, err := k.store.client.SetNX(ctx, key, owner, lifetime).Result()
		if err != nil {
			return false, k.failed("claiming", name, err)
		}
		if got {
			k.mu.Lock()
			k.held[name] = owner
			k.mu.Unlock()
			return true, nil
		}
		left, err := k.store.client.PTTL(ctx, key).Result()
		if err != nil {
			return false, k.failed("claiming", name, err)
		}
		if left >= 0 && left <= longestClaim || left == -2 { // -2: it is over
			return false, nil
		}
		k.store.metrics.removedLock()
		if err := k.store.client.Del(ctx, key).Err(); err != nil {
			return false, k.failed("claiming", name, err)
		}
	}
	return false, nil
}

// Release gives a claim back, if it is still ours. Between the look and the
// removal another's could be hit, which costs one fetch.
func (k *KeySets) Release(name string) {
	k.mu.Lock()
	owner, ours := k.held[name]
	delete(k.held, name)
	k.mu.Unlock()
	if !ours {
		return
	}
	ctx, stop := k.store.limited()
	defer stop()
	key := k.store.key(name)
	if there, err := k.store.client.GetRange(ctx, key, 0, 64).Result(); err == nil && there == owner {
		_ = k.store.client.Del(ctx, key).Err() // it ends by itself
	}
}

// limited is the time for what nobody waits for: a few commands.
func (s *Store) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 3*s.cfg.Timeout)
}
