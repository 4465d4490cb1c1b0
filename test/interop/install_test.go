package interop

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

//go:embed requirements.txt
var requirements string

const skipped = "interop with Synapse was NOT tested: "

// python returns the interpreter of a virtual environment with Synapse, made when it is not there yet.
func python(t *testing.T) string {
	t.Helper()
	if venv := os.Getenv("SYNAPSE_VENV"); venv != "" {
		return filepath.Join(venv, "bin", "python")
	}
	if os.Getenv("KNOCK_TEST_INTEROP") == "" {
		t.Skip(skipped + "it installs Synapse and takes minutes; make test and make interop do that")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(skipped + err.Error())
	}
	venv := filepath.Join(cache, "knock", strings.ReplaceAll(strings.TrimSpace(requirements), "==", "-"))
	done := filepath.Join(venv, "installed")
	if _, err := os.Stat(done); err != nil {
		install(t, venv)
		if err := os.WriteFile(done, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(venv, "bin", "python")
}

func install(t *testing.T, venv string) {
	t.Helper()
	const version = "import sys; sys.exit(sys.version_info < (3, 10))"
	if out, err := exec.CommandContext(t.Context(), "python3", "-c", version).CombinedOutput(); err != nil {
		t.Skipf("%sit needs python3, 3.10 or newer (Debian: apt install python3 python3-venv): %v %s", skipped, err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "python3", "-m", "venv", "--clear", venv).CombinedOutput(); err != nil {
		t.Skipf("%spython3 -m venv does not work (Debian: apt install python3-venv): %v\n%s", skipped, err, out)
	}
	list := filepath.Join(venv, "requirements.txt")
	if err := os.WriteFile(list, []byte(requirements), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(venv, "bin", "python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r", list)
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded), unreachable.Match(out):
		t.Skipf("%spip cannot fetch it from its registry\n%s", skipped, bytes.TrimSpace(out))
	default:
		t.Fatalf("pip install: %v\n%s", err, out)
	}
}

var unreachable = regexp.MustCompile(`NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|No matching distribution found`)
