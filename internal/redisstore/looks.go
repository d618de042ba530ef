package redisstore

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/seal"
)

const (
	// mostExchanges is how many are under way at once; what comes meanwhile goes
	// together.
	mostExchanges = 4
	// mostLooks is how many go together: as many as can't bring more than a
	// connection takes, were each planted as large as ours may be.
	mostLooks = 64
	// mostWaiting is beyond how many a request does without redis.
	mostWaiting = 4096
)

// looks has look-ups that meet go together. It has no goroutine of its own: one
// of those who ask makes the exchange for all, and hands the next one to who
// waits first.
type looks struct {
	together bool

	mu       sync.Mutex
	underWay int
	waiting  []*look
}

// look is one look-up.
type look struct {
	key   string
	until time.Time // when its request goes on without an answer
	news  chan bool // true: the next exchange is its to make; false: it was made
	entry []byte    // what lies under key
	reply *redis.StringCmd
}

func (l *looks) most() int {
	if l.together {
		return mostExchanges
	}
	return math.MaxInt
}

// join tells whether the exchange is the caller's to make at once, and, where
// not, whether there is room to wait.
func (l *looks) join(one *look) (makes, waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.underWay < l.most():
		l.underWay++
		return true, false
	case len(l.waiting) >= mostWaiting:
		return false, false
	}
	l.waiting = append(l.waiting, one)
	return false, true
}

// take returns what goes with one.
func (l *looks) take(one *look) []*look {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting), mostLooks-1)
	all := make([]*look, 0, 1+n)
	all = append(append(all, one), l.waiting[:n]...)
	l.drop(n)
	return all
}

// pass hands the exchange on.
func (l *looks) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		l.underWay--
		return
	}
	l.waiting[0].news <- true
	l.drop(1)
}

// drop takes the first n out of those who wait.
func (l *looks) drop(n int) {
	left := copy(l.waiting, l.waiting[n:])
	clear(l.waiting[left:])
	l.waiting = l.waiting[:left]
}

// look returns what lies under key: within the time of a request, and only while
// redis is usable. nil means that there is nothing, or that it can't be had.
func (s *Store) look(key string) []byte {
	if !s.usable() {
		return nil
	}
	limit := min(requestTime, s.cfg.Timeout)
	one := &look{key: key, until: time.Now().Add(limit)}
	if s.looks.together {
		one.news = make(chan bool, 1)
	}
	makes, waits := s.looks.join(one)
	if makes || waits && <-one.news {
		s.exchange(one, limit)
	}
	return one.entry
}

// exchange asks for one and what waits, unless most of one's time is over: an
// exchange that is cut short would tell against redis.
func (s *Store) exchange(one *look, limit time.Duration) {
	defer s.looks.pass()
	left := time.Until(one.until)
	if left < limit/2 || !s.usable() {
		return
	}
	all := s.looks.take(one)
	defer func() { // also of a panic
		for _, l := range all[1:] {
			l.news <- false
		}
	}()
	ctx, stop := context.WithTimeout(context.Background(), left)
	defer stop()
	_, _ = s.breaker.Execute(func() ([]byte, error) { return nil, s.getAll(ctx, all) }) // it counts
}

// getAll reads what lies under the keys of all. The error is one that concerns
// redis itself, if there is one: what is wrong with one value is counted.
func (s *Store) getAll(ctx context.Context, all []*look) (err error) {
	if len(all) == 1 {
		all[0].reply = s.client.GetRange(ctx, all[0].key, 0, maxVerdict)
	} else {
		_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error { // each has its own error
			for _, l := range all {
				l.reply = p.GetRange(ctx, l.key, 0, maxVerdict)
			}
			return nil
		})
	}
	for _, l := range all {
		text, fault := l.reply.Bytes()
		switch {
		case outage(fault):
			err = fault
		case fault != nil:
			s.refused(seal.Verdict, fault)
		case len(text) > maxVerdict:
			s.refused(seal.Verdict, errReplyTooLarge)
		default:
			l.entry = text
		}
		l.reply = nil
	}
	return err
}
