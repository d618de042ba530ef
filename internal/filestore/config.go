package filestore

import (
	"fmt"
	"os"
	"path/filepath"
)

// Config is the section `state`.
type Config struct {
	// Path is the file, absolute or relative to the working directory; empty
	// means none.
	Path string `koanf:"path" default:""`
}

// Check reports every fault of the section. It looks for the directory; the
// file itself is judged by Open.
func (c Config) Check(fault func(key, problem string)) {
	if c.Path == "" {
		return
	}
	if info, err := os.Stat(filepath.Dir(c.Path)); err != nil || !info.IsDir() {
		fault("path", fmt.Sprintf("expected a file in a directory that exists, got %q", c.Path))
		return
	}
	if info, err := os.Stat(c.Path); err == nil && info.IsDir() {
		fault("path", fmt.Sprintf("expected a file, got the directory %q", c.Path))
	}
}
