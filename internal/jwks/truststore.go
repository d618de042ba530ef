package jwks

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"introspectd/internal/truststore"
)

// TrustStore is the section keys.truststore: which certificates of a file may
// sign for this issuer, and under which names.
type TrustStore struct {
	// Path is a JKS, PKCS#12, PEM or DER file, told apart by its content.
	Path     string   `koanf:"path"`
	Password Password `koanf:"password"`
	// Aliases of those that may sign. A token's kid is an alias; none is bound
	// that isn't named here.
	Aliases []string `koanf:"aliases" default:"[]"`
	// NoKidAlias is the alias that a token without a kid means, and that need
	// not be among Aliases; empty refuses such tokens.
	NoKidAlias string `koanf:"no_kid_alias" default:""`
	// CertificateDates says what becomes of a key outside the dates of its
	// certificate.
	CertificateDates CertificateDates `koanf:"certificate_dates" default:"enforce"`
}

// IsZero tells that the section was not written. A configuration without it
// then has the fingerprint that it had before there was one.
func (t TrustStore) IsZero() bool {
	return t.Path == "" && t.Password == Password{} && len(t.Aliases) == 0 && t.NoKidAlias == "" && t.dates() == Enforce
}

// CertificateDates is what the dates of a certificate mean for its key.
type CertificateDates string

const (
	// Enforce refuses a token outside the dates of its key's certificate.
	Enforce CertificateDates = "enforce"
	// WarnDates accepts it, with a warning in the log.
	WarnDates CertificateDates = "warn"
	// IgnoreDates accepts it.
	IgnoreDates CertificateDates = "ignore"
)

// Values lists the spellings a configuration may use.
func (CertificateDates) Values() []string {
	return []string{string(Enforce), string(WarnDates), string(IgnoreDates)}
}

func (t TrustStore) dates() CertificateDates { return cmp.Or(t.CertificateDates, Enforce) }

// Password is a text that lies in a file, less one newline at its end, or in an
// environment variable. The zero value is the empty password.
type Password struct {
	File string `koanf:"file" default:""`
	Env  string `koanf:"env" default:""`
}

const longestPassword = 1024

// read returns the password. The error holds nothing of it.
func (p Password) read() (string, error) {
	switch {
	case p.File != "" && p.Env != "":
		return "", errors.New("expected either file or env, got both")
	case p.Env != "":
		text, ok := os.LookupEnv(p.Env)
		if !ok {
			return "", fmt.Errorf("expected the environment variable %s to be set", p.Env)
		}
		return text, nil
	case p.File == "":
		return "", nil
	}
	f, err := os.Open(p.File)
	if err != nil {
		return "", fmt.Errorf("expected a readable file: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, longestPassword+3))
	if err != nil {
		return "", fmt.Errorf("expected a readable file: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if len(text) > longestPassword {
		return "", fmt.Errorf("expected a password of at most %d bytes in %s", longestPassword, p.File)
	}
	return text, nil
}

// check reports every fault of t, which has to be there and to open now.
func (t TrustStore) check(fault func(key, problem string)) {
	if !slices.Contains(t.dates().Values(), string(t.dates())) {
		fault("certificate_dates", fmt.Sprintf("expected one of %s, got %q", strings.Join(t.dates().Values(), ", "), t.CertificateDates))
	}
	if t.Path == "" {
		fault("path", "expected the file of the trust store")
		return
	}
	password, err := t.Password.read()
	if err != nil {
		fault("password", err.Error())
		return
	}
	store, _, err := t.read(password)
	switch {
	case errors.Is(err, truststore.ErrPassword):
		fault("password", err.Error())
		return
	case err != nil:
		fault("path", err.Error())
		return
	}
	for i, alias := range t.Aliases {
		if problem := t.missing(store, alias); problem != "" {
			fault(fmt.Sprintf("aliases[%d]", i), problem)
		}
	}
	if t.NoKidAlias != "" {
		if problem := t.missing(store, t.NoKidAlias); problem != "" {
			fault("no_kid_alias", problem)
		}
	}
}

// missing says that there is no such alias in the store, not even one that was
// left out, and which ones there are.
func (t TrustStore) missing(s *truststore.Store, alias string) string {
	if e, skipped := s.Find(alias); e != nil || skipped != nil {
		return ""
	}
	return fmt.Sprintf("no entry has the alias %q; %s (%s) has %s", alias, t.Path, s.Format, listed(s.Aliases()))
}

// mostListed bounds the aliases in one sentence.
const mostListed = 20

func listed(aliases []string) string {
	if len(aliases) == 0 {
		return "none that may sign"
	}
	var b strings.Builder
	for i, alias := range aliases {
		if i == mostListed {
			fmt.Fprintf(&b, " and %d more", len(aliases)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", alias)
	}
	return b.String()
}

// read reads the file, and digests it with the password. The error names the
// file.
func (t TrustStore) read(password string) (s *truststore.Store, digest [32]byte, err error) {
	body, err := readFile(t.Path, truststore.MaxSize)
	if err != nil {
		return nil, digest, fmt.Errorf("trust store %s: %w", t.Path, err)
	}
	if s, err = truststore.Read(body, password); err != nil {
		return nil, digest, fmt.Errorf("trust store %s: %w", t.Path, err)
	}
	return s, sha256.Sum256(append(body, password...)), nil
}

// set binds the entries of a store: those of Aliases, and of NoKidAlias, are
// the keys. What is bound but not there, or left out, is no key.
func (t TrustStore) set(s *truststore.Store) *set {
	skipped := map[skipReason]int{}
	for _, e := range s.Skipped {
		skipped[skipReason(e.Reason)]++
	}
	n := naming{byAlias: true}
	if e, _ := s.Find(t.NoKidAlias); e != nil && t.NoKidAlias != "" {
		n.noKid = e.Alias
	}
	bound := map[string]bool{n.noKid: n.noKid != ""}
	for _, alias := range t.Aliases {
		if e, _ := s.Find(alias); e != nil {
			bound[e.Alias] = true
		}
	}
	picture := &StoreState{Path: t.Path, Format: string(s.Format), NoKidAlias: n.noKid, CertificateDates: t.dates(), Entries: []StoreEntry{}}
	var entries []*entry
	for _, one := range s.Entries {
		row := StoreEntry{
			Alias: one.Alias, Bound: bound[one.Alias], WSO2Kid: truststore.Kid(one.Certificate.Raw),
			NotBefore: one.Certificate.NotBefore, NotAfter: one.Certificate.NotAfter,
		}
		e, err := publicKey(one.Certificate.PublicKey)
		if err != nil {
			skipped[reasonOf(err)]++
			row.Skipped = string(reasonOf(err))
		} else if row.Bound {
			e.key.Kid, e.aliases = one.Alias, nil
			e.certified(one.Certificate, t.dates() == Enforce)
			entries = append(entries, e)
		}
		picture.Entries = append(picture.Entries, row)
	}
	for _, e := range s.Skipped {
		picture.Entries = append(picture.Entries, StoreEntry{Alias: e.Alias, Bound: t.binds(s, e), Skipped: string(e.Reason), Detail: e.Detail})
	}
	out := newSet(entries, skipped, n)
	out.store = picture
	return out
}

// binds tells whether an entry that was left out is one of those bound.
func (t TrustStore) binds(s *truststore.Store, left truststore.Skipped) bool {
	return left.Alias != "" && slices.ContainsFunc(append(slices.Clone(t.Aliases), t.NoKidAlias), func(alias string) bool {
		_, skipped := s.Find(alias)
		return alias != "" && skipped != nil && skipped.Alias == left.Alias
	})
}

// StoreState is a picture of a trust store for people.
type StoreState struct {
	Path string `json:"path"`
	// Format is JKS, PKCS12, PEM or DER.
	Format string `json:"format"`
	// NoKidAlias is the alias that a token without a kid means.
	NoKidAlias       string           `json:"no_kid_alias,omitempty"`
	CertificateDates CertificateDates `json:"certificate_dates"`
	Entries          []StoreEntry     `json:"entries"`
}

// StoreEntry is one entry of a trust store.
type StoreEntry struct {
	// Alias is empty for an entry that could not be read.
	Alias string `json:"alias,omitempty"`
	// Bound tells whether the configuration lets it sign for this issuer.
	Bound bool `json:"bound,omitempty"`
	// Skipped is why it can't sign all the same, and Detail says more.
	Skipped string `json:"skipped,omitempty"`
	Detail  string `json:"detail,omitempty"`
	// WSO2Kid is the kid of tokens that a WSO2 product signs with its key.
	WSO2Kid   string    `json:"wso2_kid,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
}

// Outside tells whether at lies outside the dates of the certificate.
func (e StoreEntry) Outside(at time.Time) bool {
	return !e.NotAfter.IsZero() && (at.Before(e.NotBefore) || at.After(e.NotAfter))
}

// reread reads the trust store again, if its content is another than before.
// One that can't be read leaves the keys as they are, for good: this is the
// operator's own file, and a slip must not end the service. An alias that is
// gone from it is a key withdrawn.
func (k *Keys) reread() error {
	k.changing.Lock()
	defer k.changing.Unlock()
	now := time.Now()
	password, err := k.cfg.TrustStore.Password.read()
	if err != nil {
		return k.kept(fmt.Errorf("password of trust store %s: %w", k.cfg.TrustStore.Path, err))
	}
	store, digest, err := k.cfg.TrustStore.read(password)
	if err != nil {
		return k.kept(err)
	}
	old := k.held.Load()
	next := held{read: now, fetched: k.now()}
	if old != nil && digest == k.memory.body {
		next.set = old.set
	} else {
		next.set = k.cfg.TrustStore.set(store).apart(k.cfg.AllowKnownPublicKeys)
		k.meter.skip(next.set.skipped)
	}
	k.held.Store(&next)
	k.memory.body = digest
	_ = k.kept(nil)
	if old != nil && old.set.digest != next.set.digest {
		k.log.Info("keys changed", "truststore", k.cfg.TrustStore.Path, "keys", len(next.set.entries), "skipped", next.set.skipped)
	}
	k.warn(next.set)
	return nil
}

// kept notes how reading the trust store went, and logs it when it is news.
func (k *Keys) kept(err error) error {
	text := ""
	if err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	before := k.lastErr
	k.lastErr = text
	k.mu.Unlock()
	switch {
	case text != "" && text != before && k.held.Load() != nil:
		k.log.Error("the trust store can't be read; the keys from before go on", "error", text)
	case text == "" && before != "":
		k.log.Info("the trust store can be read again")
	}
	return err
}
