package filestore_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"introspectd/internal/filestore"
)

// writer names the file that a child of this test writes to without end.
const writer = "FILESTORE_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writer); path != "" {
		writeUntilKilled(path)
	}
	goleak.VerifyTestMain(m)
}

// open opens a store that is closed with the test.
func open(t testing.TB, path string, log io.Writer) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatalf("Open: got %v, want no error", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t testing.TB, s *filestore.Store, name, value string, expires time.Time) {
	t.Helper()
	if err := s.Put(name, []byte(value), expires); err != nil {
		t.Fatalf("Put(%q): got %v, want no error", name, err)
	}
}

// want wants Get to give this value; empty wants none.
func want(t testing.TB, s *filestore.Store, name, value string) {
	t.Helper()
	got, err := s.Get(name)
	if err != nil || string(got) != value {
		t.Errorf("Get(%q): got %q, %v, want %q", name, got, err, value)
	}
}

func closed(t testing.TB, s *filestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: got %v, want no error", err)
	}
}

// aside lists the files that were set aside of path.
func aside(t testing.TB, path string) []string {
	t.Helper()
	found, err := filepath.Glob(path + ".corrupt-*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func TestValuesAreThereAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	put(t, s, "a", "first", inAnHour())
	put(t, s, "a", "second", inAnHour())
	put(t, s, "b", strings.Repeat("x", filestore.MaxValue), inAnHour())
	closed(t, s)
	s = open(t, path, t.Output())
	want(t, s, "a", "second")
	want(t, s, "b", strings.Repeat("x", filestore.MaxValue))
	want(t, s, "c", "")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode of the file: got %04o, want 0600", mode)
	}
}

func TestGetGivesACopy(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"), t.Output())
	put(t, s, "a", "value", inAnHour())
	got, err := s.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	want(t, s, "a", "value")
}

func TestValuesEndByTheWallClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, t.Output())
		put(t, s, "short", "value", time.Now().Add(time.Minute))
		put(t, s, "long", "value", time.Now().Add(time.Hour))
		put(t, s, "over", "value", time.Now().Add(-time.Minute))
		want(t, s, "over", "")
		time.Sleep(59 * time.Second)
		want(t, s, "short", "value")
		time.Sleep(time.Second)
		want(t, s, "short", "")
		want(t, s, "long", "value")
		put(t, s, "unread", "value", time.Now().Add(time.Minute))
		closed(t, s)
		if got, want := names(t, path), []string{"long", "unread"}; !slices.Equal(got, want) {
			t.Errorf("values in the file after Get: got %q, want %q", got, want)
		}
		time.Sleep(time.Hour)
		closed(t, open(t, path, t.Output()))
	})
	if got := names(t, path); len(got) > 0 {
		t.Errorf("values in the file after Open: got %q, want none", got)
	}
}

// names lists what is stored, whatever it is, but for the tally.
func names(t testing.TB, path string) (found []string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("values")).ForEach(func(name, _ []byte) error {
			if string(name) != "\x00tally" {
				found = append(found, string(name))
			}
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestTooLargeAValueIsRefused(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"), t.Output())
	put(t, s, "a", "old", inAnHour())
	if err := s.Put("a", make([]byte, filestore.MaxValue+1), inAnHour()); err == nil || !strings.Contains(err.Error(), "2097153 bytes") {
		t.Errorf("Put of more than MaxValue: got %v, want an error with its size", err)
	}
	want(t, s, "a", "old")
}

func TestOpenRefusesWhatCannotBeBelieved(t *testing.T) {
	file := func(mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			closed(t, open(t, path, t.Output()))
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, row := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string // empty: it opens
	}{
		{"group can write", file(0o660), "mode 0660"},
		{"others can write", file(0o602), "mode 0602"},
		{"group and others can read", file(0o644), ""},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, "not a regular file"},
		{"a named pipe", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }, "not a regular file"},
		{"a symbolic link", func(t *testing.T, path string) {
			file(0o600)(t, path+"2")
			must(t, os.Symlink(path+"2", path))
		}, "not a regular file"},
		{"a file of another user", func(t *testing.T, path string) {
			file(0o600)(t, path)
			if err := os.Chown(path, 4711, -1); err != nil {
				t.Skipf("SKIPPED, NOT PASSED: only root can give a file away: %v", err)
			}
		}, "another user"},
		{"no directory", func(t *testing.T, path string) { must(t, os.Remove(filepath.Dir(path))) }, "no such file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "dir", "state")
			must(t, os.Mkdir(filepath.Dir(path), 0o700))
			row.prepare(t, path)
			s, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
			if err == nil {
				closed(t, s)
			}
			if (err == nil) != (row.want == "") || err != nil && (!strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("Open: got %v, want %q and the path", err, row.want)
			}
			if found := aside(t, path); len(found) > 0 {
				t.Errorf("set aside: got %q, want nothing", found)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	put(t, s, "a", "value", inAnHour())
	started := time.Now()
	if _, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("Open of an open file: got %v, want an error that says so", err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("Open of an open file: took %s, want at most 5 s", took)
	}
	want(t, s, "a", "value")
	if found := aside(t, path); len(found) > 0 {
		t.Errorf("set aside: got %q, want nothing", found)
	}
}

func TestAfterCloseAllIsAnError(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"), t.Output())
	closed(t, s)
	closed(t, s)
	if _, err := s.Get("a"); err == nil {
		t.Error("Get after Close: got no error, want one")
	}
	if err := s.Put("a", nil, inAnHour()); err == nil {
		t.Error("Put after Close: got no error, want one")
	}
}

func TestDamagedFileIsSetAside(t *testing.T) {
	for _, row := range []struct {
		name   string
		damage func(t *testing.T, content []byte) []byte
	}{
		{"text", func(*testing.T, []byte) []byte { return []byte("not a database\n") }},
		{"many zeros", func(_ *testing.T, b []byte) []byte { return make([]byte, len(b)) }},
		{"both meta pages gone", func(_ *testing.T, b []byte) []byte { clear(b[:2*os.Getpagesize()]); return b }},
		{"all but the meta pages gone", func(_ *testing.T, b []byte) []byte { clear(b[2*os.Getpagesize():]); return b }},
		{"cut after the meta pages", func(_ *testing.T, b []byte) []byte { return b[:2*os.Getpagesize()] }},
		{"cut within a page", func(_ *testing.T, b []byte) []byte { return b[:len(b)/3] }},
		{"one byte", func(_ *testing.T, b []byte) []byte { return b[:1] }},
		{"a flipped bit in a value", func(t *testing.T, b []byte) []byte {
			at := bytes.LastIndex(b, []byte("vvvv"))
			if at < 0 {
				t.Fatal("the value is not in the file")
			}
			b[at-100] ^= 1
			return b
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			s := open(t, path, t.Output())
			put(t, s, "a", strings.Repeat("v", 100_000), inAnHour())
			closed(t, s)
			content, err := os.ReadFile(path)
			must(t, err)
			content = row.damage(t, content)
			must(t, os.WriteFile(path, content, 0o600))

			var log bytes.Buffer
			s = open(t, path, &log)
			want(t, s, "a", "")
			put(t, s, "b", "value", inAnHour())
			want(t, s, "b", "value")
			found := aside(t, path)
			if len(found) != 1 || !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), found[0]) {
				t.Fatalf("set aside: got %q and log %q, want one file and an error that names it", found, log.String())
			}
			if got, err := os.ReadFile(found[0]); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the file that was set aside: got %d bytes, %v, want the %d damaged ones", len(got), err, len(content))
			}
		})
	}
}

func TestAnotherProgramsDatabaseIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	raw(t, path, "theirs", "a", []byte("value"))
	want(t, open(t, path, t.Output()), "a", "")
	if found := aside(t, path); len(found) != 1 {
		t.Errorf("set aside: got %q, want one file", found)
	}
}

// raw stores bytes as they are.
func raw(t testing.TB, path, bucket, name string, stored []byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(name), stored)
	}))
	must(t, db.Close())
}

func TestValuesOfAnotherVersionAreDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	put(t, s, "ours", "value", inAnHour())
	closed(t, s)
	raw(t, path, "values", "theirs", append([]byte{3}, make([]byte, 100)...))
	var log bytes.Buffer
	s = open(t, path, &log)
	want(t, s, "ours", "value")
	want(t, s, "theirs", "")
	if !strings.Contains(log.String(), "another version") {
		t.Errorf("log: got %q, want a line about another version", log.String())
	}
	closed(t, s)
	if got, want := names(t, path), []string{"ours"}; !slices.Equal(got, want) {
		t.Errorf("values in the file: got %q, want %q", got, want)
	}
}

// A value must not answer to another's name, wherever it came from.
func TestAMovedValueIsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := open(t, path, t.Output())
	put(t, s, "a", "value", inAnHour())
	closed(t, s)
	raw(t, path, "values", "b", stored(t, path, "a"))
	want(t, open(t, path, t.Output()), "b", "")
	if found := aside(t, path); len(found) != 1 {
		t.Errorf("set aside: got %q, want one file", found)
	}
}

// stored is what lies in the file under name.
func stored(t testing.TB, path, name string) (found []byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	defer db.Close()
	must(t, db.View(func(tx *bolt.Tx) error {
		found = bytes.Clone(tx.Bucket([]byte("values")).Get([]byte(name)))
		return nil
	}))
	return found
}

// A file that is cut while it is open is a fault of the processor's to whoever
// reads it.
func TestAFileCutWhileOpenIsAnErrorNotACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	var log bytes.Buffer
	s := open(t, path, &log)
	put(t, s, "a", strings.Repeat("v", 100_000), inAnHour())
	must(t, os.Truncate(path, 4096))
	if got, err := s.Get("a"); err == nil {
		t.Errorf("Get: got %d bytes and no error, want an error", len(got))
	}
	if found := aside(t, path); len(found) != 1 || !strings.Contains(log.String(), found[0]) {
		t.Errorf("set aside: got %q and log %q, want one file and a line that names it", found, log.String())
	}
	want(t, s, "a", "")
	put(t, s, "a", "value", inAnHour())
	closed(t, s)
	want(t, open(t, path, &log), "a", "value")
}

// Whichever byte of the file is hit, it opens, and what it gives is what was
// put once: with a meta page spoilt it is the state of the Put before.
func TestNoSpoiltByteEndsTheProcessOrShows(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	s := open(t, path, t.Output())
	values := map[string][]string{}
	for i := range 20 {
		name, value := fmt.Sprint("name", i%7), strings.Repeat(string(rune('a'+i)), 100*i+1)
		put(t, s, name, value, inAnHour())
		values[name] = append(values[name], value)
	}
	closed(t, s)
	content, err := os.ReadFile(path)
	must(t, err)
	page := os.Getpagesize()
	kept, unwritten := 0, 0
	for at := range content {
		// Each page's header and first elements, and samples of the rest.
		if at%page > 96 && at%499 != 0 {
			continue
		}
		spoilt := bytes.Clone(content)
		spoilt[at] ^= 0xff
		must(t, os.WriteFile(path, spoilt, 0o600))
		s, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatalf("byte %d: Open: got %v, want no error", at, err)
		}
		for name, put := range values {
			got, err := s.Get(name)
			if got == nil {
				continue
			}
			kept++
			if err != nil || !slices.Contains(put, string(got)) {
				t.Errorf("byte %d: Get(%q): got %.20q, %v, want what was put", at, name, got, err)
			}
		}
		// The second try meets an empty file, unless the damage reads as an
		// error of the system.
		err = s.Put("new", []byte("value"), inAnHour())
		if err != nil {
			err = s.Put("new", []byte("value"), inAnHour())
		}
		if got, _ := s.Get("new"); err == nil && string(got) != "value" {
			t.Errorf("byte %d: Get of what was put now: got %q, want it", at, got)
		}
		if err != nil {
			unwritten++
			t.Logf("byte %d: Put: %v", at, err)
		}
		closed(t, s)
		for _, file := range aside(t, path) {
			must(t, os.Remove(file))
		}
	}
	if kept == 0 || unwritten > 30 {
		t.Errorf("over all: got %d values kept and %d not written, want some and at most 30", kept, unwritten)
	}
}

// writeUntilKilled puts ever new values and says each number once it is safe.
func writeUntilKilled(path string) {
	s, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for n := uint64(0); ; n++ {
		if err := s.Put("value", numbered(n), inAnHour()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// numbered is a value of several pages that shows its number all over.
func numbered(n uint64) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), int(1000+n%5000))
}

func TestKillLeavesACompleteValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for round := range 8 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), writer+"="+path)
		child.Stderr = t.Output()
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		lines := bufio.NewScanner(out)
		var last uint64
		// The kill falls into whatever the child is doing by then.
		for range 5 + round*7 {
			if !lines.Scan() {
				break
			}
			_, err := fmt.Sscan(lines.Text(), &last)
			must(t, err)
		}
		must(t, child.Process.Kill())
		for lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
				break // half a line
			}
		}
		if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
			t.Fatalf("the child: got %v, want it killed", err)
		}

		var log bytes.Buffer
		s := open(t, path, &log)
		got, err := s.Get("value")
		must(t, err)
		if len(got) < 8 {
			t.Fatalf("round %d: got %d bytes, want a value", round, len(got))
		}
		n := binary.BigEndian.Uint64(got)
		if !bytes.Equal(got, numbered(n)) || n < last {
			t.Errorf("round %d: got value %d of %d bytes, want a complete one, %d or later", round, n, len(got), last)
		}
		if log.Len() > 0 {
			t.Errorf("round %d: log: got %s, want nothing", round, log.String())
		}
		closed(t, s)
	}
}

func TestConfigFaults(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.Mkdir("dir", 0o700))
	must(t, os.WriteFile("file", nil, 0o600))
	for _, row := range []struct{ name, path, want string }{
		{"none", "", ""},
		{"relative", "state", ""},
		{"in a directory", "dir/state", ""},
		{"a file that is there", "file", ""},
		{"no such directory", "nowhere/state", `path: expected a file in a directory that exists, got "nowhere/state"`},
		{"below a file", "file/state", `path: expected a file in a directory that exists, got "file/state"`},
		{"a directory", "dir", `path: expected a file, got the directory "dir"`},
		{"a directory, with its slash", "dir/", `path: expected a file, got the directory "dir/"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := ""
			filestore.Config{Path: row.path}.Check(func(key, problem string) { got += key + ": " + problem })
			if got != row.want {
				t.Errorf("Check of %q: got %q, want %q", row.path, got, row.want)
			}
		})
	}
}

// Whatever lies under a name, Open and Get survive it, and what Get gives was
// put by us in this form.
func FuzzStoredValue(f *testing.F) {
	path := filepath.Join(f.TempDir(), "state")
	s := open(f, path, io.Discard)
	put(f, s, "a", "value", time.Unix(1<<40, 0))
	put(f, s, "empty", "", time.Unix(1<<40, 0))
	closed(f, s)
	good := stored(f, path, "a")
	f.Add(good)
	f.Add(stored(f, path, "empty"))
	f.Add(good[:40])
	f.Add(append([]byte{2}, good[1:]...))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, bytesStored []byte) {
		path := filepath.Join(t.TempDir(), "state")
		raw(t, path, "values", "a", bytesStored)
		s := open(t, path, io.Discard)
		got, err := s.Get("a")
		if err != nil {
			t.Fatalf("Get: got %v, want no error", err)
		}
		if got != nil && !bytes.Equal(bytesStored, good) {
			expires := int64(binary.BigEndian.Uint64(bytesStored[1:]))
			put(t, s, "a", string(got), time.Unix(expires, 0))
			closed(t, s)
			if again := stored(t, path, "a"); !bytes.Equal(again, bytesStored) {
				t.Errorf("got %q out of % x, which is stored as % x", got, bytesStored, again)
			}
		}
	})
}
