package redisstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"introspectd/internal/seal"
)

// Config is the section `redis`.
type Config struct {
	// Set says that the section was written. Without it there is no redis, and
	// the rest means nothing.
	Set bool

	Mode Mode `koanf:"mode" default:"standalone"`
	// Addresses are host:port of the server, of sentinels, or of some nodes of
	// the cluster.
	Addresses []string `koanf:"addresses" default:"[127.0.0.1:6379]"`
	// Master is the name that sentinels know the master by.
	Master   string         `koanf:"master" default:""`
	Sentinel SentinelConfig `koanf:"sentinel"`
	// Username is that of an ACL; empty means the default user.
	Username string    `koanf:"username" default:""`
	Password Secret    `koanf:"password"`
	TLS      TLSConfig `koanf:"tls"`
	DB       int       `koanf:"db" default:"0"`
	// Prefix is what all our keys begin with.
	Prefix string `koanf:"prefix" default:"introspectd:"`
	// SealKeys each are the base64 of 32 bytes. What is kept is sealed with the
	// first and opened with any.
	SealKeys []Secret `koanf:"seal_keys"`
	// WaitReplicas is how many replicas of redis must have a record of the feed
	// before it counts as kept, in sentinel and cluster mode.
	WaitReplicas int `koanf:"wait_replicas" default:"1"`
	// Timeout is for one answer.
	Timeout time.Duration `koanf:"timeout" default:"100ms"`
}

// SentinelConfig is how sentinels are asked.
type SentinelConfig struct {
	Username string `koanf:"username" default:""`
	Password Secret `koanf:"password"`
}

// TLSConfig is how connections are encrypted.
type TLSConfig struct {
	Enabled bool `koanf:"enabled" default:"false"`
	// CA is a PEM file of roots; empty means the system's.
	CA string `koanf:"ca" default:""`
	// Certificate and Key are PEM files, where the server wants one.
	Certificate string `koanf:"certificate" default:""`
	Key         string `koanf:"key" default:""`
	// ServerName is the name in the server's certificate; empty means the
	// host that is dialled.
	ServerName string `koanf:"server_name" default:""`
}

// Mode is how redis is run. It is never guessed from the addresses.
type Mode string

const (
	Standalone Mode = "standalone"
	Sentinel   Mode = "sentinel"
	Cluster    Mode = "cluster"
)

// Values lists the spellings a configuration may use.
func (Mode) Values() []string { return []string{string(Standalone), string(Sentinel), string(Cluster)} }

// Secret is a text that lies in a file or an environment variable; at most one
// of them. The zero value is none.
type Secret struct {
	File string `koanf:"file" default:""`
	Env  string `koanf:"env" default:""`
}

const (
	longestSecret = 1024
	mostSealKeys  = 4
	// makeKey is how a seal key is made.
	makeKey = "openssl rand -base64 32"
)

// read returns the text, less one newline at a file's end.
func (s Secret) read() (string, error) {
	switch {
	case s.File != "" && s.Env != "":
		return "", errors.New("expected either file or env, got both")
	case s.Env != "":
		text, ok := os.LookupEnv(s.Env)
		if !ok {
			return "", fmt.Errorf("expected the environment variable %s to be set", s.Env)
		}
		return checked(text)
	case s.File == "":
		return "", nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return "", fmt.Errorf("expected a readable file: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, longestSecret+3))
	if err != nil {
		return "", fmt.Errorf("expected a readable file: %w", err)
	}
	text, cut := strings.CutSuffix(string(raw), "\n")
	if cut {
		text = strings.TrimSuffix(text, "\r")
	}
	return checked(text)
}

// checked refuses a secret that is empty: redis would be asked without any.
func checked(text string) (string, error) {
	if text == "" || len(text) > longestSecret {
		return "", fmt.Errorf("expected a secret of 1 to %d bytes", longestSecret)
	}
	return text, nil
}

// Keys reads the seal keys.
func (c Config) Keys() ([][]byte, error) {
	var keys [][]byte
	for i, s := range c.SealKeys {
		key, err := s.key()
		if err != nil {
			return nil, fmt.Errorf("seal_keys[%d]: %w", i, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func (s Secret) key() ([]byte, error) {
	if s == (Secret{}) {
		return nil, errors.New("expected file or env")
	}
	text, err := s.read()
	if err != nil {
		return nil, err
	}
	return seal.ParseKey(text)
}

// Secrets maps the key of every secret that lies in a file to its name.
func (c Config) Secrets() map[string]string {
	files := map[string]string{"password.file": c.Password.File, "sentinel.password.file": c.Sentinel.Password.File, "tls.key": c.TLS.Key}
	for i, s := range c.SealKeys {
		files[fmt.Sprintf("seal_keys[%d].file", i)] = s.File
	}
	return files
}

// Check reports every fault of c; it reads the files and asks nobody.
func (c Config) Check(fault func(key, problem string)) {
	if !c.Set {
		return
	}
	c.checkPlace(fault)
	if _, err := c.Password.read(); err != nil {
		fault("password", err.Error())
	}
	if _, err := c.Sentinel.Password.read(); err != nil {
		fault("sentinel.password", err.Error())
	}
	c.checkUser("username", c.Username, c.Password, fault)
	if c.Mode == Sentinel {
		c.checkUser("sentinel.username", c.Sentinel.Username, c.Sentinel.Password, fault)
	}
	c.TLS.check(fault)
	c.checkSealKeys(fault)
	if c.Prefix == "" || strings.ContainsFunc(c.Prefix, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`{}*?[]\`, r) }) {
		fault("prefix", fmt.Sprintf("expected visible ASCII without spaces, braces or what a key pattern means, got %q", c.Prefix))
	}
	if c.WaitReplicas < 0 {
		fault("wait_replicas", fmt.Sprintf("expected 0 or more, got %d", c.WaitReplicas))
	}
	if c.Timeout < 10*time.Millisecond || c.Timeout > 5*time.Second {
		fault("timeout", fmt.Sprintf("expected 10ms to 5s, got %s", c.Timeout))
	}
}

func (c Config) checkPlace(fault func(key, problem string)) {
	switch {
	case c.Mode == Sentinel && c.Master == "":
		fault("master", "expected the name that the sentinels know the master by")
	case c.Mode != Sentinel && c.Master != "":
		fault("master", "only sentinels know a master by name; mode is "+string(c.Mode))
	case c.Mode != Sentinel && c.Sentinel != (SentinelConfig{}):
		fault("sentinel", "there are no sentinels to ask; mode is "+string(c.Mode))
	}
	switch {
	case len(c.Addresses) == 0:
		fault("addresses", "expected host:port")
	case c.Mode == Standalone && len(c.Addresses) > 1:
		fault("addresses", "expected one address; several are for mode sentinel or cluster")
	}
	for i, address := range c.Addresses {
		if strings.Contains(address, "@") { // not shown: it may hold a password
			fault(fmt.Sprintf("addresses[%d]", i), "expected host:port alone: username and password are keys of their own")
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			fault(fmt.Sprintf("addresses[%d]", i), fmt.Sprintf("expected host:port, got %q", address))
		}
	}
	if c.DB < 0 || c.Mode == Cluster && c.DB != 0 {
		fault("db", fmt.Sprintf("expected a database that is there (a cluster has 0 alone), got %d", c.DB))
	}
}

// checkUser wants a password beside a username, or a certificate that redis may
// know the user by: the library names no user without a password.
func (c Config) checkUser(key, name string, password Secret, fault func(key, problem string)) {
	if name != "" && name != "default" && password == (Secret{}) && c.TLS.Certificate == "" {
		fault(key, "expected password beside it: without one we would be redis' default user")
	}
}

func (c Config) checkSealKeys(fault func(key, problem string)) {
	if len(c.SealKeys) == 0 {
		fault("seal_keys", "expected a key: what lies in redis is sealed. Make one with `"+makeKey+"`, put it into a file, and name that: seal_keys: [{file: /run/secrets/seal}]")
	}
	if len(c.SealKeys) > mostSealKeys {
		fault("seal_keys", fmt.Sprintf("expected at most %d, got %d", mostSealKeys, len(c.SealKeys)))
	}
	seen := map[string]int{}
	for i, s := range c.SealKeys {
		key, err := s.key()
		if err != nil {
			fault(fmt.Sprintf("seal_keys[%d]", i), err.Error())
			continue
		}
		if first, twice := seen[string(key)]; twice {
			fault(fmt.Sprintf("seal_keys[%d]", i), fmt.Sprintf("expected another key than that of seal_keys[%d]", first))
		}
		seen[string(key)] = i
	}
}

func (c TLSConfig) check(fault func(key, problem string)) {
	if !c.Enabled {
		if c != (TLSConfig{}) {
			fault("tls.enabled", "expected true, as other keys of tls are set")
		}
		return
	}
	if _, err := c.roots(); err != nil {
		fault("tls.ca", err.Error())
	}
	if (c.Certificate == "") != (c.Key == "") {
		fault("tls.certificate", "expected certificate and key, or neither")
	} else if _, err := c.client(); err != nil {
		fault("tls.certificate", err.Error())
	}
}

func (c TLSConfig) roots() (*x509.CertPool, error) {
	if c.CA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("expected a readable file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("expected certificates in PEM")
	}
	return pool, nil
}

func (c TLSConfig) client() ([]tls.Certificate, error) {
	if c.Certificate == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("expected a certificate and its key in PEM: %w", err)
	}
	return []tls.Certificate{pair}, nil
}

// config is that of connections, nil for plain ones.
func (c TLSConfig) config() (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	roots, err := c.roots()
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	certificates, err := c.client()
	if err != nil {
		return nil, fmt.Errorf("tls.certificate: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: certificates, ServerName: c.ServerName}, nil
}
