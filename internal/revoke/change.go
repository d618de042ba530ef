package revoke

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
)

// Add withdraws what r says, at once in this process. An error is ErrNoStore
// or ErrFull, and then nothing has happened, or wraps ErrNotDurable. Where enough
// records withdraw it already, one of them is made durable once more. A deletion
// that was made before Add returns takes nothing from what it withdraws.
func (l *List) Add(ctx context.Context, r Revocation) (Revocation, error) {
	if err := r.check(); err != nil {
		return r, err
	}
	store := l.durable()
	if store == nil && r.Kind != DroppedKey {
		return r, ErrNoStore
	}
	kept, again, err := l.insert(r)
	if err != nil {
		return kept, err
	}
	if r.Kind == DroppedKey && l.dropped != nil {
		l.dropped()
	}
	if store == nil {
		return kept, nil // what no restart can bring back need not be kept
	}
	err = store.Append(ctx, kept.Name, encode(kept), kept.Expires)
	if again && !l.lasting(kept.Name) {
		return l.Add(ctx, r) // it was deleted meanwhile
	}
	if err != nil {
		l.await(kept.Name)
		return kept, fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	return kept, nil
}

// durable is the store that has to have a record before it counts as kept.
func (l *List) durable() Store {
	if l.shared != nil {
		return l.shared
	}
	return l.file
}

// enough is how many records may withdraw the same before one of them is used
// again. One would be too few where another replica may be deleting it.
func (l *List) enough() int {
	if l.shared != nil {
		return 4
	}
	return 1
}

// insert makes a record of r. again says that it is one which was there, and has
// all that r asks for.
func (l *List) insert(r Revocation) (kept Revocation, again bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	r.Created = now.UTC().Truncate(time.Second)
	r.Expires = r.Expires.UTC().Truncate(time.Second)
	if !r.NotBefore.IsZero() {
		r.NotBefore = r.NotBefore.UTC().Truncate(time.Millisecond)
	}
	missing := l.enough()
	for n, w := range l.index.of(r.Kind, r.IDs[0]) {
		same := l.index.read(n)
		if w.doomed || !same.covers(r) {
			continue
		}
		if missing == l.enough() {
			kept = same // the latest
		}
		if missing--; missing == 0 {
			return kept, true, nil
		}
	}
	if l.index.len() >= l.cfg.Load().MaxEntries {
		return r, false, ErrFull
	}
	_, _ = rand.Read(r.Name[:]) // never fails: crypto/rand
	l.take(r)
	return r, false, nil
}

// lasting says whether a record is here and its deletion was not begun.
func (l *List) lasting(name Name) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n, there := l.index.byName[name]
	return there && !l.index.row(n).doomed
}

// covers says whether r withdraws all that other does.
func (r Revocation) covers(other Revocation) bool {
	return r.Kind == other.Kind && slices.Equal(r.IDs, other.IDs) && !r.Expires.Before(other.Expires) &&
		millis(r.NotBefore) >= millis(other.NotBefore)
}

// take inserts a record that is new, under the lock.
func (l *List) take(r Revocation) bool {
	if !l.index.insert(r) {
		return false
	}
	if l.shared != nil { // else the file has it already, or will be asked first
		l.wait(r.Name)
	}
	l.count()
	return true
}

// count is called under the lock.
func (l *List) count() {
	l.kept.Store(int64(l.index.len()))
	l.live.Store(int64(l.index.live()))
}

// wait has Run write a record to the file; it is called under the lock.
func (l *List) wait(name Name) {
	if l.file == nil {
		return
	}
	l.notes++
	l.pending[name] = l.notes
	select {
	case l.unsaved <- struct{}{}:
	default:
	}
}

// await is wait without the lock, for a record that the file did not take.
func (l *List) await(name Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wait(name)
}

// Delete takes the revocation back, everywhere, once that is durable. An error
// is ErrNotFound or ErrNoStore, and then nothing has happened, or wraps
// ErrNotDurable: it holds on here, but where the store took the deletion after
// all, it ends once that comes from there, at the latest at a restart. To delete
// it again is safe.
func (l *List) Delete(ctx context.Context, name Name, by string) error {
	store := l.durable()
	target, there := l.doom(name, store != nil)
	switch {
	case !there:
		return ErrNotFound
	case store == nil:
		return ErrNoStore
	}
	sum := sha256.Sum256(append([]byte{byte(deletion)}, name[:]...))
	d := Revocation{
		Name: Name(sum[:]), Kind: deletion, IDs: []ID{name}, Issuer: target.Issuer, By: by,
		Created: l.now().UTC().Truncate(time.Second), Expires: target.Expires,
	}
	if err := store.Append(ctx, d.Name, encode(d), d.Expires); err != nil {
		return fmt.Errorf("%w: %w", ErrNotDurable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take(d)
	return nil
}

// doom returns the live revocation of a name and, where it is about to be deleted,
// notes that: whatever the store says, the deletion may be written.
func (l *List) doom(name Name, deleted bool) (target Revocation, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, there := l.index.byName[name]
	if !there {
		return target, false
	}
	target = l.index.read(n)
	if target.Kind == deletion || !l.now().Before(target.Expires) {
		return target, false
	}
	l.index.row(n).doomed = deleted
	return target, true
}

// Merge takes a record that a store has. What is here, deleted, or over for as
// long as clockMargin changes nothing. The error is ErrForeign for what a later
// release may have written, any other for what nobody has.
func (l *List) Merge(name Name, value []byte, expires time.Time) error {
	r, err := decode(name, value, expires)
	if err != nil {
		return err
	}
	if r.Kind == currentAt || !l.now().Before(expires.Add(clockMargin)) {
		return nil
	}
	if err := r.check(); err != nil {
		return err
	}
	l.mu.Lock()
	added := l.take(r)
	l.mu.Unlock()
	if added && r.Kind == DroppedKey && l.dropped != nil {
		l.dropped()
	}
	return nil
}

// Deleted says whether a revocation was taken back; the deletion is here, and
// lasts as long.
func (l *List) Deleted(name Name) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, gone := l.index.deleted[name]
	return gone
}
