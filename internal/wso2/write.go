package wso2

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// write renders the configuration.
func (m *maker) write(issuers []issuer, c cache) []byte {
	var names []string
	for _, i := range issuers {
		names = append(names, i.name)
	}
	w := writer{file: filepath.Base(m.Path)}
	w.line(0, "# Made by `introspectd wso2 import` out of WSO2's %s and trust store. What was", w.fileName())
	w.line(0, "# dropped, is weaker than it need be or wants a decision was named on standard error.")
	w.line(0, "# Names of files are relative to the working directory.")
	w.line(0, "")
	w.line(0, "callers:")
	w.line(1, "# Whoever asks /introspect or /oauth2/introspect. Its secret was made for it.")
	w.line(1, "- id: wso2")
	w.line(2, "secrets: [{file: %s}]", quote(m.SecretFile))
	w.line(2, "may: [introspect, transform]")
	w.line(2, "issuers: %s", list(names))
	w.line(2, "# WEAKER: WSO2's aud is the client, so that no token names who asks. Write")
	w.line(2, "# audiences in its place where your issuers set them.")
	w.line(2, "any_audience: true")
	w.line(0, "")
	w.line(0, "policies:")
	w.line(1, "- name: default")
	w.line(2, "issuers: %s", list(names))
	w.line(2, "any_audience: true # WEAKER: as above")
	w.line(0, "")
	w.line(0, "# /auth and /ext-authz refuse in the words of WSO2's gateway.")
	w.line(0, "errors:")
	w.line(1, "format: wso2")
	w.cache(c)
	w.line(0, "")
	w.line(0, "issuers:")
	for n, i := range issuers {
		if n > 0 {
			w.line(0, "")
		}
		w.issuer(m, i)
	}
	return w.Bytes()
}

// writer writes lines of YAML with comments that say where a value is from.
type writer struct {
	bytes.Buffer
	file string
}

// line writes one line, indented by two spaces a level.
func (w *writer) line(level int, format string, arguments ...any) {
	if format != "" {
		w.WriteString(strings.Repeat("  ", level))
	}
	fmt.Fprintf(w, format+"\n", arguments...)
}

// from is the comment that names a key of the TOML and its line.
func (w *writer) from(key string, line int) string {
	return fmt.Sprintf(" # %s, %s:%d", key, w.fileName(), line)
}

// fileName is the TOML's name as a comment can hold it.
func (w *writer) fileName() string {
	if plain.MatchString(w.file) {
		return w.file
	}
	return "deployment.toml"
}

func (w *writer) cache(c cache) {
	if !c.off && c.ttl == 0 {
		return
	}
	w.line(0, "")
	w.line(0, "cache:")
	w.line(1, "verdicts:")
	if c.off {
		w.line(2, "size: 0KiB%s", w.from("apim.cache.gateway_token.enable", c.line))
		return
	}
	ttl := c.ttl.String()
	if c.ttl%time.Second == 0 {
		ttl = fmt.Sprintf("%ds", c.ttl/time.Second) // not 15m0s
	}
	w.line(2, "ttl: %s%s", ttl, w.from("apim.cache.gateway_token.expiry_time", c.end))
}

func (w *writer) issuer(m *maker, i issuer) {
	w.line(1, "- name: %s", quote(i.name))
	w.line(2, "issuer: %s%s", quote(i.iss), w.from(i.form.issuer, i.line(i.form.issuer)))
	w.line(2, "keys:")
	switch k := i.keys; {
	case k.jwksURL != "":
		w.line(3, "jwks_url: %s%s", quote(k.jwksURL), w.from(i.form.jwksURL, i.line(i.form.jwksURL)))
		w.line(3, "kid_required: true # or the one key of a set would speak for tokens without a kid")
		if k.allowHTTP {
			w.line(3, "allow_http: true # INSECURE, WEAKER: who can change that traffic can sign tokens")
		}
	case k.file != "":
		w.line(3, "files: [%s]%s", quote(k.file), w.from(i.form.certificate, i.line(i.form.certificate)))
	default:
		w.truststore(m, k)
	}
	w.line(2, "claims:")
	scope, clientID := "", ""
	if i.find(i.row.form.scope) != nil && i.row.form.scope != "" {
		scope = w.from(i.row.form.scope, i.line(i.row.form.scope))
	}
	if i.find(i.row.form.clientID) != nil {
		clientID = w.from(i.row.form.clientID, i.line(i.row.form.clientID))
	}
	w.line(3, "scope: %s%s", list(i.claims.scope), scope)
	w.line(3, "client_id: %s%s", list(i.claims.clientID), clientID)
	w.line(3, "username: %s # as /oauth2/introspect of WSO2, which answers sub", list(i.username))
	if len(i.renames) == 0 {
		return
	}
	w.line(3, "map:")
	for _, r := range i.renames {
		w.line(4, "- {remote_claim: %s, local_claim: %s}%s", quote(r.RemoteClaim), quote(r.LocalClaim), w.from(i.mapping, r.line))
	}
}

func (w *writer) truststore(m *maker, k keySource) {
	w.line(3, "truststore:")
	w.line(4, "path: %s # --truststore", quote(m.StorePath))
	if m.PasswordFile != "" {
		w.line(4, "password: {file: %s} # --password-file", quote(m.PasswordFile))
	}
	w.line(4, "# Those that may sign for this issuer; to WSO2 it was every one of the store.")
	w.line(4, "aliases: %s", list(k.aliases))
	if k.noKid != "" {
		w.line(4, "no_kid_alias: %s # WEAKER: its key speaks for tokens without a kid", quote(k.noKid))
	}
	w.line(4, "certificate_dates: enforce # WSO2 did not look at them")
}

// list is a list of texts in flow style.
func list(texts []string) string {
	quoted := make([]string, len(texts))
	for n, text := range texts {
		quoted[n] = quote(text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quote is a text in YAML: as it is where nothing can be made of it but a text,
// else between double quotes with the escapes that Go and YAML share.
func quote(text string) string {
	if plain.MatchString(text) && !resolves.MatchString(text) {
		return text
	}
	return strconv.QuoteToASCII(text)
}

var (
	// plain is what YAML reads as itself, also in lists: words, paths and URLs
	// that begin with a letter, a dot or a slash.
	plain = regexp.MustCompile(`^[A-Za-z./][A-Za-z0-9._/@+-]*(://[A-Za-z0-9._/@+:-]*[A-Za-z0-9._/@+-])?$`)
	// resolves is what some reader of YAML takes for another type.
	resolves = regexp.MustCompile(`(?i)^(true|false|yes|no|on|off|y|n|null|[.](inf|nan)|[.0-9+_-]+(e[.0-9+-]*)?)$`)
)
