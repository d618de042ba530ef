package redisstore

import (
	"time"

	"github.com/redis/go-redis/v9"
)

// Hook has all that the store asks of redis pass through h.
func (s *Store) Hook(h redis.Hook) { s.client.AddHook(h) }

// Wait is how long others are waited for.
type Wait = wait

// Others is others.
func (w *wait) Others(newest string, maxDelay time.Duration) bool { return w.others(newest, maxDelay) }
