package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"
)

// MaxRecord is the size in bytes of the largest record.
const MaxRecord = 8 << 10

// recordPrefix is what the names of records begin with in the database, and
// those of values never do.
const recordPrefix = "\x00record/"

const (
	// mostTogether bounds how many records one transaction writes.
	mostTogether = 1024
	appendTime   = 5 * time.Second
	// clockMargin is how long a record stays past its end, and is read by Each: the
	// clock may be ahead, at the start of a machine say, and put right afterwards.
	clockMargin = 24 * time.Hour
	// sweepEvery is after how many of them those that are over are taken out.
	sweepEvery = 10_000
)

// Records are many small values, by names of 16 bytes, that are never changed
// but added and outlived. They and the values don't know of each other.
type Records struct {
	store *Store
	// writing has one place, for who writes; waiting is what comes meanwhile.
	writing chan struct{}
	waiting chan *appended
	written int // since the last sweep; under writing
}

// appended is a record on its way to the disk.
type appended struct {
	name   []byte
	stored []byte
	done   chan error
}

// Records returns the records of the file.
func (s *Store) Records() *Records { return &s.records }

// Append keeps value, of at most MaxRecord bytes, under name until expires, by
// the wall clock in whole seconds. It is on the disk when Append returns nil.
// Appends that meet are written together. A disk that hangs is waited for until
// ctx ends, at most five seconds; the record may be written afterwards.
func (r *Records) Append(ctx context.Context, name [16]byte, value []byte, expires time.Time) error {
	if len(value) > MaxRecord {
		return fmt.Errorf("writing a record to %s: %d bytes, at most %d can be kept", r.store.path, len(value), MaxRecord)
	}
	as, kept := r.store.seal(recordName(name), value)
	key := recordPrefix + string(name[:])
	one := &appended{name: []byte(key), stored: encode(as, key, kept, expires), done: make(chan error, 1)}
	ctx, stop := context.WithTimeout(ctx, appendTime)
	defer stop()
	for waiting := r.waiting; ; {
		select {
		case err := <-one.done:
			return err
		case <-ctx.Done():
			return fmt.Errorf("writing a record to %s: %w", r.store.path, ctx.Err())
		case waiting <- one:
			waiting = nil // whoever writes next takes it
		case r.writing <- struct{}{}:
			go func() { // goes on when nobody waits for it any more; Close waits while it writes
				r.writeWaiting()
				<-r.writing
			}()
		}
	}
}

// writeWaiting writes what waits, and tells each how that ended.
func (r *Records) writeWaiting() {
	runtime.Gosched() // on one processor, those that have come are still on their way here
	var batch []*appended
	for len(r.waiting) > 0 { // nobody else takes any
		batch = append(batch, <-r.waiting)
	}
	if len(batch) == 0 {
		return
	}
	err := r.write(batch)
	for _, one := range batch {
		one.done <- err
	}
}

func (r *Records) write(batch []*appended) error {
	r.written += len(batch)
	sweep := r.written >= sweepEvery
	now := time.Now()
	err := r.store.do(func(db *bolt.DB) error {
		return r.store.change(db,
			func(b *bolt.Bucket) error { return put(b, batch, sweep, now) },
			func(b *bolt.Bucket) error { return written(b, batch, now) })
	})
	if err != nil {
		return fmt.Errorf("writing records to %s: %w", r.store.path, err)
	}
	if sweep {
		r.written = 0
	}
	return nil
}

// put writes a batch with its tally, and where sweep asks for it takes out what
// is over.
func put(b *bolt.Bucket, batch []*appended, sweep bool, now time.Time) error {
	kept, err := tallied(b)
	if err != nil {
		return err
	}
	for _, one := range batch {
		if was := b.Get(one.name); was != nil {
			kept.remove(one.name, was)
		}
		if err := b.Put(one.name, one.stored); err != nil {
			return err
		}
		kept.add(one.name, one.stored)
	}
	if sweep {
		if err := dropOver(b, now, &kept); err != nil {
			return err
		}
	}
	return kept.write(b)
}

// written reads back what put wrote. Of two of one name the later one is there.
func written(b *bolt.Bucket, batch []*appended, now time.Time) error {
	last := make(map[string][]byte, len(batch))
	for _, one := range batch {
		last[string(one.name)] = one.stored
	}
	for name, stored := range last {
		got := b.Get([]byte(name))
		if _, _, expires, _ := decode(name, stored); got == nil && droppable([]byte(name), expires, now) {
			continue // swept
		}
		if !bytes.Equal(got, stored) {
			return damage{err: errors.New("what was written is not there")}
		}
	}
	return nil
}

// dropOver takes the records out that are long over at now.
func dropOver(b *bolt.Bucket, now time.Time, kept *tally) error {
	var over [][]byte
	err := eachRecord(b, func(name, stored []byte) error {
		_, _, expires, err := decode(string(name), stored)
		if err == nil && droppable(name, expires, now) {
			kept.remove(name, stored)
			over = append(over, bytes.Clone(name))
		}
		return nil
	})
	for _, name := range over {
		if err == nil {
			err = b.Delete(name)
		}
	}
	return err
}

// droppable says whether what is over may go at now; a record stays a while.
func droppable(name []byte, expires, now time.Time) bool {
	if bytes.HasPrefix(name, []byte(recordPrefix)) {
		expires = expires.Add(clockMargin)
	}
	return !now.Before(expires)
}

// eachRecord calls its argument for every stored record.
func eachRecord(b *bolt.Bucket, call func(name, stored []byte) error) error {
	return each(b, recordPrefix, func(name, stored []byte) error {
		if len(name) != len(recordPrefix)+16 {
			return damage{err: fmt.Errorf("%w: its name has %d bytes", errDamaged, len(name))}
		}
		return call(name, stored)
	})
}

// each calls its argument for everything whose name begins with prefix. Names
// have to ascend: a spoilt page can lead back to where one came from.
func each(b *bolt.Bucket, prefix string, call func(name, stored []byte) error) error {
	c := b.Cursor()
	var last []byte
	for name, stored := c.Seek([]byte(prefix)); bytes.HasPrefix(name, []byte(prefix)) && name != nil; name, stored = c.Next() {
		if last != nil && bytes.Compare(name, last) <= 0 {
			return damage{err: fmt.Errorf("%w: its names don't ascend", errDamaged)}
		}
		last = name
		if err := call(name, stored); err != nil {
			return err
		}
	}
	return nil
}

// Each calls its argument for every record, also for what has been over for less
// than clockMargin: its end is for the caller to look at. An error means that
// some could not be read: ErrSealed where they are there, but not for us.
func (r *Records) Each(call func(name [16]byte, value []byte, expires time.Time)) error {
	sealed := 0
	now := time.Now()
	err := r.store.do(func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			return eachRecord(tx.Bucket(bucket), func(name, stored []byte) error {
				as, kept, expires, err := decode(string(name), stored)
				if errors.Is(err, errVersion) {
					sealed++ // a later release's: it can't be told what it says
					return nil
				}
				if err != nil {
					return damage{err: err}
				}
				if droppable(name, expires, now) {
					return nil
				}
				own := [16]byte(name[len(recordPrefix):])
				value, err := r.store.unseal(recordName(own), kept, as == versionSealed)
				if err != nil {
					sealed++ // the others are read all the same
					return nil
				}
				call(own, bytes.Clone(value), expires)
				return nil
			})
		})
	})
	if err == nil && sealed > 0 {
		err = fmt.Errorf("%d records: %w", sealed, ErrSealed)
	}
	if err != nil {
		return fmt.Errorf("reading records from %s: %w", r.store.path, err)
	}
	return nil
}
