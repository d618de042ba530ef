package telemetry

// Config is the section `telemetry`. Exporters come from the standard OTEL_*
// environment variables; none set means none.
type Config struct {
	Log    LogConfig    `koanf:"log"`
	Traces TracesConfig `koanf:"traces"`
}

// LogConfig is the process log on standard error.
type LogConfig struct {
	Level  Level  `koanf:"level" default:"info"`
	Format Format `koanf:"format" default:"json"`
}

// TracesConfig is which requests are traced.
type TracesConfig struct {
	// Sample is the part of requests that is traced, 0 to 1.
	Sample float64 `koanf:"sample" default:"0.01"`
	// TrustIncoming follows the sampled flag of an incoming trace context.
	TrustIncoming bool `koanf:"trust_incoming" default:"false"`
}

// Level is the least severity that is logged.
type Level string

// Values lists the spellings a configuration may use.
func (Level) Values() []string { return []string{"debug", "info", "warn", "error"} }

// Format is how a log line is written.
type Format string

// Values lists the spellings a configuration may use.
func (Format) Values() []string { return []string{"json", "text"} }
