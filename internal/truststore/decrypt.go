package truststore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
)

const (
	oidPBE3DES  = "1.2.840.113549.1.12.1.3"
	oidPBE2DES  = "1.2.840.113549.1.12.1.4"
	oidPBERC2   = "1.2.840.113549.1.12.1.5"
	oidPBERC240 = "1.2.840.113549.1.12.1.6"
	oidPBES2    = "1.2.840.113549.1.5.13"
	oidPBKDF2   = "1.2.840.113549.1.5.12"
)

// scheme is how a part is encrypted: what is derived from the password, and
// what then decrypts.
type scheme struct {
	iterations int
	block      func(password string) (cipher.Block, []byte, error) // with the IV
}

type pbkdf2Params struct {
	Salt       asn1.RawValue
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// parseScheme reads an algorithm with its parameters: PBES2 (RFC 8018 section
// 6.2), which Java and openssl write today, and triple DES (RFC 7292 appendix
// C), which they wrote before.
func parseScheme(a pkix.AlgorithmIdentifier) (*scheme, error) {
	switch id := a.Algorithm.String(); id {
	case oidPBES2:
		return parsePBES2(a.Parameters.FullBytes)
	case oidPBE3DES:
		return parse3DES(a.Parameters.FullBytes)
	case oidPBERC2, oidPBERC240:
		return nil, errRC2
	case oidPBE2DES:
		return nil, notRead("encryption by two-key triple DES")
	default:
		return nil, notRead("encryption by " + id)
	}
}

func notRead(what string) error { return errors.New(what + " is not read; " + convert) }

// errRC2 is for stores from before 2020. The second command is for those that
// openssl made, in which keytool sees no trusted certificate; what it writes
// has no aliases.
var errRC2 = errors.New("its certificates are encrypted by RC2, which is not read; " + convert +
	" (a store that openssl made: openssl pkcs12 -legacy -nokeys -in OLD -out NEW.pem)")

func parse3DES(der []byte) (*scheme, error) {
	var params struct {
		Salt       []byte
		Iterations int
	}
	if err := whole(der, &params); err != nil || params.Iterations < 1 {
		return nil, errShape
	}
	return &scheme{params.Iterations, func(password string) (cipher.Block, []byte, error) {
		text := bmpZ(password)
		block, err := des.NewTripleDESCipher(derive(1, params.Salt, text, params.Iterations, 24))
		return block, derive(2, params.Salt, text, params.Iterations, des.BlockSize), err
	}}, nil
}

func parsePBES2(der []byte) (*scheme, error) {
	var params struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	var kdf pbkdf2Params
	if whole(der, &params) != nil || whole(params.KDF.Parameters.FullBytes, &kdf) != nil || kdf.Iterations < 1 {
		return nil, errShape
	}
	if id := params.KDF.Algorithm.String(); id != oidPBKDF2 || kdf.Salt.Tag != asn1.TagOctetString {
		return nil, notRead("a key derived by " + id)
	}
	prf, err := prfOf(kdf.PRF.Algorithm)
	if err != nil {
		return nil, err
	}
	size, open, err := cipherOf(params.Cipher.Algorithm.String())
	if err != nil {
		return nil, err
	}
	var iv []byte
	if err := whole(params.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, errShape
	}
	return &scheme{kdf.Iterations, func(password string) (cipher.Block, []byte, error) {
		key, err := pbkdf2.Key(prf, password, kdf.Salt.Bytes, kdf.Iterations, size)
		if err != nil {
			return nil, nil, err
		}
		block, err := open(key)
		return block, iv, err
	}}, nil
}

// prfOf is the hash of PBKDF2's HMAC; SHA-1 when none is named.
func prfOf(id asn1.ObjectIdentifier) (func() hash.Hash, error) {
	switch id.String() {
	case "", "1.2.840.113549.2.7":
		return sha1.New, nil
	case "1.2.840.113549.2.9":
		return sha256.New, nil
	case "1.2.840.113549.2.10":
		return sha512.New384, nil
	case "1.2.840.113549.2.11":
		return sha512.New, nil
	}
	return nil, notRead("a key derived with " + id.String())
}

// cipherOf is a cipher for CBC and the length of its key.
func cipherOf(id string) (size int, open func([]byte) (cipher.Block, error), err error) {
	switch id {
	case "2.16.840.1.101.3.4.1.2":
		return 16, aes.NewCipher, nil
	case "2.16.840.1.101.3.4.1.22":
		return 24, aes.NewCipher, nil
	case "2.16.840.1.101.3.4.1.42":
		return 32, aes.NewCipher, nil
	case "1.2.840.113549.3.7":
		return 24, des.NewTripleDESCipher, nil
	case "1.2.840.113549.3.2":
		return 0, nil, errRC2
	}
	return 0, nil, notRead("encryption by " + id)
}

var errDecrypt = errors.New("what the password opens is not sound")

// decrypt opens CBC with the padding of RFC 8018 section 6.1.1. The MAC was
// verified before, so that nothing is told here about the password.
func (s *scheme) decrypt(sealed []byte, password string) ([]byte, error) {
	block, iv, err := s.block(password)
	if err != nil {
		return nil, err
	}
	size := block.BlockSize()
	if len(iv) != size || len(sealed) == 0 || len(sealed)%size != 0 {
		return nil, errDecrypt
	}
	plain := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, sealed)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > size {
		return nil, errDecrypt
	}
	for _, b := range plain[len(plain)-pad:] {
		if int(b) != pad {
			return nil, errDecrypt
		}
	}
	return plain[:len(plain)-pad], nil
}

// bmpZ is text as RFC 7292 appendix B.1 wants a password: two bytes for each
// character, and two zeros.
func bmpZ(text string) []byte {
	var b []byte
	for _, r := range text {
		b = append(b, byte(r>>8), byte(r))
	}
	return append(b, 0, 0)
}

// derive is the key derivation of RFC 7292 appendix B.2 with SHA-1; id is 1 for
// a key and 2 for an IV.
func derive(id byte, salt, password []byte, iterations, size int) []byte {
	const v = sha1.BlockSize
	in := append(repeat(salt, v), repeat(password, v)...)
	head := repeat([]byte{id}, v)
	var out []byte
	for {
		a := sha1.Sum(append(head[:v:v], in...))
		for range iterations - 1 {
			a = sha1.Sum(a[:])
		}
		if out = append(out, a[:]...); len(out) >= size {
			return out[:size]
		}
		b := repeat(a[:], v)
		for i := 0; i < len(in); i += v {
			increase(in[i:i+v], b)
		}
	}
}

// repeat fills the least multiple of v bytes with copies of b.
func repeat(b []byte, v int) []byte {
	out := make([]byte, (len(b)+v-1)/v*v)
	for i := range out {
		out[i] = b[i%len(b)]
	}
	return out
}

// increase adds b and 1 to the number a, both of the same length.
func increase(a, b []byte) {
	carry := uint(1)
	for i := len(a) - 1; i >= 0; i-- {
		carry += uint(a[i]) + uint(b[i])
		a[i] = byte(carry)
		carry >>= 8
	}
}
