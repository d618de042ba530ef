package redisstore_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"introspectd/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func needRedis(t *testing.T) {
	t.Helper()
	if err := redistest.Find(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v is not installed", err)
		}
		t.Skipf("SKIPPED, NOT PASSED: %v is not installed; .ci/test says how to install it", err)
	}
}
