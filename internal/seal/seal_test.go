package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"introspectd/internal/seal"
)

func secret(fill byte) []byte { return bytes.Repeat([]byte{fill}, seal.KeySize) }

func box(t *testing.T, prefix string, secrets ...[]byte) *seal.Box {
	t.Helper()
	b, err := seal.New(prefix, secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatWasSealedOpensInItsPlaceAlone(t *testing.T) {
	one := box(t, "p:", secret(1))
	entry := one.Seal(seal.Verdict, "name", []byte("plain"))
	for name, c := range map[string]struct {
		box  *seal.Box
		kind seal.Kind
		name string
		want error
	}{
		"its own place":     {one, seal.Verdict, "name", nil},
		"another name":      {one, seal.Verdict, "eman", seal.ErrBroken},
		"another kind":      {one, seal.KeySet, "name", seal.ErrBroken},
		"another prefix":    {box(t, "q:", secret(1)), seal.Verdict, "name", seal.ErrBroken},
		"a moved boundary":  {box(t, "p:n", secret(1)), seal.Verdict, "ame", seal.ErrBroken},
		"another key":       {box(t, "p:", secret(2)), seal.Verdict, "name", seal.ErrUnknownKey},
		"the key as second": {box(t, "p:", secret(2), secret(1)), seal.Verdict, "name", nil},
	} {
		plain, err := c.box.Open(c.kind, c.name, entry)
		if !errors.Is(err, c.want) || c.want == nil && string(plain) != "plain" {
			t.Errorf("%s: got %q, %v, want error %v", name, plain, err, c.want)
		}
	}
}

func TestNoChangedEntryOpens(t *testing.T) {
	b := box(t, "p:", secret(1))
	entry := b.Seal(seal.Revocation, "name", []byte("plain"))
	for i := range entry {
		for bit := range 8 {
			changed := bytes.Clone(entry)
			changed[i] ^= 1 << bit
			if plain, err := b.Open(seal.Revocation, "name", changed); err == nil {
				t.Fatalf("byte %d, bit %d: opened as %q", i, bit, plain)
			}
		}
	}
	for n := range entry {
		if _, err := b.Open(seal.Revocation, "name", entry[:n]); err == nil {
			t.Errorf("cut to %d bytes: opened", n)
		}
	}
	if _, err := b.Open(seal.Revocation, "name", append(bytes.Clone(entry), 0)); !errors.Is(err, seal.ErrBroken) {
		t.Errorf("with a byte more: got %v, want %v", err, seal.ErrBroken)
	}
}

func TestOneTextIsNeverSealedAlikeTwice(t *testing.T) {
	b := box(t, "p:", secret(1))
	seen := map[string]bool{}
	for range 1000 {
		entry := string(b.Seal(seal.Verdict, "name", []byte("plain")))
		if salt := entry[9:25]; seen[salt] {
			t.Fatalf("the salt %x came twice", salt)
		} else {
			seen[salt] = true
		}
		if strings.Contains(entry, "plain") {
			t.Fatal("the entry shows what it seals")
		}
	}
}

func TestEntriesTellTheirKey(t *testing.T) {
	old, rotated := box(t, "p:", secret(1)), box(t, "p:", secret(2), secret(1))
	entry := old.Seal(seal.KeySet, "name", nil)
	if !old.Newest(entry) || rotated.Newest(entry) || !rotated.Newest(rotated.Seal(seal.KeySet, "name", nil)) {
		t.Error("an entry is newest under the first key alone")
	}
	if err := rotated.Check(entry); err != nil {
		t.Errorf("under the second key: %v", err)
	}
	if err := box(t, "p:", secret(3)).Check(entry); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("got %v, want %v", err, seal.ErrUnknownKey)
	}
	entry[0] = 2
	if _, err := old.Open(seal.KeySet, "name", entry); !errors.Is(err, seal.ErrVersion) {
		t.Errorf("got %v, want %v", err, seal.ErrVersion)
	}
	for _, text := range []string{strings.Repeat("{", 100), strings.Repeat("\x00", 100)} {
		if _, err := old.Open(seal.KeySet, "name", []byte(text)); !errors.Is(err, seal.ErrBroken) {
			t.Errorf("%q…: got %v, want %v", text[:1], err, seal.ErrBroken)
		}
	}
}

func TestDigestKeysDifferByKeyAndPrefix(t *testing.T) {
	seen := map[string]string{}
	for name, b := range map[string]*seal.Box{
		"one": box(t, "p:", secret(1)), "other key": box(t, "p:", secret(2)), "other prefix": box(t, "q:", secret(1)),
	} {
		k := string(b.DigestKey())
		if seen[k] != "" || k == string(secret(1)) || len(k) != 32 {
			t.Errorf("%s: the digest key is that of %q", name, seen[k])
		}
		seen[k] = name
	}
	if !bytes.Equal(box(t, "p:", secret(1)).DigestKey(), box(t, "p:", secret(1), secret(2)).DigestKey()) {
		t.Error("a second key changed the digests")
	}
}

// An entry is what its format says: AES-256-GCM under a key and a nonce that
// crypto/hkdf derives.
func TestAnEntryIsSealedUnderWhatHKDFDerives(t *testing.T) {
	b := box(t, "p:", secret(3))
	for _, kind := range []seal.Kind{seal.Verdict, seal.KeySet, seal.Revocation, seal.Heartbeat, seal.State, seal.Kind(strings.Repeat("long", 30))} {
		for range 20 {
			entry := b.Seal(kind, "name", []byte("plain"))
			material, err := hkdf.Key(sha256.New, secret(3), entry[9:25], "introspectd seal "+string(kind), 44)
			if err != nil {
				t.Fatal(err)
			}
			block, err := aes.NewCipher(material[:32])
			if err != nil {
				t.Fatal(err)
			}
			gcm, err := cipher.NewGCM(block)
			if err != nil {
				t.Fatal(err)
			}
			where := append([]byte{1, 2, 'p', ':', byte(len(kind))}, kind...)
			where = append(append(where, 4), "name"...)
			if plain, err := gcm.Open(nil, material[32:], entry[25:], where); err != nil || string(plain) != "plain" {
				t.Fatalf("%s: got %q, %v", kind, plain, err)
			}
		}
	}
}

// Entries of a release before must open: this one was sealed by version 1.
func TestAnEntryOfVersion1Opens(t *testing.T) {
	text, err := os.ReadFile("testdata/entry-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := box(t, "introspectd:", secret(7)).Open(seal.Revocation, "golden", entry)
	if err != nil || string(plain) != "sealed by version 1" {
		t.Errorf("got %q, %v", plain, err)
	}
}

func TestKeysAreHeldToTheirForm(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(secret(9))
	for text, ok := range map[string]bool{
		good: true, good + "\n": true, "": false, good[:40]: false, "AAAA" + good: false,
		base64.StdEncoding.EncodeToString(secret(0)): false, hex.EncodeToString(secret(9)): false,
	} {
		if _, err := seal.ParseKey(text); (err == nil) != ok {
			t.Errorf("%q: got %v, want ok %v", text, err, ok)
		} else if err != nil && text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	if _, err := seal.New("p:"); err == nil {
		t.Error("a box without keys was made")
	}
	if _, err := seal.New("p:", secret(1), secret(1)); err == nil {
		t.Error("a key was taken twice")
	}
}

func BenchmarkSeal(b *testing.B) {
	bx, _ := seal.New("p:", secret(1))
	plain := make([]byte, 700)
	b.ReportAllocs()
	for b.Loop() {
		bx.Seal(seal.Verdict, "name", plain)
	}
}

func BenchmarkOpen(b *testing.B) {
	bx, _ := seal.New("p:", secret(1))
	entry := bx.Seal(seal.Verdict, "name", make([]byte, 700))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bx.Open(seal.Verdict, "name", entry); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	b, err := seal.New("p:", secret(1))
	if err != nil {
		f.Fatal(err)
	}
	entry := b.Seal(seal.Verdict, "name", []byte("plain"))
	f.Add(entry[:10])
	f.Add(append(bytes.Clone(entry), 1))
	f.Fuzz(func(t *testing.T, entry []byte) {
		if plain, err := b.Open(seal.Verdict, "name", entry); err == nil {
			t.Errorf("opened %x as %q", entry, plain)
		}
	})
}
