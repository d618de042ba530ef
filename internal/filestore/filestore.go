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
// together. Context: a
// fleet's revocations come by the hundred thousand, and a sync to the disk takes
// a millisecond. Choice: appends that meet share one transaction; each returns
// when it is on the disk. Cost: an append that comes while another is written
// waits for two.
//
// A damaged file is set aside whole. Context: a service that can't start for
// the sake of what merely helps it start is worse than none of that. Choice:
// Open reads all there is, and a file that fails it gets another name and an
// empty one its place. Cost: values beside the damaged one are lost; the start
// reads the whole file.
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
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
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
	// replaced counts the files that took the place of a damaged one.
	replaced int
}

// Open opens the file at path, and makes it, with mode 0600, if it is not
// there; its directory must be. A damaged file, or one that is no database, is
// renamed to <path>.corrupt-<UTC time>, and an empty one takes its place. The
// error names the file: it can't be read or made, is no regular file, can be
// written by others, or is in use by another process.
func Open(path string, o Options) (*Store, error) {
	s := &Store{path: path, log: o.Log, options: o}
	s.records = Records{store: s, writing: make(chan struct{}, 1), waiting: make(chan *appended, mostTogether)}
	if s.db, s.file, s.failed = open(path, o.Log); s.failed != nil {
		if d, damaged := errors.AsType[damage](s.failed); damaged {
			s.replace(d)
		}
	}
	if s.failed != nil {
		return nil, s.failed
	}
	return s, nil
}

// replace sets a damaged file aside and goes on with an empty one.
func (s *Store) replace(d damage) {
	if err := setAside(s.path, d, s.log); err != nil {
		s.failed = fmt.Errorf("setting the damaged state file %s aside: %w", s.path, err)
		return
	}
	s.db, s.file, s.failed = open(s.path, s.log)
	s.replaced++
}

// Replaced is how often an empty file took the place of a damaged one: whoever
// holds what was in it may write it again.
func (s *Store) Replaced() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replaced
}

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

// damage says that a file is not, or no longer, what a Store has written.
type damage struct {
	file os.FileInfo // nil until it is known
	err  error
}

func (d damage) Error() string { return d.err.Error() }
func (d damage) Unwrap() error { return d.err }

// open opens the database and reads it from end to end. The error is a damage
// where an empty file would do better.
func open(path string, log *slog.Logger) (db *bolt.DB, file *os.File, err error) {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		defer func() {
			if err == nil {
				err = syncDirectory(filepath.Dir(path))
			}
		}()
	}
	var info os.FileInfo
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockTime, NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
				file, info, err = openFile(name, flag, mode)
				return file, err
			},
		})
		if err != nil {
			return err
		}
		if err := metas(file); err != nil {
			return err
		}
		return tidy(db, log)
	})
	switch {
	case err == nil:
		return db, file, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		err = fmt.Errorf("it is in use by another process (waited %s)", lockTime)
	case info != nil && !fromSystem(err):
		err = damage{info, err}
	}
	if file != nil {
		abandon(file)
	}
	return nil, nil, fmt.Errorf("opening the state file %s: %w", path, err)
}

// abandon gives back a file without its database, which may wait for what a
// panic has left locked, and stays mapped.
func abandon(file *os.File) {
	unlock(file)
	_ = file.Close() // bbolt may have closed it
}

// openFile opens the file that bbolt is to use, if it may be believed.
func openFile(name string, flag int, mode os.FileMode) (*os.File, os.FileInfo, error) {
	named, err := os.Lstat(name)
	if err == nil && !named.Mode().IsRegular() {
		return nil, nil, errors.New("it is not a regular file")
	}
	file, err := os.OpenFile(name, flag, mode)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular() || named != nil && !os.SameFile(named, info):
		err = errors.New("it is not a regular file, or was replaced just now")
	case info.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("group or others can write it (mode %04o): expected 0600", info.Mode().Perm())
	case !ours(info):
		err = errors.New("it belongs to another user, who could write it")
	default:
		return file, info, nil
	}
	_ = file.Close()
	return nil, nil, err
}

// firstTx is the number of the transaction that makes a database, before
// anything of ours is in it.
const firstTx = 1

// tidy reads everything, drops what is over or of another version, and writes
// once: a database that can only be read is found out now. An error that does
// not come from the system means damage.
func tidy(db *bolt.DB, log *slog.Logger) error {
	var drop []string
	foreign, fresh := 0, false
	if err := db.View(func(tx *bolt.Tx) error {
		if err := lengths(tx); err != nil {
			return err
		}
		if err := tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			if !bytes.Equal(name, bucket) {
				return errors.New("it is another program's database")
			}
			return nil
		}); err != nil {
			return err
		}
		b := tx.Bucket(bucket)
		if fresh = b == nil; fresh && tx.ID() > firstTx {
			return errors.New("its values are gone")
		} else if fresh {
			return nil
		}
		if err := whole(b); err != nil {
			return err
		}
		now := time.Now()
		return each(b, "", func(name, stored []byte) error {
			_, _, expires, err := decode(string(name), stored)
			if errors.Is(err, errVersion) && strings.HasPrefix(string(name), recordPrefix) {
				return nil // Each tells of it: what it says is not to be lost
			}
			if errors.Is(err, errVersion) {
				foreign++
			} else if err != nil {
				return err
			}
			if strings.HasPrefix(string(name), recordPrefix) {
				expires = expires.Add(clockMargin)
			}
			if !now.Before(expires) {
				drop = append(drop, string(name))
			}
			return nil
		})
	}); err != nil {
		return err
	}
	if foreign > 0 {
		log.Warn("values of another version are dropped from the state file", "state", db.Path(), "values", foreign)
	}
	err := db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		var kept tally
		if !fresh {
			if kept, err = tallied(b); err != nil {
				return err
			}
		}
		for _, name := range drop {
			if strings.HasPrefix(name, recordPrefix) {
				kept.remove([]byte(name), b.Get([]byte(name)))
			}
			if err := b.Delete([]byte(name)); err != nil {
				return err
			}
		}
		return kept.write(b)
	})
	switch {
	case err == nil:
		// Once more: a page that was thought to be free may have been one of ours.
		return db.View(func(tx *bolt.Tx) error { return whole(tx.Bucket(bucket)) })
	case !fresh && fromSystem(err):
		// A full disk, say: what is there is no worse for it.
		log.Error("the state file can be read but not written", "state", db.Path(), "cause", err.Error())
		return nil
	}
	return err
}

// lengths looks at how long pages are said to be: bbolt counts to that number,
// and without end where it is wrong.
func lengths(tx *bolt.Tx) error {
	pages := int(tx.Size() / int64(tx.DB().Info().PageSize))
	for id := 0; id < pages; id++ {
		page, err := tx.Page(id)
		if err != nil {
			return err
		}
		if page.Type == "free" {
			continue
		}
		if id += page.OverflowCount; id >= pages {
			return fmt.Errorf("page %d is said to go on beyond the end", page.ID)
		}
	}
	return nil
}

// setAside gives the damaged file another name, unless another process has
// done so already.
func setAside(path string, d damage, log *slog.Logger) error {
	there, err := os.Lstat(path)
	if err != nil || !os.SameFile(there, d.file) {
		return err
	}
	aside := path + asideSuffix + time.Now().UTC().Format("20060102T150405.000Z")
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	log.Error("the state file is damaged: it is set aside, and an empty one takes its place", "state", path, "aside", aside, "cause", d.Error())
	return nil
}

// syncDirectory makes a new file's name last.
func syncDirectory(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

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
			if over = err == nil && !time.Now().Before(expires); err == nil && !over {
				value = bytes.Clone(v)
			}
			return err
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
		if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(name), stored) }); err != nil {
			return err
		}
		return db.View(func(tx *bolt.Tx) error {
			if !bytes.Equal(tx.Bucket(bucket).Get([]byte(name)), stored) {
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
// failed, and an empty file is there for the next.
func (s *Store) do(work func(*bolt.DB) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
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
