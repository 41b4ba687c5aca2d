package admin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"countersign/admin"
)

// A section auth that is no section is a fault of the configuration, and not "no
// tokens are looked at".
func TestExplainFaultyAuth(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "server.json")
	if err := os.WriteFile(path, []byte(`{"auth":"token"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := admin.ExplainToken(admin.ExplainConfig{ServerConfig: path, Token: "x"})
	if err == nil || strings.Contains(err.Error(), "looks at no tokens") || !strings.Contains(err.Error(), "auth") {
		t.Errorf("got %v", err)
	}
}
