// Package filestore keeps bytes with a lifetime in one local file, over a
// restart and over a kill at any moment. It knows nothing of what it keeps.
//
// # Decisions
//
// bbolt for the file. Context: a file that is written in place, or renamed
// over without a sync, may be half there after a crash. Choice: one bbolt
// database; a Put is on the disk when it returns. Cost: one process at a time,
// and a sync for every Put.
//
// Each value has a checksum over its name, its end and its bytes, and all
// records together have a tally. Context: bbolt keeps none beyond its two meta
// pages, so that a flipped bit would come back as a value, a list of free pages
// that is wrong lets it overwrite one value by another, and a spoilt meta page
// takes it back by a transaction. Choice: SHA-256 beside the value; what was
// written is read back; Open wants both meta pages in order and the tally to
// agree. Cost: 41 bytes each. It is not a seal: who can write the file can
// write a checksum.
//
// bbolt's own check of its pages is not used. Context: it would find a wrong
// list of free pages at the start. But it runs in a goroutine of its own, where
// a page that misleads it is a fault that ends the process, at every start.
// Choice: only what we can guard reads the file. Cost: such damage shows later,
// as a value that is lost.
//
// What can be written by others is refused rather than repaired. Context: what
// lies here is believed later. Choice: Open wants a regular file of our own, or
// root's, that neither group nor others can write. Cost: an operator has to say
// chmod once. Its readers learn nothing secret.
//
// Records lie among the values, under names of their own, and are written
// together. Context: a fleet's revocations come by the hundred thousand, and a
// sync to the disk takes a millisecond. Choice: appends that meet share one transaction; each returns
// when it is on the disk. Cost: an append that comes while another is written
// waits for two.
//
// A damaged file is set aside whole. Context: a service that can't start for
// the sake of what merely helps it start is worse than none of that. Choice:
// Open reads all there is, and a file that fails it gets another name and an
// empty one its place. Cost: values beside the damaged one are lost; the start
// reads the whole file.
//
// A file has to keep its name while it is open. Context: one that is removed or
// replaced takes every write and loses it with the process. Choice: after each
// write the name is looked at; where another file has it, or none, the write has
// failed, and what is there now, or an empty file, is used. Cost: who removes the
// file while nothing is written is not told, and a kill before whoever holds the
// values has written them again loses the rest.
package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// MaxValue is the size in bytes of the largest value.
	MaxValue = 2 << 20

	lockTime = time.Second
)

// bucket is where the values are in the database.
var bucket = []byte("values")

var errClosed = errors.New("the state file is closed")

// Options are what a Store needs beside its path.
type Options struct {
	// Log takes what is set aside or dropped.
	Log *slog.Logger
	// Seal and Unseal make what is kept unreadable for whoever reads the file;
	// both or neither. A name is given back as it was given.
	Seal   func(name string, plain []byte) []byte
	Unseal func(name string, sealed []byte) ([]byte, error)
}

// ErrSealed says that something is there which can't be unsealed: its key is
// not at hand, or somebody has changed it.
var ErrSealed = errors.New("what is there is sealed and can't be read")

// Store is an open file. It is safe for concurrent use.
type Store struct {
	path    string
	log     *slog.Logger
	options Options
	records Records

	// One at a time: bbolt keeps its locks when it panics, and nobody may come
	// to wait for those.
	mu     sync.Mutex
	db     *bolt.DB
	file   *os.File
	failed error // set when there is no file to use
	// replaced counts the files that took the place of another; it is read while a
	// disk hangs.
	replaced atomic.Int64
}

// Open opens the file at path, and makes it, with mode 0600, if it is not
// there; its directory must be. A damaged file, or one that is no database, is
// renamed to <path>.corrupt-<UTC time>, and an empty one takes its place. The
// error names the file: it can't be read or made, is no regular file, can be
// written by others, or is in use by another process.
func Open(path string, o Options) (*Store, error) {
	s := &Store{path: path, log: o.Log, options: o}
	s.records = Records{store: s, writing: make(chan struct{}, 1), waiting: make(chan *appended, mostTogether)}
	if s.open(); s.failed != nil {
		return nil, s.failed
	}
	return s, nil
}

// open opens the file, or an empty one where it is damaged.
func (s *Store) open() {
	s.db, s.file, s.failed = open(s.path, s.log)
	if d, damaged := errors.AsType[damage](s.failed); damaged {
		s.replace(d)
	}
}

// replace sets a damaged file aside, if it still has its name, and goes on with
// what is there then or an empty one.
func (s *Store) replace(d damage) {
	if err := setAside(s.path, d, s.log); err != nil {
		s.failed = fmt.Errorf("setting the damaged state file %s aside: %w", s.path, err)
		return
	}
	s.db, s.file, s.failed = open(s.path, s.log)
	s.replaced.Add(1)
}

// Replaced is how often another file took the place of one that was damaged or
// had lost its name: whoever holds what was in it may write it again.
func (s *Store) Replaced() int { return int(s.replaced.Load()) }

// SetAside lists the damaged files that lie beside ours now, in this process's
// life or before it.
func (s *Store) SetAside() (found []string) {
	entries, err := os.ReadDir(filepath.Dir(s.path))
	if err != nil {
		// What lies there can't be told, and so it may be.
		s.log.Warn("the directory of the state file can't be read", "state", s.path, "cause", err.Error())
		return []string{filepath.Dir(s.path)}
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(s.path)+asideSuffix) {
			found = append(found, filepath.Join(filepath.Dir(s.path), e.Name()))
		}
	}
	return found
}

// asideSuffix is what the name of a damaged file begins to differ with.
const asideSuffix = ".corrupt-"

// Get returns a copy of the value that was put under name, nil when there is
// none or its time is over. An error means that it can't be told.
func (s *Store) Get(name string) ([]byte, error) {
	var value []byte
	over, sealed := false, false
	err := s.do(func(db *bolt.DB) error {
		err := db.View(func(tx *bolt.Tx) error {
			stored := tx.Bucket(bucket).Get([]byte(name))
			if stored == nil {
				return nil
			}
			kind, v, expires, err := decode(name, stored)
			if err != nil {
				return damage{err: err} // Open has dropped what is of another version
			}
			sealed = kind == versionSealed
			if over = !time.Now().Before(expires); !over {
				value = bytes.Clone(v)
			}
			return nil
		})
		if err != nil || !over {
			return err
		}
		return db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(name)) })
	})
	if err == nil && value != nil {
		value, err = s.unseal(valueName(name), value, sealed)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %q from %s: %w", name, s.path, err)
	}
	return value, nil
}

// valueName and recordName are what values and records are sealed as.
func valueName(name string) string    { return "value/" + name }
func recordName(name [16]byte) string { return fmt.Sprintf("record/%x", name) }

// seal returns what is stored of a value, and as which version.
func (s *Store) seal(name string, value []byte) (byte, []byte) {
	if s.options.Seal == nil {
		return version, value
	}
	return versionSealed, s.options.Seal(name, value)
}

// unseal opens what was sealed. What was written before sealing was asked for
// is taken as it is: the file's permissions are what is trusted, and the seal
// keeps its readers from reading.
func (s *Store) unseal(name string, stored []byte, sealed bool) ([]byte, error) {
	if !sealed {
		return stored, nil
	}
	if s.options.Unseal == nil {
		return nil, ErrSealed
	}
	plain, err := s.options.Unseal(name, stored)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return plain, nil
}

// Put keeps value, of at most MaxValue bytes, under name until expires, by the
// wall clock in whole seconds. It is on the disk when Put returns nil; on an
// error what was there before is still there.
func (s *Store) Put(name string, value []byte, expires time.Time) error {
	if len(value) > MaxValue {
		return fmt.Errorf("writing %q to %s: %d bytes, at most %d can be kept", name, s.path, len(value), MaxValue)
	}
	as, kept := s.seal(valueName(name), value)
	stored := encode(as, name, kept, expires)
	err := s.do(func(db *bolt.DB) error {
		return s.change(db, func(b *bolt.Bucket) error { return b.Put([]byte(name), stored) }, func(b *bolt.Bucket) error {
			if !bytes.Equal(b.Get([]byte(name)), stored) {
				return damage{err: errors.New("what was written is not there")}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("writing %q to %s: %w", name, s.path, err)
	}
	return nil
}

// Close gives the file back. What is asked afterwards is an error.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := s.failed
	s.failed = errClosed
	if failed != nil {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the state file %s: %w", s.path, err)
	}
	return nil
}

// do runs work on the database, alone. Where that finds the file damaged it has
// failed, and an empty file is there for the next; where there could be none, that
// is tried again.
func (s *Store) do(work func(*bolt.DB) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil && !errors.Is(s.failed, errClosed) {
		if s.open(); s.failed == nil {
			s.replaced.Add(1)
		}
	}
	if s.failed != nil {
		return s.failed
	}
	err := guard(func() error { return work(s.db) })
	if _, damaged := errors.AsType[damage](err); damaged {
		info, _ := s.file.Stat() // on an error nil, which is no file's
		abandon(s.file)
		s.replace(damage{info, err})
	}
	return err
}

// change puts something into the file, looks whether it is there, and whether a
// restart will find it.
func (s *Store) change(db *bolt.DB, put, check func(*bolt.Bucket) error) error {
	if err := db.Update(func(tx *bolt.Tx) error { return put(tx.Bucket(bucket)) }); err != nil {
		return err
	}
	if err := db.View(func(tx *bolt.Tx) error { return check(tx.Bucket(bucket)) }); err != nil {
		return err
	}
	return s.named()
}

// named says whether the open file is the one that a restart will find. The
// error is a damage where it isn't.
func (s *Store) named() error {
	ours, err := s.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(s.path)
	switch {
	case err == nil && os.SameFile(ours, there):
		return nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	s.log.Error("the state file was removed or replaced while it was in use: what was in it is lost, but for what is written again", "state", s.path)
	return damage{err: errors.New("it was removed or replaced while it was in use")}
}

// guard runs f, and makes a damage of a panic, which is what bbolt does about
// pages that it can't make sense of, and of the fault that reading a mapped
// file beyond its end is.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = damage{err: fmt.Errorf("the database is not in order: %v", cause)}
		}
	}()
	return f()
}
