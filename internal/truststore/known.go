package truststore

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// known are the keys whose private half everybody has or may have: WSO2's
// default certificates, which came with the products and their key stores, by
// the SHA-256 of the SubjectPublicKeyInfo, with the first day of the
// certificate. A certificate that was issued anew keeps its key and so its
// digest.
var known = map[string]string{
	"da909c62b1bdd210c5c70382b15c9aef0a5b423aa1072dce3ec172c93fbbd74f": "2010-02-19",
	"ad874c42382e2a464a3dba787fb3a0b5e2de30100545742758a6fbf0cb6aca5e": "2017-07-19",
	"85c9aa36100b3d93aa1aefd2ea84c9a10935afd7a9a931c11d8bc8a82d002834": "2017-12-11",
	"ab9dbc9c2104a2799538f3ad93737ddf97b57adee210e70b175525404710b6ab": "2019-08-23",
	"caa08ab78bb6223dd7f464a988b788e2fbd5a5899033b1cdf19f8727def145e3": "2019-10-23",
	"ae5b47ff965c757c7ad693862341b5895f3013c2a2c18584d7d5ae3ac03dd551": "2021-01-31",
	"28396ee1bcfc3cdddefa72692c6ab0ffe28424b6175af1cbd8f2d1adc153e5b1": "2022-01-26",
	"b42a33122de66ccd94f7bc4ec3095a182675012cb7b03026cb33f559c56dd1d3": "2023-02-22",
	"bbf5e12f2cda252921a6d4dee7814a22c489af71b8e849511e12b58fdba9f7e7": "2024-02-22",
	"d1111226285a6506fe16c07e0d1f5968659471a9e30287530866eacb303c9ee6": "2024-09-10",
	"ba3d55920e54e314cb397e3397cbd6e91ad1cf68314d518a7e5166a8122c1343": "2025-02-13",
	"131376aa6c47751f0abd56b73a7d84fa7f90edeb7c2e26b8ff07df33af3c3632": "2025-08-13",
	"914b840fcfd7194c2c278c6a9aecca5e7e7019ebb549107e75f61eb5d1a0d046": "2026-03-04",
}

// KnownDigest tells whether the private half of a key is public, by the SHA-256
// of its SubjectPublicKeyInfo (RFC 5280 section 4.1) in DER, and since when its
// certificate was valid.
func KnownDigest(spki [sha256.Size]byte) (since string, ok bool) {
	since, ok = known[hex.EncodeToString(spki[:])]
	return since, ok
}

// Known is KnownDigest of a key. It is false for a key that has no such form.
func Known(public crypto.PublicKey) (since string, ok bool) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", false
	}
	return KnownDigest(sha256.Sum256(der))
}
