package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
// Appends that meet are written together.
func (r *Records) Append(_ context.Context, name [16]byte, value []byte, expires time.Time) error {
	if len(value) > MaxRecord {
		return fmt.Errorf("writing a record to %s: %d bytes, at most %d can be kept", r.store.path, len(value), MaxRecord)
	}
	as, kept := r.store.seal(recordName(name), value)
	key := recordPrefix + string(name[:])
	one := &appended{name: []byte(key), stored: encode(as, key, kept, expires), done: make(chan error, 1)}
	for waiting := r.waiting; ; {
		select {
		case err := <-one.done:
			return err
		case waiting <- one:
			waiting = nil // whoever writes next takes it
		case r.writing <- struct{}{}:
			r.writeWaiting()
			<-r.writing
		}
	}
}

// writeWaiting writes what waits, and tells each how that ended.
func (r *Records) writeWaiting() {
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
	err := r.store.do(func(db *bolt.DB) error {
		if err := db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucket)
			for _, one := range batch {
				if err := b.Put(one.name, one.stored); err != nil {
					return err
				}
			}
			if sweep {
				return dropOver(b, time.Now())
			}
			return nil
		}); err != nil {
			return err
		}
		return db.View(func(tx *bolt.Tx) error {
			last := batch[len(batch)-1]
			if got := tx.Bucket(bucket).Get(last.name); string(got) != string(last.stored) && !sweep {
				return damage{err: errors.New("what was written is not there")}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("writing records to %s: %w", r.store.path, err)
	}
	if sweep {
		r.written = 0
	}
	return nil
}

// dropOver takes the records out that are over at now.
func dropOver(b *bolt.Bucket, now time.Time) error {
	var over [][]byte
	err := eachRecord(b, func(name, stored []byte) error {
		_, _, expires, err := decode(string(name), stored)
		if err == nil && !now.Before(expires) {
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

// eachRecord calls its argument for every stored record.
func eachRecord(b *bolt.Bucket, call func(name, stored []byte) error) error {
	c := b.Cursor()
	for name, stored := c.Seek([]byte(recordPrefix)); bytes.HasPrefix(name, []byte(recordPrefix)); name, stored = c.Next() {
		if len(name) != len(recordPrefix)+16 {
			return damage{err: fmt.Errorf("%w: its name has %d bytes", errDamaged, len(name))}
		}
		if err := call(name, stored); err != nil {
			return err
		}
	}
	return nil
}

// Each calls its argument for every record that is not over. An error means that
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
				if !now.Before(expires) {
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
