package redisstore

import "github.com/redis/go-redis/v9"

// Hook has all that the store asks of redis pass through h.
func (s *Store) Hook(h redis.Hook) { s.client.AddHook(h) }
