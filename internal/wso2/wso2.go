// Package wso2 makes a configuration of ours out of WSO2's deployment.toml and
// trust store. It never copies a password.
//
// # Decisions
//
// What can't be told is left out, never guessed. Context: an issuer that is
// configured wrongly is trusted wrongly. Choice: an issuer whose name, keys or
// mapping depend on something that is not at hand is left out and named; the
// others are written. Cost: a configuration that lacks issuers passes a check.
//
// Each note has a line and a word. Context: what is lost in a migration is lost
// silently. Choice: every setting that has another meaning with us is one note
// with its line and one of five words, on standard error; what has nothing to
// do with tokens is one note for all of it. Cost: a long file has many.
//
// The result is text, not a tree that is printed. Context: a reader has to see
// where each value is from. Choice: the lines are written by hand, with a
// comment behind each value that is WSO2's; values are quoted unless they are
// plain words, and comments hold nothing of a file's content. Cost: a test has
// to load every shape of it.
package wso2

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"introspectd/internal/truststore"
)

// Source is what a configuration is made from.
type Source struct {
	// TOML is the content of deployment.toml, and Path where it is.
	TOML []byte
	Path string
	// Store is the content of the trust store, and StorePath where it is.
	Store     []byte
	StorePath string
	// Password is the trust store's, and PasswordFile the file that holds it;
	// empty for none.
	Password     string
	PasswordFile string
	// Bindings are the aliases that may sign for each issuer, by its iss; nil
	// where nobody says.
	Bindings map[string][]string
	// Environ is in the form of os.Environ, for $env{…}.
	Environ []string
	// Now is when certificates are looked at; it changes notes alone.
	Now time.Time
	// SecretFile is where the caller's secret will be.
	SecretFile string
	// ReadFile reads a file that the TOML names.
	ReadFile func(path string) ([]byte, error)
}

// Made is what became of a Source.
type Made struct {
	// Config is our configuration in YAML. Equal sources make equal bytes.
	Config []byte
	// Notes are in the order of lines; those of no line come last.
	Notes []Note
	// Issuers counts those that were written; without one Config is empty.
	Issuers int
}

// Word says what a note is about.
type Word string

const (
	// Dropped is not in our configuration.
	Dropped Word = "dropped"
	// LeftOut is an issuer of which nothing was written.
	LeftOut Word = "left out"
	// Weaker is written, and weaker than it need be.
	Weaker Word = "weaker"
	// Changed is written in another way, or means something else with us.
	Changed Word = "changed"
	// Decide is for somebody to decide.
	Decide Word = "decide"
)

// Note is one setting that has another meaning with us, or none. Line is 0
// where it has none.
type Note struct {
	Line int
	Word Word
	Text string
}

// In is the note with its place in a file of this name.
func (n Note) In(file string) string {
	if n.Line > 0 {
		file += ":" + strconv.Itoa(n.Line)
	}
	return fmt.Sprintf("%s: %s: %s", file, n.Word, n.Text)
}

// ReadBindings reads the JSON of a file of bindings: an object of lists.
func ReadBindings(body []byte) (map[string][]string, error) {
	bindings := map[string][]string{}
	if err := json.Unmarshal(body, &bindings); err != nil {
		return nil, errors.New("expected a JSON object that maps each issuer once to a list of aliases")
	}
	return bindings, nil
}

// Import makes a configuration. The error is about the TOML or the trust store
// as a whole, and names the file and the place in it.
func Import(s Source) (Made, error) {
	doc, err := read(s.TOML)
	if err != nil {
		return Made{}, fmt.Errorf("%s:%w", s.Path, err)
	}
	store, err := truststore.Read(s.Store, s.Password)
	if errors.Is(err, truststore.ErrPassword) && s.PasswordFile == "" {
		err = errors.New("expected a file with its password (--password-file)")
	}
	if err != nil {
		return Made{}, fmt.Errorf("%s: %w", s.StorePath, err)
	}
	m := &maker{Source: s, store: store, root: doc.root(), values: newValues(doc.root(), s.Environ)}
	m.truststore()
	m.backendJWT()
	m.subscriptions()
	m.unread()
	cache := m.cache()
	var issuers []issuer
	for _, r := range m.winners(m.rows()) {
		if i, ok := m.issuer(r); ok {
			issuers = append(issuers, i)
		} else if i.keys.store {
			m.lost++
		}
	}
	label(issuers)
	m.bind(issuers)
	if len(issuers) > 0 {
		m.unseen(issuers)
	}
	slices.SortStableFunc(m.notes, func(a, b Note) int {
		// The largest number stands for no line.
		return cmp.Compare(uint(a.Line-1), uint(b.Line-1))
	})
	made := Made{Notes: m.notes, Issuers: len(issuers)}
	if len(issuers) > 0 {
		made.Config = m.write(issuers, cache)
	}
	return made, nil
}

// maker is one import while it lasts.
type maker struct {
	Source
	store  *truststore.Store
	root   table
	values *values
	notes  []Note
	lost   int // issuers with keys in the trust store that are left out
}

func (m *maker) note(line int, word Word, format string, arguments ...any) {
	m.notes = append(m.notes, Note{line, word, fmt.Sprintf(format, arguments...)})
}

// file reads a file that the TOML names: beside it or beside the trust store.
func (m *maker) file(name string) (path string, body []byte, err error) {
	places := []string{name}
	if !filepath.IsAbs(name) {
		places = []string{filepath.Join(filepath.Dir(m.Path), name), filepath.Join(filepath.Dir(m.StorePath), name)}
	}
	for _, path = range places {
		if body, err = m.ReadFile(path); err == nil {
			return path, body, nil
		}
	}
	return "", nil, fmt.Errorf("%q can't be read, neither beside the TOML nor beside the trust store", name)
}
