package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/time/rate"
)

const (
	// poolSize is per node; a request that finds none free does without redis.
	poolSize = 64
	// maxReply bounds what one exchange may bring: whoever can write redis can
	// plant values of any size.
	maxReply = 16 << 20
)

var errReplyTooLarge = errors.New("redis sent more than anything of ours takes")

// connect makes the client of a mode. It dials nothing yet.
//
// Of the library's defaults nearly all would hold up a request: four tries of
// five dials each, five seconds for a reply whatever the context says, and
// commands at the beginning of a connection that older servers don't know.
func connect(cfg Config) (redis.UniversalClient, error) {
	encrypted, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	password, err := cfg.Password.read()
	if err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	sentinelPassword, err := cfg.Sentinel.Password.read()
	if err != nil {
		return nil, fmt.Errorf("sentinel.password: %w", err)
	}
	dial := dialer(cfg.Timeout, encrypted)
	quiet := &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch cfg.Mode {
	case Sentinel:
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: cfg.Master, SentinelAddrs: cfg.Addresses,
			SentinelUsername: cfg.Sentinel.Username, SentinelPassword: sentinelPassword,
			Username: cfg.Username, Password: password, DB: cfg.DB, Dialer: dial, TLSConfig: encrypted,
			MaxRetries: -1, DialerRetries: 1, DialTimeout: cfg.Timeout, ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout,
			PoolTimeout: cfg.Timeout, PoolSize: poolSize, PipelinePoolSize: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
		}), nil
	case Cluster:
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs:    cfg.Addresses,
			Username: cfg.Username, Password: password, Dialer: dial, TLSConfig: encrypted,
			MaxRedirects: 3, MaxRetries: -1, DialerRetries: 1, DialTimeout: cfg.Timeout, ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout,
			PoolTimeout: cfg.Timeout, PoolSize: poolSize, PipelinePoolSize: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
			MaintNotificationsConfig: quiet,
		}), nil
	default:
		return redis.NewClient(&redis.Options{
			Addr:     cfg.Addresses[0],
			Username: cfg.Username, Password: password, DB: cfg.DB, Dialer: dial, TLSConfig: encrypted,
			MaxRetries: -1, DialerRetries: 1, DialTimeout: cfg.Timeout, ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout,
			PoolTimeout: cfg.Timeout, PoolSize: poolSize, PipelinePoolSize: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
			MaintNotificationsConfig: quiet,
		}), nil
	}
}

// dialer dials connections that end when too much comes.
func dialer(timeout time.Duration, encrypted *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, stop := context.WithTimeout(ctx, timeout)
		defer stop()
		c, err := plain.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if encrypted == nil {
			return &bounded{Conn: c}, nil
		}
		own := encrypted.Clone()
		if own.ServerName == "" {
			own.ServerName, _, _ = net.SplitHostPort(addr) // it was dialled
		}
		t := tls.Client(&bounded{Conn: c}, own)
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, err
		}
		return t, nil
	}
}

// bounded is a connection that reads at most maxReply bytes after each write.
// Then it fails for good, so that no half-read reply is taken for the next.
type bounded struct {
	net.Conn
	read atomic.Int64
}

func (c *bounded) Write(b []byte) (int, error) {
	if c.read.Load() > maxReply {
		return 0, errReplyTooLarge
	}
	c.read.Store(0)
	return c.Conn.Write(b)
}

func (c *bounded) Read(b []byte) (int, error) {
	if c.read.Load() > maxReply {
		return 0, errReplyTooLarge
	}
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// SyscallConn lets the library see whether the other side has hung up.
func (c *bounded) SyscallConn() (syscall.RawConn, error) {
	inner, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return inner.SyscallConn()
}

// libraryLog is where go-redis says what it can't return, such as each failed
// dial: one line in a while.
type libraryLog struct {
	log  *slog.Logger
	some rate.Sometimes
}

func (l *libraryLog) Printf(ctx context.Context, format string, v ...any) {
	l.some.Do(func() { l.log.WarnContext(ctx, "redis", "cause", brief(fmt.Sprintf(format, v...))) })
}
