package truststore_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	keystore "github.com/pavlo-v-chernykh/keystore-go/v4"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"introspectd/internal/truststore"
)

const wso2Kid = "YTgwYzYwYTY0MjliMWZlMzA1YTcwMjg5NGI1MTkyMDdiNjg1NTgyOTJiZDRhMzE5MmIwYjMzMzAyOTFjNzMzNQ_RS256"

// TestKnownStores reads the three stores of one content. keytool wrote the
// aliases of the JKS in lower case.
func TestKnownStores(t *testing.T) {
	asGiven := []string{
		"ExpiredCertKid", "Idp1-Signing-2026",
		"NjAzODJhNzE1OTQ3NGEwZjQ3MmQyN2JhNmIyMzc2NzA2YTQ4MDgzMzU3MGU4ODQ2OTAxZWMyNzllOTk3ZmM4Zg_RS256", wso2Kid,
		"gateway_certificate_alias", "idp3-ec-p256", "wso2carbon",
	}
	folded := slices.Clone(asGiven)
	for i, alias := range folded {
		folded[i] = strings.ToLower(alias)
	}
	slices.Sort(folded)
	for _, row := range []struct {
		file string
		want []string
	}{
		{"client-truststore.jks", slices.Concat([]string{"JKS"}, folded, []string{"- legacyrootca ca", "- weak-1024 rsa_size"})},
		{"client-truststore.p12", slices.Concat([]string{"PKCS12"}, asGiven, []string{"- LegacyRootCA ca", "- weak-1024 rsa_size"})},
		{"client-truststore-pkcs12-named.jks", slices.Concat([]string{"PKCS12"}, asGiven, []string{"- LegacyRootCA ca", "- weak-1024 rsa_size"})},
		{"wso2carbon.jks", []string{"JKS", "- wso2carbon private"}},
		{"wso2.crt", []string{"DER", wso2Kid}},
	} {
		t.Run("T11 "+row.file, func(t *testing.T) {
			body := load(t, filepath.Join("../wso2/testdata", row.file))
			s := read(t, body)
			if diff := cmp.Diff(row.want, picture(s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, e := range s.Entries {
				if strings.EqualFold(e.Alias, wso2Kid) && truststore.Kid(e.Certificate.Raw) != wso2Kid {
					t.Errorf("%s: got the certificate of %s", e.Alias, truststore.Kid(e.Certificate.Raw))
				}
			}
			if s.Format == truststore.DER {
				return
			}
			for _, wrong := range []string{"", "wso2carbo", "wso2carbon ", "Wso2carbon", "wso2carbon\x00", "\u00f7so2carbon"} {
				if _, err := truststore.Read(body, wrong); !errors.Is(err, truststore.ErrPassword) || strings.Contains(err.Error(), "carbo") {
					t.Errorf("with %q: got %v, want ErrPassword without any of it", wrong, err)
				}
			}
		})
	}
}

// TestSeedCommands runs both commands of the seed as they are printed, and
// types the passwords where it says so.
func TestSeedCommands(t *testing.T) {
	const (
		export   = "keytool -export -alias wso2carbon -file wso2.crt -keystore wso2carbon.jks"
		importit = "keytool -import -trustcacerts -keystore client-truststore.jks -alias gateway_certificate_alias -file wso2.crt"
	)
	run := func(t *testing.T, dir, stdin, line string) {
		t.Helper()
		words := strings.Fields(line)
		tool(t, dir, stdin, words[0], words[1:]...)
	}
	fresh := func(t *testing.T) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "wso2carbon.jks"), load(t, "../wso2/testdata/wso2carbon.jks"), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	want := []string{"PKCS12", "gateway_certificate_alias"}
	t.Run("as printed", func(t *testing.T) {
		dir := fresh(t)
		run(t, dir, password+"\n", export)
		if diff := cmp.Diff([]string{"DER", wso2Kid}, picture(read(t, load(t, filepath.Join(dir, "wso2.crt"))))); diff != "" {
			t.Errorf("wso2.crt (-want +got):\n%s", diff)
		}
		run(t, dir, password+"\n"+password+"\nyes\n", importit)
		if diff := cmp.Diff(want, picture(read(t, load(t, filepath.Join(dir, "client-truststore.jks"))))); diff != "" {
			t.Errorf("client-truststore.jks (-want +got):\n%s", diff)
		}
	})
	t.Run("into a JKS that is there", func(t *testing.T) {
		dir := fresh(t)
		run(t, dir, "", export+" -storepass wso2carbon")
		other := write(t, "other.pem", inPEM(certificate("other")))
		keytool(t, dir, "-import", "-noprompt", "-storetype", "JKS", "-keystore", "client-truststore.jks", "-alias", "other", "-file", other, "-storepass", password)
		run(t, dir, "", importit+" -storepass wso2carbon -noprompt")
		if diff := cmp.Diff([]string{"JKS", "gateway_certificate_alias", "other"}, picture(read(t, load(t, filepath.Join(dir, "client-truststore.jks"))))); diff != "" {
			t.Errorf("client-truststore.jks (-want +got):\n%s", diff)
		}
	})
	t.Run("the text of the seed", func(t *testing.T) {
		text, err := os.ReadFile("../../../shared/seed/wso2-jwt-access-tokens.txt")
		if err != nil {
			absent(t, "../shared/seed")
		}
		for _, line := range []string{export, importit} {
			if !bytes.Contains(text, []byte(line+"\n")) && !bytes.Contains(text, []byte(line+". \n")) {
				t.Errorf("the seed does not print %q", line)
			}
		}
	})
}

// absent ends a test that needs what is kept outside the project.
func absent(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not there, and CI must not go without it", what)
	}
	t.Skipf("SKIPPED, NOT PASSED: %s is not there", what)
}

// TestKeytoolStores makes stores of every kind that keytool writes.
func TestKeytoolStores(t *testing.T) {
	root := write(t, "ca.pem", inPEM(certificate("Root", aCA)))
	signer := write(t, "signer.pem", inPEM(certificate("signer")))
	weak, err := filepath.Abs("../wso2/testdata/weak1024.crt.pem")
	if err != nil {
		t.Fatal(err)
	}
	legacy := []string{"-J-Dkeystore.pkcs12.certProtectionAlgorithm=PBEWithSHA1AndDESede", "-J-Dkeystore.pkcs12.macAlgorithm=HmacPBESHA1"}
	longer := []string{"-J-Dkeystore.pkcs12.certProtectionAlgorithm=PBEWithHmacSHA512AndAES_128", "-J-Dkeystore.pkcs12.macAlgorithm=HmacPBESHA512"}
	for _, row := range []struct {
		name  string
		args  []string
		mixed bool // with what must not sign
		want  []string
	}{
		{"JKS", []string{"-storetype", "JKS"}, true, []string{"JKS", "signer-2026", "- own private", "- root ca", "- weak rsa_size"}},
		{"PKCS12, the default", nil, true, []string{"PKCS12", "Signer-2026", "- Root ca", "- own private", "- weak rsa_size"}},
		{"PKCS12 by triple DES", legacy, false, []string{"PKCS12", "Signer-2026"}},
		{"PKCS12 with AES-128 and SHA-512", longer, false, []string{"PKCS12", "Signer-2026"}},
	} {
		t.Run("T11 "+row.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store := func(args ...string) {
				t.Helper()
				keytool(t, dir, slices.Concat(args, []string{"-keystore", "store.jks", "-storepass", password}, row.args)...)
			}
			store("-importcert", "-noprompt", "-alias", "Signer-2026", "-file", signer)
			if row.mixed {
				store("-genkeypair", "-alias", "Own", "-keyalg", "EC", "-dname", "CN=own", "-keypass", password)
				store("-importcert", "-noprompt", "-alias", "Root", "-file", root)
				store("-importcert", "-noprompt", "-alias", "weak", "-file", weak)
			}
			s := read(t, load(t, filepath.Join(dir, "store.jks")))
			if diff := cmp.Diff(row.want, picture(s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if e, _ := s.Find("SIGNER-2026"); e == nil || !e.Certificate.Equal(must(x509.ParseCertificate(decode(t, signer)))) {
				t.Errorf("SIGNER-2026: got %v, want the signer's certificate", e)
			}
		})
	}
}

func decode(t *testing.T, path string) []byte {
	t.Helper()
	block, _ := pem.Decode(load(t, path))
	return block.Bytes
}

// TestOpensslStores makes stores of openssl, which Java would not take for
// trusted certificates.
func TestOpensslStores(t *testing.T) {
	a, b := certificate("a"), certificate("b")
	certs := write(t, "certs.pem", inPEM(a)+inPEM(b))
	key := write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(ecKey()))})))
	names := []string{"-caname", "First One", "-caname", "zweite Straße"}
	for _, row := range []struct {
		name string
		args []string
		want []string
	}{
		{"AES by default", append([]string{"-nokeys"}, names...), []string{"PKCS12", "First One", "zweite Straße"}},
		{"AES-128 with SHA-512", append([]string{"-nokeys", "-certpbe", "AES-128-CBC", "-macalg", "SHA512"}, names...), []string{"PKCS12", "First One", "zweite Straße"}},
		{"AES-192", append([]string{"-nokeys", "-certpbe", "AES-192-CBC"}, names...), []string{"PKCS12", "First One", "zweite Straße"}},
		{"triple DES", append([]string{"-nokeys", "-certpbe", "PBE-SHA1-3DES", "-macalg", "SHA1"}, names...), []string{"PKCS12", "First One", "zweite Straße"}},
		{"triple DES by PBES2", append([]string{"-nokeys", "-certpbe", "DES-EDE3-CBC"}, names...), []string{"PKCS12", "First One", "zweite Straße"}},
		{"not encrypted", append([]string{"-nokeys", "-certpbe", "NONE"}, names...), []string{"PKCS12", "First One", "zweite Straße"}},
		{"without names", []string{"-nokeys"}, sortedKids("PKCS12", a, b)},
		{"with a private key", []string{"-inkey", key, "-name", "own", "-caname", "beside"}, []string{"PKCS12", "- beside private", "- own private"}},
	} {
		t.Run("T11 "+row.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out.p12")
			openssl(t, append([]string{"pkcs12", "-export", "-in", certs, "-out", out, "-passout", "pass:" + password}, row.args...)...)
			body := load(t, out)
			if diff := cmp.Diff(row.want, picture(read(t, body))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, err := truststore.Read(body, "another"); !errors.Is(err, truststore.ErrPassword) {
				t.Errorf("another password: got %v, want ErrPassword", err)
			}
		})
	}
}

func sortedKids(format string, certs ...*x509.Certificate) []string {
	var kids []string
	for _, c := range certs {
		kids = append(kids, truststore.Kid(c.Raw))
	}
	slices.Sort(kids)
	return append([]string{format}, kids...)
}

// TestOldStoresAreConverted makes stores by RC2 and runs the command that the
// refusal names.
func TestOldStoresAreConverted(t *testing.T) {
	signer := write(t, "signer.pem", inPEM(certificate("signer")))
	refusal := func(t *testing.T, path string) string {
		t.Helper()
		_, err := truststore.Read(load(t, path), password)
		if err == nil || !strings.Contains(err.Error(), "RC2") {
			t.Fatalf("got %v, want a refusal of RC2", err)
		}
		return err.Error()
	}
	// command takes one out of a sentence and fills it in.
	command := func(t *testing.T, sentence, begin, end, old, new string) []string {
		t.Helper()
		i := strings.LastIndex(sentence, begin)
		if i < 0 {
			t.Fatalf("got %q, want a command %q in it", sentence, begin)
		}
		line, _, _ := strings.Cut(sentence[i+len(begin):], end)
		words := strings.Fields(line)
		for i, word := range words {
			words[i] = map[string]string{"OLD": old, "NEW": new, "NEW.pem": new}[word]
			if words[i] == "" {
				words[i] = word
			}
		}
		return words
	}
	t.Run("of keytool", func(t *testing.T) {
		dir := t.TempDir()
		keytool(t, dir, "-J-Dkeystore.pkcs12.legacy", "-importcert", "-noprompt", "-storetype", "PKCS12", "-alias", "Signer", "-file", signer, "-keystore", "old.p12", "-storepass", password)
		args := command(t, refusal(t, filepath.Join(dir, "old.p12")), "keytool ", " (", "old.p12", "new.p12")
		keytool(t, dir, append(args, "-srcstorepass", password, "-deststorepass", password)...)
		if diff := cmp.Diff([]string{"PKCS12", "signer"}, picture(read(t, load(t, filepath.Join(dir, "new.p12"))))); diff != "" {
			t.Errorf("converted (-want +got):\n%s", diff)
		}
	})
	for _, pbe := range []string{"PBE-SHA1-RC2-40", "PBE-SHA1-RC2-128"} {
		t.Run("of openssl by "+pbe, func(t *testing.T) {
			dir := t.TempDir()
			old, converted := filepath.Join(dir, "old.p12"), filepath.Join(dir, "new.pem")
			openssl(t, "pkcs12", "-export", "-nokeys", "-legacy", "-certpbe", pbe, "-in", signer, "-caname", "signer", "-out", old, "-passout", "pass:"+password)
			args := command(t, refusal(t, old), ": openssl ", ")", old, converted)
			openssl(t, append(args, "-passin", "pass:"+password)...)
			if diff := cmp.Diff(sortedKids("PEM", must(x509.ParseCertificate(decode(t, signer)))), picture(read(t, load(t, converted)))); diff != "" {
				t.Errorf("converted (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMACKinds alters one byte of a store after the other, under every kind of
// MAC that is read: nothing that it protects may be used.
func TestMACKinds(t *testing.T) {
	c := certificate("signer")
	for name, encoder := range map[string]*pkcs12.Encoder{
		"SHA-1": pkcs12.LegacyDES, "SHA-256": pkcs12.Modern2023.WithIterations(1), "PBMAC1": pkcs12.Modern2026.WithIterations(1),
	} {
		t.Run("an altered store with "+name, func(t *testing.T) {
			body := must(encoder.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: c, FriendlyName: "signer"}}, password))
			if diff := cmp.Diff([]string{"PKCS12", "signer"}, picture(read(t, body))); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			for i := 0; i < len(body); i += 7 {
				altered := slices.Clone(body)
				altered[i] ^= 0x01
				s, err := truststore.Read(altered, password)
				// What is no longer read the same way is refused; what is
				// (a NULL that nobody looks at) says the same.
				if err == nil && !cmp.Equal(picture(s), []string{"PKCS12", "signer"}) {
					t.Errorf("byte %d altered: got %q, want an error or the same", i, picture(s))
				}
			}
		})
	}
	for _, mac := range []string{"SHA384", "SHA224", "MD5"} {
		t.Run("a MAC that is not read: "+mac, func(t *testing.T) {
			out, in := filepath.Join(t.TempDir(), "out.p12"), write(t, "c.pem", inPEM(c))
			openssl(t, "pkcs12", "-export", "-nokeys", "-macalg", mac, "-in", in, "-caname", "a", "-out", out, "-passout", "pass:"+password)
			if s, err := truststore.Read(load(t, out), password); err == nil || errors.Is(err, truststore.ErrPassword) || !strings.Contains(err.Error(), "MAC") {
				t.Errorf("got %v, %v, want a refusal of the MAC", s, err)
			}
		})
	}
	t.Run("no MAC", func(t *testing.T) {
		body := must(pkcs12.Passwordless.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: c, FriendlyName: "signer"}}, ""))
		if s, err := truststore.Read(body, ""); err != nil || !cmp.Equal(picture(s), []string{"PKCS12", "signer"}) {
			t.Errorf("without a password: got %v, %v, want the entry", s, err)
		}
		if _, err := truststore.Read(body, password); err == nil || !strings.Contains(err.Error(), "no MAC") {
			t.Errorf("with a password: got %v, want a refusal: it protects nothing", err)
		}
		var parts []asn1.RawValue
		if _, err := asn1.Unmarshal(must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: c, FriendlyName: "signer"}}, password)), &parts); err != nil {
			t.Fatal(err)
		}
		body = must(asn1.Marshal(parts[:2]))
		for _, word := range []string{password, ""} {
			if _, err := truststore.Read(body, word); err == nil || !strings.Contains(err.Error(), "no MAC") {
				t.Errorf("encrypted, with %q: got %v, want a refusal", word, err)
			}
		}
	})
}

// TestPEM reads a file of several blocks.
func TestPEM(t *testing.T) {
	a, b := certificate("a"), certificate("b")
	root := certificate("Root", aCA)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(ecKey()))}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
	body := "Some text\n" + inPEM(a) + private + inPEM(root) + broken + string(load(t, "../wso2/testdata/weak1024.crt.pem")) + inPEM(b) + inPEM(a) + inPEM(root)
	s := read(t, []byte(body))
	if diff := cmp.Diff(sortedKids("PEM", a, b), picture(s)[:3]); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	reasons := map[truststore.Reason]int{}
	for _, e := range s.Skipped {
		reasons[e.Reason]++
	}
	want := map[truststore.Reason]int{truststore.Private: 1, truststore.CA: 2, truststore.Malformed: 1, truststore.RSASize: 1}
	if diff := cmp.Diff(want, reasons); diff != "" || len(s.Entries) != 2 {
		t.Errorf("left out (-want +got):\n%s%d entries", diff, len(s.Entries))
	}
	sum := sha256.Sum256(a.Raw)
	kid := base64.RawURLEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))) + "_RS256"
	if e, _ := s.Find(kid); e == nil || !e.Certificate.Equal(a) {
		t.Errorf("the kid of WSO2's products: got %v, want the certificate", e)
	}
}

// TestFind has an exact alias before a folded one, and one that was left out
// told apart from one that isn't there.
func TestFind(t *testing.T) {
	body := must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{
		{Cert: certificate("a"), FriendlyName: "Mixed"}, {Cert: certificate("b"), FriendlyName: "lower"}, {Cert: certificate("c", aCA), FriendlyName: "Root"},
	}, password))
	s := read(t, body)
	for alias, want := range map[string]string{"Mixed": "Mixed", "mixed": "Mixed", "MIXED": "Mixed", "lower": "lower", "LOWER": "lower", "root": "-Root", "": "", "none": "", "mixe": "", "mixed ": ""} {
		e, skipped := s.Find(alias)
		got := ""
		if e != nil {
			got = e.Alias
		}
		if skipped != nil {
			got = "-" + skipped.Alias
		}
		if got != want {
			t.Errorf("Find(%q): got %q, want %q", alias, got, want)
		}
	}
}

// jks writes a store whose entries may be anything.
func jks(t testing.TB, entries map[string]string) []byte {
	t.Helper()
	store := keystore.New(keystore.WithCaseExactAliases(), keystore.WithOrderedAliases())
	for alias, content := range entries {
		kind, content, _ := strings.Cut(content, ":")
		if err := store.SetTrustedCertificateEntry(alias, keystore.TrustedCertificateEntry{
			CreationTime: time.Now(), Certificate: keystore.Certificate{Type: kind, Content: []byte(content)},
		}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := store.Store(&b, []byte(password)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOneBadEntry leaves out what can't be read, and nothing else.
func TestOneBadEntry(t *testing.T) {
	good := certificate("good")
	t.Run("in a JKS", func(t *testing.T) {
		s := read(t, jks(t, map[string]string{
			"good": "X.509:" + string(good.Raw), "bad": "X.509:garbage", "odd": "PGP:" + "x", "la\xfftin": "X.509:" + string(certificate("x").Raw),
			strings.Repeat("a", 257): "X.509:" + string(certificate("y").Raw),
		}))
		want := []string{"JKS", "good", "- " + strings.Repeat("a", 256) + " malformed", "- bad malformed", "- latin malformed", "- odd malformed"}
		if diff := cmp.Diff(want, picture(s)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("in a PKCS12", func(t *testing.T) {
		s := read(t, must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{
			{Cert: good, FriendlyName: "good"},
			{Cert: &x509.Certificate{Raw: []byte("garbage")}, FriendlyName: "bad"},
			{Cert: certificate("y"), FriendlyName: strings.Repeat("a", 257)},
		}, password)))
		if diff := cmp.Diff([]string{"PKCS12", "good", "-  malformed", "- bad malformed"}, picture(s)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A bag and an attribute of RFC 7292, to be made by hand.
type (
	bag struct {
		ID         asn1.ObjectIdentifier
		Value      asn1.RawValue
		Attributes []asn1.RawValue `asn1:"set,omitempty"`
	}
	attribute struct {
		ID     asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	contentInfo struct {
		ID      asn1.ObjectIdentifier
		Content asn1.RawValue
	}
)

var (
	oidData         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidCertBag      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidCRLBag       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 4}
	oidX509         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidFriendlyName = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 20}
)

func explicit(value any) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: must(asn1.Marshal(value))}
}

func bmp(text string) asn1.RawValue {
	v := asn1.RawValue{Tag: asn1.TagBMPString}
	for _, c := range []byte(text) {
		v.Bytes = append(v.Bytes, 0, c)
	}
	return v
}

func named(values ...asn1.RawValue) asn1.RawValue {
	return asn1.RawValue{FullBytes: must(asn1.Marshal(attribute{oidFriendlyName, values}))}
}

func certBag(c *x509.Certificate, attributes ...asn1.RawValue) bag {
	return bag{oidCertBag, explicit(struct {
		ID   asn1.ObjectIdentifier
		Data asn1.RawValue
	}{oidX509, explicit(c.Raw)}), attributes}
}

// handmade is a PKCS#12 store without a MAC of these bags.
func handmade(bags ...any) []byte {
	var raws []asn1.RawValue
	for _, b := range bags {
		raws = append(raws, asn1.RawValue{FullBytes: must(asn1.Marshal(b))})
	}
	parts := []contentInfo{{oidData, explicit(must(asn1.Marshal(raws)))}}
	return must(asn1.Marshal(struct {
		Version int
		Safe    contentInfo
	}{3, contentInfo{oidData, explicit(must(asn1.Marshal(parts)))}}))
}

// TestOddBags leaves each odd bag out, once, and takes the others.
func TestOddBags(t *testing.T) {
	good := certBag(certificate("good"), named(bmp("good")))
	odd := certificate("odd")
	for name, b := range map[string]any{
		"no bag at all":        5,
		"a CRL":                bag{oidCRLBag, explicit(5), nil},
		"not a certificate":    bag{oidCertBag, explicit(5), nil},
		"two names":            certBag(odd, named(bmp("a")), named(bmp("b"))),
		"one name, two values": certBag(odd, named(bmp("a"), bmp("b"))),
		"a name of no value":   certBag(odd, named()),
		"a name in UTF-8":      certBag(odd, named(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("odd")})),
		"half a character":     certBag(odd, named(asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte{0, 'a', 0}})),
		"half a pair":          certBag(odd, named(asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte{0xd8, 0}})),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := truststore.Read(handmade(b, good), "")
			if err != nil || len(s.Skipped) != 1 || s.Skipped[0].Reason != truststore.Malformed || len(s.Entries) != 1 || s.Entries[0].Alias != "good" {
				t.Errorf("got %+v, %v, want the good one alone and the other counted once", s, err)
			}
		})
	}
	t.Run("a name beyond the BMP", func(t *testing.T) {
		key := asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte{0xd8, 0x3d, 0xdd, 0x11}}
		if s, err := truststore.Read(handmade(certBag(odd, named(key))), ""); err != nil || len(s.Entries) != 1 || s.Entries[0].Alias != "\U0001f511" {
			t.Errorf("got %+v, %v, want the key", s, err)
		}
	})
}

// TestAliasesAlike refuses a store in which an alias has two meanings.
func TestAliasesAlike(t *testing.T) {
	a, b := certificate("a"), certificate("b")
	for _, row := range []struct {
		name string
		body []byte
		good bool
	}{
		{"JKS", jks(t, map[string]string{"Key": "X.509:" + string(a.Raw), "key": "X.509:" + string(b.Raw)}), false},
		{"JKS, one of them a CA's", jks(t, map[string]string{"Key": "X.509:" + string(a.Raw), "key": "X.509:" + string(certificate("r", aCA).Raw)}), false},
		{"PKCS12", must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: a, FriendlyName: "Key"}, {Cert: b, FriendlyName: "key"}}, password)), false},
		{"PKCS12, the same text", must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: a, FriendlyName: "key"}, {Cert: b, FriendlyName: "key"}}, password)), false},
		{"PKCS12, one certificate twice", must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: a, FriendlyName: "key"}, {Cert: a, FriendlyName: "key"}}, password)), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			if s, err := truststore.Read(row.body, password); (err == nil) != row.good {
				t.Errorf("got %v, %v, want good: %t", s, err, row.good)
			}
		})
	}
	t.Run("JKS, the same bytes", func(t *testing.T) {
		// No tool writes this, and the library would keep the last one.
		body := bytes.Replace(jks(t, map[string]string{"kea": "X.509:" + string(a.Raw), "keb": "X.509:" + string(b.Raw)}), []byte("keb"), []byte("kea"), 1)
		if s, err := truststore.Read(body, password); err == nil || !strings.Contains(err.Error(), `"kea"`) {
			t.Errorf("got %v, %v, want a refusal of the alias", s, err)
		}
	})
}

// TestHostileFiles holds what the libraries would believe against limits: none
// of these may take memory or time.
func TestHostileFiles(t *testing.T) {
	word := func(numbers ...uint32) (b []byte) {
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	const magic = 0xfeedfeed
	pad := func(b []byte) []byte { return append(b, make([]byte, 64)...) }
	entry := func(tag uint32, rest ...byte) []byte {
		return slices.Concat(word(magic, 2, 1, tag), []byte{0, 1, 'a'}, make([]byte, 8), rest)
	}
	many := func(iterations int, encoder *pkcs12.Encoder) []byte {
		body := must(encoder.WithIterations(iterations).EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: certificate("a"), FriendlyName: "a"}}, password))
		count := append([]byte{2, 3}, byte(iterations>>16), byte(iterations>>8), byte(iterations))
		return bytes.ReplaceAll(body, count, []byte{2, 3, 0x7f, 0xff, 0xff})
	}
	crowd := map[string]string{}
	for i := range 2001 {
		crowd["a"+string(binary.BigEndian.AppendUint16(nil, 0x4141+uint16(i%26)+256*uint16(i/26)))] = "X.509:x"
	}
	for _, row := range []struct {
		name string
		body []byte
		want string // in the error
	}{
		{"nothing", nil, "expected a JKS or PKCS#12"},
		{"zeros", make([]byte, 1000), "expected a JKS or PKCS#12"},
		{"too large", make([]byte, truststore.MaxSize+1), "more than"},
		{"JCEKS", pad(word(0xcececece, 2, 0)), "JCEKS"},
		{"a JWK set", []byte(`{"keys":[]}`), "expected a JKS or PKCS#12"},
		{"half a PEM block", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), "no whole block"},
		{"a PKCS#7", []byte{0x30, 0x05, 0x06, 0x03, 0x2a, 0x03, 0x04}, "expected a JKS or PKCS#12"},
		{"PKCS12 in BER", []byte{0x30, 0x80, 0x02, 0x01, 0x03, 0, 0}, "DER"},
		{"JKS of version 3", pad(word(magic, 3, 0)), "version 3"},
		{"JKS of four billion entries", pad(word(magic, 2, 0xffffffff)), "more than"},
		{"JKS with a certificate of 4 GiB", entry(2, 0, 1, 'X', 0xff, 0xff, 0xff, 0xff), "do not fill"},
		{"JKS with a private key of 4 GiB", entry(1, 0xff, 0xff, 0xff, 0xff), "do not fill"},
		{"JKS with a chain of four billion", entry(1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), "more than"},
		{"JKS with a secret key", entry(3), "kind 3"},
		{"JKS with data after its end", pad(jks(t, map[string]string{"a": "X.509:x"})), "do not fill"},
		{"JKS with a crowd", jks(t, crowd), "more than 2000 entries"},
		{"PKCS12 with a MAC of 8 million rounds", many(70_001, pkcs12.LegacyDES.WithRand(rand.Reader)), "iterations"},
		{"PKCS12 of nothing but a MAC of 8 million rounds", hollow(t), "iterations"},
		{"PKCS12 with 8 million rounds", many(70_002, pkcs12.Modern2023), "iterations"},
		{"PKCS12 with a PBMAC1 of 8 million rounds", many(70_003, pkcs12.Modern2026), "iterations"},
	} {
		t.Run(row.name, func(t *testing.T) {
			begun := time.Now()
			s, err := truststore.Read(row.body, password)
			if err == nil || !strings.Contains(err.Error(), row.want) || errors.Is(err, truststore.ErrPassword) {
				t.Errorf("got %v, %v, want an error with %q", s, err, row.want)
			}
			if took := time.Since(begun); took > time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// hollow is a store without a part, whose MAC takes 8 million rounds.
func hollow(t *testing.T) []byte {
	t.Helper()
	type digest struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	return must(asn1.Marshal(struct {
		Version int
		Safe    contentInfo
		MAC     struct {
			Mac        digest
			Salt       []byte
			Iterations int
		}
	}{3, contentInfo{oidData, explicit(must(asn1.Marshal([]contentInfo{})))}, struct {
		Mac        digest
		Salt       []byte
		Iterations int
	}{digest{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}}, make([]byte, 20)}, make([]byte, 8), 8_000_000}}))
}

// TestTruncated cuts good stores short at every place.
func TestTruncated(t *testing.T) {
	for name, body := range map[string][]byte{
		"JKS":    jks(t, map[string]string{"a": "X.509:" + string(certificate("a").Raw)}),
		"PKCS12": must(pkcs12.Modern2023.WithIterations(1).EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: certificate("a"), FriendlyName: "a"}}, password)),
		"DER":    certificate("a").Raw,
	} {
		for n := range body {
			if s, err := truststore.Read(body[:n], password); err == nil && len(s.Entries) > 0 {
				t.Errorf("%s cut to %d of %d bytes: got %q, want nothing", name, n, len(body), picture(s))
			}
		}
	}
}

// TestPasswords opens stores by passwords beyond ASCII.
func TestPasswords(t *testing.T) {
	in := write(t, "c.pem", inPEM(certificate("a")))
	for _, row := range []struct{ password, want string }{{"grün-geheim", ""}, {"пароль-пароль", "up to U+00FF"}} {
		t.Run("JKS "+row.password, func(t *testing.T) {
			dir, pass := t.TempDir(), write(t, "pass", row.password)
			keytool(t, dir, "-J-Dfile.encoding=UTF-8", "-importcert", "-noprompt", "-alias", "a", "-file", in, "-keystore", "s", "-storetype", "JKS", "-storepass:file", pass)
			s, err := truststore.Read(load(t, filepath.Join(dir, "s")), row.password)
			if row.want == "" && (err != nil || len(s.Entries) != 1) || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, %v, want %q", s, err, row.want)
			}
		})
		for _, pbe := range []string{"AES-256-CBC", "PBE-SHA1-3DES"} {
			t.Run("PKCS12 "+pbe+" "+row.password, func(t *testing.T) {
				out, pass := filepath.Join(t.TempDir(), "out.p12"), write(t, "pass", row.password)
				openssl(t, "pkcs12", "-export", "-nokeys", "-certpbe", pbe, "-in", in, "-caname", "a", "-out", out, "-passout", "file:"+pass)
				if s, err := truststore.Read(load(t, out), row.password); err != nil || len(s.Entries) != 1 {
					t.Errorf("got %v, %v, want the entry", s, err)
				}
			})
		}
	}
	body := must(pkcs12.Modern.EncodeTrustStoreEntries([]pkcs12.TrustStoreEntry{{Cert: certificate("a"), FriendlyName: "a"}}, password))
	if _, err := truststore.Read(body, "\U0001f511"); err == nil || !strings.Contains(err.Error(), "U+FFFF") {
		t.Errorf("a key as the password: got %v, want a refusal", err)
	}
}

// TestKnownPublicKeys has the table hold exactly these facts.
func TestKnownPublicKeys(t *testing.T) {
	digests := []string{
		"da909c62b1bdd210c5c70382b15c9aef0a5b423aa1072dce3ec172c93fbbd74f",
		"ad874c42382e2a464a3dba787fb3a0b5e2de30100545742758a6fbf0cb6aca5e",
		"85c9aa36100b3d93aa1aefd2ea84c9a10935afd7a9a931c11d8bc8a82d002834",
		"ab9dbc9c2104a2799538f3ad93737ddf97b57adee210e70b175525404710b6ab",
		"caa08ab78bb6223dd7f464a988b788e2fbd5a5899033b1cdf19f8727def145e3",
		"ae5b47ff965c757c7ad693862341b5895f3013c2a2c18584d7d5ae3ac03dd551",
		"28396ee1bcfc3cdddefa72692c6ab0ffe28424b6175af1cbd8f2d1adc153e5b1",
		"b42a33122de66ccd94f7bc4ec3095a182675012cb7b03026cb33f559c56dd1d3",
		"bbf5e12f2cda252921a6d4dee7814a22c489af71b8e849511e12b58fdba9f7e7",
		"d1111226285a6506fe16c07e0d1f5968659471a9e30287530866eacb303c9ee6",
		"ba3d55920e54e314cb397e3397cbd6e91ad1cf68314d518a7e5166a8122c1343",
		"131376aa6c47751f0abd56b73a7d84fa7f90edeb7c2e26b8ff07df33af3c3632",
		"914b840fcfd7194c2c278c6a9aecca5e7e7019ebb549107e75f61eb5d1a0d046",
	}
	for _, d := range digests {
		if since, ok := truststore.KnownDigest([32]byte(must(hex.DecodeString(d)))); !ok || since == "" {
			t.Errorf("%s: got %q, %t, want it to be known", d, since, ok)
		}
	}
	if len(digests) != 13 {
		t.Errorf("got %d digests, want 13", len(digests))
	}
	for _, public := range []any{ecKey().Public(), rsaKey().Public(), nil, "no key"} {
		if _, ok := truststore.Known(public); ok {
			t.Errorf("%T: got known, want unknown", public)
		}
	}
	t.Run("the list that they are from", func(t *testing.T) {
		text, err := os.ReadFile("../../../shared/wso2/public/known-public-keys.json")
		if err != nil {
			absent(t, "../shared/wso2/public")
		}
		var list []struct {
			SPKI string `json:"spki_sha256"`
			From string `json:"not_before"`
		}
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, row := range list {
			got = append(got, row.SPKI)
			if since, ok := truststore.KnownDigest([32]byte(must(hex.DecodeString(row.SPKI)))); !ok || since != row.From {
				t.Errorf("%s: got %q, %t, want %q", row.SPKI, since, ok, row.From)
			}
		}
		if diff := cmp.Diff(digests, got); diff != "" {
			t.Errorf("(-here +there):\n%s", diff)
		}
	})
	t.Run("the certificates that they are from", func(t *testing.T) {
		for _, name := range []string{"wso2carbon-2019-08.crt.pem", "wso2carbon-2019-10.crt.pem"} {
			path := filepath.Join("../../../shared/wso2/public", name)
			if _, err := os.Stat(path); err != nil {
				absent(t, "../shared/wso2/public")
			}
			c := must(x509.ParseCertificate(decode(t, path)))
			if since, ok := truststore.Known(c.PublicKey); !ok || since != c.NotBefore.Format(time.DateOnly) {
				t.Errorf("%s: got %q, %t, want it to be known", name, since, ok)
			}
		}
	})
}

// FuzzRead holds for any file: no panic, no long wait, no entry that must not
// sign, no alias with two meanings.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"client-truststore.jks", "wso2carbon.jks", "wso2.crt", "weak1024.crt.pem"} {
		f.Add(load(f, filepath.Join("../wso2/testdata", name)), password)
	}
	f.Add(jks(f, map[string]string{"a": "X.509:x"}), password)
	entries := []pkcs12.TrustStoreEntry{{Cert: certificate("a"), FriendlyName: "a"}}
	f.Add(must(pkcs12.Passwordless.EncodeTrustStoreEntries(entries, "")), "")
	f.Add(must(pkcs12.LegacyDES.WithIterations(1).EncodeTrustStoreEntries(entries, password)), password)
	f.Add(must(pkcs12.Modern2026.WithIterations(1).EncodeTrustStoreEntries(entries, password)), password)
	f.Add(must(pkcs12.Modern.WithIterations(1).Encode(ecKey(), certificate("a"), nil, password)), password)
	f.Fuzz(func(t *testing.T, body []byte, word string) {
		s, err := truststore.Read(body, word)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, e := range s.Entries {
			if e.Certificate.IsCA || e.Alias == "" || seen[truststore.Fold(e.Alias)] {
				t.Errorf("entry %q: a CA's, without a name or there twice", e.Alias)
			}
			seen[truststore.Fold(e.Alias)] = true
			if found, _ := s.Find(e.Alias); found == nil || found.Alias != e.Alias {
				t.Errorf("entry %q can't be found", e.Alias)
			}
		}
	})
}
