package revoke

import (
	"iter"
	"time"
)

// index holds records without a pointer among them, because there may be a
// million, and the collector would have to mark each. It is not safe for
// concurrent use; List has the lock.
type index struct {
	chunks [][]row // of chunkSize each, so that growing copies nothing
	free   int32   // first unused row, linked by next[0]; 0 is none
	rows   int32   // rows in chunks, used or not; row 0 is never used

	// First row of each identity, linked by next: of the records that withdraw
	// one token each, and of all others, which stay few and so at hand.
	single, broad map[ID]int32

	byName  map[Name]int32 // every record
	deleted map[Name]int32 // the deletion of a name

	issuers, callers words
	values           map[int32]string // of the rows that have one
	kinds            [signingKey]int  // how many records of each kind that are not marked over
}

const chunkSize = 4096

// row is one record; see Revocation.
type row struct {
	name      Name
	ids       [2]ID
	next      [2]int32 // next row with the same ids[n]
	created   int64    // s
	notBefore int64    // ms
	expires   int64    // s
	issuer    uint32   // in issuers
	by        uint32   // in callers
	kind      Kind     // 0: unused
	count     uint8    // identities
	doomed    bool     // its deletion was begun
	over      bool     // its end had passed when sweep last came by
}

// words gives the few texts that stand in many records a number.
type words struct {
	texts   []string
	numbers map[string]uint32
}

func (w *words) number(text string) uint32 {
	n, ok := w.numbers[text]
	if !ok {
		n = uint32(len(w.texts))
		w.texts = append(w.texts, text)
		w.numbers[text] = n
	}
	return n
}

func newIndex() *index {
	return &index{
		rows: 1, chunks: [][]row{make([]row, chunkSize)},
		single: map[ID]int32{}, broad: map[ID]int32{}, byName: map[Name]int32{}, deleted: map[Name]int32{}, values: map[int32]string{},
		issuers: words{numbers: map[string]uint32{}}, callers: words{numbers: map[string]uint32{}},
	}
}

func (x *index) row(n int32) *row { return &x.chunks[n/chunkSize][n%chunkSize] }

// len is how many records there are, deletions among them.
func (x *index) len() int { return len(x.byName) }

// live is how many of them withdraw something, as far as sweep has come.
func (x *index) live() int {
	n := 0
	for _, of := range x.kinds {
		n += of
	}
	return n - x.kinds[deletion]
}

// firsts is where the identities of a kind's records are looked for.
func (x *index) firsts(k Kind) map[ID]int32 {
	if k == Token || k == JTI {
		return x.single
	}
	return x.broad
}

// insert adds a record, unless it is there or was deleted. A deletion removes
// what it is for.
func (x *index) insert(r Revocation) bool {
	if _, there := x.byName[r.Name]; there {
		return false
	}
	if _, gone := x.deleted[r.Name]; gone {
		return false
	}
	if r.Kind == deletion {
		x.remove(r.IDs[0])
	}
	n := x.take()
	w := x.row(n)
	*w = row{
		name: r.Name, created: r.Created.Unix(), notBefore: millis(r.NotBefore), expires: r.Expires.Unix(),
		issuer: x.issuers.number(r.Issuer), by: x.callers.number(r.By), kind: r.Kind, count: uint8(copy(w.ids[:], r.IDs)),
	}
	copy(w.ids[:], r.IDs)
	if r.Value != "" {
		x.values[n] = r.Value
	}
	x.byName[r.Name] = n
	x.kinds[r.Kind]++
	if r.Kind == deletion {
		x.deleted[w.ids[0]] = n
		return true
	}
	firsts := x.firsts(r.Kind)
	for i := range int(w.count) {
		w.next[i] = firsts[w.ids[i]]
		firsts[w.ids[i]] = n
	}
	return true
}

// take returns an unused row.
func (x *index) take() int32 {
	if n := x.free; n != 0 {
		x.free = x.row(n).next[0]
		return n
	}
	n := x.rows
	if int(n/chunkSize) == len(x.chunks) {
		x.chunks = append(x.chunks, make([]row, chunkSize))
	}
	x.rows++
	return n
}

// remove takes a record out.
func (x *index) remove(name Name) bool {
	n, there := x.byName[name]
	if !there {
		return false
	}
	w := x.row(n)
	delete(x.byName, name)
	delete(x.values, n)
	x.mark(w, true)
	if w.kind == deletion {
		delete(x.deleted, w.ids[0])
	} else {
		for i := range int(w.count) {
			x.unlink(x.firsts(w.kind), w.ids[i], n)
		}
	}
	*w = row{next: [2]int32{x.free}}
	x.free = n
	return true
}

// mark notes whether a record is over, and counts accordingly.
func (x *index) mark(w *row, over bool) {
	if w.over == over {
		return
	}
	w.over = over
	if over {
		x.kinds[w.kind]--
	} else {
		x.kinds[w.kind]++
	}
}

// unlink takes row n out of the chain of id.
func (x *index) unlink(firsts map[ID]int32, id ID, n int32) {
	at := firsts[id]
	if at == n {
		if after := x.after(n, id); after != 0 {
			firsts[id] = after
		} else {
			delete(firsts, id)
		}
		return
	}
	for at != 0 {
		after := x.after(at, id)
		if after == n {
			x.row(at).next[x.slot(at, id)] = x.after(n, id)
			return
		}
		at = after
	}
}

// slot is which identity of row n is id.
func (x *index) slot(n int32, id ID) int {
	if x.row(n).ids[0] == id {
		return 0
	}
	return 1
}

// after is the row behind n in the chain of id; 0 is none.
func (x *index) after(n int32, id ID) int32 { return x.row(n).next[x.slot(n, id)] }

// of yields the records of a kind and its like by an identity.
func (x *index) of(k Kind, id ID) iter.Seq2[int32, *row] {
	return func(yield func(int32, *row) bool) {
		for n := x.firsts(k)[id]; n != 0; n = x.after(n, id) {
			if !yield(n, x.row(n)) {
				return
			}
		}
	}
}

// withdraws says whether a live record of one of the ids, 16 bytes each, takes
// the right of a token that was issued at iat; a token without one has 0, and
// falls under each.
func (x *index) withdraws(firsts map[ID]int32, ids []byte, iat, now int64) bool {
	for ; len(ids) >= len(ID{}); ids = ids[len(ID{}):] {
		id := ID(ids)
		if id == (ID{}) {
			continue
		}
		for n := firsts[id]; n != 0; n = x.after(n, id) {
			if w := x.row(n); now < w.expires && iat*1000 < w.notBefore && w.kind != DroppedKey {
				return true
			}
		}
	}
	return false
}

// read is the record of row n; of an unused row the kind is 0.
func (x *index) read(n int32) Revocation {
	w := x.row(n)
	if w.kind == 0 {
		return Revocation{}
	}
	r := Revocation{
		Name: w.name, Kind: w.kind, Issuer: x.issuers.texts[w.issuer], Value: x.values[n], By: x.callers.texts[w.by],
		Created: time.Unix(w.created, 0).UTC(), Expires: time.Unix(w.expires, 0).UTC(), NotBefore: instant(w.notBefore),
	}
	for i := range int(w.count) {
		r.IDs = append(r.IDs, w.ids[i])
	}
	return r
}

// current counts what is not over among count rows from `from` on, and returns
// where to go on; 0 when all was seen.
func (x *index) current(from, count int32, now int64) (live int, next int32) {
	end := min(from+count, x.rows)
	for n := from; n < end; n++ {
		if w := x.row(n); w.kind != 0 && now < w.expires {
			live++
		}
	}
	if end == x.rows {
		return live, 0
	}
	return live, end
}

// clockMargin is how long a record stays past its end: the clock may be ahead,
// and put right afterwards.
const clockMargin = time.Hour

// sweep marks what is over among count rows from `from` on, takes out what has
// been for clockMargin, and returns where to go on; 0 when all was seen.
func (x *index) sweep(from, count int32, now int64) int32 {
	end := min(from+count, x.rows)
	for n := max(from, 1); n < end; n++ {
		switch w := x.row(n); {
		case w.kind == 0:
		case w.expires <= now-int64(clockMargin/time.Second):
			x.remove(w.name)
		default:
			x.mark(w, w.expires <= now)
		}
	}
	if end == x.rows {
		return 0
	}
	return end
}
