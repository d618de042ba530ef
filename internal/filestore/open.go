package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

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
			if droppable(name, expires, now) {
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

// setAside gives the damaged file another name, unless it has lost its own or
// another process has done so already.
func setAside(path string, d damage, log *slog.Logger) error {
	there, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
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
