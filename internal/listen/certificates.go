package listen

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Certificates is what a TLS listener shows and asks for, re-readable while it
// serves. A nil *Certificates is a plaintext listener. Every method may be
// called concurrently.
type Certificates struct {
	files   TLS
	current atomic.Pointer[tls.Config]
}

// LoadCertificates reads the files that t names; without any it returns nil.
func LoadCertificates(t TLS) (*Certificates, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	c := &Certificates{files: t}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again. New connections meet the new certificate and
// client roots; on an error they go on meeting the old.
func (c *Certificates) Reload() error {
	if c == nil {
		return nil
	}
	fresh, err := c.files.load()
	if err != nil {
		return fmt.Errorf("loading certificates: %w", err)
	}
	c.current.Store(fresh)
	return nil
}

// Config is for a listener; it looks up the current certificate and client
// roots at each handshake. A session that is resumed is verified against the
// current client roots too (crypto/tls does so).
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.current.Load(), nil
		},
	}
}

// NotAfter is when the current certificate expires, for an alarm; the zero time
// for a plaintext listener.
func (c *Certificates) NotAfter() time.Time {
	if c == nil {
		return time.Time{}
	}
	return c.current.Load().Certificates[0].Leaf.NotAfter
}

func (t TLS) load() (*tls.Config, error) {
	pair, err := t.pair()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if t.ClientCA == "" {
		return config, nil
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs, err = t.clientRoots()
	return config, err
}

func (t TLS) pair() (tls.Certificate, error) {
	return tls.LoadX509KeyPair(t.Certificate, t.Key)
}

func (t TLS) clientRoots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", t.ClientCA)
	}
	return roots, nil
}
