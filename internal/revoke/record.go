package revoke

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"
)

// ID is one thing that a token is known by: 16 bytes of an unkeyed SHA-256, so
// that a change of keys loses no revocation.
type ID = [16]byte

// Name names one revocation among all; it is random.
type Name = [16]byte

// Kind is what a revocation goes by. The numbers are stored: they never change
// their meaning.
type Kind uint8

const (
	// Token is one token, by SHA-256 of header.payload and, where it has one,
	// by its jti.
	Token Kind = 1
	// JTI is all tokens of an issuer with this jti.
	JTI Kind = 2
	// Subject, Session, Client and Issuer are an issuer's tokens by sub, by sid,
	// by client, or all of them.
	Subject Kind = 3
	Session Kind = 4
	Client  Kind = 5
	Issuer  Kind = 6
	// KeyID is what an issuer's key signed, by kid and by the key itself.
	KeyID Kind = 7
	// DroppedKey is a key that only its issuer may bring back; it withdraws no
	// token by itself.
	DroppedKey Kind = 8

	deletion  Kind = 9  // takes back one record, by its name
	currentAt Kind = 10 // in a file alone: when the list was last complete

	// signingKey is only an identity: of a key, beside its kid.
	signingKey Kind = 11
)

var kindWords = map[Kind]string{
	Token: "token", JTI: "jti", Subject: "sub", Session: "sid", Client: "client_id", Issuer: "issuer", KeyID: "kid", DroppedKey: "dropped_key",
}

// String is the kind's word in listings.
func (k Kind) String() string { return kindWords[k] }

// MarshalText renders the kind as String does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Of is the identity of an issuer's tokens by value: by kind, iss and value.
func Of(kind Kind, iss, value string) ID {
	var room [512]byte // for all but the largest, so that nothing is allocated
	text := append(room[:0], byte(kind))
	for _, part := range [...]string{iss, value} {
		text = binary.BigEndian.AppendUint64(text, uint64(len(part)))
		text = append(text, part...)
	}
	sum := sha256.Sum256(text)
	return ID(sum[:])
}

// OfKey is the identity of what a key of an issuer signed, by its RFC 7638
// thumbprint.
func OfKey(iss string, thumbprint [32]byte) ID { return Of(signingKey, iss, string(thumbprint[:])) }

// OfToken is the identity of one token, by SHA-256 of its header.payload.
func OfToken(signingInput [sha256.Size]byte) ID { return ID(signingInput[:]) }

// Forever is the end of a revocation that lasts until it is deleted.
var Forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// Revocation is one withdrawn right.
type Revocation struct {
	// Name is set by Add.
	Name Name
	Kind Kind
	// IDs are the identities it goes by, one or two.
	IDs []ID
	// Issuer is the iss that it is about, Value what was named: a jti, a sub, a
	// kid, a thumbprint. A Token has none.
	Issuer, Value string
	// NotBefore spares tokens issued at or after it; the zero time spares none.
	NotBefore time.Time
	// Created and Expires have whole seconds. By is the caller that asked.
	Created, Expires time.Time
	By               string
}

// Ref is how a token's log lines name it, empty unless r is about one token.
func (r Revocation) Ref() string {
	if r.Kind != Token || len(r.IDs) == 0 {
		return ""
	}
	return hex.EncodeToString(r.IDs[0][:8])
}

const (
	recordVersion = 1
	maxText       = 1024
	// MaxValue is the largest encoded record in bytes.
	MaxValue = 4096
)

// everyIAT is the not-before that no iat reaches.
const everyIAT = math.MaxInt64

var errRecord = errors.New("the record is not one that was written here")

// ErrForeign says that a record is of a version or kind that this release does
// not know: what it withdraws can't be told.
var ErrForeign = errors.New("the record is of an unknown version or kind")

// A record's value is:
//
//	version, kind, identities         1 byte each
//	created (s), not before (ms)      8 bytes each
//	identities                        16 bytes each
//	issuer, value, by                 2 bytes of length, text
//
// Its name and its end are kept beside it.
func encode(r Revocation) []byte {
	b := make([]byte, 0, 128)
	b = append(b, recordVersion, byte(r.Kind), byte(len(r.IDs)))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Created.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(millis(r.NotBefore)))
	for _, id := range r.IDs {
		b = append(b, id[:]...)
	}
	for _, text := range []string{r.Issuer, r.Value, r.By} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
		b = append(b, text...)
	}
	return b
}

// decode reads what encode wrote. The error is ErrForeign for what a later
// release may have written.
func decode(name Name, value []byte, expires time.Time) (Revocation, error) {
	const head = 3 + 2*8
	r := Revocation{Name: name, Expires: expires}
	switch {
	case len(value) < 2:
		return r, errRecord
	case value[0] != recordVersion:
		return r, fmt.Errorf("%w: version %d", ErrForeign, value[0])
	case value[1] == 0 || Kind(value[1]) >= signingKey:
		return r, fmt.Errorf("%w: kind %d", ErrForeign, value[1])
	case len(value) < head || len(value) > MaxValue:
		return r, errRecord
	}
	r.Kind = Kind(value[1])
	r.Created = time.Unix(int64(binary.BigEndian.Uint64(value[3:])), 0).UTC()
	r.NotBefore = instant(int64(binary.BigEndian.Uint64(value[11:])))
	rest, ids := value[head:], int(value[2])
	if ids < 1 || ids > 2 || len(rest) < ids*len(ID{}) {
		return r, errRecord
	}
	for range ids {
		r.IDs = append(r.IDs, ID(rest))
		rest = rest[len(ID{}):]
	}
	for _, text := range []*string{&r.Issuer, &r.Value, &r.By} {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return r, errRecord
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		*text, rest = string(rest[2:end]), rest[end:]
	}
	if len(rest) > 0 {
		return r, errRecord
	}
	return r, nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return everyIAT
	}
	return t.UnixMilli()
}

func instant(millis int64) time.Time {
	if millis == everyIAT {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}

// check refuses what encode can't hold.
func (r Revocation) check() error {
	if len(r.IDs) < 1 || len(r.IDs) > 2 {
		return fmt.Errorf("a revocation goes by one identity or two, not %d", len(r.IDs))
	}
	if len(r.IDs) == 2 && r.IDs[0] == r.IDs[1] {
		return errors.New("a revocation goes by one identity twice")
	}
	for _, text := range []string{r.Issuer, r.Value, r.By} {
		if len(text) > maxText {
			return fmt.Errorf("a text of a revocation has %d bytes, expected at most %d", len(text), maxText)
		}
	}
	return nil
}
