package truststore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	keystore "github.com/pavlo-v-chernykh/keystore-go/v4"
)

// readJKS reads Java's own format, as keytool wrote it up to Java 8.
func readJKS(body []byte, password string) (*Store, error) {
	entries, err := walkJKS(body)
	if err != nil {
		return nil, fmt.Errorf("not a whole JKS store: %w", err)
	}
	word, ok := latin1(password)
	if !ok {
		return nil, errors.New("the password of a JKS store is read up to U+00FF; " + convert)
	}
	keys := keystore.New(keystore.WithCaseExactAliases())
	// Its frame is sound: what is left to go wrong is the digest.
	if err := keys.Load(bytes.NewReader(body), word); err != nil {
		return nil, ErrPassword
	}
	s := &Store{Format: JKS}
	for _, e := range entries {
		if err := s.addJKS(keys, e); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Store) addJKS(keys keystore.KeyStore, e jksEntry) error {
	if e.tag == jksPrivate {
		return s.skip(strings.ToValidUTF8(e.alias, ""), Private, "a private key entry: export its certificate")
	}
	trusted, err := keys.GetTrustedCertificateEntry(e.alias)
	if err != nil {
		return s.skip(strings.ToValidUTF8(e.alias, ""), Malformed, "not a readable entry")
	}
	return s.add(e.alias, trusted.Certificate.Content)
}

// latin1 is text in bytes of one character each, which is what the library
// makes Java's characters of.
func latin1(text string) ([]byte, bool) {
	var b []byte
	for _, r := range text {
		if r > math.MaxUint8 {
			return nil, false
		}
		b = append(b, byte(r))
	}
	return b, true
}

const (
	jksPrivate = 1
	jksTrusted = 2
	jksDigest  = 20 // bytes of SHA-1 at the end
)

// jksEntry is the frame of an entry.
type jksEntry struct {
	alias string
	tag   uint32
}

// walkJKS reads the frame of a store and holds every length against what is
// left. The library allocates what the file says, and of two entries with the
// same alias it keeps the last.
func walkJKS(body []byte) (entries []jksEntry, err error) {
	w := &walk{rest: body}
	w.number() // the magic
	version := w.number()
	if version != 1 && version != 2 {
		return nil, fmt.Errorf("version %d, expected 1 or 2", version)
	}
	n := w.number()
	if n > maxEntries {
		return nil, errTooMany
	}
	seen := map[string]bool{}
	for range n {
		e := jksEntry{tag: w.number(), alias: w.text()}
		w.take(8) // when it was made
		switch e.tag {
		case jksPrivate:
			w.take(w.number())
			chain := w.number()
			if chain > maxEntries {
				return nil, errTooMany
			}
			for range chain {
				w.certificate(version)
			}
		case jksTrusted:
			w.certificate(version)
		default:
			return nil, fmt.Errorf("an entry of kind %d", e.tag)
		}
		if w.short {
			break
		}
		if seen[e.alias] {
			return nil, fmt.Errorf("the alias %q stands there twice", e.alias)
		}
		seen[e.alias] = true
		entries = append(entries, e)
	}
	if w.short || len(w.rest) != jksDigest {
		return nil, errors.New("its entries do not fill the file")
	}
	return entries, nil
}

// walk reads numbers, texts and lengths off the front of rest; short tells that
// there was less than that.
type walk struct {
	rest  []byte
	short bool
}

func (w *walk) take(n uint32) []byte {
	if w.short || uint64(n) > uint64(len(w.rest)) {
		w.short = true
		return nil
	}
	head := w.rest[:n]
	w.rest = w.rest[n:]
	return head
}

func (w *walk) number() uint32 {
	if b := w.take(4); !w.short {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (w *walk) text() string {
	if b := w.take(2); !w.short {
		return string(w.take(uint32(binary.BigEndian.Uint16(b))))
	}
	return ""
}

func (w *walk) certificate(version uint32) {
	if version == 2 {
		w.text() // its type
	}
	w.take(w.number())
}
