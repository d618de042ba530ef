package telemetry

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Check reports every fault of the section.
func (c Config) Check(fault func(key, problem string)) {
	if !slices.Contains(c.Log.Level.Values(), string(c.Log.Level)) {
		fault("log.level", oneOf(c.Log.Level.Values(), string(c.Log.Level)))
	}
	if !slices.Contains(c.Log.Format.Values(), string(c.Log.Format)) {
		fault("log.format", oneOf(c.Log.Format.Values(), string(c.Log.Format)))
	}
	if s := c.Traces.Sample; !(s >= 0 && s <= 1) { // NaN fails both
		fault("traces.sample", fmt.Sprintf("expected a number from 0 to 1, got %v", s))
	}
}

func oneOf(values []string, got string) string {
	return fmt.Sprintf("expected one of %s, got %q", strings.Join(values, ", "), got)
}

// slog is the level in log/slog's terms; info if it is none of Values.
func (l Level) slog() slog.Level {
	var level slog.Level
	if level.UnmarshalText([]byte(l)) != nil {
		return slog.LevelInfo
	}
	return level
}
