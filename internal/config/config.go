// Package config says where settings come from: flags, then the environment,
// then one file and what it includes, then defaults, into one checked struct;
// every fault is reported at once, with its place. It holds no secret, and so
// prints none: secrets stay names of files and variables. One that was written
// in place of such a name is a value like any other: faults repeat nothing that a
// parser quotes, and nothing that stands where a text, a list or keys belong, but
// they do repeat a text where a number, a duration, true or false, or one of a few
// words belongs.
//
// # Decisions
//
// Unknown keys are found on the raw tree, before decoding. Context: the
// decoder can list unused keys, but knows neither their neighbours nor where
// defaults go. Choice: one walk over the tree beside the structs does unknown
// keys, suggestions and defaults, also within list entries. Cost: the walk has
// to understand the same tags as the decoder.
//
// Defaults are tags in the notation of the file. Context: a default in Go code,
// in the reference file and in the schema are three places to disagree. Choice:
// the tag is the only one; the reference is tested against it and the schema
// is made from it. Cost: a wrong default is a fault at start, not at build,
// and so a test loads every one.
//
// A single configured issuer is written into the rows that name none. Context:
// with one issuer nobody has to be told which, with two an empty list must not
// mean all. Choice: Load fills the name in, so that an empty list always means
// none downstream. Cost: Config differs from the file in this one respect.
package config

import (
	"maps"
	"reflect"
	"slices"

	"introspectd/internal/callers"
	"introspectd/internal/filestore"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/listen"
	"introspectd/internal/redisstore"
	"introspectd/internal/revoke"
	"introspectd/internal/sign"
	"introspectd/internal/telemetry"
)

// Config is everything that can be set. One from Load is checked: names exist,
// combinations are possible.
type Config struct {
	Server Server `koanf:"server"`
	// Include holds globs, relative to the file, of files that add entries to
	// Callers, Policies, Profiles and Issuers.
	Include    []string                  `koanf:"include"`
	Callers    []callers.Config          `koanf:"callers"`
	Auth       httpapi.AuthConfig        `koanf:"auth"`
	Policies   []httpapi.Policy          `koanf:"policies"`
	Profiles   []httpapi.Profile         `koanf:"profiles"`
	Issuers    []introspect.IssuerConfig `koanf:"issuers"`
	Errors     httpapi.ErrorsConfig      `koanf:"errors"`
	Cache      introspect.CacheConfig    `koanf:"cache"`
	Redis      redisstore.Config         `koanf:"redis"`
	State      filestore.Config          `koanf:"state"`
	Revocation revoke.Config             `koanf:"revocation"`
	Signing    sign.Config               `koanf:"signing"`
	Telemetry  telemetry.Config          `koanf:"telemetry"`

	read, globs []string
	presets     [][]string
}

// Server is the section `server`.
type Server struct {
	listen.Config `koanf:",squash"`
	// TrustedProxies are the peers whose forwarded headers count.
	TrustedProxies []callers.Peer `koanf:"trusted_proxies" default:"[127.0.0.0/8, \"::1/128\", unix]"`
	// AdminHosts are further Host values the admin listener answers to.
	AdminHosts []string `koanf:"admin_hosts"`
	// PProf puts Go's profiles on the admin listener.
	PProf bool `koanf:"pprof" default:"false"`
}

// Options are the settings from outside the file.
type Options struct {
	// Flags maps a key, with dots between levels, to the text of its value;
	// they win over everything.
	Flags map[string]string
	// Env is in the form of os.Environ. INTROSPECTD_SERVER__LISTEN sets
	// server.listen; a name without two underscores in a row is not a setting.
	Env []string
}

// Load reads file (YAML, TOML or JSON by its extension; "" means none) and
// what it includes, adds o, fills in defaults and checks the result. An error
// is always of type Faults and holds every fault that was found; faults in the
// syntax of a file hide those in its values. The Config beside an error is good
// for its Files alone, as far as they could be read: what mends the faults.
// Relative paths of other files than includes are left relative to the working
// directory.
func Load(file string, o Options) (*Config, error) {
	l := newLoader()
	tree := l.gather(file, o)
	if l.unreadable {
		return &Config{read: l.files, globs: l.globs}, l.sorted()
	}
	shared := tree["redis"] != nil    // before defaults are filled in: its absence means something
	written := writtenOfIssuers(tree) // likewise
	l.fill(reflect.TypeFor[Config](), tree, "")
	c := &Config{read: l.files, globs: l.globs}
	c.Redis.Set = shared
	l.decode(tree, c)
	c.applyPresets(written)
	l.check(c)
	if len(l.faults) > 0 {
		return c, l.sorted()
	}
	c.nameOnlyIssuer()
	return c, nil
}

// writtenOfIssuers lists what is written of each issuer, by key.
func writtenOfIssuers(tree map[string]any) []map[string]bool {
	rows, _ := tree["issuers"].([]any)
	all := make([]map[string]bool, len(rows))
	for i, row := range rows {
		all[i] = map[string]bool{}
		section, _ := row.(map[string]any)
		for key, value := range section {
			all[i][key] = value != nil
			inner, _ := value.(map[string]any)
			for name, value := range inner {
				all[i][join(key, name)] = value != nil
			}
		}
	}
	return all
}

// applyPresets puts the preset of each issuer where nothing is written.
func (c *Config) applyPresets(written []map[string]bool) {
	c.presets = make([][]string, len(c.Issuers))
	for i := range c.Issuers {
		c.Issuers[i], c.presets[i] = c.Issuers[i].WithPreset(func(key string) bool { return i < len(written) && written[i][key] })
	}
}

// Presets says for each issuer what its preset changed, line by line; nothing
// for one without a preset.
func (c *Config) Presets() [][]string { return c.presets }

// nameOnlyIssuer writes the one issuer into the rows that name none.
func (c *Config) nameOnlyIssuer() {
	if len(c.Issuers) != 1 {
		return
	}
	for i := range c.Callers {
		if row := &c.Callers[i]; !row.AnyIssuer && len(row.Issuers) == 0 {
			row.Issuers = []string{c.Issuers[0].Name}
		}
	}
	for i := range c.Policies {
		if row := &c.Policies[i]; !row.AnyIssuer && len(row.Issuers) == 0 {
			row.Issuers = []string{c.Issuers[0].Name}
		}
	}
}

// RestartNeeded lists the keys that differ between c and next but are read
// only at start; next can't replace c while the process runs if there are any.
func (c *Config) RestartNeeded(next *Config) []string {
	old, changed := c.atStart(), []string{}
	for key, value := range next.atStart() {
		if !reflect.DeepEqual(old[key], value) {
			changed = append(changed, key)
		}
	}
	return slices.Sorted(slices.Values(changed))
}

// atStart maps the key of every setting that is read only at start to its
// value.
func (c *Config) atStart() map[string]any {
	found := leaves(reflect.ValueOf(c.Server), "server")
	maps.Copy(found, leaves(reflect.ValueOf(c.State), "state"))
	maps.Copy(found, leaves(reflect.ValueOf(c.Redis), "redis"))
	return found
}

// leaves maps the key of every setting in a section to its value.
func leaves(section reflect.Value, key string) map[string]any {
	found := map[string]any{}
	for _, f := range fields(section.Type()) {
		value := section.FieldByIndex(f.index)
		if isSection(f.typ) {
			maps.Copy(found, leaves(value, join(key, f.key)))
			continue
		}
		found[join(key, f.key)] = value.Interface()
	}
	return found
}
