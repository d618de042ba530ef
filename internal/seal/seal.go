// Package seal makes bytes unreadable and unforgeable for whoever keeps them
// for us. It never keeps anything itself, and what it opens it has sealed.
//
// # Decisions
//
// A key for every entry. Context: under one AES-GCM key about 2^32 random
// nonces are safe, and a busy fleet uses those up within days. Choice: each
// entry has a random salt, from which HKDF (RFC 5869) derives its own key and
// nonce. Cost: a microsecond, and 16 bytes. The derivation is spelled out here
// over sha256.Sum256, because crypto/hkdf makes twenty objects for each entry; a
// test holds it against crypto/hkdf.
//
// An entry is bound to where it lies. Context: whoever can write a store can
// copy a good entry to another name, and a client that mixes up replies does
// the same by accident (go-redis CVE-2025-29923). Choice: the store's prefix,
// the kind, the version and the entry's name are associated data, so that a
// copy does not open. Cost: an entry can't be renamed.
//
// An old entry is as genuine as a new one: nothing here tells how old it is.
// What is sealed has to carry its own time.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Kind is what an entry is for; an entry of one kind does not open as another.
type Kind string

// The kinds there are.
const (
	Verdict    Kind = "verdict"
	KeySet     Kind = "key set"
	Revocation Kind = "revocation"
	Heartbeat  Kind = "heartbeat"
	State      Kind = "state"
)

// KeySize is the length of a seal key in bytes.
const KeySize = 32

// An entry is a version byte, the fingerprint of its seal key, its salt, and
// the sealed bytes with their tag.
const (
	version = 1
	// lastVersion is the last that a release to come may use: what begins with
	// a larger byte, as any text does, was never sealed.
	lastVersion     = 31
	fingerprintSize = 8
	saltSize        = 16
	headSize        = 1 + fingerprintSize + saltSize
	tagSize         = 16
	nonceSize       = 12

	// Overhead is by how many bytes an entry is longer than what it seals.
	Overhead = headSize + tagSize
)

// Why an entry does not open. Only ErrBroken says that it is not ours.
var (
	ErrVersion    = errors.New("the entry is of another version")
	ErrUnknownKey = errors.New("the entry is sealed with a key that is not configured")
	ErrBroken     = errors.New("the entry is not what was sealed here")
)

// Box seals with its first key and opens with any. It is immutable and safe
// for concurrent use.
type Box struct {
	prefix string
	keys   []key
}

type key struct {
	secret      []byte
	fingerprint [fingerprintSize]byte
}

// ParseKey reads a key of 32 bytes in base64, as `openssl rand -base64 32`
// writes it. The error holds nothing of the text.
func ParseKey(text string) ([]byte, error) {
	secret, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
	if err != nil || len(secret) != KeySize {
		return nil, errors.New("expected 32 bytes in base64, as `openssl rand -base64 32` prints")
	}
	if bytes.Equal(secret, make([]byte, KeySize)) {
		return nil, errors.New("expected a random key, got zeros")
	}
	return secret, nil
}

// New returns a Box for the store that uses prefix. Its keys have 32 bytes each;
// there is at least one, and no two are alike.
func New(prefix string, secrets ...[]byte) (*Box, error) {
	b := &Box{prefix: prefix}
	for _, secret := range secrets {
		k := key{secret: secret}
		if len(secret) != KeySize {
			return nil, fmt.Errorf("a seal key has %d bytes, expected %d", len(secret), KeySize)
		}
		k.fingerprint = [fingerprintSize]byte(derive(secret, nil, "fingerprint", fingerprintSize))
		for _, other := range b.keys {
			if other.fingerprint == k.fingerprint {
				return nil, errors.New("a seal key is given twice")
			}
		}
		b.keys = append(b.keys, k)
	}
	if len(b.keys) == 0 {
		return nil, errors.New("there is no seal key")
	}
	return b, nil
}

// derive is HKDF with SHA-256 under a label of its own for each use, once for each
// key.
func derive(secret, salt []byte, label string, size int) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, "introspectd "+label, size)
	if err != nil {
		panic("seal: " + err.Error()) // only for sizes beyond 8160 bytes
	}
	return out
}

// DigestKey is what the digests that name entries are keyed with: everybody
// with the same first key and prefix names an entry alike, nobody else can.
func (b *Box) DigestKey() []byte {
	return derive(b.keys[0].secret, []byte(b.prefix), "cache digests", sha256.Size)
}

// Seal returns plain sealed for the entry called name.
func (b *Box) Seal(kind Kind, name string, plain []byte) []byte {
	entry := make([]byte, headSize, len(plain)+Overhead)
	entry[0] = version
	copy(entry[1:], b.keys[0].fingerprint[:])
	salt := entry[1+fingerprintSize:]
	_, _ = rand.Read(salt) // never fails: crypto/rand
	gcm, nonce := b.keys[0].entryKey(kind, salt)
	return gcm.Seal(entry, nonce, plain, b.associated(kind, name))
}

// Open returns what was sealed as the entry called name. The error is one of
// ErrVersion, ErrUnknownKey and ErrBroken.
func (b *Box) Open(kind Kind, name string, entry []byte) ([]byte, error) {
	k, err := b.keyOf(entry)
	if err != nil {
		return nil, err
	}
	gcm, nonce := k.entryKey(kind, entry[1+fingerprintSize:headSize])
	plain, err := gcm.Open(nil, nonce, entry[headSize:], b.associated(kind, name))
	if err != nil {
		return nil, ErrBroken
	}
	return plain, nil
}

// Check says, without opening it, whether an entry is of our version and under
// a key that we have: nil, ErrVersion, ErrUnknownKey, or ErrBroken for what is
// too short to be an entry.
func (b *Box) Check(entry []byte) error {
	_, err := b.keyOf(entry)
	return err
}

// Newest says whether entry claims to be sealed with the first key.
func (b *Box) Newest(entry []byte) bool {
	k, err := b.keyOf(entry)
	return err == nil && k == &b.keys[0]
}

func (b *Box) keyOf(entry []byte) (*key, error) {
	switch {
	case len(entry) < Overhead, entry[0] == 0, entry[0] > lastVersion:
		return nil, ErrBroken
	case entry[0] != version:
		return nil, ErrVersion
	}
	fingerprint := [fingerprintSize]byte(entry[1:])
	for i := range b.keys {
		if b.keys[i].fingerprint == fingerprint {
			return &b.keys[i], nil
		}
	}
	return nil, ErrUnknownKey
}

// entryKey is the cipher and the nonce of one entry. The pair is used for one
// message, because the salt is.
func (k *key) entryKey(kind Kind, salt []byte) (cipher.AEAD, []byte) {
	material := expand(extract(salt, k.secret), "seal "+string(kind))
	block, err := aes.NewCipher(material[:32])
	if err != nil {
		panic("seal: " + err.Error()) // only for other sizes
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error()) // only for other block sizes
	}
	return gcm, material[32 : 32+nonceSize]
}

// extract is HKDF-Extract of RFC 5869 section 2.2, for a salt of at most a block.
func extract(salt, secret []byte) [sha256.Size]byte { return mac(salt, secret) }

// expand is HKDF-Expand of RFC 5869 section 2.3, the first 64 bytes of it.
func expand(secret [sha256.Size]byte, label string) [2 * sha256.Size]byte {
	var room [sha256.Size + 64]byte
	info := append(append(room[:sha256.Size], "introspectd "...), label...)
	first := mac(secret[:], append(info, 1)[sha256.Size:])
	copy(info, first[:])
	second := mac(secret[:], append(info, 2))
	return [2 * sha256.Size]byte(append(first[:], second[:]...))
}

// mac is HMAC of RFC 2104 with SHA-256, for a key of at most a block.
func mac(key, message []byte) [sha256.Size]byte {
	var inner [2*sha256.BlockSize + sha256.Size]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	for i := range sha256.BlockSize {
		inner[i], outer[i] = 0x36, 0x5c
	}
	subtle.XORBytes(inner[:], inner[:], key)
	subtle.XORBytes(outer[:], outer[:], key)
	sum := sha256.Sum256(append(inner[:sha256.BlockSize], message...))
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

// associated spells out where an entry lies; each part says its length, so
// that no two places are spelled alike.
func (b *Box) associated(kind Kind, name string) []byte {
	data := append(make([]byte, 0, 128), version)
	for _, part := range []string{b.prefix, string(kind), name} {
		data = binary.AppendUvarint(data, uint64(len(part)))
		data = append(data, part...)
	}
	return data
}
