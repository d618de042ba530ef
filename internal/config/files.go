package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Files lists, in order and once each, every file that was read, is named, or
// would be included now: what to watch for changes. Files that don't exist are
// listed too.
func (c *Config) Files() []string {
	files := slices.Clone(c.read)
	add := func(name string) {
		if name != "" {
			files = append(files, name)
		}
	}
	for _, glob := range c.globs {
		matches, _ := filepath.Glob(glob) // Load has reported a broken one
		files = append(files, matches...)
	}
	for _, name := range c.secretFiles() {
		add(name)
	}
	for _, row := range c.Issuers {
		for _, file := range row.Keys.Files {
			add(file.Path)
		}
		add(row.Keys.CA)
		add(row.Keys.TrustStore.Path)
	}
	add(c.Server.TLS.Certificate)
	add(c.Server.TLS.Key)
	add(c.Server.TLS.ClientCA)
	slices.Sort(files)
	return slices.Compact(files)
}

// secretFiles maps the key of every secret that lies in a file to its name.
func (c *Config) secretFiles() map[string]string {
	files := map[string]string{}
	for i, row := range c.Callers {
		for j, secret := range row.Secrets {
			files[entry(entry("callers", i)+".secrets", j)+".file"] = secret.File
		}
		for j, secret := range row.BearerTokens {
			files[entry(entry("callers", i)+".bearer_tokens", j)+".file"] = secret.File
		}
	}
	for i, row := range c.Issuers {
		files[entry("issuers", i)+".keys.truststore.password.file"] = row.Keys.TrustStore.Password.File
	}
	for key, name := range c.Redis.Secrets() {
		files["redis."+key] = name
	}
	return files
}

// Warnings lists what works but should not stay: insecure switches, and
// secrets that everyone on the machine can read. It looks at the files anew.
func (c *Config) Warnings() []string {
	var found []string
	if c.Server.TLSTerminatedUpstream {
		found = append(found, "INSECURE server.tls_terminated_upstream is on: tokens and credentials arrive in plaintext, and only what stands in front protects them")
	}
	for i, row := range c.Issuers {
		if row.Keys.AllowHTTP {
			found = append(found, fmt.Sprintf("INSECURE issuers[%d].keys.allow_http is on: who can change the traffic to the keys of %s can sign tokens in its name", i, row.Name))
		}
		if row.Keys.AllowKnownPublicKeys {
			found = append(found, fmt.Sprintf("INSECURE issuers[%d].keys.allow_known_public_keys is on: anyone can sign tokens in the name of %s with a key that came with a product", i, row.Name))
		}
	}
	private := c.secretFiles()
	private["server.tls.key"] = c.Server.TLS.Key
	keys := make([]string, 0, len(private))
	for key := range private {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		info, err := os.Stat(private[key])
		if err == nil && info.Mode().Perm()&0o004 != 0 {
			found = append(found, fmt.Sprintf("%s: everyone on this machine can read %s (mode %04o)", key, private[key], info.Mode().Perm()))
		}
	}
	return found
}
