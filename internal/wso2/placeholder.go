package wso2

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// placeholder is what WSO2 puts a value in place of when it starts:
// ${property}, $env{VARIABLE}, $ref{key.of.this.file}, $sys{…}, $secret{…}.
var placeholder = regexp.MustCompile(`\$(|[a-z]+)\{([^{}]*)\}`)

// properties are those of WSO2's that follow from [server]: a port each, to
// which server.offset is added. carbon.host is its hostname.
var properties = map[string]int64{
	"carbon.management.port":   9443,
	"mgt.transport.https.port": 9443,
	"mgt.transport.http.port":  9763,
	"https.nio.port":           8243,
	"http.nio.port":            8280,
}

// mostPlaceholders bounds how many one text may lead to: they can lead to each
// other.
const mostPlaceholders = 32

// values puts values in place of placeholders.
type values struct {
	root table
	env  map[string]string
	left int // placeholders of the present text
}

func newValues(root table, environ []string) *values {
	v := &values{root: root, env: map[string]string{}}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		v.env[name] = value
	}
	return v
}

// resolve returns text with all placeholders replaced, or the fault of one that
// can't be, which names it.
func (v *values) resolve(text string) (string, error) {
	v.left = mostPlaceholders
	return v.replace(text)
}

func (v *values) replace(text string) (string, error) {
	var fault error
	out := placeholder.ReplaceAllStringFunc(text, func(found string) string {
		parts := placeholder.FindStringSubmatch(found)
		if v.left--; v.left < 0 {
			fault = errors.New("its placeholders lead to too many others")
			return ""
		}
		value, err := v.value(parts[1], parts[2])
		if err != nil && fault == nil {
			if strings.ContainsFunc(found, unicode.IsControl) {
				found = strconv.Quote(found) // a note is one line
			}
			fault = fmt.Errorf("%s %w", found, err)
		}
		return value
	})
	return out, fault
}

func (v *values) value(kind, name string) (string, error) {
	switch kind {
	case "":
		return v.property(name)
	case "env":
		value, ok := v.env[name]
		if !ok {
			return "", errors.New("is not set in the environment of this command")
		}
		return value, nil
	case "ref":
		return v.reference(name)
	case "secret":
		return "", errors.New("is refused: what WSO2 keeps as a secret is not for a configuration")
	}
	return "", errors.New("is known only to a running WSO2")
}

// property is what WSO2's start derives from [server]. Without that section
// nothing is assumed: a guessed host would be an issuer that nobody configured.
func (v *values) property(name string) (string, error) {
	server := v.root.table("server")
	if name == "carbon.host" {
		host, ok := server.find("hostname").(string)
		if !ok || host == "" {
			return "", errors.New("can't be resolved: there is no server.hostname")
		}
		return v.replace(host)
	}
	port, known := properties[name]
	if !known {
		return "", errors.New("is known only to a running WSO2")
	}
	if server.values == nil {
		return "", errors.New("can't be resolved: there is no section server")
	}
	var offset int64
	switch value := server.find("offset").(type) {
	case nil:
	case int64:
		offset = value
	case string:
		text, err := v.replace(value)
		if err != nil {
			return "", err
		}
		if offset, err = strconv.ParseInt(text, 10, 32); err != nil {
			return "", errors.New("can't be resolved: server.offset is no number")
		}
	default:
		return "", errors.New("can't be resolved: server.offset is no number")
	}
	if port += offset; port < 1 || port > 65535 {
		return "", errors.New("can't be resolved: with server.offset it is no port")
	}
	return strconv.FormatInt(port, 10), nil
}

// reference is another value of the same file, which must not be a secret.
func (v *values) reference(key string) (string, error) {
	if secretive.MatchString(key) {
		return "", errors.New("is refused: passwords and secrets are never copied")
	}
	switch value := v.root.find(key).(type) {
	case string:
		return v.replace(value)
	case int64:
		return strconv.FormatInt(value, 10), nil
	}
	return "", errors.New("can't be resolved: there is no such value")
}

// secretive are keys whose values are not copied anywhere.
var secretive = regexp.MustCompile(`(?i)password|secret|passphrase|credential`)
