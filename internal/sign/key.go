package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/truststore"
)

// key is one signing key. Only its Signer knows the private half.
type key struct {
	signer crypto.Signer
	alg    Algorithm
	method jwt.SigningMethod // by which what was signed is checked
	kid    string            // thumbprint: RFC 7638
	public member
	from   time.Time
}

// member is a public key as members of a JWK, in the order of RFC 7638.
type member struct {
	Crv string `json:"crv,omitempty"`
	E   string `json:"e,omitempty"`
	Kty string `json:"kty"`
	N   string `json:"n,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
}

// thumbprint is RFC 7638 section 3 with SHA-256, in base64url.
func (m member) thumbprint() string {
	text, err := json.Marshal(m) // base64url needs no escapes
	if err != nil {
		panic("sign: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// newKey judges a key and the algorithm asked for, empty for the key's own. The
// error is a sentence for whoever wrote the configuration; which is the setting
// it is about.
func newKey(signer crypto.Signer, alg Algorithm) (k *key, which string, err error) {
	if since, known := truststore.Known(signer.Public()); known {
		return nil, "file", fmt.Errorf("expected a key of your own; the private half of this one is public (a WSO2 default of %s), so anyone can sign with it", since)
	}
	k = &key{signer: signer}
	var fitting []Algorithm
	b64 := base64.RawURLEncoding.EncodeToString
	switch public := signer.Public().(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, "file", fmt.Errorf("expected an RSA key of 2048 to 8192 bits, got %d", bits)
		}
		if public.E < 65537 {
			return nil, "file", fmt.Errorf("expected an RSA key with the exponent 65537 or a larger one, got %d", public.E)
		}
		k.public = member{Kty: "RSA", N: b64(public.N.Bytes()), E: b64(big.NewInt(int64(public.E)).Bytes())}
		fitting = []Algorithm{RS256, PS256}
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, "file", fmt.Errorf("expected an EC key on P-256, got %s", public.Curve.Params().Name)
		}
		point, err := public.Bytes() // 4, then x and y at full width
		if err != nil {
			return nil, "file", err
		}
		k.public = member{Kty: "EC", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:])}
		fitting = []Algorithm{ES256}
	case ed25519.PublicKey:
		k.public = member{Kty: "OKP", Crv: "Ed25519", X: b64(public)}
		fitting = []Algorithm{Ed25519, EdDSA}
	default:
		return nil, "file", errors.New("expected an RSA key, an EC key on P-256 or an Ed25519 key")
	}
	k.kid = k.public.thumbprint()
	for _, a := range fitting {
		if alg == "" || alg == a {
			k.alg, k.method = a, methods[a]
			return k, "", nil
		}
	}
	var words []string
	for _, a := range fitting {
		words = append(words, string(a))
	}
	return nil, "algorithm", fmt.Errorf("expected one that fits the key: %s, got %q", strings.Join(words, ", "), alg)
}

// methods are golang-jwt's. They check every signature before it leaves.
var methods = map[Algorithm]jwt.SigningMethod{
	RS256: jwt.SigningMethodRS256, PS256: jwt.SigningMethodPS256, ES256: jwt.SigningMethodES256,
	Ed25519: jwt.SigningMethodEdDSA, EdDSA: jwt.SigningMethodEdDSA,
}

// sign returns the JWS signature of input (RFC 7515 section 5.1).
func (k *key) sign(input string) ([]byte, error) {
	digest := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch k.alg {
	case RS256:
		signature, err = k.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	case PS256: // RFC 7518 section 3.5: the salt is as long as the digest
		signature, err = k.signer.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	case ES256:
		signature, err = k.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err == nil {
			signature, err = fixedWidth(signature)
		}
	case Ed25519, EdDSA:
		signature, err = k.signer.Sign(rand.Reader, []byte(input), crypto.Hash(0))
	default:
		return nil, fmt.Errorf("signing by %q: there is no such algorithm", k.alg)
	}
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", k.kid, err)
	}
	// A signature made in error can give an RSA key away, and a signer that is
	// not in this process may have another key by now.
	if err := k.method.Verify(input, signature, k.signer.Public()); err != nil {
		return nil, fmt.Errorf("checking what key %s signed: %w", k.kid, err)
	}
	return signature, nil
}

// fixedWidth turns the DER of a signature on P-256 into its two numbers at full
// width (RFC 7518 section 3.4).
func fixedWidth(der []byte) ([]byte, error) {
	var signature struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &signature); err != nil || len(rest) > 0 {
		return nil, errors.New("the signature is not the DER of two numbers")
	}
	if signature.R.Sign() <= 0 || signature.S.Sign() <= 0 || signature.R.BitLen() > 256 || signature.S.BitLen() > 256 {
		return nil, errors.New("the numbers of the signature are out of range")
	}
	raw := make([]byte, 64)
	signature.R.FillBytes(raw[:32])
	signature.S.FillBytes(raw[32:])
	return raw, nil
}

// mostKeyFile bounds a key file, in bytes.
const mostKeyFile = 64 << 10

// load reads the key. The error is a sentence for whoever wrote the
// configuration and holds nothing of the key; which is the setting it is about.
func (f KeyFile) load() (k *key, which string, err error) {
	if f.File == "" {
		return nil, "file", errors.New("expected the name of a file")
	}
	body, err := readPrivate(f.File)
	if err != nil {
		return nil, "file", err
	}
	signer, err := parse(body)
	if err != nil {
		return nil, "file", err
	}
	if k, which, err = newKey(signer, f.Algorithm); err == nil {
		k.from = f.ActiveFrom.Time
	}
	return k, which, err
}

// readPrivate reads a file that not everyone on the machine may read, nor anyone
// but its owner write. The group may read it: that is how Kubernetes hands
// secrets to a process that isn't root.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("expected a readable file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("expected a readable file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o026 != 0 {
		return nil, fmt.Errorf("expected a file that others can't read and its owner alone can write, such as mode 0400 or 0440, got mode %04o", mode)
	}
	body, err := io.ReadAll(io.LimitReader(f, mostKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("expected a readable file: %w", err)
	}
	if len(body) > mostKeyFile {
		return nil, fmt.Errorf("expected a private key, got more than %d bytes", mostKeyFile)
	}
	return body, nil
}

// parse reads the one private key of a PEM file. Parameters before an EC key
// are what openssl ecparam -genkey writes.
func parse(body []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(body)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	switch {
	case block == nil:
		return nil, errors.New("expected a private key in PEM")
	case strings.TrimSpace(string(rest)) != "":
		return nil, errors.New("expected one private key in PEM and nothing after it")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, errors.New("expected a private key that is not encrypted; `openssl pkey -in FILE -out FILE` decrypts one")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("expected a private key, the PEM block is a %q", block.Type)
	}
	if err != nil {
		return nil, errors.New("expected an RSA key of at least 2048 bits, an EC key on P-256 or an Ed25519 key, in PKCS#8, PKCS#1 or SEC 1") // the cause may quote the key
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("expected a key that signs; this one is for key agreement")
	}
	return signer, nil
}

// generate makes a key for ES256 in a file that nobody else may read, unless
// there is one already. Of two processes that do it at once, one wins, and both
// use its key.
func generate(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	// Written whole before it has its name: what a crash leaves is no key.
	f, err := os.CreateTemp(filepath.Dir(path), ".introspectd-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
