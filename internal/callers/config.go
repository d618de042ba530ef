package callers

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Config is one row of `callers`: who may ask, and what it may be told.
type Config struct {
	ID string `koanf:"id"`
	// Secrets authenticate by client_secret_basic and client_secret_post; two
	// while one replaces the other.
	Secrets []Secret `koanf:"secrets"`
	// BearerTokens are static bearer credentials (RFC 6750 section 2.1).
	BearerTokens []Secret `koanf:"bearer_tokens"`
	// Methods limits how this caller may authenticate; empty means all.
	Methods []Method `koanf:"methods"`
	// May lists what this caller is permitted to do.
	May []Permission `koanf:"may"`
	// Clients are those whose own tokens this caller may revoke, also without
	// the permission to revoke.
	Clients []Client `koanf:"clients"`
	// Issuers names the issuers of whose tokens it is told.
	Issuers   []string `koanf:"issuers"`
	AnyIssuer bool     `koanf:"any_issuer" default:"false"`
	// Audiences lists the aud values of which a token must carry one.
	Audiences []string `koanf:"audiences"`
	// AnyAudience is true, or the names of the issuers whose tokens carry no
	// audience.
	AnyAudience AnyAudience `koanf:"any_audience" default:"false"`
	// Claims is passthrough, minimal, or a list of claim names.
	Claims Claims `koanf:"claims" default:"passthrough"`
	// Profiles are the outputs of /transform that it may choose; what these show
	// is for them to say, not for Claims.
	Profiles []string `koanf:"profiles"`
}

// Secret is one credential: exactly one of a file's content, an environment
// variable, or the hex SHA-256 digest of a secret of high entropy.
type Secret struct {
	File   string `koanf:"file"`
	Env    string `koanf:"env"`
	SHA256 string `koanf:"sha256"`
}

// Client is one client of an issuer, by the issuer's configured name: ids of
// clients are unique only within it.
type Client struct {
	Issuer   string `koanf:"issuer"`
	ClientID string `koanf:"client_id"`
}

// Method is a way of authenticating a caller (RFC 8414's names, and bearer).
type Method string

const (
	ClientSecretBasic Method = "client_secret_basic"
	ClientSecretPost  Method = "client_secret_post"
	Bearer            Method = "bearer"
)

// Values lists the spellings a configuration may use.
func (Method) Values() []string {
	return []string{string(ClientSecretBasic), string(ClientSecretPost), string(Bearer)}
}

// Permission is one thing a caller may do.
type Permission string

const (
	Introspect Permission = "introspect"
	Transform  Permission = "transform"
	Auth       Permission = "auth"
	// Revoke is for a token in hand, RevokeBroad for all that a listing can
	// name.
	Revoke      Permission = "revoke"
	RevokeBroad Permission = "revoke_broad"
	Operate     Permission = "operate"
	Explain     Permission = "explain"
)

// Values lists the spellings a configuration may use.
func (Permission) Values() []string {
	return []string{string(Introspect), string(Transform), string(Auth), string(Revoke), string(RevokeBroad), string(Operate), string(Explain)}
}

// AnyAudience says for whose tokens a caller needs no audience of its own. The
// zero value is for none.
type AnyAudience struct {
	// All is for every token.
	All bool
	// Issuers names the issuers whose tokens that carry no audience count.
	Issuers []string
}

// FromConfig takes true, false, or a list of issuer names.
func (a *AnyAudience) FromConfig(value any) error {
	const expected = "expected true, false or a list of issuer names"
	if all, ok := value.(bool); ok {
		*a = AnyAudience{All: all}
		return nil
	}
	issuers, err := texts(value, expected)
	if err != nil {
		return err
	}
	*a = AnyAudience{Issuers: issuers}
	return nil
}

// Claims says which members of an answer a caller is told.
type Claims struct {
	Mode ClaimsMode
	// Names are the claims of the mode List.
	Names []string
}

// ClaimsMode is one of three; the zero value is none of them.
type ClaimsMode string

const (
	// Passthrough is every claim.
	Passthrough ClaimsMode = "passthrough"
	// Minimal is the members of RFC 7662 section 2.2 and what binds or steps
	// up a token.
	Minimal ClaimsMode = "minimal"
	// List is the claims that are named.
	List ClaimsMode = "list"
)

// FromConfig takes passthrough, minimal, or a list of claim names.
func (c *Claims) FromConfig(value any) error {
	const expected = "expected passthrough, minimal or a list of claim names"
	if mode, ok := value.(string); ok {
		if mode != string(Passthrough) && mode != string(Minimal) {
			return fmt.Errorf("%s, got %q", expected, mode)
		}
		*c = Claims{Mode: ClaimsMode(mode)}
		return nil
	}
	names, err := texts(value, expected)
	if err != nil {
		return err
	}
	*c = Claims{Mode: List, Names: names}
	return nil
}

// texts takes a list of texts that aren't empty.
func texts(value any, expected string) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		if _, keys := value.(map[string]any); keys {
			value = "keys with values" // what they hold can be a secret in the wrong place
		}
		return nil, fmt.Errorf("%s, got %v", expected, value)
	}
	var out []string
	for i, item := range list {
		text, ok := item.(string)
		switch item.(type) {
		case map[string]any, []any: // likewise
			return nil, fmt.Errorf("%s, got no text as its entry %d", expected, i)
		}
		if !ok || text == "" {
			return nil, fmt.Errorf("%s, got %#v as its entry %d", expected, item, i)
		}
		out = append(out, text)
	}
	return out, nil
}

const (
	// longestID bounds an id, in bytes.
	longestID = 256
	// mostSplits bounds at how many colons a Basic credential is split.
	mostSplits = 16
	// mostSecrets is the present one and the one that replaces it.
	mostSecrets = 2
)

// Check reports every fault of one row; it reads the secrets. Whether the
// issuers exist, and whether they must be written, is for the owner of all
// sections to say.
func (c Config) Check(fault func(key, problem string)) {
	if err := checkID(c.ID); err != nil {
		fault("id", err.Error())
	}
	c.digests(fault)
	c.checkMethods(fault)
	c.checkMay(fault)
	c.checkClients(fault)
	c.checkIssuers(fault)
	c.checkAudiences(fault)
	switch {
	case c.Claims.Mode == List || len(c.Claims.Names) == 0 && (c.Claims.Mode == Passthrough || c.Claims.Mode == Minimal):
	default:
		fault("claims", fmt.Sprintf("expected passthrough, minimal or a list of claim names, got %q", c.Claims.Mode))
	}
}

// checkID holds an id to RFC 6749 appendix A.1.
func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("expected the id that the caller authenticates with")
	case len(id) > longestID:
		return fmt.Errorf("expected at most %d characters, got %d", longestID, len(id))
	case strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("expected visible ASCII and spaces (RFC 6749 appendix A.1), got %q", id)
	case id != strings.TrimSpace(id):
		return fmt.Errorf("expected no space at either end, got %q", id)
	case strings.Count(id, ":") >= mostSplits:
		return fmt.Errorf("expected at most %d colons, got %d", mostSplits-1, strings.Count(id, ":"))
	}
	return nil
}

// digests reads all secrets and reports every fault of them; it returns those
// without one.
func (c Config) digests(fault func(key, problem string)) (secrets, tokens [][sha256.Size]byte) {
	if len(c.Secrets) == 0 && len(c.BearerTokens) == 0 {
		fault("secrets", "expected at least one secret, or one of bearer_tokens")
	}
	return digestList("secrets", c.Secrets, false, fault), digestList("bearer_tokens", c.BearerTokens, true, fault)
}

func digestList(key string, list []Secret, bearer bool, fault func(key, problem string)) [][sha256.Size]byte {
	if len(list) > mostSecrets {
		fault(key, fmt.Sprintf("expected at most %d (the present one and its successor), got %d", mostSecrets, len(list)))
	}
	var out [][sha256.Size]byte
	for i, s := range list {
		d, member, err := s.digest(bearer)
		if err != nil {
			fault(strings.TrimSuffix(fmt.Sprintf("%s[%d].%s", key, i, member), "."), err.Error())
			continue
		}
		out = append(out, d)
	}
	return out
}

func (c Config) checkMethods(fault func(key, problem string)) {
	for i, m := range c.Methods {
		key := fmt.Sprintf("methods[%d]", i)
		switch m {
		case ClientSecretBasic, ClientSecretPost:
			if len(c.Secrets) == 0 {
				fault(key, fmt.Sprintf("%s needs an entry of secrets", m))
			}
		case Bearer:
			if len(c.BearerTokens) == 0 {
				fault(key, "bearer needs an entry of bearer_tokens")
			}
		case "private_key_jwt", "tls_client_auth", "self_signed_tls_client_auth":
			fault(key, fmt.Sprintf("%s is not built yet; expected one of %s", m, strings.Join(m.Values(), ", ")))
		default:
			fault(key, fmt.Sprintf("expected one of %s, got %q", strings.Join(m.Values(), ", "), m))
		}
	}
	if len(c.Methods) == 0 {
		return
	}
	if len(c.Secrets) > 0 && !slices.Contains(c.Methods, ClientSecretBasic) && !slices.Contains(c.Methods, ClientSecretPost) {
		fault("methods", "no method uses the secrets; expected client_secret_basic or client_secret_post among them")
	}
	if len(c.BearerTokens) > 0 && !slices.Contains(c.Methods, Bearer) {
		fault("methods", "no method uses the bearer_tokens; expected bearer among them")
	}
}

func (c Config) checkMay(fault func(key, problem string)) {
	if len(c.May) == 0 && len(c.Clients) == 0 {
		fault("may", fmt.Sprintf("expected at least one of %s", strings.Join(Permission("").Values(), ", ")))
	}
	for i, p := range c.May {
		if !slices.Contains(p.Values(), string(p)) {
			fault(fmt.Sprintf("may[%d]", i), fmt.Sprintf("expected one of %s, got %q", strings.Join(p.Values(), ", "), p))
		}
	}
}

func (c Config) checkClients(fault func(key, problem string)) {
	for i, client := range c.Clients {
		key := fmt.Sprintf("clients[%d]", i)
		if client.Issuer == "" {
			fault(key+".issuer", "expected the name of an issuer, got an empty text")
		}
		if client.ClientID == "" {
			fault(key+".client_id", "expected the id of a client, got an empty text")
		}
		if first := slices.Index(c.Clients, client); first < i && client.ClientID != "" {
			fault(key, fmt.Sprintf("expected each client once, got the one of [%d]", first))
		}
	}
}

func (c Config) checkIssuers(fault func(key, problem string)) {
	if c.AnyIssuer && len(c.Issuers) > 0 {
		fault("any_issuer", "expected either issuers or any_issuer, got both")
	}
	for i, name := range c.Issuers {
		if name == "" {
			fault(fmt.Sprintf("issuers[%d]", i), "expected the name of an issuer, got an empty text")
		}
	}
}

func (c Config) checkAudiences(fault func(key, problem string)) {
	switch {
	case c.AnyAudience.All && len(c.Audiences) > 0:
		fault("any_audience", "expected either audiences or any_audience: true, got both")
	case !c.AnyAudience.All && len(c.AnyAudience.Issuers) == 0 && len(c.Audiences) == 0:
		fault("audiences", "expected the audiences of which a token must carry one; any_audience: true tells this caller of tokens for anyone")
	}
	for i, audience := range c.Audiences {
		if audience == "" {
			fault(fmt.Sprintf("audiences[%d]", i), "expected an audience, got an empty text")
		}
	}
	for i, name := range c.AnyAudience.Issuers {
		if len(c.Issuers) > 0 && !slices.Contains(c.Issuers, name) {
			fault(fmt.Sprintf("any_audience[%d]", i), fmt.Sprintf("expected one of this caller's issuers, got %q", name))
		}
	}
}

// CheckAll reports what rows can only do wrong together: ids that one spelling
// could both mean, and a bearer token of two callers. Keys are relative to the
// list: "[1].id". Secrets that can't be read are left to Check.
func CheckAll(rows []Config, fault func(key, problem string)) {
	ids := map[claim]int{}
	tokens := map[[sha256.Size]byte]int{}
	for i, row := range rows {
		who := claimed([]byte(row.ID))
		if first, taken := ids[who]; taken && row.ID != "" {
			fault(fmt.Sprintf("[%d].id", i), fmt.Sprintf("expected an id of its own, got %q: HTTP Basic spells it like the id %q of [%d]", row.ID, rows[first].ID, first))
		} else {
			ids[who] = i
		}
		for j, s := range row.BearerTokens {
			d, _, err := s.digest(true)
			if err != nil {
				continue
			}
			if first, taken := tokens[d]; taken && first != i {
				fault(fmt.Sprintf("[%d].bearer_tokens[%d]", i, j), fmt.Sprintf("expected a token of its own, got the one of %q at [%d]", rows[first].ID, first))
				continue
			}
			tokens[d] = i
		}
	}
}
