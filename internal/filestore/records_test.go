package filestore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"introspectd/internal/filestore"
)

func nameOf(n int) (name [16]byte) {
	binary.BigEndian.PutUint64(name[:], uint64(n))
	return name
}

func appendRecord(t testing.TB, s *filestore.Store, n int, value string, expires time.Time) {
	t.Helper()
	if err := s.Records().Append(t.Context(), nameOf(n), []byte(value), expires); err != nil {
		t.Fatalf("Append: got %v, want no error", err)
	}
}

// recordsOf are all records by number.
func recordsOf(t testing.TB, s *filestore.Store) (map[int]string, error) {
	t.Helper()
	found := map[int]string{}
	err := s.Records().Each(func(name [16]byte, value []byte, _ time.Time) {
		found[int(binary.BigEndian.Uint64(name[:]))] = string(value)
	})
	return found, err
}

func TestRecordsAreThereAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	put(t, s, "a", "a value", inAnHour())
	appendRecord(t, s, 1, "one", inAnHour())
	appendRecord(t, s, 1, "one again", inAnHour())
	appendRecord(t, s, 2, "for ever", time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))
	appendRecord(t, s, 3, "over", time.Now().Add(-25*time.Hour))
	for range 2 {
		got, err := recordsOf(t, s)
		if err != nil || len(got) != 2 || got[1] != "one again" || got[2] != "for ever" {
			t.Errorf("got %v, %v", got, err)
		}
		want(t, s, "a", "a value")
		closed(t, s)
		s = open(t, path, t.Output())
	}
	if err := s.Records().Append(t.Context(), nameOf(4), make([]byte, filestore.MaxRecord+1), inAnHour()); err == nil {
		t.Error("a record that is too large was taken")
	}
}

func TestRecordsThatMeetAreAllWritten(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"), t.Output())
	var all sync.WaitGroup
	for n := range 3000 {
		all.Go(func() { appendRecord(t, s, n, fmt.Sprint(n), inAnHour()) })
	}
	all.Wait()
	got, err := recordsOf(t, s)
	if err != nil || len(got) != 3000 || got[2999] != "2999" {
		t.Errorf("got %d records, %v", len(got), err)
	}
}

// Each appends when its last is on the disk, as requests do. The writer must not
// run before those that have come.
func TestRecordsThatMeetOnOneProcessorAreWrittenTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	const askers, each = 64, 10
	var all sync.WaitGroup
	for n := range askers {
		all.Go(func() {
			for i := range each {
				if err := s.Records().Append(t.Context(), nameOf(n*each+i), []byte("value"), inAnHour()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	closed(t, s)
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	defer db.Close()
	must(t, db.View(func(tx *bolt.Tx) error {
		// A round of them each, and some at the start; with a second for each round it
		// would be 24 and more.
		if n := tx.ID(); n > each*3/2+3 {
			t.Errorf("%d rounds of %d records took %d transactions", each, askers, n)
		}
		return nil
	}))
}

func TestRecordsThatAreOverAreSwept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	var all sync.WaitGroup
	for n := range 11_000 {
		all.Go(func() { appendRecord(t, s, n, strings.Repeat("x", 100), time.Now().Add(-25*time.Hour)) })
		if n%500 == 499 {
			all.Wait() // an append waits 5 s at most, and a machine may be slow
		}
	}
	all.Wait()
	closed(t, s)
	if n := bytes.Count(mustRead(t, path), bytes.Repeat([]byte("x"), 100)); n > 11_000 {
		t.Errorf("%d records are in the file", n)
	}
}

func TestAClockThatWasAheadLosesNoRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	appendRecord(t, s, 1, "one", inAnHour())
	closed(t, s)
	synctest.Test(t, func(t *testing.T) { // its time is 2000-01-01
		s := open(t, path, t.Output())
		appendRecord(t, s, 2, "two", time.Now().Add(time.Hour))
		closed(t, s)
		time.Sleep(23 * time.Hour) // too far
		s = open(t, path, t.Output())
		if got, err := recordsOf(t, s); err != nil || got[2] != "two" {
			t.Errorf("got %v, %v: what has just ended may not be over", got, err)
		}
		closed(t, s)
		time.Sleep(3 * time.Hour)
		s = open(t, path, t.Output())
		if got, err := recordsOf(t, s); err != nil || got[2] != "" {
			t.Errorf("got %v, %v: it is over", got, err)
		}
		closed(t, s)
	})
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return text
}

func TestAfterCloseAppendIsAnError(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"), t.Output())
	closed(t, s)
	if err := s.Records().Append(t.Context(), nameOf(1), []byte("x"), inAnHour()); err == nil {
		t.Error("a record was taken")
	}
	if _, err := recordsOf(t, s); err == nil {
		t.Error("records were read")
	}
}

func TestDamageIsSeenUntilAnOperatorHasLooked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	must(t, os.WriteFile(path, bytes.Repeat([]byte("damage"), 4096), 0o600))
	s := open(t, path, t.Output())
	if found := s.SetAside(); len(found) != 1 || s.Replaced() != 1 {
		t.Fatalf("set aside %q, replaced %d", found, s.Replaced())
	}
	closed(t, s)
	s = open(t, path, t.Output()) // also after a restart
	found := s.SetAside()
	if len(found) != 1 || s.Replaced() != 0 {
		t.Fatalf("after a restart: set aside %q, replaced %d", found, s.Replaced())
	}
	must(t, os.Remove(found[0]))
	if found := s.SetAside(); len(found) != 0 {
		t.Errorf("after it was removed: %q", found)
	}
}

func TestADamagedRecordIsDamageOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	appendRecord(t, s, 1, "one", inAnHour())
	closed(t, s)
	raw(t, path, "values", "\x00record/sixteen bytes ..", []byte{1, 2, 3})
	s = open(t, path, t.Output())
	if len(s.SetAside()) != 1 {
		t.Error("it was not seen")
	}
}

func TestARecordOfALaterReleaseIsNotDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	appendRecord(t, s, 1, "one", inAnHour())
	closed(t, s)
	raw(t, path, "values", "\x00record/sixteen bytes ..", append([]byte{3}, make([]byte, 100)...))
	retally(t, path)
	for range 2 {
		s = open(t, path, t.Output())
		if got, err := recordsOf(t, s); !errors.Is(err, filestore.ErrSealed) || got[1] != "one" {
			t.Errorf("got %v, %v: a list without it counts as whole", got, err)
		}
		closed(t, s)
	}
}

// retally writes the tally of the records that are there, as a later release
// would that has written them.
func retally(t testing.TB, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	must(t, err)
	count, sum := uint64(0), [sha256.Size]byte{}
	must(t, db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("values")).ForEach(func(name, stored []byte) error {
			if bytes.HasPrefix(name, []byte("\x00record/")) {
				count++
				for i, b := range sha256.Sum256(append(bytes.Clone(name), stored...)) {
					sum[i] ^= b
				}
			}
			return nil
		})
	}))
	must(t, db.Close())
	const name = "\x00tally"
	value := append(binary.BigEndian.AppendUint64(nil, count), sum[:]...)
	head := binary.BigEndian.AppendUint64([]byte{1}, uint64(inAnHour().Unix()))
	check := sha256.Sum256(slices.Concat(binary.BigEndian.AppendUint64(nil, uint64(len(name))), []byte(name), head, value))
	raw(t, path, "values", name, slices.Concat(head, check[:], value))
}

// swap is a seal that only its like can open.
func swap(key byte) filestore.Options {
	crypt := func(b []byte) []byte {
		out := bytes.Clone(b)
		for i := range out {
			out[i] ^= key
		}
		return out
	}
	return filestore.Options{
		Log: slog.New(slog.DiscardHandler),
		Seal: func(name string, plain []byte) []byte {
			return append([]byte{key}, crypt([]byte(name+"="+string(plain)))...)
		},
		Unseal: func(name string, sealed []byte) ([]byte, error) {
			if len(sealed) == 0 || sealed[0] != key {
				return nil, errors.New("another key")
			}
			plain, ok := bytes.CutPrefix(crypt(sealed[1:]), []byte(name+"="))
			if !ok {
				return nil, errors.New("another name")
			}
			return plain, nil
		},
	}
}

func openWith(t *testing.T, path string, o filestore.Options) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(path, o)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestWhatIsSealedIsReadWithItsKeyAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	plain := filestore.Options{Log: slog.New(slog.DiscardHandler)}
	s := openWith(t, path, plain)
	put(t, s, "before", "written before", inAnHour())
	appendRecord(t, s, 1, "written before", inAnHour())
	closed(t, s)

	s = openWith(t, path, swap(7))
	want(t, s, "before", "written before") // the file's permissions are trusted
	put(t, s, "a", "a secret value", inAnHour())
	appendRecord(t, s, 2, "a secret record", inAnHour())
	closed(t, s)
	if text := mustRead(t, path); bytes.Contains(text, []byte("a secret")) {
		t.Error("the file shows what is sealed")
	}

	s = openWith(t, path, swap(7))
	want(t, s, "a", "a secret value")
	if got, err := recordsOf(t, s); err != nil || got[1] != "written before" || got[2] != "a secret record" {
		t.Errorf("got %v, %v", got, err)
	}
	closed(t, s)
	for name, o := range map[string]filestore.Options{"another key": swap(8), "no key": plain} {
		s = openWith(t, path, o)
		if got, err := s.Get("a"); !errors.Is(err, filestore.ErrSealed) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if got, err := recordsOf(t, s); !errors.Is(err, filestore.ErrSealed) || len(got) != 1 {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if found := s.SetAside(); len(found) != 0 {
			t.Errorf("%s: what is sealed was taken for damage", name)
		}
		closed(t, s)
	}
}

func BenchmarkAppend(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "state"), b.Output())
	n := 0
	for b.Loop() {
		n++
		appendRecord(b, s, n, strings.Repeat("x", 120), inAnHour())
	}
}

// BenchmarkAppendTogether tells the time of one among many, and the size of each
// in the file.
func BenchmarkAppendTogether(b *testing.B) {
	const many = 100_000
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "state")
		s := open(b, path, b.Output())
		start := time.Now()
		var all sync.WaitGroup
		room := make(chan struct{}, 512)
		for n := range many {
			room <- struct{}{}
			all.Go(func() {
				appendRecord(b, s, n, strings.Repeat("x", 120), inAnHour())
				<-room
			})
		}
		all.Wait()
		b.ReportMetric(float64(time.Since(start).Microseconds())/many, "µs/record")
		closed(b, s)
		info, err := os.Stat(path)
		must(b, err)
		b.ReportMetric(float64(info.Size())/many, "B/record")
	}
}

// Whatever byte is spoilt, a record that is gone is told of: the file is set
// aside, or Each is an error.
func TestNoSpoiltByteLosesARecordInSilence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	const records = 60
	for n := range records { // several pages, and several transactions
		appendRecord(t, s, n, strings.Repeat("x", 100), inAnHour())
	}
	closed(t, s)
	content := mustRead(t, path)
	page, spoilt, told := os.Getpagesize(), 0, 0
	for at := range content {
		// Each page's header and first elements, and samples of the rest.
		if at%page > 40 && at%997 != 0 {
			continue
		}
		other := bytes.Clone(content)
		other[at] ^= []byte{0xff, 0x01, 0x10}[at%3]
		must(t, os.WriteFile(path, other, 0o600))
		s, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatalf("byte %d: Open: got %v, want no error", at, err)
		}
		spoilt++
		found, err := recordsOf(t, s)
		aside := s.SetAside()
		if err != nil || len(aside) > 0 {
			told++
		} else if len(found) != records {
			t.Errorf("byte %d: %d records are there, and nothing is said", at, len(found))
		}
		closed(t, s)
		for _, file := range aside {
			must(t, os.Remove(file))
		}
	}
	if told == 0 || told == spoilt {
		t.Errorf("of %d spoilt bytes %d were told of", spoilt, told)
	}
}

// Also while the file is open: bbolt reads it through a mapping.
func TestDamageThatComesLaterIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	put(t, s, "a", strings.Repeat("value", 20), inAnHour())
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	for content, from := mustRead(t, path), 0; ; {
		at := bytes.Index(content[from:], []byte("valuevalue"))
		if at < 0 {
			break
		}
		_, err := file.WriteAt([]byte("V"), int64(from+at))
		must(t, err)
		from += at + len("value")
	}
	if got, err := s.Get("a"); got != nil || err == nil {
		t.Errorf("got %q, %v", got, err)
	}
	if found := s.SetAside(); len(found) != 1 || s.Replaced() != 1 {
		t.Errorf("set aside %q, replaced %d", found, s.Replaced())
	}
	put(t, s, "a", "again", inAnHour())
	want(t, s, "a", "again")
}

// What is written to a file without its name is on the disk, and no restart finds
// it.
func TestNothingIsWrittenToAFileThatLostItsName(t *testing.T) {
	for name, take := range map[string]func(t *testing.T, path string){
		"removed": func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"moved":   func(t *testing.T, path string) { must(t, os.Rename(path, path+".old")) },
		"replaced": func(t *testing.T, path string) {
			other := open(t, path+".other", t.Output())
			appendRecord(t, other, 7, "the other's", inAnHour())
			closed(t, other)
			must(t, os.Rename(path+".other", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			var log bytes.Buffer
			s := open(t, path, &log)
			appendRecord(t, s, 1, "one", inAnHour())
			take(t, path)
			if err := s.Records().Append(t.Context(), nameOf(2), []byte("two"), inAnHour()); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("Append: got %v, want an error that names the file", err)
			}
			if s.Replaced() != 1 || !strings.Contains(log.String(), "level=ERROR") || len(s.SetAside()) != 0 {
				t.Errorf("replaced %d, set aside %q, log %q", s.Replaced(), s.SetAside(), log.String())
			}
			take(t, path)
			if err := s.Put("a", []byte("value"), inAnHour()); err == nil || s.Replaced() != 2 {
				t.Errorf("Put: got %v, replaced %d, want an error", err, s.Replaced())
			}
			put(t, s, "a", "value", inAnHour())
			appendRecord(t, s, 2, "two", inAnHour())
			closed(t, s)
			s = open(t, path, &log)
			want(t, s, "a", "value")
			if got, err := recordsOf(t, s); err != nil || got[2] != "two" || got[1] != "" || (got[7] != "") != (name == "replaced") {
				t.Errorf("after a restart: %v, %v", got, err)
			}
		})
	}
	t.Run("with its directory", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "dir", "state")
		must(t, os.Mkdir(filepath.Dir(path), 0o700))
		s := open(t, path, t.Output())
		must(t, os.RemoveAll(filepath.Dir(path)))
		for range 2 {
			if err := s.Records().Append(t.Context(), nameOf(1), []byte("one"), inAnHour()); err == nil {
				t.Error("Append: got no error, want one")
			}
		}
		// A volume that was away for a moment, say.
		must(t, os.Mkdir(filepath.Dir(path), 0o700))
		replaced := s.Replaced()
		appendRecord(t, s, 1, "one", inAnHour())
		if s.Replaced() == replaced {
			t.Error("another file took the place of one that was lost, and nobody is told")
		}
		closed(t, s)
		if got, err := recordsOf(t, open(t, path, t.Output())); err != nil || got[1] != "one" {
			t.Errorf("after a restart: %v, %v", got, err)
		}
	})
}

func TestAppendWaitsNoLongerThanItsCaller(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"), t.Output())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var failed, kept int
	for n := range 100 {
		if err := s.Records().Append(ctx, nameOf(n), []byte("x"), inAnHour()); err != nil && errors.Is(err, context.Canceled) {
			failed++
		} else if err == nil {
			kept++
		}
	}
	if failed == 0 || failed+kept != 100 {
		t.Errorf("%d gave up, %d were kept, of 100", failed, kept)
	}
	appendRecord(t, s, 100, "x", inAnHour())
	if _, err := recordsOf(t, s); err != nil {
		t.Error(err)
	}
}
