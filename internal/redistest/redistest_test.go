package redistest_test

import (
	"os"
	"testing"

	"introspectd/internal/redistest"
)

func need(t *testing.T) {
	t.Helper()
	if err := redistest.Find(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v is not installed", err)
		}
		t.Skipf("SKIPPED, NOT PASSED: %v is not installed; .ci/test says how to install it", err)
	}
}

func TestAServerComesBackEmptyOnItsAddress(t *testing.T) {
	need(t)
	s, err := redistest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if _, err := s.Do("SET", "a", "line\r\nbreak"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Do("GET", "a"); err != nil || got != "line\r\nbreak" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Do("NO", "SUCH"); err == nil {
		t.Error("an error of redis is none")
	}
	s.Kill()
	if _, err := s.Do("PING"); err == nil {
		t.Error("a killed server answers")
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Do("GET", "a"); err != nil || got != "" {
		t.Errorf("after a restart: got %q, %v", got, err)
	}
}

func TestAClusterIsWhole(t *testing.T) {
	need(t)
	c, err := redistest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.Stop()
}

func TestSentinelsFailOver(t *testing.T) {
	need(t)
	w, err := redistest.StartSentinels(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := w.Failover(); err != nil {
		t.Fatal(err)
	}
}
