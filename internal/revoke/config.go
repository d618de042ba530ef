package revoke

import (
	"fmt"
	"time"
)

// Config is the section `revocation`.
type Config struct {
	// MaxDelay is how late a revocation may reach another replica.
	MaxDelay time.Duration `koanf:"max_delay" default:"1s"`
	// MaxEntries is how many records are kept, deletions and what ended within
	// clockMargin among them; beyond it nothing is revoked here. What other replicas
	// or the file have is taken all the same, and so is a deletion.
	MaxEntries int `koanf:"max_entries" default:"2000000"`
	// RequireExisting keeps a replica that never held a list from adopting an
	// empty store.
	RequireExisting bool `koanf:"require_existing" default:"false"`
	// Grace is how long a list that was once complete is relied on after its
	// feed is lost.
	Grace time.Duration `koanf:"grace" default:"5m"`
	// OnOutage says what holds afterwards, and while no complete list was read.
	OnOutage OnOutage `koanf:"on_outage" default:"deny"`
}

// OnOutage is what becomes of tokens while revocations can't be told.
type OnOutage string

const (
	// Deny answers that it can't be told, never that a token is inactive.
	Deny OnOutage = "deny"
	// Allow answers by what is known.
	Allow OnOutage = "allow"
)

// Values lists the spellings a configuration may use.
func (OnOutage) Values() []string { return []string{string(Deny), string(Allow)} }

// Check reports every fault of c.
func (c Config) Check(fault func(key, problem string)) {
	if c.MaxDelay < 100*time.Millisecond || c.MaxDelay > time.Minute {
		fault("max_delay", fmt.Sprintf("expected 100ms to 1m, got %s", c.MaxDelay))
	}
	if c.MaxEntries < 1 {
		fault("max_entries", fmt.Sprintf("expected at least 1, got %d", c.MaxEntries))
	}
	if c.Grace < 0 {
		fault("grace", fmt.Sprintf("expected 0s or more, got %s", c.Grace))
	}
	if c.OnOutage != Deny && c.OnOutage != Allow {
		fault("on_outage", fmt.Sprintf("expected deny or allow, got %q", c.OnOutage))
	}
}
