package callers

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const (
	// shortestSecret is what 128 bits take in base64url, in characters.
	shortestSecret = 22
	// longestSecret bounds a secret, in bytes.
	longestSecret = 1024
)

// digest reads the secret and returns its SHA-256. The error is a sentence
// for whoever wrote the configuration and holds nothing of the secret; key is
// the member it is about, empty for the secret as a whole. A bearer token has
// to fit in a header besides.
func (s Secret) digest(bearer bool) (d [sha256.Size]byte, key string, err error) {
	given := 0
	for _, v := range []string{s.File, s.Env, s.SHA256} {
		if v != "" {
			given++
		}
	}
	if given != 1 {
		return d, "", errors.New("expected exactly one of file, env and sha256")
	}
	if s.SHA256 != "" {
		d, err = s.parseDigest()
		return d, "sha256", err
	}
	key = "env"
	var secret string
	if s.File != "" {
		key = "file"
		secret, err = readSecret(s.File)
	} else {
		secret, err = lookupSecret(s.Env)
	}
	if err != nil {
		return d, key, err
	}
	switch {
	case len(secret) > longestSecret:
		err = fmt.Errorf("expected a secret of at most %d bytes", longestSecret)
	case utf8.RuneCountInString(secret) < shortestSecret:
		err = fmt.Errorf("expected a secret of at least %d characters, got %d (a shorter one of high entropy can be given as sha256)",
			shortestSecret, utf8.RuneCountInString(secret))
	case bearer && strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		err = errors.New("expected a bearer token of visible ASCII without spaces, as no header carries another")
	}
	if err != nil {
		return d, key, err
	}
	return sha256.Sum256([]byte(secret)), "", nil
}

func (s Secret) parseDigest() (d [sha256.Size]byte, err error) {
	raw, err := hex.DecodeString(s.SHA256)
	if err != nil || len(raw) != sha256.Size {
		return d, errors.New("expected the SHA-256 of the secret as 64 hex digits")
	}
	d = [sha256.Size]byte(raw)
	// What `sha256sum` prints for a file that wasn't there or was empty.
	if d == sha256.Sum256(nil) || d == sha256.Sum256([]byte("\n")) {
		return d, errors.New("expected the digest of a secret, got the digest of nothing")
	}
	return d, nil
}

// readSecret reads a file less one newline at its end, which editors add.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("expected a readable file: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, longestSecret+3))
	if err != nil {
		return "", fmt.Errorf("expected a readable file: %w", err)
	}
	secret, cut := strings.CutSuffix(string(raw), "\n")
	if cut {
		secret = strings.TrimSuffix(secret, "\r")
	}
	return secret, nil
}

func lookupSecret(name string) (string, error) {
	secret, ok := os.LookupEnv(name)
	if !ok {
		return "", fmt.Errorf("expected the environment variable %s to be set", name)
	}
	return secret, nil
}
