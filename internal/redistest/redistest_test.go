package redistest_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"introspectd/internal/redistest"
)

// abandonIn, set in the environment, makes this program one that starts a
// server there, says where it is, and never stops it.
const abandonIn = "REDISTEST_ABANDON_IN"

func TestMain(m *testing.M) {
	dir := os.Getenv(abandonIn)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := redistest.Start(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Addr)
	select {}
}

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

func TestServersDieWithWhoStartedThem(t *testing.T) {
	need(t)
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOT PASSED: only Linux has a word for that")
	}
	starter := exec.Command(os.Args[0])
	starter.Env = append(os.Environ(), abandonIn+"="+t.TempDir())
	starter.Stderr = t.Output()
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr := strings.TrimSpace(line)
	if kill := starter.Process.Kill(); kill != nil || err != nil {
		t.Fatal(kill, err)
	}
	_ = starter.Wait() // it was killed
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		_ = c.Close()
		if time.Now().After(end) {
			t.Fatalf("10 s after its starter was killed, a server still listens at %s", addr)
		}
	}
}

func TestAServerThatEndsSaysWhy(t *testing.T) {
	need(t)
	s, err := redistest.Start(t.TempDir(), "--no-such-setting", "1")
	if err == nil {
		s.Stop()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("got %v, want what redis says of it", err)
	}
}
