package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"introspectd/internal/wso2"
)

// migration is what wso2 import is asked: files.
type migration struct {
	toml, store, password, bindings, out string
}

func wso2Command(t terminal) *cobra.Command {
	c := &cobra.Command{
		Use: "wso2", Short: "For whoever comes from WSO2 API Manager",
		RunE: func(*cobra.Command, []string) error {
			return failure{exitUsage, errors.New("expected introspectd wso2 import")}
		},
	}
	var m migration
	i := &cobra.Command{
		Use: "import", Short: "Make a configuration out of deployment.toml and a trust store", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return importWSO2(t, m) },
	}
	i.Flags().StringVar(&m.toml, "toml", "", "WSO2's deployment.toml, or the config.toml of Choreo Connect")
	i.Flags().StringVar(&m.store, "truststore", "", "its client-truststore.jks, in whatever format")
	i.Flags().StringVar(&m.password, "password-file", "", "file with the password of the trust store")
	i.Flags().StringVar(&m.bindings, "bindings", "", "JSON file of the aliases that may sign for each issuer: {\"iss\": [\"alias\"]}")
	i.Flags().StringVarP(&m.out, "output", "o", "", "file to write, which must not exist; else standard output")
	for _, name := range []string{"toml", "truststore"} {
		_ = i.MarkFlagRequired(name) // it was defined above
	}
	c.AddCommand(i)
	return c
}

// importWSO2 writes the configuration and, beside it, the secret of its caller.
// Neither replaces a file. Notes go to standard error.
func importWSO2(t terminal, m migration) error {
	source, err := m.source(t)
	if err != nil {
		return failure{exitUsage, err}
	}
	made, err := wso2.Import(source)
	if err != nil {
		return failure{exitUsage, err}
	}
	for _, note := range made.Notes {
		fmt.Fprintln(t.err, note.In(m.toml))
	}
	if made.Issuers == 0 {
		return failure{exitUsage, fmt.Errorf("%s: no issuer remains", m.toml)}
	}
	if err := writeNew(source.SecretFile, 0o600, []byte(rand.Text()+"\n")); err != nil {
		return failure{exitFailed, fmt.Errorf("writing the caller's secret: %w", err)}
	}
	if m.out == "" {
		_, err = t.out.Write(made.Config)
	} else {
		err = writeNew(m.out, 0o644, made.Config)
	}
	if err != nil {
		_ = os.Remove(source.SecretFile) // it is ours, and nothing names it
		return failure{exitFailed, fmt.Errorf("writing the configuration: %w", err)}
	}
	fmt.Fprintf(t.err, "%d issuers written; the secret of the caller wso2 is in %s\n", made.Issuers, source.SecretFile)
	return nil
}

// source reads what a migration names.
func (m migration) source(t terminal) (s wso2.Source, err error) {
	s = wso2.Source{
		Path: m.toml, StorePath: m.store, PasswordFile: m.password, Environ: t.env, Now: time.Now(),
		SecretFile: m.secretFile(), ReadFile: readAll,
	}
	for _, path := range []string{m.out, s.SecretFile} {
		if path != "" && exists(path) {
			return s, fmt.Errorf("%s exists, and is not replaced", path)
		}
	}
	if s.TOML, err = readAll(m.toml); err != nil {
		return s, err
	}
	if m.bindings != "" {
		body, err := readAll(m.bindings)
		if err != nil {
			return s, err
		}
		if s.Bindings, err = wso2.ReadBindings(body); err != nil {
			return s, fmt.Errorf("%s: %w", m.bindings, err)
		}
	}
	if m.password != "" {
		password, err := readAll(m.password)
		if err != nil {
			return s, err
		}
		s.Password = lineOf(password)
	}
	s.Store, err = readAll(m.store)
	return s, err
}

// secretFile is beside the configuration, and called after it.
func (m migration) secretFile() string {
	if m.out == "" {
		return "introspectd-wso2.secret"
	}
	return strings.TrimSuffix(m.out, filepath.Ext(m.out)) + "-wso2.secret"
}

// lineOf is the text of a file of one line.
func lineOf(body []byte) string {
	return string(bytes.TrimSuffix(bytes.TrimSuffix(body, []byte("\n")), []byte("\r")))
}

// mostRead is the size in bytes of the largest file that is read: that of a
// trust store.
const mostRead = 4 << 20

// readAll reads a file.
func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, mostRead+1))
	if err == nil && len(body) > mostRead {
		err = fmt.Errorf("%s: more than %d bytes", path, mostRead)
	}
	return body, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// writeNew writes a file that is not there yet; a link that leads nowhere is
// there.
func writeNew(path string, mode os.FileMode, body []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // half of a file is none
	}
	return err
}
