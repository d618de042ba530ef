package filestore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
	"time"

	bolt "go.etcd.io/bbolt"
)

// tally is what the records of a file come to: how many there are, and the
// exclusive or of their digests. A page that says that it has fewer elements
// than it has leaves no other trace.
type tally struct {
	count uint64
	sum   [sha256.Size]byte
}

// tallyName is where the tally lies among the values.
const tallyName = "\x00tally"

var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// add takes a stored record in; remove takes it out.
func (t *tally) add(name, stored []byte) {
	t.count++
	t.mix(name, stored)
}

func (t *tally) remove(name, stored []byte) {
	t.count--
	t.mix(name, stored)
}

func (t *tally) mix(name, stored []byte) {
	h := sha256.New()
	h.Write(name) // all of one length
	h.Write(stored)
	for i, b := range h.Sum(nil) {
		t.sum[i] ^= b
	}
}

// tallied is the tally that was written last: from the first transaction on
// there is one.
func tallied(b *bolt.Bucket) (t tally, err error) {
	stored := b.Get([]byte(tallyName))
	_, value, _, err := decode(tallyName, stored)
	if err == nil && len(value) != 8+len(t.sum) {
		err = fmt.Errorf("%w: the tally has %d bytes", errDamaged, len(value))
	}
	if err != nil {
		return t, damage{err: err}
	}
	t.count = binary.BigEndian.Uint64(value)
	copy(t.sum[:], value[8:])
	return t, nil
}

// write keeps t beside the records, in the transaction that changed them.
func (t *tally) write(b *bolt.Bucket) error {
	value := binary.BigEndian.AppendUint64(nil, t.count)
	return b.Put([]byte(tallyName), encode(version, tallyName, append(value, t.sum[:]...), forever))
}

// whole says whether all records are there that were written.
func whole(b *bolt.Bucket) error {
	want, err := tallied(b)
	if err != nil {
		return err
	}
	var have tally
	if err := eachRecord(b, func(name, stored []byte) error {
		have.add(name, stored)
		return nil
	}); err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%w: it has %d records, %d were written", errDamaged, have.count, want.count)
	}
	return nil
}

// metas looks at both meta pages of a bbolt file (format version 2). bbolt goes
// on with one where the other is spoilt, and that may be the one before: what
// was written last would be gone without a trace.
func metas(file io.ReaderAt) error {
	const (
		header = 16 // of a page
		sumAt  = 56 // in a meta: FNV-1a of what is before
		size   = sumAt + 8
	)
	var meta [size]byte
	at := int64(header)
	for n := range 2 {
		if _, err := file.ReadAt(meta[:], at); err != nil {
			return fmt.Errorf("meta page %d: %w", n, err)
		}
		h := fnv.New64a()
		h.Write(meta[:sumAt])
		if h.Sum64() != binary.NativeEndian.Uint64(meta[sumAt:]) {
			return fmt.Errorf("%w: meta page %d", errDamaged, n)
		}
		pageSize := binary.NativeEndian.Uint32(meta[8:])
		if bits.OnesCount32(pageSize) != 1 {
			return errors.New("its pages have no size")
		}
		at = int64(pageSize) + header
	}
	return nil
}
