package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/seal"
)

// Feed is where replicas meet: a stream that brings a record to all of them,
// and a set, sorted by their ends, that is the whole. Both lie in one hash
// slot. What a record says is not known here.
type Feed struct {
	store       *Store
	stream, set string
	replica     string // names this process among those that follow
	metrics     feedMetrics

	mu   sync.Mutex
	mine map[[16]byte]int64 // ends of the records appended here, in seconds
}

const (
	feedName = "{revocations}"

	streamLength = 20_000 // messages, nearly; what is older is in the set
	appendTime   = 2 * time.Second
	waitTime     = time.Second // of that, for replicas of Redis
	recordHead   = 16 + 8      // name, end in seconds
	maxRecord    = 8 << 10     // sealed
	rememberMine = 100_000
)

// The fields of a message in the stream, and what it may be.
const (
	fieldKind = "kind"
	fieldFrom = "from" // of a heartbeat: whose it is
	fieldBody = "body"

	recordKind    = "record"
	heartbeatKind = "heartbeat"
)

// mark names the member of the set which says that a replica with our seal keys
// has put all that it held there since the set began. A set without one has begun
// anew, and may lack what other replicas still hold. It says nothing of a record
// that was lost since; that is found by comparing. Its name is no record's, and
// its end is never: its score is +inf.
var mark = [16]byte{}

func scoreOf(name [16]byte, expires time.Time) float64 {
	if name == mark {
		return math.Inf(1)
	}
	return float64(expires.Unix())
}

// Feed returns the feed of the store. It keeps what it lent to others first
// when Redis has lost it, so there is one for each process.
func (s *Store) Feed() (*Feed, error) {
	f := &Feed{store: s, stream: s.key(feedName + ":stream"), set: s.key(feedName + ":set"), mine: map[[16]byte]int64{}}
	f.replica = rand.Text()
	var err error
	f.metrics, err = newFeedMetrics(s.meter)
	return f, err
}

// Append brings a record to all replicas. nil means that the master has it and,
// in sentinel and cluster mode, so many of its replicas as wait_replicas says:
// no failover loses it. After an error it may be there or not.
func (f *Feed) Append(ctx context.Context, name [16]byte, value []byte, expires time.Time) error {
	ctx, stop := context.WithTimeout(ctx, appendTime)
	defer stop()
	f.remember(name, expires)
	node, err := f.node(ctx)
	if err != nil {
		return fmt.Errorf("appending to the feed: %w", err)
	}
	// WAIT is about what its own connection has written.
	conn := node.Conn()
	defer conn.Close()
	if _, err := conn.TxPipelined(ctx, func(p redis.Pipeliner) error {
		f.put(ctx, p, name, value, expires, true)
		return nil
	}); err != nil {
		return fmt.Errorf("appending to the feed: %w", err)
	}
	want := f.store.cfg.WaitReplicas
	if f.store.cfg.Mode == Standalone || want == 0 {
		return nil
	}
	switch have, err := conn.Wait(ctx, want, waitTime).Result(); {
	case err != nil:
		return fmt.Errorf("waiting for replicas of redis: %w", err)
	case int(have) < want:
		return fmt.Errorf("%d replicas of redis have the record, wait_replicas is %d", have, want)
	}
	return nil
}

// node is the client of the node that has stream and set.
func (f *Feed) node(ctx context.Context) (*redis.Client, error) {
	switch c := f.store.client.(type) {
	case *redis.Client:
		return c, nil
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, f.set)
	}
	return nil, fmt.Errorf("no node for %T", f.store.client)
}

// put adds the commands that keep a record; told says that others hear of it
// at once.
func (f *Feed) put(ctx context.Context, p redis.Pipeliner, name [16]byte, value []byte, expires time.Time, told bool) {
	body := f.seal(name, value, expires)
	p.ZAdd(ctx, f.set, redis.Z{Score: float64(expires.Unix()), Member: body})
	if told {
		p.XAdd(ctx, &redis.XAddArgs{
			Stream: f.stream, MaxLen: streamLength, Approx: true,
			Values: []any{fieldKind, recordKind, fieldBody, body},
		})
	}
}

// seal and open put a record's name and its end into the seal, where nobody
// can change them.
func (f *Feed) seal(name [16]byte, value []byte, expires time.Time) []byte {
	plain := make([]byte, 0, recordHead+len(value))
	plain = append(plain, name[:]...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(expires.Unix()))
	return f.store.box.Seal(seal.Revocation, f.set, append(plain, value...))
}

func (f *Feed) open(body string) (name [16]byte, value []byte, expires time.Time, err error) {
	if len(body) > maxRecord {
		return name, nil, expires, seal.ErrBroken
	}
	plain, err := f.store.box.Open(seal.Revocation, f.set, []byte(body))
	if err == nil && len(plain) < recordHead {
		err = seal.ErrBroken
	}
	if err != nil {
		return name, nil, expires, err
	}
	return [16]byte(plain), plain[recordHead:], time.Unix(int64(binary.BigEndian.Uint64(plain[16:])), 0), nil
}

// foreign says whether something was sealed by another release or with a key
// that is not configured here, so that it can't be told what it says.
func foreign(err error) bool {
	return errors.Is(err, seal.ErrUnknownKey) || errors.Is(err, seal.ErrVersion)
}

// fingerprint tells two sealed forms of one record apart, alike in every
// process.
func fingerprint(body string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(body)) // never fails
	return h.Sum64()
}

// remember keeps what was appended here: its writer puts it back first.
func (f *Feed) remember(name [16]byte, expires time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.mine) >= rememberMine {
		now := time.Now().Unix()
		for n, end := range f.mine {
			if end <= now {
				delete(f.mine, n)
			}
		}
	}
	if len(f.mine) < rememberMine {
		f.mine[name] = expires.Unix()
	}
}

func (f *Feed) wrote(name [16]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ours := f.mine[name]
	return ours
}
