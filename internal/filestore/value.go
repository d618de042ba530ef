package filestore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A stored value, or record, is a version byte, its end in Unix seconds (8 bytes, big
// endian), a SHA-256 and the bytes themselves.
const (
	version       = 1
	versionSealed = 2 // its bytes are sealed
	headerSize    = 1 + 8 + sha256.Size
	mostSeal      = 256 // by how much a seal may lengthen a value
)

var (
	errVersion = errors.New("a value is of another version")
	errDamaged = errors.New("a value is damaged")
)

func encode(as byte, name string, value []byte, expires time.Time) []byte {
	stored := make([]byte, 0, headerSize+len(value))
	stored = append(stored, as)
	stored = binary.BigEndian.AppendUint64(stored, uint64(expires.Unix()))
	sum := checksum(name, stored, value)
	stored = append(stored, sum[:]...)
	return append(stored, value...)
}

// decode returns the version and the value within stored, not a copy. The error is errVersion
// for what another version of this program wrote, else about damage.
func decode(name string, stored []byte) (as byte, value []byte, expires time.Time, err error) {
	if len(stored) == 0 {
		return 0, nil, time.Time{}, fmt.Errorf("%w: it is empty", errDamaged)
	}
	if stored[0] != version && stored[0] != versionSealed {
		return 0, nil, time.Time{}, fmt.Errorf("%w: %d, expected %d or %d", errVersion, stored[0], version, versionSealed)
	}
	if len(stored) < headerSize || len(stored) > headerSize+MaxValue+mostSeal {
		return 0, nil, time.Time{}, fmt.Errorf("%w: it has %d bytes", errDamaged, len(stored))
	}
	head, sum, value := stored[:9], stored[9:headerSize], stored[headerSize:]
	if checksum(name, head, value) != [sha256.Size]byte(sum) {
		return 0, nil, time.Time{}, fmt.Errorf("%w: its checksum is another", errDamaged)
	}
	return stored[0], value, time.Unix(int64(binary.BigEndian.Uint64(head[1:])), 0), nil
}

// checksum covers the name as well, so that a value under another's name is
// damage.
func checksum(name string, head, value []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
	h.Write([]byte(name))
	h.Write(head)
	h.Write(value)
	h.Sum(sum[:0])
	return sum
}
